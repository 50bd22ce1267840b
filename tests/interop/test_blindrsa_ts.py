"""RSA blind signatures in both directions with npm's @cloudflare/blindrsa-ts, all four variants."""

import os
from typing import Any

from cryptography.hazmat.primitives import serialization
from node_peers import NodePeers

from ohttp.blind_rsa import Blinding, PublicKey, SigningKey, Variant, generate_pkcs8, prepare

MESSAGE = b"a message that the signer must not see"


def spki(public: PublicKey) -> str:
    encoded = public._verifier.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return encoded.hex()


def ask(peers: NodePeers, op: str, questions: list[dict[str, Any]]) -> list[Any]:
    asked = [
        {"op": op, "variant": variant.label, **question}
        for variant, question in zip(Variant, questions, strict=True)
    ]
    answers: list[Any] = peers.ask("blindrsa_peer.js", asked)
    assert not [answer for answer in answers if isinstance(answer, dict) and "error" in answer], answers
    return answers


def test_their_client_our_signer(node_peers: NodePeers) -> None:
    key = SigningKey(generate_pkcs8())
    public = spki(key.public)
    begun = ask(node_peers, "blind", [{"spki": public, "message": MESSAGE.hex()} for _ in Variant])
    signed = [key.blind_sign(bytes.fromhex(answer["blinded"])).hex() for answer in begun]
    finished = ask(
        node_peers,
        "finalize",
        [
            {"spki": public, "prepared": answer["prepared"], "inv": answer["inv"], "signed": one}
            for answer, one in zip(begun, signed, strict=True)
        ],
    )
    for variant, answer, signature in zip(Variant, begun, finished, strict=True):
        prepared = bytes.fromhex(answer["prepared"])
        assert prepared.endswith(MESSAGE)
        assert (prepared != MESSAGE) == variant.randomized
        key.public.verify(variant, prepared, bytes.fromhex(signature))


def test_our_client_their_signer(node_peers: NodePeers) -> None:
    der = generate_pkcs8()
    key = SigningKey(der)
    ours = [
        Blinding.of(key.public, variant, prepare(variant, MESSAGE, os.urandom), os.urandom)
        for variant in Variant
    ]
    signed = ask(
        node_peers, "sign", [{"pkcs8": der.hex(), "blinded": blinding.request.hex()} for blinding in ours]
    )
    signatures = [blinding.finalize(bytes.fromhex(one)) for blinding, one in zip(ours, signed, strict=True)]
    questions = [
        {"spki": spki(key.public), "prepared": blinding.prepared.hex(), "signature": signature.hex()}
        for blinding, signature in zip(ours, signatures, strict=True)
    ]
    assert ask(node_peers, "verify", questions) == [True] * 4
