"""Products with many rows by cuBLASLt (``libcublasLt.so``, part of any CUDA installation), by ctypes.

Which algorithm is used is asked once for each size, before the first step; a product afterwards is one call with
everything ready. Functions, enumerations and the 96 bytes of a heuristic result: cuBLAS library documentation, version
12, section 3 ("Using the cuBLASLt API"). Not tried on a device yet.
"""

import ctypes
from dataclasses import dataclass
from typing import Any, Protocol

from enclave_runtime.engine.cuda.driver import CudaError

WORKSPACE = 32 * 1024 * 1024
"""Bytes of device memory that an algorithm may use besides; NVIDIA's advice for Hopper."""

_TYPES = {"fp32": 0, "fp16": 2, "bf16": 14}  # cudaDataType_t
_COMPUTE_32F = 68
_TRANSPOSED = 1
_DESC_TRANS_A = 3
_PREF_WORKSPACE = 1


class Library(Protocol):
    """The functions of cuBLASLt that are used; each returns a cublasStatus_t, 0 for success."""

    def cublasLtCreate(self, handle: Any) -> int: ...
    def cublasLtMatmulDescCreate(self, operation: Any, compute: int, scale: int) -> int: ...
    def cublasLtMatmulDescSetAttribute(self, operation: Any, name: int, value: Any, size: Any) -> int: ...
    def cublasLtMatrixLayoutCreate(
        self, layout: Any, kind: int, rows: Any, columns: Any, stride: Any
    ) -> int: ...
    def cublasLtMatmulPreferenceCreate(self, preference: Any) -> int: ...
    def cublasLtMatmulPreferenceSetAttribute(
        self, preference: Any, name: int, value: Any, size: Any
    ) -> int: ...
    def cublasLtMatmulAlgoGetHeuristic(self, *arguments: Any) -> int: ...
    def cublasLtMatmul(self, *arguments: Any) -> int: ...


def open_library(names: tuple[str, ...] = ("libcublasLt.so.13", "libcublasLt.so.12")) -> Library:
    """The library, loaded. Raises CudaError ``no_cublaslt``."""
    for name in names:
        try:
            loaded: Library = ctypes.CDLL(name)
        except OSError:
            continue
        return loaded
    raise CudaError("there is no cuBLASLt here", code="no_cublaslt", expected=names)


class _Found(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t."""

    _fields_ = (
        ("algorithm", ctypes.c_uint64 * 8),
        ("workspace", ctypes.c_size_t),
        ("state", ctypes.c_int),
        ("waves", ctypes.c_float),
        ("reserved", ctypes.c_int * 4),
    )


@dataclass(frozen=True, slots=True)
class _Plan:
    operation: ctypes.c_void_p
    weight: ctypes.c_void_p
    x: ctypes.c_void_p
    out: ctypes.c_void_p
    found: _Found


class Products:
    """``out = x @ weight.T`` with ``x`` [rows, inputs] and ``weight`` [outputs, inputs] in ``element``, all row by
    row; sums in float32, ``out`` in ``element`` or float32.

    ``workspace`` is an address of `WORKSPACE` bytes on the device. cuBLASLt counts column by column: to it, this is
    ``outᵀ = (weightᵀ)ᵀ @ xᵀ``.
    """

    def __init__(self, library: Library, element: str, workspace: int, stream: int) -> None:
        self._library, self._element = library, element
        self._workspace, self._stream = ctypes.c_void_p(workspace), ctypes.c_void_p(stream)
        self._handle = ctypes.c_void_p()
        self._plans: dict[tuple[int, int, int, bool], _Plan] = {}
        self._one, self._zero = ctypes.c_float(1.0), ctypes.c_float(0.0)
        self._call("cublasLtCreate", ctypes.byref(self._handle))

    def prepare(self, rows: int, inputs: int, outputs: int, *, wide: bool = False) -> None:
        """Choose the algorithm for a size; ``wide`` for float32 results. Raises CudaError."""
        key = rows, inputs, outputs, wide
        if key in self._plans:
            return
        element, result = _TYPES[self._element], _TYPES["fp32" if wide else self._element]
        operation = ctypes.c_void_p()
        self._call("cublasLtMatmulDescCreate", ctypes.byref(operation), _COMPUTE_32F, _TYPES["fp32"])
        transposed = ctypes.c_int32(_TRANSPOSED)
        self._call(
            "cublasLtMatmulDescSetAttribute",
            operation,
            _DESC_TRANS_A,
            ctypes.byref(transposed),
            ctypes.c_size_t(ctypes.sizeof(transposed)),
        )
        weight = self._layout(element, inputs, outputs)
        x = self._layout(element, inputs, rows)
        out = self._layout(result, outputs, rows)
        preference, room = ctypes.c_void_p(), ctypes.c_size_t(WORKSPACE)
        self._call("cublasLtMatmulPreferenceCreate", ctypes.byref(preference))
        self._call(
            "cublasLtMatmulPreferenceSetAttribute",
            preference,
            _PREF_WORKSPACE,
            ctypes.byref(room),
            ctypes.c_size_t(ctypes.sizeof(room)),
        )
        found, count = _Found(), ctypes.c_int()
        self._call(
            "cublasLtMatmulAlgoGetHeuristic",
            *(self._handle, operation, weight, x, out, out, preference, 1),
            ctypes.byref(found),
            ctypes.byref(count),
        )
        if count.value < 1 or found.state != 0:
            raise CudaError("cuBLASLt knows no algorithm for a size", code="no_algorithm", found=key)
        self._plans[key] = _Plan(operation, weight, x, out, found)

    def multiply(
        self, x: int, weight: int, out: int, rows: int, inputs: int, outputs: int, *, wide: bool = False
    ) -> None:
        """Start one product on the stream. Raises CudaError (``no_plan`` for a size that was not prepared)."""
        plan = self._plans.get((rows, inputs, outputs, wide))
        if plan is None:
            raise CudaError("product of a size that was not prepared", code="no_plan", found=rows)
        at_out = ctypes.c_void_p(out)
        self._call(
            "cublasLtMatmul",
            *(self._handle, plan.operation, ctypes.byref(self._one)),
            *(ctypes.c_void_p(weight), plan.weight, ctypes.c_void_p(x), plan.x, ctypes.byref(self._zero)),
            *(at_out, plan.out, at_out, plan.out, ctypes.byref(plan.found)),
            *(self._workspace, ctypes.c_size_t(plan.found.workspace), self._stream),
        )

    def _layout(self, kind: int, rows: int, columns: int) -> ctypes.c_void_p:
        layout = ctypes.c_void_p()
        sizes = ctypes.c_uint64(rows), ctypes.c_uint64(columns), ctypes.c_int64(rows)
        self._call("cublasLtMatrixLayoutCreate", ctypes.byref(layout), kind, *sizes)
        return layout

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status != 0:
            raise CudaError(f"{name} gave {status}", code="cublaslt_refused", found=status)
