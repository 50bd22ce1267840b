"""Launching measured cubins through the CUDA driver, with no compiler and no CUDA package of Python.

The driver's library (``libcuda.so.1``) comes with the GPU's driver. Functions and signatures: CUDA Driver API
reference, sections 6.2 to 6.22. Not tried on a device yet: what is tested is what is handed to the driver.
"""

import ctypes
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from enclave_runtime.engine.cuda.build import SCHEMA
from enclave_runtime.engine.errors import EngineError

MAX_CUBIN = 16 * 1024 * 1024
MAX_MANIFEST = 1024 * 1024

_DYNAMIC_SHARED = 8
"""CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES."""
_STATIC_LIMIT = 48 * 1024
"""Dynamic shared memory that a kernel gets without asking."""

_SCALARS: Mapping[str, Any] = {"i32": ctypes.c_int32, "i64": ctypes.c_int64, "fp32": ctypes.c_float}


class CudaError(EngineError):
    """The driver refused a call, or there is no driver; ``code`` says which."""


class Driver(Protocol):
    """The functions of the CUDA driver that are used; each returns a CUresult, 0 for success."""

    def cuInit(self, flags: int) -> int: ...
    def cuModuleLoadData(self, module: Any, image: Any) -> int: ...
    def cuModuleGetFunction(self, function: Any, module: Any, name: bytes) -> int: ...
    def cuFuncSetAttribute(self, function: Any, attribute: int, value: int) -> int: ...
    def cuLaunchKernel(self, *arguments: Any) -> int: ...
    def cuDevicePrimaryCtxRetain(self, context: Any, device: int) -> int: ...
    def cuCtxSetCurrent(self, context: Any) -> int: ...


def open_driver(name: str = "libcuda.so.1") -> Driver:
    """The driver, initialised, with the first device's primary context. Raises CudaError (``no_driver``, ...)."""
    try:
        driver: Any = ctypes.CDLL(name)
    except OSError:
        raise CudaError("there is no CUDA driver here", code="no_driver") from None
    _check(driver.cuInit(0), "cuInit")
    context = ctypes.c_void_p()
    _check(driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0), "cuDevicePrimaryCtxRetain")
    _check(driver.cuCtxSetCurrent(context), "cuCtxSetCurrent")
    loaded: Driver = driver
    return loaded


@dataclass(frozen=True, slots=True)
class KernelInfo:
    """A kernel as ``kernels.json`` describes it."""

    name: str
    entry: str
    arguments: tuple[tuple[str, str], ...]
    threads: int
    shared: int
    scratch: int
    sha256: str


def read_manifest(data: bytes) -> tuple[KernelInfo, ...]:
    """Parse ``kernels.json``. Raises CudaError (``kernel_manifest``)."""
    try:
        if len(data) > MAX_MANIFEST:
            raise ValueError
        document = json.loads(data)
        if document["schema"] != SCHEMA:
            raise ValueError
        found = tuple(_info(entry) for entry in document["kernels"])
        if len({info.name for info in found}) != len(found):
            raise ValueError
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise CudaError("kernels.json is not as expected", code="kernel_manifest") from None
    return found


class Kernels:
    """The loaded kernels of a folder. Every cubin is checked against the manifest before it is handed over."""

    def __init__(self, folder: Path, driver: Driver) -> None:
        self._driver = driver
        self._loaded: dict[str, tuple[KernelInfo, ctypes.c_void_p]] = {}
        try:
            infos = read_manifest(_bytes(folder / "kernels.json", MAX_MANIFEST))
            cubins = [_bytes(folder / f"{info.name}.cubin", MAX_CUBIN) for info in infos]
        except OSError as error:
            raise CudaError(f"kernels in {folder}: {error.strerror}", code="kernel_missing") from None
        for info, cubin in zip(infos, cubins, strict=True):
            if hashlib.sha256(cubin).hexdigest() != info.sha256:
                raise CudaError(f"{info.name}.cubin is not the one of the manifest", code="kernel_changed")
            self._loaded[info.name] = (info, self._load(info, cubin))

    def launch(
        self, name: str, grid: Sequence[int], arguments: Sequence[int | float], stream: int = 0
    ) -> None:
        """Start kernel ``name`` on ``grid`` (1 to 3 sizes) with device pointers and numbers in the manifest's order.

        Raises CudaError for a name, grid or number of arguments that does not fit, and for a refusal.
        """
        if name not in self._loaded:
            raise CudaError(f"no kernel {name}", code="kernel_unknown")
        info, function = self._loaded[name]
        if len(arguments) != len(info.arguments) or not 1 <= len(grid) <= 3 or min(grid) < 1:
            raise CudaError(f"{name} takes {len(info.arguments)} arguments", code="kernel_arguments")
        packed = [_packed(kind, value) for (_, kind), value in zip(info.arguments, arguments, strict=True)]
        packed += [ctypes.c_void_p(0)] * info.scratch
        pointers = (ctypes.c_void_p * len(packed))(*(ctypes.addressof(each) for each in packed))
        sizes = (*grid, *(1,) * (3 - len(grid)))
        status = self._driver.cuLaunchKernel(
            function, *sizes, info.threads, 1, 1, info.shared, ctypes.c_void_p(stream), pointers, None
        )
        _check(status, f"cuLaunchKernel({name})")

    def _load(self, info: KernelInfo, cubin: bytes) -> ctypes.c_void_p:
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        _check(self._driver.cuModuleLoadData(ctypes.byref(module), cubin), f"cuModuleLoadData({info.name})")
        entry = info.entry.encode()
        _check(self._driver.cuModuleGetFunction(ctypes.byref(function), module, entry), "cuModuleGetFunction")
        if info.shared > _STATIC_LIMIT:
            _check(
                self._driver.cuFuncSetAttribute(function, _DYNAMIC_SHARED, info.shared), "cuFuncSetAttribute"
            )
        return function


def _info(entry: Mapping[str, Any]) -> KernelInfo:
    name, entry_name, digest = (str(entry[member]) for member in ("name", "entry", "sha256"))
    numbers = [entry[member] for member in ("threads", "shared", "scratch")]
    if not name.isidentifier() or any(
        type(number) is not int or not 0 <= number < 1 << 20 for number in numbers
    ):
        raise ValueError
    arguments = tuple((str(key), str(kind)) for key, kind in entry["arguments"].items())
    if not all(kind.startswith("*") or kind in _SCALARS for _, kind in arguments):
        raise ValueError
    threads, shared, scratch = numbers
    return KernelInfo(name, entry_name, arguments, threads, shared, scratch, digest)


def _packed(kind: str, value: int | float) -> Any:
    if kind.startswith("*"):
        return ctypes.c_void_p(int(value))
    return _SCALARS[kind](value)


def _bytes(path: Path, limit: int) -> bytes:
    with path.open("rb") as source:
        data = source.read(limit + 1)
    if len(data) > limit:
        raise CudaError(f"{path.name} is too large", code="kernel_too_large")
    return data


def _check(status: int, what: str) -> None:
    if status != 0:
        raise CudaError(f"{what} gave {status}", code="driver_refused", found=status)
