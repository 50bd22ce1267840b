"""A staple's file is watched on the host's side, and what the host sends is cut into staples by PID 1."""

import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from images.errors import MachineError
from images.guest import init
from images.staple_file import AGAIN_S, MAX_BYTES, StapleFile

LIMITS = {"bytes": 300, "pause_s": 0}
END = b"\xff\xff\xff\xff"


def through(sent: bytes) -> bytes:
    """What reaches the node of the bytes that a host sends."""
    port, host = os.pipe()
    node, feed = os.pipe()
    try:
        carrier = threading.Thread(target=init.hand_over, args=(port, feed, LIMITS), daemon=True)
        carrier.start()
        os.write(host, sent)
        os.close(host)
        host = -1
        carrier.join(60)
        assert not carrier.is_alive()
        os.close(feed)
        feed = -1
        return os.read(node, 1 << 20)
    finally:
        for descriptor in (port, host, node, feed):
            if descriptor >= 0:
                os.close(descriptor)


def framed(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


@given(st.lists(st.binary(max_size=300), max_size=8), st.binary(max_size=100))
def test_whole_staples_go_through_as_they_are_and_nothing_behind_one_that_is_too_large(
    files: list[bytes], rest: bytes
) -> None:
    sent = b"".join(map(framed, files))
    assert through(sent + END + rest) == sent


@given(st.binary(max_size=400))
def test_of_random_bytes_only_whole_staples_go_through(data: bytes) -> None:
    got = through(data + b"\xff" * 308)  # fills up what is open, and ends with a length beyond every limit
    while got:
        size = int.from_bytes(got[:4], "big")
        assert size <= LIMITS["bytes"]
        assert len(got) >= 4 + size
        got = got[4 + size :]


def test_a_file_is_due_when_it_was_replaced(tmp_path: Path) -> None:
    path = tmp_path / "staple.json"
    path.write_bytes(b"one")
    watched = StapleFile(path)
    assert watched.read() == b"one"
    assert not watched.due(10.0)
    path.write_bytes(b"other")
    assert watched.due(11.0)
    assert watched.read() == b"other"
    assert not watched.due(12.0)
    path.unlink()
    assert not watched.due(500.0)


def test_one_that_follows_another_closely_is_due_twice(tmp_path: Path) -> None:
    path = tmp_path / "staple.json"
    path.write_bytes(b"one")
    watched = StapleFile(path)
    watched.read()
    for number, now in enumerate((100.0, 110.0)):
        path.write_bytes(b"x" * (10 + number))
        assert watched.due(now)
    assert not watched.due(110.0 + AGAIN_S - 1)
    assert watched.due(110.0 + AGAIN_S)
    assert not watched.due(1000.0)


def test_a_file_that_cannot_be_one_is_said(tmp_path: Path) -> None:
    with pytest.raises(MachineError) as caught:
        StapleFile(tmp_path / "staple.json").read()
    assert caught.value.code == "staple_unreadable"
    with (tmp_path / "large").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(MachineError) as caught:
        StapleFile(tmp_path / "large").read()
    assert caught.value.code == "staple_too_large"
