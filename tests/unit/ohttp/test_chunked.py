"""Chunked OHTTP: the exchange, its limits, and what any split, cut or altered byte does."""

import gc
import itertools
import tracemalloc
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ohttp import kem, varint
from ohttp.chunked import MAX_CHUNK, REQUEST_LABEL, ChunkedClient, ChunkedGateway, ResponseSealer
from ohttp.encapsulation import HEADER_SIZE, start_request
from ohttp.errors import (
    ChunkError,
    EncapsulationError,
    OhttpError,
    SessionReused,
    UnknownKey,
    UnsupportedSuite,
)
from ohttp.keyconfig import GatewayKey, KeyRing

XWING = GatewayKey.generate(1, kem.MLKEM768_X25519)
CLASSIC = GatewayKey.generate(2, kem.X25519, ((1, 1), (1, 2), (1, 3)))
RING = KeyRing([XWING, CLASSIC])


def chunked_request(*chunks: bytes, length: Callable[[int], bytes] = varint.encode) -> bytes:
    """A request with these chunks, the last of them final, as a client with a streaming body sends it."""
    header, context = start_request(CLASSIC.config, None, REQUEST_LABEL, None)
    wire = header + context.enc
    for chunk in chunks[:-1]:
        ciphertext = context.seal(chunk)
        wire += length(len(ciphertext)) + ciphertext
    return wire + length(0) + context.seal(chunks[-1], b"final")


