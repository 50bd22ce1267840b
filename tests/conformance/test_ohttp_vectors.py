"""Oblivious HTTP, whole and chunked, against the documents' examples and other implementations."""

import json
from pathlib import Path
from typing import Any

import pytest

from ohttp import encapsulation, hpke, kem, varint
from ohttp.aead import SequencedAead
from ohttp.bhttp import decode_request, decode_response
from ohttp.chunked import REQUEST_LABEL, RESPONSE_LABEL, ChunkedClient, ChunkedGateway, ChunkReader
from ohttp.encapsulation import (
    ClientRequest,
    GatewayRequest,
    response_aead,
    response_nonce_size,
    start_request,
)
from ohttp.errors import ChunkError, OhttpError
from ohttp.keyconfig import GatewayKey, KeyRing, parse_key_config, parse_key_configs, preferred

Vector = dict[str, Any]


def read(vectors: Path, name: str) -> Vector:
    content: Vector = json.loads((vectors / "ohttp" / name).read_text())
    return content


def blob(vector: Vector, member: str) -> bytes:
    return bytes.fromhex(vector[member])


def ring_of(vector: Vector) -> KeyRing:
    """The gateway of a vector; its published configuration has to be the one in the vector."""
    private_key = kem.kem(vector["kem_id"]).load(blob(vector, "skR"))
    encoded = blob(vector, "key_config")
    # Some files carry the list's length before the configuration, some the configuration alone.
    in_list = int.from_bytes(encoded[:2]) == len(encoded) - 2
    (config,) = parse_key_configs(encoded) if in_list else (parse_key_config(encoded),)
    assert config.public_key == private_key.public_key
    assert config.encode() == encoded[2 if in_list else 0 :]
    return KeyRing([GatewayKey(config, private_key)])


def sender_key(vector: Vector) -> kem.Ephemeral:
    return kem.Ephemeral(kem.kem(vector["kem_id"]).load(blob(vector, "skE")))


def read_chunked_request(gateway: ChunkedGateway, data: bytes, portion: int) -> bytes:
    chunks: list[bytes] = []
    for at in range(0, len(data), portion):
        chunks += gateway.receive(data[at : at + portion])
    return b"".join([*chunks, gateway.end()])


def open_response(context: hpke.Context, enc: bytes, response: bytes, chunked: bool) -> bytes:
    """What a client does with a response, from the gateway's context: the vectors lack the client's key."""
    size = response_nonce_size(context.suite)
    label = RESPONSE_LABEL if chunked else encapsulation.RESPONSE_LABEL
    aead = response_aead(context, enc, response[:size], label)
    if not chunked:
        return aead.open(response[size:])
    reader = ChunkReader(aead.open)
    return b"".join([*reader.feed(response[size:]), reader.finish()])


def test_rfc9458_appendix_a(vectors: Path) -> None:
    vector = read(vectors, "rfc9458_appendix_a.json")
    ring = ring_of(vector)
    suite = (vector["kdf_id"], vector["aead_id"])
    client = ClientRequest(ring.configs[0], suite, ephemeral=sender_key(vector))
    assert client.seal(blob(vector, "request_bhttp")) == blob(vector, "encapsulated_request")
    response = blob(vector, "encapsulated_response")
    request = GatewayRequest.open(
        ring, blob(vector, "encapsulated_request"), random=lambda size: response[:size]
    )
    assert request.plaintext == blob(vector, "request_bhttp")
    assert request.enc == blob(vector, "pkE")
    assert request.header.info(encapsulation.REQUEST_LABEL) == blob(vector, "info")
    assert request.seal(blob(vector, "response_bhttp")) == response
    assert client.open(response) == blob(vector, "response_bhttp")


@pytest.mark.parametrize("portion", [1, 7, 100_000])
def test_chunked_draft_example(vectors: Path, portion: int) -> None:
    vector = read(vectors, "chunked_ohttp_draft08.json")
    ring = ring_of(vector)
    suite = (vector["kdf_id"], vector["aead_id"])
    response = blob(vector, "encapsulated_response")

    header, context = start_request(ring.configs[0], suite, REQUEST_LABEL, sender_key(vector))
    *lengths, final_length = vector["request_chunk_plaintext_lengths"]
    plain = blob(vector, "request_bhttp")
    wire, at = header + context.enc, 0
    for length in lengths:
        ciphertext = context.seal(plain[at : at + length])
        wire += varint.encode(len(ciphertext)) + ciphertext
        at += length
    wire += varint.encode(0) + context.seal(plain[at : at + final_length], b"final")
    assert wire == blob(vector, "encapsulated_request")

    gateway = ChunkedGateway(ring, random=lambda size: response[:size])
    assert read_chunked_request(gateway, wire, portion) == plain
    assert gateway.enc == blob(vector, "pkE")
    sealer = gateway.response()
    answer = blob(vector, "response_bhttp")
    *lengths, final_length = vector["response_chunk_plaintext_lengths"]
    sealed, at = sealer.prologue(), 0
    for length in lengths:
        sealed += sealer.seal(answer[at : at + length])
        at += length
    sealed += sealer.seal_final(answer[at : at + final_length])
    assert sealed == response
    assert context.export(RESPONSE_LABEL, 16) == blob(vector, "response_secret")
    assert open_response(context, context.enc, response, chunked=True) == answer


