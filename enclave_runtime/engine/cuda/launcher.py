"""Launching measured cubins through the CUDA driver, with no compiler and no CUDA package of Python.

Not tried on a device yet: what is tested is what is handed to the driver.
"""

import ctypes
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from enclave_runtime.engine.cuda.build import ALIGNMENT, SCHEMA, Shape
from enclave_runtime.engine.cuda.driver import CudaError, Driver, check

MAX_CUBIN = 16 * 1024 * 1024
MAX_MANIFEST = 1024 * 1024

_DYNAMIC_SHARED = 8
"""CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES."""
_STATIC_LIMIT = 48 * 1024
"""Dynamic shared memory that a kernel gets without asking."""

_SCALARS: Mapping[str, Any] = {"i32": ctypes.c_int32, "i64": ctypes.c_int64, "fp32": ctypes.c_float}


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
    constants: Mapping[str, int]
    aligned: frozenset[str]


@dataclass(frozen=True, slots=True)
class KernelManifest:
    """What ``kernels.json`` says: the target, the shape of model, and every kernel. ``sha256`` is of its bytes."""

    target: str
    shape: Shape
    kernels: tuple[KernelInfo, ...]
    sha256: str


def read_manifest(data: bytes) -> KernelManifest:
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
        shape, target = _shape(document["shape"]), document["target"]
        if not isinstance(target, str) or not target.isidentifier():
            raise ValueError
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise CudaError("kernels.json is not as expected", code="kernel_manifest") from None
    return KernelManifest(target, shape, found, hashlib.sha256(data).hexdigest())


class Kernels:
    """The loaded kernels of a folder. Every cubin is checked against ``manifest`` before it is handed over."""

    def __init__(self, folder: Path, driver: Driver) -> None:
        self._driver = driver
        self._loaded: dict[str, tuple[KernelInfo, ctypes.c_void_p]] = {}
        try:
            self.manifest = read_manifest(_bytes(folder / "kernels.json", MAX_MANIFEST))
            infos = self.manifest.kernels
            cubins = [_bytes(folder / f"{info.name}.cubin", MAX_CUBIN) for info in infos]
        except OSError as error:
            raise CudaError(f"kernels in {folder}: {error.strerror}", code="kernel_missing") from None
        for info, cubin in zip(infos, cubins, strict=True):
            if hashlib.sha256(cubin).hexdigest() != info.sha256:
                raise CudaError(f"{info.name}.cubin is not the one of the manifest", code="kernel_changed")
            self._loaded[info.name] = (info, self._load(info, cubin))

    def constants(self, name: str) -> Mapping[str, int]:
        """What kernel ``name`` was compiled for. Raises CudaError (``kernel_unknown``)."""
        if name not in self._loaded:
            raise CudaError(f"no kernel {name}", code="kernel_unknown")
        return self._loaded[name][0].constants

    def launch(
        self, name: str, grid: Sequence[int], arguments: Sequence[int | float], stream: int = 0
    ) -> None:
        """Start kernel ``name`` on ``grid`` (1 to 3 sizes) with device pointers and numbers in the manifest's order.

        Raises CudaError for a name, grid, number of arguments or alignment that does not fit, and for a refusal.
        """
        if name not in self._loaded:
            raise CudaError(f"no kernel {name}", code="kernel_unknown")
        info, function = self._loaded[name]
        if len(arguments) != len(info.arguments) or not 1 <= len(grid) <= 3 or min(grid) < 1:
            raise CudaError(f"{name} takes {len(info.arguments)} arguments", code="kernel_arguments")
        for (argument, _), value in zip(info.arguments, arguments, strict=True):
            if argument in info.aligned and value % ALIGNMENT:
                raise CudaError(
                    f"{argument} of {name} is no multiple of {ALIGNMENT}",
                    code="kernel_alignment",
                    found=value,
                )
        packed = [_packed(kind, value) for (_, kind), value in zip(info.arguments, arguments, strict=True)]
        packed += [ctypes.c_void_p(0)] * info.scratch
        pointers = (ctypes.c_void_p * len(packed))(*(ctypes.addressof(each) for each in packed))
        sizes = (*grid, *(1,) * (3 - len(grid)))
        status = self._driver.cuLaunchKernel(
            function, *sizes, info.threads, 1, 1, info.shared, ctypes.c_void_p(stream), pointers, None
        )
        check(status, f"cuLaunchKernel({name})")

    def _load(self, info: KernelInfo, cubin: bytes) -> ctypes.c_void_p:
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        check(self._driver.cuModuleLoadData(ctypes.byref(module), cubin), f"cuModuleLoadData({info.name})")
        entry = info.entry.encode()
        check(self._driver.cuModuleGetFunction(ctypes.byref(function), module, entry), "cuModuleGetFunction")
        if info.shared > _STATIC_LIMIT:
            check(
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
    constants = dict(entry["constants"])
    if any(type(value) is not int or not 0 <= value < 1 << 30 for value in constants.values()):
        raise ValueError
    aligned = entry["aligned"]
    if not isinstance(aligned, list) or not {name for name, _ in arguments}.issuperset(aligned):
        raise ValueError
    return KernelInfo(
        name, entry_name, arguments, threads, shared, scratch, digest, constants, frozenset(aligned)
    )


def _shape(members: Mapping[str, Any]) -> Shape:
    if set(members) != {each.name for each in fields(Shape)}:
        raise ValueError
    for each in fields(Shape):
        if type(members[each.name]) is not each.type:
            raise ValueError
    return Shape(**members)


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