def portions(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def read_request(gateway: ChunkedGateway, pieces: Sequence[bytes]) -> bytes:
    chunks = [chunk for piece in pieces for chunk in gateway.receive(piece)]
    return b"".join([*chunks, gateway.end()])


def read_answer(client: ChunkedClient, pieces: Sequence[bytes]) -> list[bytes]:
    chunks = [chunk for piece in pieces for chunk in client.receive(piece)]
    return chunks + client.finish()


def exchange(*answer: bytes) -> tuple[ChunkedClient, bytes]:
    """A client that has asked, and the encapsulated response to it."""
    client = ChunkedClient(CLASSIC.config)
    gateway = ChunkedGateway(RING)
    assert read_request(gateway, [client.seal_request(b"question")]) == b"question"
    sealer = gateway.response()
    wire = sealer.prologue() + b"".join(sealer.seal(chunk) for chunk in answer[:-1])
    return client, wire + sealer.seal_final(answer[-1])


@pytest.mark.parametrize("key", [XWING, CLASSIC], ids=["X-Wing", "X25519"])
def test_every_suite_of_a_key_carries_an_exchange(key: GatewayKey) -> None:
    for pair in key.config.suites:
        client = ChunkedClient(key.config, pair)
        gateway = ChunkedGateway(RING)
        request = client.seal_request(b"question")
        assert read_request(gateway, [request]) == b"question"
        assert gateway.enc == request[HEADER_SIZE : HEADER_SIZE + len(gateway.enc)]
        assert gateway.header is not None
        assert gateway.header.key_id == key.config.key_id
        sealer = gateway.response()
        assert client.receive(sealer.prologue()) == []
        for word in (b"one", b"two", b"three"):
            assert client.receive(sealer.seal(word)) == [word]
        assert client.receive(sealer.seal_final(b"end")) == []
        assert client.finish() == [b"end"]


@pytest.mark.parametrize("size", [0, 1, MAX_CHUNK - 1, MAX_CHUNK, MAX_CHUNK + 1, 3 * MAX_CHUNK, 100_000])
def test_requests_of_any_size_stay_within_the_chunk_limit(size: int) -> None:
    gateway = ChunkedGateway(RING)
    body = bytes(size)
    wire = ChunkedClient(CLASSIC.config).seal_request(body)
    chunks = gateway.receive(wire)
    assert all(len(chunk) == MAX_CHUNK for chunk in chunks)
    final = gateway.end()
    assert b"".join([*chunks, final]) == body
    assert len(chunks) == max(0, -(-size // MAX_CHUNK) - 1)
    assert bool(final) == bool(size)


@given(
    st.lists(st.binary(min_size=1, max_size=60), max_size=5),
    st.binary(max_size=60),
    st.lists(st.integers(0, 10_000), max_size=12),
)
@settings(max_examples=60, deadline=None)
def test_any_split_of_the_bytes_gives_the_same_chunks(
    chunks: list[bytes], final: bytes, cuts: list[int]
) -> None:
    whole = b"".join([*chunks, final])
    assert read_request(ChunkedGateway(RING), portions(chunked_request(*chunks, final), cuts)) == whole
    client, wire = exchange(*chunks, final)
    assert read_answer(client, portions(wire, cuts)) == chunks + ([final] if final else [])


def test_byte_by_byte() -> None:
    chunks = (b"a" * 100, b"b", b"c" * MAX_CHUNK)
    client, wire = exchange(*chunks, b"end")
    assert read_answer(client, [bytes((byte,)) for byte in wire]) == [*chunks, b"end"]


def test_lengths_may_be_longer_than_needed() -> None:
    wire = chunked_request(b"a", b"b", b"c", length=lambda size: (0xC000_0000_0000_0000 | size).to_bytes(8))
    assert read_request(ChunkedGateway(RING), [wire]) == b"abc"


def test_no_prefix_of_a_stream_is_a_message() -> None:
    wire = chunked_request(b"one", b"two", b"final words")
    final_starts = len(wire) - len(b"final words") - 16
    for cut in range(len(wire)):
        gateway = ChunkedGateway(RING)
        with pytest.raises(OhttpError) as caught:
            read_request(gateway, [wire[:cut]])
        # Within the final chunk only its tag can tell: the stream's end is the chunk's end.
        assert caught.value.code == ("truncated" if cut < final_starts else "decrypt")
        assert not isinstance(caught.value, EOFError | StopIteration)
        with pytest.raises(SessionReused):
            gateway.response()


def test_no_prefix_of_an_answer_is_an_answer() -> None:
    for cut in range(len(exchange(b"one", b"two", b"end")[1])):
        client, wire = exchange(b"one", b"two", b"end")
        client.receive(wire[:cut])
        with pytest.raises(ChunkError) as caught:
            client.finish()
        assert caught.value.code in ("truncated", "decrypt")


def test_no_altered_byte_passes() -> None:
    original = chunked_request(b"one", b"two", b"final words")
    for position in range(len(original)):
        for flip in (1, 0x40, 0xFF):
            altered = bytearray(original)
            altered[position] ^= flip
            with pytest.raises(OhttpError):
                read_request(ChunkedGateway(RING), [bytes(altered)])


def test_an_altered_answer_is_refused_and_stays_refused() -> None:
    size = len(exchange(b"one", b"two", b"end")[1])
    for position in range(size):
        client, wire = exchange(b"one", b"two", b"end")
        altered = bytearray(wire)
        altered[position] ^= 1
        with pytest.raises(ChunkError):
            read_answer(client, [bytes(altered)])
        for _ in range(2):
            with pytest.raises(ChunkError):
                client.receive(b"")
            with pytest.raises(ChunkError):
                client.finish()


def test_an_empty_chunk_is_an_error_unless_final() -> None:
    with pytest.raises(ChunkError) as caught:
        ChunkedGateway(RING).receive(chunked_request(b"one", b"", b"two"))
    assert caught.value.code == "empty_chunk"
    assert read_request(ChunkedGateway(RING), [chunked_request(b"one", b"")]) == b"one"
    assert read_request(ChunkedGateway(RING), [chunked_request(b"")]) == b""
    _, sealer = answering()
    sealer.prologue()
    with pytest.raises(ChunkError) as caught:
        sealer.seal(b"")
    assert caught.value.code == "empty_chunk"


@pytest.mark.parametrize("declared", [MAX_CHUNK + 17, 1 << 20, 1 << 40, varint.MAX])
def test_a_chunk_too_large_is_refused_by_its_length_alone(declared: int) -> None:
    start = chunked_request(b"")[: HEADER_SIZE + 32]
    gateway = ChunkedGateway(RING)
    gateway.receive(start)
    gc.collect()
    tracemalloc.start()
    try:
        with pytest.raises(ChunkError) as caught:
            gateway.receive(varint.encode(declared))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.code == "chunk_too_large"
    assert peak < 64 * 1024


def test_chunks_of_the_largest_size_pass_and_larger_ones_do_not() -> None:
    full = bytes(MAX_CHUNK)
    assert read_request(ChunkedGateway(RING), [chunked_request(full, full)]) == full + full
    for chunks in ((full + b"x", b""), (b"", full + b"x")):
        with pytest.raises(ChunkError) as caught:
            read_request(ChunkedGateway(RING), [chunked_request(*filter(None, chunks[:1]), chunks[1])])
        assert caught.value.code == "chunk_too_large"
    _, sealer = answering()
    sealer.prologue()
    seals: tuple[Callable[[bytes], bytes], ...] = (sealer.seal, sealer.seal_final)
    for seal in seals:
        with pytest.raises(ChunkError) as caught:
            seal(full + b"x")
        assert caught.value.code == "chunk_too_large"
    assert sealer.seal(full)


def test_messages_have_a_limit_in_all() -> None:
    wire = chunked_request(*[b"x" * 50] * 20, b"end")
    assert read_request(ChunkedGateway(RING, max_request=len(wire)), [wire])
    gateway = ChunkedGateway(RING, max_request=len(wire) - 1)
    with pytest.raises(ChunkError) as caught:
        read_request(gateway, [bytes((byte,)) for byte in wire])
    assert caught.value.code == "message_too_large"
    client = ChunkedClient(CLASSIC.config, max_response=100)
    client.seal_request(b"")
    with pytest.raises(ChunkError) as caught:
        client.receive(bytes(101))
    assert caught.value.code == "message_too_large"


def answering() -> tuple[ChunkedClient, ResponseSealer]:
    client = ChunkedClient(CLASSIC.config)
    gateway = ChunkedGateway(RING)
    read_request(gateway, [client.seal_request(b"question")])
    return client, gateway.response()


def refuses(code: str, *attempts: Callable[[], object]) -> None:
    for attempt in attempts:
        with pytest.raises(SessionReused) as caught:
            attempt()
        assert caught.value.code == code


def test_a_session_does_each_thing_once_and_in_order() -> None:
    client = ChunkedClient(CLASSIC.config)
    refuses("out_of_order", lambda: client.receive(b"x"), client.finish)
    wire = client.seal_request(b"question")
    refuses("reused", lambda: client.seal_request(b"question"))

    gateway = ChunkedGateway(RING)
    gateway.receive(wire)
    refuses("out_of_order", gateway.response)
    gateway.end()
    refuses("reused", lambda: gateway.receive(wire), gateway.end)
    sealer = gateway.response()
    refuses("reused", gateway.response)

    refuses("out_of_order", lambda: sealer.seal(b"x"), sealer.seal_final)
    answer = sealer.prologue()
    refuses("reused", sealer.prologue)
    answer += sealer.seal_final(b"end")
    refuses("reused", lambda: sealer.seal(b"x"), sealer.seal_final, sealer.prologue)
    client.receive(answer)
    assert client.finish() == [b"end"]
    refuses("reused", lambda: client.receive(b""), client.finish)


def test_unknown_keys_are_refused_with_the_header_alone() -> None:
    with pytest.raises(UnknownKey):
        ChunkedGateway(RING).receive(bytes.fromhex("09002000010001"))
    with pytest.raises(UnsupportedSuite):
        ChunkedGateway(RING).receive(bytes.fromhex("02001000010001"))
    with pytest.raises(EncapsulationError) as caught:
        ChunkedGateway(RING).receive(bytes.fromhex("02002000010001") + bytes(32))
    assert caught.value.code == "decrypt"


def test_each_response_has_its_own_nonce_and_belongs_to_its_request() -> None:
    (one, wire), (other, _) = exchange(b"one", b"end"), exchange(b"two", b"end")
    with pytest.raises(ChunkError) as caught:
        other.receive(wire)
    assert caught.value.code == "decrypt"
    assert one.receive(wire) == [b"one"]
    nonces = {exchange(b"")[1][:16] for _ in range(50)}
    assert len(nonces) == 50


@given(
    st.sampled_from([b"", chunked_request(b"")[:39], bytes.fromhex("01647a00010002")]),
    st.lists(st.binary(max_size=120), max_size=6),
)
@settings(max_examples=120, deadline=None)
def test_any_bytes_are_refused_within_the_family(start: bytes, pieces: list[bytes]) -> None:
    gateway = ChunkedGateway(RING)
    with pytest.raises(OhttpError):
        read_request(gateway, [start, *pieces])
    client = ChunkedClient(CLASSIC.config)
    client.seal_request(b"")
    with pytest.raises(ChunkError):
        read_answer(client, pieces)
