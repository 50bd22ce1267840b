"""A node whose model the compiled decoder computes needs no PyTorch: it never imports it, and runs where it is not."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from sealed_node import START, chat, running, write_tiny_model

from enclave_runtime.engine.cpu import binding
from enclave_runtime.exit_codes import ExitCode
from enclave_runtime.node_launch import LaunchFailed

#: Importing torch fails, as where it is not installed.
ABSENT = START.replace("import sys\n", "import sys\nsys.modules['torch'] = None\n")

#: The same, and no compiler built the library.
UNBUILT = ABSENT.replace(
    "from enclave_runtime import boot",
    "from pathlib import Path\n"
    "from enclave_runtime import boot\n"
    "from enclave_runtime.engine.cpu import binding\n"
    "binding.library_file = lambda: Path('/nowhere')",
)

CAME_IN = 77

#: The node's exit status says whether it ever imported torch.
TELLING = START.replace("sys.exit(boot.main(sys.argv[2:]))", "status = boot.main(sys.argv[2:])") + (
    f"sys.exit({CAME_IN} if 'torch' in sys.modules else status)\n"
)

needs_compiled = pytest.mark.skipif(binding.library() is None, reason="the compiled decoder was not built")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@needs_compiled
@pytest.mark.parametrize("program", [TELLING, ABSENT], ids=["installed", "absent"])
def test_a_sealed_node_answers_and_has_not_imported_torch(tmp_path: Path, model: Path, program: str) -> None:
    with running(tmp_path, model, program=program) as node:
        status, answer = node.ask("/v1/chat/completions", chat("hello", temperature=0.7, top_p=0.9, seed=1))
        assert status == 200
        assert json.loads(answer)["usage"]["completion_tokens"] > 0
        node.process.terminate()
        assert node.process.wait(30) == ExitCode.STOPPED


def test_control_a_node_that_computes_on_torch_is_found_out(tmp_path: Path, model: Path) -> None:
    pytest.importorskip("torch")
    by_torch = {"kernels": "torch"}
    with running(tmp_path, model, program=TELLING, change=lambda c: replace(c, decoder=by_torch)) as node:
        node.process.terminate()
        assert node.process.wait(30) == CAME_IN


@pytest.mark.parametrize("program", [UNBUILT, ABSENT], ids=["nothing was built", "asked for torch"])
def test_a_node_with_nothing_to_compute_on_says_what_to_install(
    tmp_path: Path, model: Path, program: str
) -> None:
    choice = {} if program is UNBUILT else {"kernels": "torch"}
    with (
        pytest.raises(LaunchFailed) as refused,
        running(tmp_path, model, program=program, change=lambda c: replace(c, decoder=choice)),
    ):
        pass
    assert "no_decoder" in str(refused.value)
    assert "extra 'runtime'" in str(refused.value)
    assert ("C compiler" in str(refused.value)) == (program is UNBUILT)
