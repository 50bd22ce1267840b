"""GPU kernels compiled for an image: by the locked compiler alone, anywhere the same bytes; what lacks is named."""

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from zipfile import ZipFile

import pytest

from images import gpu_kernels, recipe, vm_image, wheels
from images import lock as locks
from images.errors import ImageError, InputUnavailable
from images.gpu_kernels import KernelSources
from images.input_store import InputStore
from images.lock import Lock, LockedWheel
from images.sources import Sources

VERSION = f"cp{sys.version_info[0]}{sys.version_info[1]}"

#: A compiler that writes what it sees: where it lies, its path, its environment, the shape; or fails.
STAND_IN = """
import os, sys
from pathlib import Path
def build(words):
    shape, out = words[1], Path(words[3])
    if shape == "broken":
        print("first", file=sys.stderr)
        print("no such instruction", file=sys.stderr)
        return 1
    out.mkdir()
    seen = sorted(set(os.environ) - {"HOME", "TRITON_HOME", "TRITON_CACHE_DIR", "LC_CTYPE"})
    (out / "kernels.json").write_text(shape + " " + " ".join(seen) + f" {len(sys.path) - 2} of its own")
    (out / "k.cubin").write_bytes(b"ELF")
    return 0
"""


def nothing(step: str, done: int, total: int) -> None:
    pass


def wanted(store: InputStore, shape: str = "small") -> KernelSources:
    """Sources and a wheel of a compiler that takes no time, in ``store``."""
    file = f"triton-1.0-{VERSION}-{VERSION}-manylinux_2_17_x86_64.whl"
    made = store.folder / "made.whl"
    store.folder.mkdir(parents=True, exist_ok=True)
    with ZipFile(made, "w") as archive:
        archive.writestr("triton/__init__.py", STAND_IN)
        archive.writestr("triton/backends/nvidia/bin/ptxas", "program")
        archive.writestr("triton/backends/nvidia/lib/cupti/libcupti.so", "left out")
    digest = hashlib.sha256(made.read_bytes()).hexdigest()
    wheel = LockedWheel("triton", "1.0", file, made.stat().st_size, digest)
    made.rename(store.folder / digest)
    main = b"import triton\ndef main(words): return triton.build(words)\n"
    folders = ("enclave_runtime", "enclave_runtime/engine", "enclave_runtime/engine/cuda")
    files = [(f"app/{folder}/__init__.py", b"") for folder in folders]
    files.append(("app/enclave_runtime/engine/cuda/build.py", main))
    return KernelSources(shape, Lock("gpu-kernels", (), (wheel,)), tuple(sorted(files)))


@pytest.fixture
def store(tmp_path: Path) -> InputStore:
    return InputStore(tmp_path / "inputs", {})


def test_the_compiler_sees_the_wheel_the_sources_and_nothing_of_ours(
    store: InputStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_PTXAS_PATH", "/somewhere/else")
    monkeypatch.setenv("PYTHONPATH", "/somewhere/else")
    found = gpu_kernels.build(wanted(store), store, nothing)
    assert sorted(found) == ["k.cubin", "kernels.json"]
    shape, *names = found["kernels.json"].decode().split()
    assert (shape, names[:4]) == ("small", ["LC_ALL", "PATH", "PYTHONHASHSEED", "TZ"])
    assert b"PTXAS" not in found["kernels.json"]


def test_what_was_built_is_kept_and_a_changed_byte_is_not_taken(store: InputStore) -> None:
    sources = wanted(store)
    assert gpu_kernels.kept(sources, store) is None
    found = gpu_kernels.get(sources, store, nothing)
    assert gpu_kernels.kept(sources, store) == found
    kept = store.folder / "gpu-kernels" / sources.key() / "k.cubin"
    kept.write_bytes(b"ELG")
    assert gpu_kernels.kept(sources, store) is None
    assert gpu_kernels.get(sources, store, nothing) == found
    assert kept.read_bytes() == b"ELF"


def test_whatever_decides_over_the_bytes_is_in_the_key(store: InputStore) -> None:
    sources = wanted(store)
    wheel = sources.lock.wheels[0]
    others = [
        replace(sources, shape="large"),
        replace(sources, files=(*sources.files[:-1], (sources.files[-1][0], b"other"))),
        replace(sources, files=sources.files[:-1]),
        replace(sources, lock=Lock("gpu-kernels", (), (replace(wheel, sha256="0" * 64),))),
    ]
    assert len({sources.key(), *(other.key() for other in others)}) == 5


def test_a_compiler_that_fails_is_quoted(store: InputStore) -> None:
    with pytest.raises(ImageError, match="no such instruction") as failed:
        gpu_kernels.get(wanted(store, "broken"), store, nothing)
    assert failed.value.code == "gpu_kernels_failed"
    assert not (store.folder / "gpu-kernels").exists()


def test_a_compiler_that_cannot_be_had_is_named(store: InputStore, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = wanted(store)
    (store.folder / sources.lock.wheels[0].sha256).unlink()

    def offline(requirements: object, folder: Path, *, hashes: bool = False) -> None:
        raise InputUnavailable("wheel_unavailable", f"no {next(iter(requirements))}")  # type: ignore[call-overload]

    monkeypatch.setattr(wheels, "download", offline)
    with pytest.raises(InputUnavailable, match=r"triton==1\.0"):
        gpu_kernels.get(sources, store, nothing)


def test_another_python_than_the_compilers_is_named(store: InputStore) -> None:
    sources = wanted(store)
    wheel = replace(sources.lock.wheels[0], file="triton-1.0-cp399-cp399-any.whl")
    with pytest.raises(InputUnavailable, match=r"Python 3\.99") as refused:
        gpu_kernels.get(replace(sources, lock=Lock("gpu-kernels", (), (wheel,))), store, nothing)
    assert refused.value.code == "interpreter_other"


def test_the_recipes_with_gpus_name_a_shape_and_their_inputs_hold_its_compiler() -> None:
    locked = locks.read(recipe.LOCKS / "cpu-dev.json")
    for name in recipe.names():
        chosen = recipe.load(name)
        named = [lock.recipe for lock in vm_image.inputs_of(chosen, locked)]
        assert ("gpu-kernels" in named) == bool(chosen.gpu_kernels) == name.startswith("h100-")


def test_the_sources_are_those_that_a_kernel_is_made_of() -> None:
    sources = gpu_kernels.load("llama-3.1-8b")
    paths = {path for path, _ in sources.files}
    assert "app/enclave_runtime/engine/cuda/kernels/attention.py" in paths
    assert not [path for path in paths if "/cpu/" in path or path.endswith("node.py")]
    assert sources.compiler.startswith("triton 3.")


@pytest.mark.exhaustive
def test_compiled_in_two_folders_the_kernels_are_the_same(tmp_path: Path) -> None:
    sources = gpu_kernels.load("llama-3.2-1b")
    store = Sources(None, None).store(sources.lock)
    built: list[Mapping[str, bytes]] = []
    for name in ("one", "another folder with a longer name"):
        (tmp_path / name).mkdir()
        built.append(gpu_kernels.build(sources, store, nothing, tmp_path / name))
    assert built[0] == built[1]
    described = json.loads(built[0]["kernels.json"])
    listed = {f"{each['name']}.cubin": each["sha256"] for each in described["kernels"]}
    cubins = {name: data for name, data in built[0].items() if name != "kernels.json"}
    assert listed == {name: hashlib.sha256(data).hexdigest() for name, data in cubins.items()}
    for data in built[0].values():
        assert str(tmp_path).encode() not in data
        assert b"site/triton" not in data
