"""The whole node's image: everything a node imports is in it, and it comes from nowhere else."""

import json
import subprocess
from pathlib import Path

import pytest

from enclave_runtime.engine.cpu import binding
from images import process_image
from images.guest import start
from images.manifest import root
from images.process_image import Built, Contents

pytestmark = pytest.mark.skipif(binding.library() is None, reason="the compiled decoder was not built")

PROBE = """
    import json
    import safetensors, numpy, tokenizers, jinja2.sandbox, llguidance, pynvml
    import pydantic, starlette.applications, enclave_runtime.engine.cpu.binding
    import uvicorn, uvicorn.protocols.http.h11_impl, uvicorn.lifespan.on, uvicorn.loops.asyncio
    import cryptography.hazmat.primitives.asymmetric.mlkem, cryptography.x509, rfc8785
    import attestation, ohttp, measurements, enclave_runtime
    assert enclave_runtime.engine.cpu.binding.library() is not None
    maps = [line.split(None, 5) for line in open("/proc/self/maps")]
    print(json.dumps({
        "files": [m.__file__ for m in sys.modules.values() if getattr(m, "__file__", None)],
        "mapped": sorted({f[5].strip() for f in maps if len(f) == 6 and f[5].startswith("/")}),
    }))
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Built:
    source = Path(start.__file__).read_text().partition("    from enclave_runtime import boot")[0]
    probe = tmp_path_factory.mktemp("start") / "probe.py"
    probe.write_text(source + PROBE)
    wanted = process_image.node_contents()
    contents = Contents(wanted.packages, wanted.requirements, probe)
    return process_image.build(tmp_path_factory.mktemp("image") / "node", contents)


def test_everything_a_node_imports_comes_from_its_image(node: Built, tmp_path: Path) -> None:
    command = process_image.argv(node.image_dir)
    run = subprocess.run(command, capture_output=True, env={"LC_ALL": "C"}, cwd=tmp_path, check=False)
    assert run.returncode == 0, run.stderr.decode()
    told = json.loads(run.stdout)
    tree = str(root(node.image_dir))
    assert [file for file in told["files"] if not file.startswith(tree)] == []
    assert [file for file in told["mapped"] if not file.startswith(tree)] == []
    assert process_image.verify(node.image_dir) == node.manifest


def test_it_holds_no_tools_and_no_tests(node: Built) -> None:
    paths = [file.path for file in node.manifest.files]
    for part in (
        "/pip/",
        "/setuptools/",
        "/huggingface_hub/",
        "/typer/",
        "/idlelib/",
        "/tests/",
        "/torch/",
        "/gguf/",
        "/fastapi/",
    ):
        assert [path for path in paths if part in path] == [], part
    assert node.manifest.size < 250e6
    programs = [f.path for f in node.manifest.files if f.executable and ".so" not in f.path]
    assert programs == ["python/bin/python3"]
