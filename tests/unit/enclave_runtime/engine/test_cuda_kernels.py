"""GPU kernels without a GPU: right by the interpreter, compiled for Hopper, handed to the driver as it wants them."""

import contextlib
import ctypes
import hashlib
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave_runtime.engine.cuda.build import SCHEMA, SHAPES, kernels, lowered
from enclave_runtime.engine.cuda.driver import CudaError, open_driver
from enclave_runtime.engine.cuda.launcher import Kernels, read_manifest

TESTS = Path(__file__).parents[3]


def run(*command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=300, check=False
    )


def test_every_kernel_agrees_with_float64_at_ragged_sizes() -> None:
    pytest.importorskip("triton")
    done = run(str(TESTS / "interpreted_kernels.py"))
    assert done.returncode == 0, done.stderr
    errors = json.loads(done.stdout)
    exact = {
        "decode.neighbours",
        "sampling.neighbours",
        "sampling.other_than_the_hosts",
        "sampling.broken",
        "greedy",
        "embed",
        "rotary.0.pages_touched",
        "rotary.1.pages_touched",
    }
    assert {name: errors[name] for name in exact} == dict.fromkeys(exact, 0.0)
    # bf16 has 8 bits of precision, float16 11.
    bounds = {"decode": 1e-3, "prefill": 1e-3, "rows": 1e-3, "product.logits": 1e-5}
    for name, found in errors.items():
        bound = next((bounds[start] for start in bounds if name.startswith(start)), 1.2e-2)
        assert found <= bound, (name, found)


def test_every_kernel_compiles_for_hopper_and_gives_the_same_bytes_twice(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    build = ("-m", "enclave_runtime.engine.cuda.build", "--shape", "llama-3.2-1b", "--out")
    for name in ("one", "two"):
        done = run(*build, str(tmp_path / name))
        assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "one" / "kernels.json").read_text())
    assert manifest["target"] == "sm_90"
    names = {kernel.name for kernel in kernels(SHAPES["llama-3.2-1b"])}
    assert {each["name"] for each in manifest["kernels"]} == names
    for each in manifest["kernels"]:
        cubin = (tmp_path / "one" / f"{each['name']}.cubin").read_bytes()
        assert cubin.startswith(b"\x7fELF")
        assert hashlib.sha256(cubin).hexdigest() == each["sha256"]
        assert str(TESTS.parent).encode() not in cubin
    assert (tmp_path / "one" / "kernels.json").read_bytes() == (
        tmp_path / "two" / "kernels.json"
    ).read_bytes()
    read_manifest((tmp_path / "one" / "kernels.json").read_bytes())


def test_weights_are_read_16_bytes_at_a_time() -> None:
    pytest.importorskip("triton")
    found = {kernel.name: kernel for kernel in kernels(SHAPES["llama-3.2-1b"])}
    for name in (
        "weights_times_row_plain",
        "weights_times_row_logits",
        "gate_up_swiglu_plain",
        "add_rms_norm",
        "swiglu",
    ):
        ptx = str(lowered(found[name]).asm["ptx"])
        assert "ld.global.v4.b32" in ptx, name
        assert "ld.global.b16" not in ptx, name
    for name in ("weights_times_row_i8", "weights_times_row_fp8", "gate_up_swiglu_i8", "gate_up_swiglu_fp8"):
        ptx = str(lowered(found[name]).asm["ptx"])
        assert "ld.global.v4.b32" in ptx, name
        assert "ld.global.b8" not in ptx, name
    for name in ("decode_split", "prefill"):  # keys and values come in while others are computed with
        assert "cp.async.cg.shared.global" in str(lowered(found[name]).asm["ptx"]), name


class RecordingDriver:
    """Stands where libcuda stands: notes what it is handed, reads the arguments as a GPU would."""

    def __init__(self, refuse: str = "") -> None:
        self.refuse, self.loaded, self.launched = refuse, list[bytes](), list[dict[str, Any]]()
        self.asked_for: list[tuple[int, int]] = []

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> int:
            if name == self.refuse:
                return 700
            seen = getattr(type(self), f"on_{name}", None)
            if seen is not None:
                seen(self, *arguments)
            return 0

        return call

    def on_cuModuleLoadData(self, module: Any, image: bytes) -> None:
        self.loaded.append(image)

    def on_cuFuncSetAttribute(self, function: Any, attribute: int, value: int) -> None:
        self.asked_for.append((attribute, value))

    def on_cuLaunchKernel(self, function: Any, *rest: Any) -> None:
        *sizes, shared, _stream, pointers, extra = rest
        kinds = (ctypes.c_void_p, ctypes.c_int32, ctypes.c_float, ctypes.c_void_p, ctypes.c_void_p)
        values = [
            ctypes.cast(at, ctypes.POINTER(kind)).contents.value
            for at, kind in zip(pointers, kinds, strict=True)
        ]
        self.launched.append({"sizes": sizes, "shared": shared, "arguments": values, "extra": extra})


