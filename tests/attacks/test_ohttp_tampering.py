"""What a relay, or whoever owns a key by mistake, might try with encrypted messages.

Each attempt stands beside a control in which the one defence is missing and the same attempt succeeds.
"""

import hashlib
import os
import tracemalloc
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ohttp import encapsulation, kem, varint
from ohttp.aead import SequencedAead
from ohttp.chunked import REQUEST_LABEL, ChunkedClient, ChunkedGateway
from ohttp.encapsulation import ClientRequest, GatewayRequest, start_request
from ohttp.errors import ChunkError, EncapsulationError, HpkeError, KeyConfigError, OhttpError, SessionReused
from ohttp.keyconfig import GatewayKey, KeyRing, parse_key_configs, parse_pinned_key_configs, preferred

NODE = KeyRing([GatewayKey.generate(1, kem.MLKEM768_X25519), GatewayKey.generate(2, kem.X25519)])
ANSWER = (b"Take two tablets", b" a day,", b" never more than two.")


def asked() -> tuple[ChunkedClient, ChunkedGateway]:
    client, gateway = ChunkedClient(preferred(NODE.configs)), ChunkedGateway(NODE)
    gateway.receive(client.seal_request(b"How many may I take?"))
    gateway.end()
    return client, gateway


def answered() -> tuple[ChunkedClient, bytes, list[bytes], bytes]:
    """A client that waits, and what the node sent it: nonce, framed chunks, framed final chunk."""
    client, gateway = asked()
    sealer = gateway.response()
    return client, sealer.prologue(), [sealer.seal(part) for part in ANSWER], sealer.seal_final()


def frames(stream: bytes) -> list[bytes]:
    """The ciphertexts of a stream of framed chunks, as anyone on the way can cut them out."""
    found, at = [], 0
    while (prefix := varint.decode(stream, at)) is not None and prefix[0]:
        at = prefix[1] + prefix[0]
        found.append(stream[prefix[1] : at])
    return found


# -- cutting an answer short ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", range(len(ANSWER) + 1))
def test_cutting_an_answer_at_a_chunk_boundary(kept: int) -> None:
    client, nonce, chunks, _ = answered()
    client.receive(nonce + b"".join(chunks[:kept]))
    with pytest.raises(ChunkError) as caught:
        client.finish()
    assert caught.value.code == "truncated"


def test_cutting_an_answer_and_relabelling_its_last_chunk_as_final() -> None:
    client, nonce, chunks, _ = answered()
    client.receive(nonce + chunks[0] + b"\x00" + frames(chunks[1])[0])
    with pytest.raises(ChunkError) as caught:
        client.finish()
    assert caught.value.code == "decrypt"


def test_control_without_a_final_chunk_the_cut_passes() -> None:
    """A reader that takes the end of the stream for the end of the answer."""
    key, base = os.urandom(16), os.urandom(12)
    sealing, opening = SequencedAead(1, key, base), SequencedAead(1, key, base)
    stream = b"".join(_frame(sealing.seal(part)) for part in ANSWER)
    cut = stream[: -len(_frame(bytes(len(ANSWER[-1]) + 16)))]
    assert b"".join(opening.open(chunk) for chunk in frames(cut)) == b"Take two tablets a day,"


# -- moving, repeating and dropping chunks -------------------------------------------------------------------

MOVES: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "swapped": lambda chunks: [chunks[1], chunks[0], chunks[2]],
    "repeated": lambda chunks: [chunks[0], chunks[1], chunks[1], chunks[2]],
    "dropped": lambda chunks: [chunks[0], chunks[2]],
}


@pytest.mark.parametrize("move", MOVES)
def test_rearranging_the_chunks_of_an_answer(move: str) -> None:
    client, nonce, chunks, final = answered()
    with pytest.raises(ChunkError) as caught:
        client.receive(nonce + b"".join(MOVES[move](chunks)) + final)
    assert caught.value.code == "decrypt"


@pytest.mark.parametrize("move", MOVES)
def test_control_without_counted_nonces_the_rearranged_answer_passes(move: str) -> None:
    """The same chunks under nonces that travel with them instead of counting them."""
    cipher = AESGCM(os.urandom(16))
    sealed = []
    for part in ANSWER:
        nonce = os.urandom(12)
        sealed.append(nonce + cipher.encrypt(nonce, part, b""))
    opened = [cipher.decrypt(chunk[:12], chunk[12:], b"") for chunk in MOVES[move](sealed)]
    assert opened == MOVES[move](list(ANSWER)) != list(ANSWER)


# -- using one session twice ---------------------------------------------------------------------------------


def test_sealing_two_prompts_in_one_session() -> None:
    for client in (ChunkedClient(preferred(NODE.configs)), ClientRequest(preferred(NODE.configs))):
        seal = client.seal_request if isinstance(client, ChunkedClient) else client.seal
        seal(b"first prompt")
        with pytest.raises(SessionReused):
            seal(b"other prompt")


def test_sealing_two_prompts_under_one_ephemeral_key() -> None:
    config = NODE.find(2).config
    ephemeral = kem.Ephemeral(kem.kem(kem.X25519).generate())
    ChunkedClient(config, ephemeral=ephemeral)
    with pytest.raises(HpkeError) as caught:
        ChunkedClient(config, ephemeral=ephemeral)
    assert caught.value.code == "ephemeral_reused"


