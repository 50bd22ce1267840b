"""Python's own doors, shut for good: after this, no code enters the process by way of the interpreter.

The kernel's filter sees system calls. It does not see an import of a module that is built in, source compiled from a
string, or a look at every object there is. An audit hook (PEP 578) sees them and cannot be taken out again; the
import system is emptied besides, so that what is asked for is merely not found.
"""

import errno
import sys
from importlib.machinery import ModuleSpec
from typing import Any, Final

REFUSED_EVENTS: Final = frozenset(
    {
        *("import", "compile", "exec", "code.__new__", "function.__new__"),
        *("marshal.load", "marshal.loads", "pickle.find_class"),
        *("ctypes.dlopen", "ctypes.string_at", "ctypes.wstring_at"),
        *("sys.settrace", "sys.setprofile", "sys.addaudithook", "sys._current_frames"),
        *("sys._current_exceptions", "builtins.breakpoint", "builtins.input"),
        *("gc.get_objects", "gc.get_referrers", "gc.get_referents"),
        *("cpython.run_command", "cpython.run_file", "cpython.run_module", "cpython.run_stdin"),
    }
)
"""Audit events that become errors: new code, other people's objects, tracing."""


class _NothingMore:
    """The only finder that is left: it finds nothing."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        raise ModuleNotFoundError("behind the seal nothing is imported", name=name)


def close() -> None:
    """Shut the import system and refuse :data:`REFUSED_EVENTS`. There is no way back."""
    sys.meta_path[:] = [_NothingMore()]
    sys.path[:] = []
    sys.path_hooks.clear()
    sys.path_importer_cache.clear()
    sys.addaudithook(_refuse)


def _refuse(event: str, arguments: tuple[object, ...]) -> None:
    if event in REFUSED_EVENTS:
        if event == "import":
            raise ModuleNotFoundError("behind the seal nothing is imported")
        raise PermissionError(errno.EPERM, "shut by the seal")
