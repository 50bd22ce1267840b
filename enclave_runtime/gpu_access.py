"""What a node whose configuration computes on GPUs may reach of NVIDIA's driver, before the seal and behind it.

Device files, parameters and requests from NVIDIA's open-gpu-kernel-modules: ``nv-ioctl-numbers.h``, ``nv_escape.h``,
``nvos.h`` and ``uvm_ioctl.h``. The driver's library opens one file for every piece of device memory that the processor
sees, starts its threads and registers the process, all while the decoder takes its memory. Behind the seal it can open
nothing and map nothing new; requests that are left make room for a kernel's code at its first launch and give it back.
"""

from dataclasses import dataclass
from pathlib import Path

_DEV = Path("/dev")

FACTS = (
    Path("/proc/driver/nvidia"),
    Path("/proc/devices"),
    Path("/proc/modules"),
    Path("/proc/self/maps"),
    Path("/proc/self/status"),
    Path("/proc/sys/vm/mmap_min_addr"),
    Path("/proc/sys/vm/overcommit_memory"),
    Path("/sys/devices/system/memory/block_size_bytes"),
)
"""What the driver's library reads when it starts."""


def _escape(number: int, size: int) -> int:
    """A request of /dev/nvidiactl and /dev/nvidiaN: ``_IOWR('F', number, size)``, ``size`` in bytes."""
    return 0xC000_0000 | size << 16 | ord("F") << 8 | number


REQUESTS = {
    "NV_ESC_RM_FREE": _escape(0x29, 16),
    "NV_ESC_RM_CONTROL": _escape(0x2A, 32),
    "NV_ESC_RM_ALLOC": _escape(0x2B, 48),
    "NV_ESC_RM_VID_HEAP_CONTROL": _escape(0x4A, 184),
    "NV_ESC_RM_UNMAP_MEMORY": _escape(0x4F, 32),
    "UVM_MAP_EXTERNAL_ALLOCATION": 33,
    "UVM_FREE": 34,
    "UVM_UNMAP_EXTERNAL": 66,
    "UVM_VALIDATE_VA_RANGE": 72,
    "UVM_CREATE_EXTERNAL_RANGE": 73,
}
"""Requests that are left behind the seal. Not among them, besides all that registers a process or a GPU: those that
need a file opened for them (``MAP_MEMORY``, ``ALLOC_MEMORY``, ``REGISTER_FD``), that share memory with others
(``DUP_OBJECT``, ``SHARE``, ``EXPORT_TO_DMABUF_FD``, peer access), that read or write a process (``UVM_TOOLS_*``), and
``IOCTL_XFER_CMD``, whose real request lies in memory. ``RM_CONTROL`` names its command in memory too: which one, a
filter cannot see.
"""


@dataclass(frozen=True, slots=True)
class GpuAccess:
    """``files`` are the device files that may be opened before the seal, read, written, mapped and controlled;
    ``facts`` what else may be read.
    """

    files: tuple[Path, ...]
    facts: tuple[Path, ...] = FACTS

    @classmethod
    def of(cls, kernels: str, gpu_count: int) -> "GpuAccess | None":
        """What a configuration grants: nothing, unless it computes by ``cuda`` (`DecoderChoice.kernels`).

        The kernel's driver must be loaded and its device files there: a confined node cannot run what makes them.
        """
        if kernels != "cuda":
            return None
        gpus = (_DEV / f"nvidia{number}" for number in range(gpu_count))
        return cls((_DEV / "nvidiactl", _DEV / "nvidia-uvm", *gpus))
