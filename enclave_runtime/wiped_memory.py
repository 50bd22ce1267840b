"""Memory that is overwritten when it is freed, so that a prompt does not lie in the heap after its answer.

Python gives no way to overwrite a string, and copies of a prompt are made by every layer it passes: HTTP, JSON,
the tokenizer's native code. What all of them share is the C library's allocator underneath. It can fill every
block with a byte when it is freed (glibc's tunable ``malloc.perturb``), if two shortcuts are off: Python's own
allocator above it, which frees nothing it may need again, and the allocator's caches per thread, which keep
blocks as they are.

All three are settings of a process that has not started yet. So the node starts itself again with them, once, as
its first act; and because settings may be ignored, what counts is a trial: :func:`freed_memory_is_wiped` frees
memory and looks at it.
"""

import ctypes
import os
from collections.abc import Mapping

SETTINGS: Mapping[str, str] = {
    "PYTHONMALLOC": "malloc",
    "GLIBC_TUNABLES": "glibc.malloc.perturb=165:glibc.malloc.tcache_count=0",
    "LC_ALL": "C",
}
"""Environment of a process that wipes what it frees; the byte is any but zero. Another locale would have the
host's files mapped."""

#: Bytes of the blocks that are tried: of each way in which the allocator keeps free blocks.
_SIZES = (40, 200, 600, 4_000, 60_000)
_MARK = b"freed and not wiped"


def start_again(environment: Mapping[str, str]) -> None:
    """Replace this process by the same program with :data:`SETTINGS`; returns where they are set already.

    The interpreter has to read its environment for that, so an isolated one is started again as one that merely
    leaves the user's folders and the program's own out of the module path. Of the environment only the settings
    and variables whose names begin with ``CLOISTER_`` go along. Raises OSError.
    """
    if all(environment.get(name) == value for name, value in SETTINGS.items()):
        return
    with open("/proc/self/cmdline", "rb") as file:
        arguments = file.read().removesuffix(b"\0").split(b"\0")
    script = next((at for at, part in enumerate(arguments) if part == b"-c"), len(arguments))
    command = [
        replacement
        for at, part in enumerate(arguments)
        for replacement in ((b"-P", b"-s") if part == b"-I" and at < script else (part,))
    ]
    kept = {name: value for name, value in environment.items() if name.startswith("CLOISTER_")}
    os.execve("/proc/self/exe", command, {**kept, **SETTINGS})


def freed_memory_is_wiped() -> bool:
    """Whether blocks of all kinds are overwritten when they are freed: tried, not asked."""
    seen = ctypes.create_string_buffer(max(_SIZES))
    return not any(_left_behind(size, seen) for size in _SIZES)


def _left_behind(size: int, seen: "ctypes.Array[ctypes.c_char]") -> bool:
    """Whether a bytes object of ``size`` can still be read where it was after it is gone."""
    block = _MARK * (size // len(_MARK))
    start = bytes.__basicsize__ - 1  # the content follows the object's head
    length, place = len(block), id(block) + start
    del block
    ctypes.memmove(seen, place, length)
    return _MARK in seen.raw[:length]
