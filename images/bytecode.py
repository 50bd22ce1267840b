"""Bytecode that is the same bytes wherever and in whatever order it is compiled.

The files are unchecked hash-based ``.pyc`` (PEP 552): no time stamp, and a node never compares them with the
source. The code object is written in marshal's version 2, which has no back references: later versions decide
by an object's reference count whether to write one, so their output depends on what the process did before.

The module is also the program that compiles (``python -I -S -B bytecode.py``): one JSON job a line on stdin,
one JSON result a line on stdout; it imports nothing but the standard library.
"""

import importlib.util
import json
import marshal
import sys
import warnings
from pathlib import Path

_UNCHECKED_HASH = (0b01).to_bytes(4, "little")
_MARSHAL_VERSION = 2


def compile_source(source: bytes, name: str) -> bytes | None:
    """The ``.pyc`` of one module whose code objects carry the file name ``name``; None if it is no Python.

    Packages carry templates and sources for other versions under ``.py`` names; nobody can import those.
    """
    try:
        code = compile(source, name, "exec", dont_inherit=True, optimize=0)
    except (SyntaxError, ValueError):
        return None
    header = importlib.util.MAGIC_NUMBER + _UNCHECKED_HASH + importlib.util.source_hash(source)
    return header + marshal.dumps(code, _MARSHAL_VERSION)


def cached_path(path: str) -> str:
    """Where the import system looks for the bytecode of the module at ``path``."""
    folder, _, name = path.rpartition("/")
    cached = f"__pycache__/{name.removesuffix('.py')}.{sys.implementation.cache_tag}.pyc"
    return f"{folder}/{cached}" if folder else cached


def _work(tree: Path) -> None:
    warnings.simplefilter("ignore")
    for line in sys.stdin.buffer:
        path = json.loads(line)
        compiled = compile_source((tree / path).read_bytes(), path)
        if compiled is not None:
            target = tree / cached_path(path)
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(compiled)
            target.chmod(0o644)
        sys.stdout.write(json.dumps(path) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _work(Path(sys.argv[1]))
