"""OHTTP messages in one piece: the exchange, its refusals, its single use."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ohttp import kem
from ohttp.encapsulation import HEADER_SIZE, ClientRequest, GatewayRequest, RequestHeader, WholeGateway
from ohttp.errors import EncapsulationError, OhttpError, SessionReused, UnknownKey, UnsupportedSuite
from ohttp.keyconfig import GatewayKey, KeyRing

XWING = GatewayKey.generate(1, kem.MLKEM768_X25519)
CLASSIC = GatewayKey.generate(2, kem.X25519, ((1, 1), (1, 2), (1, 3)))
RING = KeyRing([XWING, CLASSIC])


@pytest.mark.parametrize("key", [XWING, CLASSIC], ids=["X-Wing", "X25519"])
def test_every_suite_of_a_key_carries_an_exchange(key: GatewayKey) -> None:
    for pair in key.config.suites:
        client = ClientRequest(key.config, pair)
        request = GatewayRequest.open(RING, client.seal(b"question"))
        assert request.plaintext == b"question"
        assert (request.header.kdf_id, request.header.aead_id) == pair
        assert client.open(request.seal(b"answer")) == b"answer"


def test_a_session_serves_one_exchange() -> None:
    client = ClientRequest(CLASSIC.config)
    with pytest.raises(SessionReused) as caught:
        client.open(bytes(100))
    assert caught.value.code == "out_of_order"
    request = GatewayRequest.open(RING, client.seal(b"question"))
    with pytest.raises(SessionReused):
        client.seal(b"question")
    response = request.seal(b"answer")
    with pytest.raises(SessionReused):
        request.seal(b"answer")
    assert client.open(response) == b"answer"
    with pytest.raises(SessionReused):
        client.open(response)


def test_a_response_belongs_to_its_request() -> None:
    one, other = ClientRequest(CLASSIC.config), ClientRequest(CLASSIC.config)
    response = GatewayRequest.open(RING, one.seal(b"question")).seal(b"answer")
    other.seal(b"question")
    with pytest.raises(EncapsulationError) as caught:
        other.open(response)
    assert caught.value.code == "decrypt"
    assert one.open(response) == b"answer"


def altered_header(message: bytes, **changes: int) -> bytes:
    header = RequestHeader.parse(message)
    fields = {name: getattr(header, name) for name in ("key_id", "kem_id", "kdf_id", "aead_id")}
    return RequestHeader(**{**fields, **changes}).encode() + message[HEADER_SIZE:]


def test_keys_and_suites_that_were_not_published_are_named() -> None:
    message = ClientRequest(CLASSIC.config).seal(b"question")
    with pytest.raises(UnknownKey) as caught:
        GatewayRequest.open(RING, altered_header(message, key_id=9))
    assert caught.value.code == "unknown_key"
    for changes in ({"kem_id": kem.P256}, {"kdf_id": 3}, {"aead_id": 0xFFFF}, {"key_id": 1}):
        with pytest.raises(UnsupportedSuite) as refused:
            GatewayRequest.open(RING, altered_header(message, **changes))
        assert refused.value.code == "unsupported_suite"
    # A published suite that the client did not use: the header is bound into the keys.
    with pytest.raises(EncapsulationError):
        GatewayRequest.open(RING, altered_header(message, aead_id=2))


def test_a_suite_that_is_published_and_not_available_is_refused() -> None:
    key = GatewayKey.of(5, CLASSIC.private_key, ((1, 1), (1, 0x1234)))
    message = altered_header(ClientRequest(key.config).seal(b"question"), aead_id=0x1234)
    with pytest.raises(UnsupportedSuite):
        GatewayRequest.open(KeyRing([key]), message)


def test_limits_come_first() -> None:
    client = ClientRequest(CLASSIC.config)
    message = client.seal(bytes(1000))
    with pytest.raises(EncapsulationError) as caught:
        GatewayRequest.open(RING, message, max_size=len(message) - 1)
    assert caught.value.code == "too_large"
    response = GatewayRequest.open(RING, message, max_size=len(message)).seal(bytes(1000))
    with pytest.raises(EncapsulationError) as caught:
        client.open(response, max_size=len(response) - 1)
    assert caught.value.code == "too_large"


def test_no_cut_and_no_altered_byte_passes() -> None:
    client = ClientRequest(CLASSIC.config)
    message = client.seal(b"question")
    response = GatewayRequest.open(RING, message).seal(b"answer")
    for cut in range(len(message)):
        with pytest.raises(OhttpError):
            GatewayRequest.open(RING, message[:cut])
    for cut in range(len(response)):
        with pytest.raises(EncapsulationError):
            client.open(response[:cut])
    for position in range(len(message)):
        for flip in (1, 0xFF):
            altered = bytearray(message)
            altered[position] ^= flip
            with pytest.raises(OhttpError):
                GatewayRequest.open(RING, bytes(altered))
    for position in range(len(response)):
        altered = bytearray(response)
        altered[position] ^= 1
        with pytest.raises(EncapsulationError):
            client.open(bytes(altered))
    assert client.open(response) == b"answer"


def test_causes_of_failure_look_alike() -> None:
    message = bytearray(ClientRequest(CLASSIC.config).seal(b"question"))
    zero_share = message[:HEADER_SIZE] + bytes(32) + message[HEADER_SIZE + 32 :]
    message[-1] ^= 1
    texts = set()
    for wrong in (bytes(message), bytes(zero_share)):
        with pytest.raises(EncapsulationError) as caught:
            GatewayRequest.open(RING, wrong)
        texts.add(str(caught.value))
        assert caught.value.__cause__ is None
    assert len(texts) == 1


def test_nothing_of_the_content_is_shown() -> None:
    request = GatewayRequest.open(RING, ClientRequest(CLASSIC.config).seal(b"question"))
    assert "question" not in repr(request)


@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"\x02\x00\x20\x00\x01\x00\x01", b"\x01\x64\x7a\x00\x01\x00\x02"]),
)
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_refused_within_the_family(data: bytes, start: bytes) -> None:
    with pytest.raises(OhttpError):
        GatewayRequest.open(RING, start + data)
    client = ClientRequest(CLASSIC.config)
    client.seal(b"")
    with pytest.raises(EncapsulationError):
        client.open(data)


@pytest.mark.parametrize("portion", [1, 7, 10_000])
def test_a_gateways_session_gathers_one_request_and_gives_it_out_once(portion: int) -> None:
    client = ClientRequest(XWING.config)
    sealed = client.seal(b"question")
    session = WholeGateway(RING, max_request=len(sealed))
    with pytest.raises(SessionReused):
        session.response()
    for at in range(0, len(sealed), portion):
        assert session.receive(sealed[at : at + portion]) == []
    assert session.enc == b""
    assert session.end() == b"question"
    assert session.enc == sealed[HEADER_SIZE : HEADER_SIZE + 1120]
    with pytest.raises(SessionReused):
        session.end()
    seal = session.response()
    assert client.open(seal(b"answer")) == b"answer"
    with pytest.raises(SessionReused):
        seal(b"another")
    short = WholeGateway(RING, max_request=len(sealed) - 1)
    with pytest.raises(EncapsulationError) as caught:
        short.receive(sealed)
    assert caught.value.code == "too_large"
