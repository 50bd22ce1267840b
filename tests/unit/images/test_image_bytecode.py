"""Bytecode is a function of the source and its name alone."""

import subprocess
import sys
from importlib.util import MAGIC_NUMBER
from pathlib import Path

import pytest

from images import bytecode
from images.bytecode import cached_path, compile_source
from images.bytecode_workers import compile_tree
from images.errors import ImageError

SOURCE = b'''
NAMES = {"b", "a", "c"}
def f(x, path=("a", "path")):
    """Doc."""
    return x in {"q", "r", "s", 1}
'''


def test_same_bytes_whatever_the_process_did_before() -> None:
    here = compile_source(SOURCE, "app/m.py")
    program = (
        f"import sys; sys.path.insert(0, {str(Path(bytecode.__file__).parent)!r}); import bytecode;"
        f"sys.stdout.buffer.write(bytecode.compile_source({SOURCE!r}, 'app/m.py'))"
    )
    for seed in ("0", "1", "77"):
        other = subprocess.run(
            [sys.executable, "-S", "-c", program],
            capture_output=True,
            env={"PYTHONHASHSEED": seed},
            check=True,
        )
        assert other.stdout == here


def test_unchecked_hash_header_and_no_path_of_this_machine() -> None:
    compiled = compile_source(SOURCE, "app/m.py")
    assert compiled is not None
    assert compiled[:8] == MAGIC_NUMBER + b"\x01\0\0\0"
    assert str(Path.cwd()).encode() not in compiled
    assert b"Doc." in compiled  # Not optimised: the engine's checks and documentation stay.


def test_no_python_gives_no_bytecode() -> None:
    assert compile_source(b"print 'for another version'\n", "m.py") is None
    assert compile_source(b"\0", "m.py") is None


def test_cached_path_is_where_python_looks() -> None:
    from importlib.util import cache_from_source

    for path in ("m.py", "a/b/m.py"):
        assert cached_path(path) == cache_from_source(path, optimization="")


@pytest.mark.parametrize("processes", [1, 3])
def test_a_tree_is_compiled_the_same_by_any_number_of_processes(tmp_path: Path, processes: int) -> None:
    paths = [f"p/m{index}.py" for index in range(7)]
    (tmp_path / "p").mkdir()
    for path in paths:
        (tmp_path / path).write_bytes(SOURCE + f"NAME = {path!r}".encode())
    assert sorted(compile_tree(tmp_path, paths, [sys.executable], processes)) == paths
    for path in paths:
        assert (tmp_path / cached_path(path)).read_bytes() == compile_source(
            (tmp_path / path).read_bytes(), path
        )


def test_a_process_that_dies_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError) as caught:
        list(compile_tree(tmp_path, ["missing.py"], [sys.executable]))
    assert caught.value.code == "compile_failed"
