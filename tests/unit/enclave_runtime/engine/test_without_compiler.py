"""Where there is no C compiler: the build succeeds without the compiled decoder, and a node says that it is slow."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from enclave_runtime.engine.cpu import binding
from enclave_runtime.engine.model import LoadedModel
from enclave_runtime.node import slowness
from enclave_runtime.node_launch import await_listening

ROOT = Path(__file__).resolve().parents[4]
LISTENING = '{"event": "listening", "port": 1, "metrics_port": 2, "seal": [], "seconds": {}}'
NOTICE = '{"event": "notice", "code": "slow_decoder", "detail": "slow"}'


def build(folder: Path, environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    sources = Path("enclave_runtime/engine/cpu")
    shutil.copytree(ROOT / sources, folder / sources, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    return subprocess.run(
        [sys.executable, "-c", "from setuptools import setup; setup()", "build_ext", "--build-lib", "out"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_build_without_a_compiler_leaves_the_decoder_out(tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    done = build(tmp_path, {"CC": "/nowhere/cc", "PATH": "/nowhere", "HOME": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert "_decoder" in done.stderr
    assert not list(tmp_path.rglob("*.so"))


@pytest.mark.exhaustive
@pytest.mark.skipif(binding.library() is None, reason="no C compiler was there")
def test_the_same_build_with_a_compiler_has_it(tmp_path: Path) -> None:
    done = build(tmp_path, dict(os.environ))
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.rglob("_decoder*.so"))) == 1


def test_a_library_that_is_not_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binding.library.cache_clear()
    monkeypatch.setattr(binding, "library_file", lambda: tmp_path / "_decoder.so")
    try:
        assert binding.library() is None
    finally:
        binding.library.cache_clear()


def test_what_torch_computes_is_called_slow(tiny_torch: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "slower" in slowness(tiny_torch)
    monkeypatch.setattr("enclave_runtime.node.binding.library", lambda: None)
    assert "C compiler" in slowness(tiny_torch)


@pytest.mark.skipif(binding.library() is None, reason="the compiled decoder was not built")
def test_what_is_compiled_is_not(tiny_model: LoadedModel) -> None:
    assert slowness(tiny_model) == ""


def test_the_operator_sees_the_notice_before_the_node_listens(capfd: pytest.CaptureFixture[str]) -> None:
    said = (
        f"import sys; print({NOTICE!r}, file=sys.stderr, flush=True); sys.stdin.read(); print({LISTENING!r})"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", said], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin is not None
    process.stdin.close()
    assert await_listening(process).port == 1
    process.wait()
    seen = ""
    while NOTICE not in seen:  # the reader of standard error is a thread of its own
        seen += capfd.readouterr().err
        time.sleep(0.01)
