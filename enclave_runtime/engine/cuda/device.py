"""What a decoder needs of a device, and the device that the CUDA driver gives.

Memory is an address and a size. Commands go to one stream and run in order; the host waits in `Device.download` and
`Device.wait` only. In confidential-computing mode each copy between host and device pays a toll (it goes through an
encrypted bounce buffer), so the device counts them.
"""

import ctypes
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from enclave_runtime.engine.cuda.build import Shape
from enclave_runtime.engine.cuda.cublaslt import WORKSPACE, Library, Products
from enclave_runtime.engine.cuda.driver import Driver, check, primary_context
from enclave_runtime.engine.cuda.launcher import Kernels

_PORTABLE = 1
"""CU_MEMHOSTALLOC_PORTABLE: pinned for every thread's context."""
_NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING: does not wait for the null stream."""
_THREAD_LOCAL = 1
"""CU_STREAM_CAPTURE_MODE_THREAD_LOCAL."""


@dataclass(slots=True)
class Crossings:
    """How often something crossed between host and device, and how often the device was commanded: counts and bytes."""

    uploads: int = 0
    uploaded: int = 0
    downloads: int = 0
    downloaded: int = 0
    launches: int = 0
    replays: int = 0


class Device(Protocol):
    """An accelerator with its kernels loaded. Raises CudaError for whatever is refused."""

    crossings: Crossings

    @property
    def shape(self) -> Shape:
        """What the kernels were compiled for."""

    @property
    def target(self) -> str:
        """What the kernels were compiled for: ``sm_90``."""

    @property
    def kernels_digest(self) -> str:
        """SHA-256 (hexadecimal) of the kernels' manifest, which holds the digest of every kernel."""

    def constants(self, name: str) -> Mapping[str, int]:
        """What kernel ``name`` was compiled for."""

    def allocate(self, size: int) -> int:
        """``size`` bytes of device memory, zeroed; at the start only."""

    def pinned(self, size: int) -> np.ndarray:
        """uint8 [size] of host memory that copies go through; at the start only."""

    def upload(self, target: int, data: np.ndarray) -> None:
        """Copy contiguous ``data`` to the device. Pinned data may be changed after `wait` or `download`."""

    def download(self, source: int, out: np.ndarray) -> None:
        """Wait for everything before, then copy to contiguous ``out``."""

    def zero(self, target: int, size: int) -> None: ...

    def copy(self, source: int, target: int, size: int) -> None:
        """From device memory to device memory."""

    def launch(self, name: str, grid: Sequence[int], arguments: Sequence[int | float]) -> None: ...

    def prepare(self, rows: int, inputs: int, outputs: int, *, wide: bool = False) -> None:
        """Make `multiply` of a size possible; at the start only."""

    def multiply(
        self, x: int, weight: int, out: int, rows: int, inputs: int, outputs: int, *, wide: bool = False
    ) -> None:
        """``out = x @ weight.T``; ``out`` is float32 if ``wide``."""

    def capture(self, commands: Callable[[], None]) -> int:
        """Record what ``commands`` would start, without starting it; what `replay` takes."""

    def replay(self, graph: int) -> None: ...

    def wait(self) -> None: ...


