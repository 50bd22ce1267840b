"""The list of nodes: one spelling, no node twice, and nothing but its own error whatever comes."""

import contextlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client_sdk.directory import MAX_NODES, Directory, ListedNode
from client_sdk.errors import DirectoryRefused

A, B = ListedNode("node-a", b"\x01" * 32), ListedNode("node-b", b"\x02" * 32)
RAW = Directory.build("prod", [B, A]).raw


def refused(data: bytes) -> str:
    with pytest.raises(DirectoryRefused) as error:
        Directory.parse(data)
    assert error.value.code == "directory_malformed"
    return error.value.detail


def test_a_list_is_read_as_it_was_written() -> None:
    directory = Directory.parse(RAW)
    assert directory.nodes == (A, B)
    assert directory.channel == "prod"
    assert directory.node("node-b") == B
    assert directory.node("node-c") is None
    assert Directory.build(directory.channel, directory.nodes).digest == directory.digest


def test_a_full_list_fits() -> None:
    nodes = [ListedNode(f"{number:063}", number.to_bytes(32)) for number in range(MAX_NODES)]
    assert len(Directory.build("prod", nodes).nodes) == MAX_NODES


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        ([A, ListedNode("node-a", b"\x03" * 32)], "names must ascend"),
        ([A, ListedNode("node-c", A.keys)], "two names for one node"),
        ([ListedNode("../node", A.keys)], "a name has"),
        ([ListedNode("Node", A.keys)], "a name has"),
        ([ListedNode("a", b"\x01" * 31)], "keys"),
    ],
)
def test_no_node_stands_twice_or_under_a_name_that_is_none(nodes: list[ListedNode], why: str) -> None:
    with pytest.raises(DirectoryRefused, match=why):
        Directory.build("prod", nodes)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        RAW + b"\n",
        RAW.replace(b'"version":1', b'"version":2'),
        RAW.replace(b'"version":1', b'"version":true'),
        RAW.replace(b'"channel":"prod",', b""),
        RAW.replace(b'"channel":"prod"', b'"channel":"prod","channel":"prod"'),
        RAW.replace(b'"name":"node-a"', b'"name":"node-z"'),
        RAW.replace(b"}]", b',"more":1}]'),
        b"[" * 100_000,
    ],
)
def test_anything_else_is_refused(data: bytes) -> None:
    refused(data)


def test_truncation_at_every_length() -> None:
    for length in range(len(RAW)):
        refused(RAW[:length])


def test_every_change_of_a_byte_is_refused_or_gives_another_list() -> None:
    draw = random.Random(1)
    for at in range(len(RAW)):
        changed = RAW[:at] + bytes([RAW[at] ^ draw.randrange(1, 256)]) + RAW[at + 1 :]
        with contextlib.suppress(DirectoryRefused):
            assert Directory.parse(changed).digest != Directory.parse(RAW).digest


@given(st.binary(max_size=300))
def test_random_bytes(data: bytes) -> None:
    refused(data)
