"""A file that is replaced under a running program: each version counts at once, and none that is unusable."""

from pathlib import Path

import pytest

from ohttp.current_file import CurrentFile


def test_a_file_is_read_again_when_it_was_replaced(tmp_path: Path) -> None:
    path = tmp_path / "numbers"
    path.write_bytes(b"1")
    read: list[bytes] = []

    def parse(data: bytes) -> int:
        read.append(data)
        return int(data)

    file = CurrentFile(path, parse, most=5)
    assert file.current() == file.current() == 1
    assert read == [b"1"]
    (tmp_path / "next").write_bytes(b"2")
    (tmp_path / "next").replace(path)
    assert file.current() == 2


def test_a_file_that_is_unusable_now_does_not_count_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "numbers"
    path.write_bytes(b"1")
    file = CurrentFile(path, int, most=5)
    assert file.current() == 1
    path.write_bytes(b"one")
    for _ in range(2):
        with pytest.raises(ValueError, match="one"):
            file.current()
    path.write_bytes(b"123456")
    with pytest.raises(OSError, match="longer than"):
        file.current()
    path.unlink()
    with pytest.raises(FileNotFoundError):
        file.current()
