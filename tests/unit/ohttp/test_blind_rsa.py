"""RSA blind signatures: what the vectors do not show."""

import copy
import os
import pickle

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st
from token_world import signer

from ohttp import pss
from ohttp.blind_rsa import Blinding, SigningKey, Variant, generate_pkcs8, prepare
from ohttp.errors import TokenError


@pytest.mark.parametrize("variant", Variant, ids=lambda variant: variant.label)
def test_every_variant_goes_round(variant: Variant) -> None:
    key = signer()
    prepared = prepare(variant, b"message", os.urandom)
    assert len(prepared) == len(b"message") + (32 if variant.randomized else 0)
    blinding = Blinding.of(key.public, variant, prepared, os.urandom)
    signature = blinding.finalize(key.blind_sign(blinding.request))
    key.public.verify(variant, prepared, signature)
    with pytest.raises(TokenError, match="invalid_signature"):
        key.public.verify(variant, prepared + b"x", signature)


def test_the_same_message_is_blinded_differently_each_time() -> None:
    key, variant = signer(), Variant.PSSZERO_DETERMINISTIC
    first, second = (Blinding.of(key.public, variant, b"m", os.urandom) for _ in range(2))
    assert first.request != second.request
    signatures = {blinding.finalize(key.blind_sign(blinding.request)) for blinding in (first, second)}
    assert (
        len(signatures) == 1
    )  # and the signature is one and the same: nothing of the blinding is left in it


@given(st.binary(max_size=300))
def test_a_signer_takes_numbers_below_its_modulus_alone(request: bytes) -> None:
    with pytest.raises(TokenError, match="invalid_input"):
        signer().blind_sign(request)


def test_the_modulus_and_what_lies_above_is_refused() -> None:
    key = signer()
    for number in (key.public.n, key.public.n + 1, (1 << 2048) - 1):
        with pytest.raises(TokenError, match="invalid_input"):
            key.blind_sign(number.to_bytes(256))
    assert len(key.blind_sign((key.public.n - 1).to_bytes(256))) == 256


@pytest.mark.parametrize("length", [0, 1, 255, 257])
def test_an_answer_of_the_wrong_size_is_no_signature(length: int) -> None:
    blinding = Blinding.of(signer().public, Variant.PSS_DETERMINISTIC, b"m", os.urandom)
    with pytest.raises(TokenError, match="invalid_signature"):
        blinding.finalize(bytes(length))


def test_an_answer_of_another_signer_is_no_signature() -> None:
    blinding = Blinding.of(signer().public, Variant.PSS_DETERMINISTIC, b"m", os.urandom)
    with pytest.raises(TokenError):
        blinding.finalize(signer(1).blind_sign(b"\0" + blinding.request[1:]))


def test_a_source_without_randomness_gives_no_blinding() -> None:
    for stuck in (bytes, lambda count: b"\xff" * count):
        with pytest.raises(TokenError, match="blinding"):
            Blinding.of(signer().public, Variant.PSS_DETERMINISTIC, b"m", stuck)


def test_private_keys_show_nothing() -> None:
    key = signer()
    for text in (repr(key), str(key), repr(key._private)):
        assert "object at" in text
    for attempt in (pickle.dumps, copy.copy):
        with pytest.raises(TypeError):
            attempt(key._private)
    blinding = Blinding.of(key.public, Variant.PSS_DETERMINISTIC, b"m", os.urandom)
    assert str(blinding._inverse) not in repr(blinding)


@given(st.binary(max_size=400))
def test_what_is_no_key_is_refused(data: bytes) -> None:
    for read in (SigningKey, SigningKey.from_pem):
        with pytest.raises(TokenError, match="invalid_key"):
            read(data)


def test_a_key_of_another_kind_is_refused() -> None:
    other = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with pytest.raises(TokenError, match="invalid_key"):
        SigningKey(other)


def test_pss_leaves_the_top_bits_clear() -> None:
    for bits in (1023, 1024, 1025, 2047):
        encoded = pss.encode(b"m", bits, b"s" * 48)
        assert len(encoded) == -(-bits // 8)
        assert int.from_bytes(encoded).bit_length() <= bits
    with pytest.raises(TokenError, match="invalid_input"):
        pss.encode(b"m", 8 * 97, b"s" * 48)


def test_a_private_key_that_is_broken_signs_nothing() -> None:
    private = serialization.load_der_private_key(generate_pkcs8(), None)
    assert isinstance(private, rsa.RSAPrivateKey)
    good = private.private_numbers()
    broken = rsa.RSAPrivateNumbers(
        good.p, good.q, good.d ^ 2, good.dmp1 ^ 2, good.dmq1, good.iqmp, good.public_numbers
    )
    der = broken.private_key(unsafe_skip_rsa_key_validation=True).private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with pytest.raises(TokenError, match=r"signing_fault|signing_failed|invalid_key"):
        SigningKey(der).blind_sign(bytes(255) + b"\x05")
