"""NVIDIA's management library (NVML), called from one thread that cannot hold its caller up.

A driver call may hang in the kernel, where nothing can end it. Each call therefore runs in a thread of its
own making; a caller that has waited long enough gives up, and the library is not asked again.
"""

import queue
import threading
from collections.abc import Callable
from typing import Any, Final

from attestation.nvidia.errors import GpuFault

CALL_SECONDS: Final = 30.0
"""How long one call may take. A report takes a real GPU a fraction of a second."""

FUNCTION_NOT_FOUND: Final = 13
SUCCESS: Final = 0

_STAGE: Final = "platform"
_CODES: Final = {
    1: "nvml_uninitialized",
    2: "nvml_invalid_argument",
    3: "nvml_not_supported",
    4: "nvml_no_permission",
    6: "nvml_not_found",
    7: "nvml_insufficient_size",
    9: "nvml_driver_not_loaded",
    10: "nvml_timeout",
    12: "nvml_library_missing",
    FUNCTION_NOT_FOUND: "nvml_function_missing",
    15: "nvml_gpu_lost",
    16: "nvml_reset_required",
    17: "nvml_blocked",
    18: "nvml_version_mismatch",
    25: "nvml_struct_version",
}
_EXPLAINED: Final = {
    "nvml_not_supported": "this GPU or driver cannot do it",
    "nvml_no_permission": "this process may not do it; root may",
    "nvml_driver_not_loaded": "the NVIDIA kernel driver is not loaded",
    "nvml_library_missing": "libnvidia-ml.so.1 is not installed, so there is no NVIDIA driver here",
    "nvml_function_missing": "the driver is older than confidential computing",
    "nvml_version_mismatch": "the library and the loaded kernel driver are of different versions; reboot",
    "nvml_gpu_lost": "the GPU fell off the bus",
    "nvml_reset_required": "the GPU must be reset",
}


class NvmlCalls:
    """Calls into an NVML-like object: ``pynvml``, or anything with functions of the same names.

    Errors of the library become `GpuFault`: ``nvml_…`` by its own code, ``nvml_timeout`` for a call that
    did not come back, ``nvml_failed`` for everything else.
    """

    def __init__(self, nvml: Any, seconds: float = CALL_SECONDS) -> None:
        self.library = nvml
        self._seconds = seconds
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._turn = threading.Lock()
        self._hanging: str | None = None
        self._thread = threading.Thread(target=self._work, name="nvml", daemon=True)
        self._thread.start()

    @classmethod
    def begin(cls, nvml: Any, seconds: float = CALL_SECONDS) -> "NvmlCalls":
        """Initialise the library. Raises `GpuFault`, with nothing left behind."""
        calls = cls(nvml, seconds)
        try:
            calls("nvmlInit")
        except GpuFault:
            calls.close()
            raise
        return calls

    def end(self) -> None:
        """Let go of the library, and end the thread. Raises `GpuFault`."""
        try:
            self("nvmlShutdown")
        finally:
            self.close()

    def __call__(self, name: str, *arguments: object) -> Any:
        """Call the library's function ``name``. Raises `GpuFault`."""
        with self._turn:
            if self._hanging is not None:
                raise _fault("nvml_timeout", f"{self._hanging} never came back")
            answer: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()
            self._jobs.put(lambda: answer.put(self._try(name, arguments)))
            try:
                succeeded, value = answer.get(timeout=self._seconds)
            except queue.Empty:
                self._hanging = name
                raise _fault("nvml_timeout", f"{name} took more than {self._seconds:g} s") from None
        if not succeeded:
            raise value
        return value

    def close(self) -> None:
        """End the thread, unless a call holds it."""
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def _try(self, name: str, arguments: tuple[object, ...]) -> tuple[bool, Any]:
        function = getattr(self.library, name, None)
        if function is None:
            return False, explain(name, FUNCTION_NOT_FOUND)
        try:
            return True, function(*arguments)
        except Exception as error:
            # The object is injected, so any class of error may come; NVML's own carry their code as value.
            value = getattr(error, "value", None)
            if type(value) is int:
                return False, explain(name, value)
            return False, _fault("nvml_failed", f"{name}: {type(error).__name__}")


_Job = Callable[[], None]


def explain(name: str, code: int) -> GpuFault:
    """The error for a return code of the library's function ``name``."""
    word = _CODES.get(code, "nvml_failed")
    meaning = _EXPLAINED.get(word)
    return _fault(word, f"{name}: {meaning}" if meaning else name, SUCCESS, code)


def load_library() -> Any:
    """The ``pynvml`` module. Raises `GpuFault` (``nvml_bindings_missing``) where it is not installed."""
    try:
        import pynvml
    except ImportError:
        raise _fault(
            "nvml_bindings_missing", "install nvidia-ml-py (pip install 'cloister[runtime]')"
        ) from None
    return pynvml


def _fault(code: str, detail: str, expected: object = None, found: object = None) -> GpuFault:
    return GpuFault(code=code, stage=_STAGE, detail=detail, expected=expected, found=found)