def written(folder: Path, **changes: Any) -> Path:
    cubin = b"\x7fELF cubin"
    entry = {
        "name": "k",
        "entry": "k",
        "arguments": {"x": "*bf16", "n": "i32", "e": "fp32"},
        "constants": {},
        "threads": 128,
        "shared": 65_536,
        "scratch": 2,
        "aligned": ["x"],
        "sha256": hashlib.sha256(cubin).hexdigest(),
    } | changes
    shape = asdict(SHAPES["llama-3.2-1b"])
    document = {"schema": SCHEMA, "target": "sm_90", "shape": shape, "kernels": [entry]}
    (folder / "kernels.json").write_text(json.dumps(document))
    (folder / "k.cubin").write_bytes(cubin)
    return folder


def test_arguments_reach_the_driver_in_order_and_scratch_is_null(tmp_path: Path) -> None:
    driver = RecordingDriver()
    Kernels(written(tmp_path), driver).launch("k", (7, 3), (0x7F00_0000_0010, -5, 0.5))
    assert driver.loaded == [b"\x7fELF cubin"]
    assert driver.asked_for == [(8, 65_536)]
    (launch,) = driver.launched
    assert launch["sizes"] == [7, 3, 1, 128, 1, 1]
    assert launch["arguments"] == [0x7F00_0000_0010, -5, 0.5, None, None]
    assert (launch["shared"], launch["extra"]) == (65_536, None)


def test_a_changed_cubin_is_never_handed_over(tmp_path: Path) -> None:
    driver = RecordingDriver()
    written(tmp_path)
    (tmp_path / "k.cubin").write_bytes(b"\x7fELF cubiN")
    with pytest.raises(CudaError) as refused:
        Kernels(tmp_path, driver)
    assert refused.value.code == "kernel_changed"
    assert driver.loaded == []
    (tmp_path / "k.cubin").unlink()
    with pytest.raises(CudaError) as missing:
        Kernels(tmp_path, driver)
    assert missing.value.code == "kernel_missing"


@pytest.mark.parametrize(
    ("name", "grid", "arguments", "code"),
    [
        ("other", (1,), (1, 2, 3.0), "kernel_unknown"),
        ("k", (1,), (1, 2), "kernel_arguments"),
        ("k", (), (1, 2, 3.0), "kernel_arguments"),
        ("k", (0,), (1, 2, 3.0), "kernel_arguments"),
        ("k", (1, 1, 1, 1), (16, 2, 3.0), "kernel_arguments"),
        ("k", (1,), (8, 2, 3.0), "kernel_alignment"),
    ],
)
def test_what_does_not_fit_a_kernel_is_not_launched(
    tmp_path: Path, name: str, grid: tuple[int, ...], arguments: tuple[float, ...], code: str
) -> None:
    driver = RecordingDriver()
    with pytest.raises(CudaError) as refused:
        Kernels(written(tmp_path), driver).launch(name, grid, arguments)
    assert refused.value.code == code
    assert driver.launched == []


@pytest.mark.parametrize(
    "call", ["cuModuleLoadData", "cuModuleGetFunction", "cuFuncSetAttribute", "cuLaunchKernel"]
)
def test_every_refusal_of_the_driver_is_an_error(tmp_path: Path, call: str) -> None:
    with pytest.raises(CudaError) as refused:
        Kernels(written(tmp_path), RecordingDriver(call)).launch("k", (1,), (16, 2, 3.0))
    assert (refused.value.code, refused.value.found) == ("driver_refused", 700)


def test_without_a_driver_it_says_so() -> None:
    with pytest.raises(CudaError) as refused:
        open_driver("libcuda-that-is-not-there.so.1")
    assert refused.value.code == "no_driver"


@given(st.binary(max_size=64))
def test_random_manifests_never_leave_the_error_family(data: bytes) -> None:
    with pytest.raises(CudaError):
        read_manifest(data)


def test_truncated_and_changed_manifests_are_read_or_refused(tmp_path: Path) -> None:
    whole = (written(tmp_path) / "kernels.json").read_bytes()
    for cut in range(len(whole)):
        for data in (whole[:cut], whole[:cut] + bytes([whole[cut] ^ 0x11]) + whole[cut + 1 :]):
            with contextlib.suppress(CudaError):
                read_manifest(data)