def test_control_one_key_and_nonce_for_two_prompts_gives_one_away() -> None:
    """With the ephemeral key wrapped anew each time, whoever knows one prompt reads the other."""
    config = NODE.find(2).config
    key = kem.kem(kem.X25519).generate()
    known, secret = b"a prompt the relay sent", b"what nobody should read"
    sealed = [
        ChunkedClient(config, ephemeral=kem.Ephemeral(key)).seal_request(prompt)[40:-16]
        for prompt in (known, secret)
    ]
    assert bytes(a ^ b ^ c for a, b, c in zip(*sealed, known, strict=True)) == secret


def test_feeding_an_answer_again_to_the_session_that_read_it() -> None:
    client, nonce, chunks, final = answered()
    stream = nonce + b"".join(chunks) + final
    assert b"".join(client.receive(stream)) == b"".join(ANSWER)
    client.finish()
    with pytest.raises(SessionReused):
        client.receive(stream)


def test_answering_one_request_twice() -> None:
    _, gateway = asked()
    gateway.response()
    with pytest.raises(SessionReused):
        gateway.response()


# -- swapping the keys ---------------------------------------------------------------------------------------

RELAY = KeyRing([GatewayKey.generate(1, kem.MLKEM768_X25519), GatewayKey.generate(2, kem.X25519)])


def test_swapping_the_list_of_keys() -> None:
    vouched_for = hashlib.sha256(NODE.encoded()).digest()
    for swapped in (
        RELAY.encoded(),
        KeyRing([NODE.find(2)]).encoded(),
        NODE.encoded() + RELAY.encoded(),
        b"",
    ):
        with pytest.raises(KeyConfigError) as caught:
            parse_pinned_key_configs(swapped, vouched_for)
        assert caught.value.code == "key_mismatch"
    assert parse_pinned_key_configs(NODE.encoded(), vouched_for) == NODE.configs


def test_control_an_unpinned_list_lets_the_relay_read_the_prompt() -> None:
    client = ChunkedClient(preferred(parse_key_configs(RELAY.encoded())))
    eavesdropper = ChunkedGateway(RELAY)
    eavesdropper.receive(client.seal_request(b"How many may I take?"))
    assert eavesdropper.end() == b"How many may I take?"


def test_sending_a_request_on_under_another_of_the_nodes_keys() -> None:
    request = ChunkedClient(NODE.find(2).config).seal_request(b"How many may I take?")
    twin = KeyRing([GatewayKey.of(3, NODE.find(2).private_key)])
    gateway = ChunkedGateway(twin)
    gateway.receive(b"\x03" + request[1:])
    with pytest.raises(ChunkError) as caught:
        gateway.end()
    assert caught.value.code == "decrypt"


# -- downgrading chunked messages to whole ones --------------------------------------------------------------


def test_passing_a_chunked_request_off_as_a_whole_one() -> None:
    request = ChunkedClient(NODE.find(2).config).seal_request(b"How many may I take?")
    head, sealed = request[:39], request[40:]
    assert request[39] == 0
    with pytest.raises(EncapsulationError) as caught:
        GatewayRequest.open(NODE, head + sealed)
    assert caught.value.code == "decrypt"


def test_control_with_one_label_for_both_forms_the_whole_one_passes() -> None:
    """Labels and the final chunk's AAD are all that tells the forms apart: with them made equal it opens."""
    header, context = start_request(NODE.find(2).config, None, encapsulation.REQUEST_LABEL, None)
    sealed = context.seal(b"How many may I take?", b"")
    assert GatewayRequest.open(NODE, header + context.enc + sealed).plaintext == b"How many may I take?"


@pytest.mark.parametrize("framing", [b"", b"\x00"], ids=["as it is", "as a final chunk"])
def test_answering_a_chunked_request_with_a_whole_response(framing: bytes) -> None:
    """A node that would push its clients back to the other form gets nothing accepted."""
    client, gateway = asked()
    assert gateway._context is not None
    assert gateway.header is not None
    whole = GatewayRequest(gateway.header, gateway.enc, b"", gateway._context, os.urandom).seal(b"answer")
    with pytest.raises(OhttpError):
        read_all(client, whole[:32] + framing + whole[32:])


def test_control_the_same_bytes_are_a_good_whole_response() -> None:
    client = ClientRequest(NODE.find(2).config)
    request = GatewayRequest.open(NODE, client.seal(b"How many may I take?"))
    assert client.open(request.seal(b"answer")) == b"answer"


def read_all(client: ChunkedClient, stream: bytes) -> bytes:
    return b"".join(client.receive(stream) + client.finish())


# -- making a receiver allocate ------------------------------------------------------------------------------


def test_announcing_a_chunk_of_four_exabytes() -> None:
    header, context = start_request(NODE.find(2).config, None, REQUEST_LABEL, None)
    gateway = ChunkedGateway(NODE)
    gateway.receive(header + context.enc)
    tracemalloc.start()
    try:
        with pytest.raises(ChunkError) as caught:
            gateway.receive(varint.encode(varint.MAX))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.code == "chunk_too_large"
    assert peak < 64 * 1024


def test_control_a_reader_that_believes_the_length_allocates_it() -> None:
    announced = 32 * 1024 * 1024
    tracemalloc.start()
    try:
        prefix = varint.decode(varint.encode(announced))
        assert prefix is not None
        bytearray(prefix[0])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak >= announced


def _frame(ciphertext: bytes) -> bytes:
    return varint.encode(len(ciphertext)) + ciphertext