class CudaDevice:
    """`Device` by the CUDA driver, with measured cubins from ``folder`` and cuBLASLt."""

    def __init__(self, driver: Driver, folder: Path, library: Library) -> None:
        self.crossings = Crossings()
        self._driver = driver
        self._context = primary_context(driver)
        self._attached = threading.local()
        self._attached.yes = True
        self._kernels = Kernels(folder, driver)
        stream = ctypes.c_void_p()
        check(driver.cuStreamCreate(ctypes.byref(stream), _NON_BLOCKING), "cuStreamCreate")
        self._stream = stream
        self._products = Products(library, self.shape.element, self.allocate(WORKSPACE), stream.value or 0)

    @property
    def shape(self) -> Shape:
        return self._kernels.manifest.shape

    @property
    def target(self) -> str:
        return self._kernels.manifest.target

    @property
    def kernels_digest(self) -> str:
        return self._kernels.manifest.sha256

    def constants(self, name: str) -> Mapping[str, int]:
        return self._kernels.constants(name)

    def allocate(self, size: int) -> int:
        self._attach()
        address = ctypes.c_uint64()
        check(self._driver.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(size)), "cuMemAlloc")
        self.zero(address.value, size)
        self.wait()
        return address.value

    def pinned(self, size: int) -> np.ndarray:
        self._attach()
        at = ctypes.c_void_p()
        check(
            self._driver.cuMemHostAlloc(ctypes.byref(at), ctypes.c_size_t(size), _PORTABLE), "cuMemHostAlloc"
        )
        memory = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(at.value or 0))
        memory.fill(0)
        return memory

    def upload(self, target: int, data: np.ndarray) -> None:
        self._attach()
        source, size = ctypes.c_void_p(data.ctypes.data), ctypes.c_size_t(data.nbytes)
        check(
            self._driver.cuMemcpyHtoDAsync_v2(ctypes.c_uint64(target), source, size, self._stream),
            "cuMemcpyHtoDAsync",
        )
        self.crossings.uploads += 1
        self.crossings.uploaded += data.nbytes

    def download(self, source: int, out: np.ndarray) -> None:
        self._attach()
        target, size = ctypes.c_void_p(out.ctypes.data), ctypes.c_size_t(out.nbytes)
        check(
            self._driver.cuMemcpyDtoHAsync_v2(target, ctypes.c_uint64(source), size, self._stream),
            "cuMemcpyDtoHAsync",
        )
        self.crossings.downloads += 1
        self.crossings.downloaded += out.nbytes
        self.wait()

    def zero(self, target: int, size: int) -> None:
        self._attach()
        status = self._driver.cuMemsetD8Async(
            ctypes.c_uint64(target), ctypes.c_ubyte(0), ctypes.c_size_t(size), self._stream
        )
        check(status, "cuMemsetD8Async")

    def copy(self, source: int, target: int, size: int) -> None:
        self._attach()
        status = self._driver.cuMemcpyDtoDAsync_v2(
            ctypes.c_uint64(target), ctypes.c_uint64(source), ctypes.c_size_t(size), self._stream
        )
        check(status, "cuMemcpyDtoDAsync")

    def launch(self, name: str, grid: Sequence[int], arguments: Sequence[int | float]) -> None:
        self._attach()
        self._kernels.launch(name, grid, arguments, self._stream.value or 0)
        self.crossings.launches += 1

    def prepare(self, rows: int, inputs: int, outputs: int, *, wide: bool = False) -> None:
        self._attach()
        self._products.prepare(rows, inputs, outputs, wide=wide)

    def multiply(
        self, x: int, weight: int, out: int, rows: int, inputs: int, outputs: int, *, wide: bool = False
    ) -> None:
        self._attach()
        self._products.multiply(x, weight, out, rows, inputs, outputs, wide=wide)
        self.crossings.launches += 1

    def capture(self, commands: Callable[[], None]) -> int:
        self._attach()
        driver, launches = self._driver, self.crossings.launches
        check(driver.cuStreamBeginCapture_v2(self._stream, _THREAD_LOCAL), "cuStreamBeginCapture")
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        try:
            commands()
        finally:
            ended = driver.cuStreamEndCapture(self._stream, ctypes.byref(graph))
            self.crossings.launches = launches
        check(ended, "cuStreamEndCapture")
        check(
            driver.cuGraphInstantiateWithFlags(ctypes.byref(executable), graph, ctypes.c_uint64(0)),
            "cuGraphInstantiateWithFlags",
        )
        check(driver.cuGraphDestroy(graph), "cuGraphDestroy")
        return executable.value or 0

    def replay(self, graph: int) -> None:
        self._attach()
        check(self._driver.cuGraphLaunch(ctypes.c_void_p(graph), self._stream), "cuGraphLaunch")
        self.crossings.replays += 1

    def wait(self) -> None:
        check(self._driver.cuStreamSynchronize(self._stream), "cuStreamSynchronize")

    def _attach(self) -> None:
        """A context is current in a thread, not in a process."""
        if not getattr(self._attached, "yes", False):
            check(self._driver.cuCtxSetCurrent(self._context), "cuCtxSetCurrent")
            self._attached.yes = True
