"""RSA blind signatures against RFC 9474's vectors and transcripts of another implementation."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from ohttp.blind_rsa import Blinding, PublicKey, SigningKey, Variant, prepare
from ohttp.errors import TokenError

VARIANTS = {variant.label: variant for variant in Variant}


class Scripted:
    """Gives the stated bytes first, real randomness after them."""

    def __init__(self, *first: bytes) -> None:
        self._first = [part for part in first if part]

    def __call__(self, count: int) -> bytes:
        if count and self._first:
            part = self._first.pop(0)
            assert len(part) == count
            return part
        return os.urandom(count)


def number(text: str) -> int:
    return int(text, 16)


def signing_key(vector: dict[str, Any]) -> SigningKey:
    p, q, d, n, e = (number(vector[name]) for name in ("p", "q", "d", "n", "e"))
    numbers = rsa.RSAPrivateNumbers(
        p,
        q,
        d,
        rsa.rsa_crt_dmp1(d, p),
        rsa.rsa_crt_dmq1(d, q),
        rsa.rsa_crt_iqmp(p, q),
        rsa.RSAPublicNumbers(e, n),
    )
    der = numbers.private_key(unsafe_skip_rsa_key_validation=True).private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return SigningKey(der)


def test_rfc_9474(vectors: Path, subtests: pytest.Subtests) -> None:
    cases = json.loads((vectors / "ohttp" / "rfc9474_rsabssa.json").read_text())["vectors"]
    assert cases
    for case in cases:
        with subtests.test(case["name"]):
            variant = VARIANTS[case["name"]]
            assert variant.salt_bytes == number(case["sLen"])
            assert variant.randomized == bool(number(case["is_randomized"]))
            key = signing_key(case)
            message, prefix, salt = (bytes.fromhex(case[name]) for name in ("msg", "msg_prefix", "salt"))
            prepared = prepare(variant, message, Scripted(prefix))
            assert prepared.hex() == case["input_msg"]
            factor = pow(number(case["inv"]), -1, key.public.n).to_bytes(key.public.size)
            blinding = Blinding.of(key.public, variant, prepared, Scripted(salt, factor))
            assert blinding.request.hex() == case["blinded_msg"]
            signed = key.blind_sign(blinding.request)
            assert signed.hex() == case["blind_sig"]
            signature = blinding.finalize(signed)
            assert signature.hex() == case["sig"]
            key.public.verify(variant, prepared, signature)
            for other in set(Variant) - {v for v in Variant if v.salt_bytes == variant.salt_bytes}:
                with pytest.raises(TokenError, match="invalid_signature"):
                    key.public.verify(other, prepared, signature)


def test_transcripts_of_another_client(vectors: Path, subtests: pytest.Subtests) -> None:
    cases = json.loads((vectors / "ohttp" / "interop_blindrsa.json").read_text())["transcripts"]
    assert cases
    for position, case in enumerate(cases):
        with subtests.test(f"{position}: {case['variant']} {case['modulus_bits']}"):
            variant = VARIANTS[case["variant"]]
            values = {
                name: bytes.fromhex(case[name])
                for name in ("prepared_message", "blinded_message", "inv", "blind_signature", "signature")
            }
            key = SigningKey(bytes.fromhex(case["private_key_pkcs8_der"]))
            assert key.public.n.bit_length() == case["modulus_bits"]
            assert key.blind_sign(values["blinded_message"]) == values["blind_signature"]
            key.public.verify(variant, values["prepared_message"], values["signature"])
            inverse = int.from_bytes(values["inv"])
            theirs = Blinding(
                key.public, variant, values["prepared_message"], values["blinded_message"], inverse
            )
            assert theirs.finalize(values["blind_signature"]) == values["signature"]
            ours = Blinding.of(key.public, variant, values["prepared_message"], os.urandom)
            key.public.verify(
                variant, values["prepared_message"], ours.finalize(key.blind_sign(ours.request))
            )


def test_a_public_key_is_checked(vectors: Path) -> None:
    case = json.loads((vectors / "ohttp" / "rfc9474_rsabssa.json").read_text())["vectors"][0]
    n = number(case["n"])
    for modulus, exponent in (
        (n, 1),
        (n, 4),
        (n, 1 << 33),
        (n * 2, 65537),
        (n**3, 65537),
        (n >> 3000 | 1, 3),
    ):
        with pytest.raises(TokenError, match=r"invalid_key|key_too_small"):
            PublicKey(modulus, exponent)
