"""Conversations with other packages in Python: HPKE with pyhpke, keyed streams with tinfoil-ehbp."""

import itertools
import os
from typing import Any

import pytest

from ohttp import hpke, kem
from ohttp.aead import AES_256_GCM, SequencedAead
from ohttp.encapsulation import response_aead
from ohttp.keyconfig import GatewayKey, parse_key_config

pyhpke = pytest.importorskip("pyhpke", reason="pyhpke is not installed")
INFO = b"message/bhttp request\x00\x01"
KEMS = {kem.X25519: "X25519_HKDF_SHA256", kem.P256: "P256_HKDF_SHA256", kem.P384: "P384_HKDF_SHA384"}
KEMS[kem.P521] = "P521_HKDF_SHA512"
KDFS = {1: "HKDF_SHA256", 2: "HKDF_SHA384", 3: "HKDF_SHA512"}
AEADS = {1: "AES128_GCM", 2: "AES256_GCM", 3: "CHACHA20_POLY1305"}
SUITES = list(itertools.product(KEMS, KDFS, AEADS))
PSK = hpke.Psk(b"p" * 32, b"a name")


def peer_suite(kem_id: int, kdf_id: int, aead_id: int) -> Any:
    return pyhpke.CipherSuite.new(
        pyhpke.KEMId[f"DHKEM_{KEMS[kem_id]}"], pyhpke.KDFId[KDFS[kdf_id]], pyhpke.AEADId[AEADS[aead_id]]
    )


def peers_psk(psk: hpke.Psk | None) -> dict[str, bytes]:
    return {} if psk is None else {"psk": psk.secret, "psk_id": psk.identity}


@pytest.mark.parametrize("psk", [None, PSK])
@pytest.mark.parametrize("ids", SUITES)
def test_pyhpke_opens_what_we_seal(ids: tuple[int, int, int], psk: hpke.Psk | None) -> None:
    suite, peer = hpke.suite(*ids), peer_suite(*ids)
    pair = peer.kem.derive_key_pair(os.urandom(66))
    sender = suite.setup_sender(pair.public_key.to_public_bytes(), INFO, psk=psk)
    recipient = peer.create_recipient_context(sender.enc, pair.private_key, info=INFO, **peers_psk(psk))
    for number in range(5):
        assert recipient.open(sender.seal(b"m%d" % number, b"a"), b"a") == b"m%d" % number
    assert recipient.export(b"x", 77) == sender.export(b"x", 77)


@pytest.mark.parametrize("psk", [None, PSK])
@pytest.mark.parametrize("ids", SUITES)
def test_we_open_what_pyhpke_seals(ids: tuple[int, int, int], psk: hpke.Psk | None) -> None:
    suite, peer = hpke.suite(*ids), peer_suite(*ids)
    key = suite.kem.generate()
    public_key = peer.kem.deserialize_public_key(key.public_key)
    enc, sender = peer.create_sender_context(public_key, info=INFO, **peers_psk(psk))
    recipient = suite.setup_recipient(enc, key, INFO, psk=psk)
    for number in range(5):
        assert recipient.open(sender.seal(b"m%d" % number, b"a"), b"a") == b"m%d" % number
    assert recipient.export(b"x", 77) == sender.export(b"x", 77)


def ehbp_request(body: bytes) -> tuple[Any, Any, hpke.RecipientContext]:
    """A request that tinfoil-ehbp sealed to a key of ours: its identity, the request, and our context."""
    identity_module = pytest.importorskip("ehbp.identity", reason="tinfoil-ehbp is not installed")
    key = GatewayKey.generate(0, kem.X25519, ((hpke.HKDF_SHA256, AES_256_GCM),))
    identity = identity_module.ServerIdentity.unmarshal_public_config(key.config.encode())
    request = identity.encrypt_request_body(body)
    suite = hpke.suite(kem.X25519, hpke.HKDF_SHA256, AES_256_GCM)
    return (
        identity,
        request,
        suite.setup_recipient(request.encapsulated_key, key.private_key, b"ehbp request"),
    )


def frames(stream: bytes) -> list[bytes]:
    found = []
    while stream:
        end = 4 + int.from_bytes(stream[:4])
        found.append(stream[4:end])
        stream = stream[end:]
    return found


def test_tinfoil_ehbp_reads_our_key_configuration_and_we_its_requests() -> None:
    body = os.urandom(150_000)
    identity, request, context = ehbp_request(body)
    assert parse_key_config(identity.marshal_public_config()).encode() == identity.marshal_public_config()
    assert b"".join(context.open(frame) for frame in frames(request.body)) == body


def test_tinfoil_ehbp_opens_a_stream_under_the_keys_that_we_derive_for_a_response() -> None:
    """Its response keys are made as those of RFC 9458 section 4.4, under a label of its own."""
    _, request, context = ehbp_request(b"question")
    nonce = os.urandom(32)
    aead: SequencedAead = response_aead(context, request.encapsulated_key, nonce, b"ehbp response")
    parts = [b"one", b"two" * 1000, b"three"]
    stream = b"".join(len(sealed := aead.seal(part)).to_bytes(4) + sealed for part in parts)
    reader = request.token.create_response_decryptor(nonce)
    opened = [chunk for at in range(0, len(stream), 100) for chunk in reader.push(stream[at : at + 100])]
    reader.finish()
    assert opened == parts