@pytest.mark.parametrize("portion", [1, 13, 100_000])
def test_chunked_cases(vectors: Path, subtests: pytest.Subtests, portion: int) -> None:
    file = read(vectors, "chunked_cases.json")
    ring = ring_of(file)
    for case in file["cases"]:
        with subtests.test(case["name"]):
            gateway = ChunkedGateway(ring)
            if case["expect"] == "ok":
                data = blob(case, "encapsulated_request")
                assert read_chunked_request(gateway, data, portion) == blob(case, "plaintext")
                gateway.response()
                continue
            with pytest.raises(OhttpError) as caught:
                read_chunked_request(gateway, blob(case, "encapsulated_request"), portion)
            assert caught.value.code == case["expect"], case["why"]
            with pytest.raises(OhttpError):
                gateway.response()


def transcripts(vectors: Path) -> list[tuple[str, Vector]]:
    """Every exchange with another implementation in the folder, whichever file it is in."""
    return [
        (f"{file.stem} {position}", vector)
        for file in sorted((vectors / "ohttp").glob("interop_*.json"))
        for position, vector in enumerate(json.loads(file.read_text()).get("transcripts", ()))
        if "encapsulated_request" in vector
    ]


def test_transcripts(vectors: Path, subtests: pytest.Subtests) -> None:
    found = transcripts(vectors)
    assert found
    for name, vector in found:
        ids = f"0x{vector['kem_id']:04x}/{vector['kdf_id']}/{vector['aead_id']}"
        with subtests.test(f"{name}: {vector['direction']} {ids} chunked={vector['chunked']}"):
            check_transcript(vector)


def test_what_the_transcripts_carry_is_binary_http(vectors: Path, subtests: pytest.Subtests) -> None:
    for name, vector in transcripts(vectors):
        with subtests.test(name):
            assert decode_request(blob(vector, "request_plain")).path.startswith(b"/")
            assert 200 <= decode_response(blob(vector, "response_plain")).status <= 599


def check_transcript(vector: Vector) -> None:
    chunked = vector["chunked"]
    response = blob(vector, "encapsulated_response")
    if "skR" not in vector:
        # The gateway kept its private key: only the response can be checked, with the keys that sealed it.
        configs = parse_key_configs(blob(vector, "key_config_list"))
        assert [config.kem_id for config in configs] == [kem.X25519]
        config = preferred(configs)
        assert (config.key_id, config.public_key) == (vector["key_id"], blob(vector, "pkR"))
        size = response_nonce_size(hpke.suite(vector["kem_id"], vector["kdf_id"], vector["aead_id"]))
        aead = SequencedAead(
            vector["aead_id"], blob(vector, "response_key"), blob(vector, "response_nonce_base")
        )
        assert aead.open(response[size:]) == blob(vector, "response_plain")
        return
    ring = ring_of(vector)
    data = blob(vector, "encapsulated_request")
    if chunked:
        gateway = ChunkedGateway(ring)
        assert read_chunked_request(gateway, data, 97) == blob(vector, "request_plain")
        context, enc = gateway._context, gateway.enc
    else:
        request = GatewayRequest.open(ring, data)
        assert request.plaintext == blob(vector, "request_plain")
        context, enc = request._context, request.enc
    assert context is not None
    label = RESPONSE_LABEL if chunked else encapsulation.RESPONSE_LABEL
    assert context.export(label, response_nonce_size(context.suite)) == blob(vector, "response_secret")
    assert open_response(context, enc, response, chunked) == blob(vector, "response_plain")
    # The same response altered in one bit opens nowhere.
    altered = response[:-1] + bytes((response[-1] ^ 1,))
    with pytest.raises((ChunkError, OhttpError)):
        open_response(context, enc, altered, chunked)


def test_own_client_reads_what_a_vectors_gateway_would_say(vectors: Path) -> None:
    """The client's reader on the draft's own response bytes, portion by portion."""
    vector = read(vectors, "chunked_ohttp_draft08.json")
    ring = ring_of(vector)
    suite = (vector["kdf_id"], vector["aead_id"])
    for portion in (1, 5, 1000):
        client = ChunkedClient(ring.configs[0], suite, ephemeral=sender_key(vector))
        client.seal_request(blob(vector, "request_bhttp"))
        chunks: list[bytes] = []
        response = blob(vector, "encapsulated_response")
        for at in range(0, len(response), portion):
            chunks += client.receive(response[at : at + portion])
        *lengths, final_length = vector["response_chunk_plaintext_lengths"]
        assert [len(chunk) for chunk in chunks] == lengths
        assert final_length == 0
        assert client.finish() == []
        assert b"".join(chunks) == blob(vector, "response_bhttp")
