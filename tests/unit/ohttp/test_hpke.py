"""HPKE contexts and KEMs: refusals, limits, and agreement with OpenSSL's own single-shot HPKE."""

import contextlib
import copy
import pickle
import threading
from typing import Any

import pytest
from cryptography.hazmat.primitives import hpke as reference
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.mlkem import (
    MLKEM768PrivateKey,
    MLKEM768PublicKey,
    MLKEM1024PublicKey,
)
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from ohttp import aead, hpke, kem
from ohttp.errors import HpkeError, OhttpError

KEMS = [
    kem.X25519,
    kem.P256,
    kem.P384,
    kem.P521,
    kem.MLKEM768,
    kem.MLKEM1024,
    kem.MLKEM768_P256,
    kem.MLKEM1024_P384,
    kem.MLKEM768_X25519,
]
INFO = b"message/test"

REFERENCE_KEM = {
    kem.X25519: reference.KEM.X25519,
    kem.P256: reference.KEM.P256,
    kem.P384: reference.KEM.P384,
    kem.P521: reference.KEM.P521,
    kem.MLKEM768: reference.KEM.MLKEM768,
    kem.MLKEM1024: reference.KEM.MLKEM1024,
    kem.MLKEM1024_P384: reference.KEM.MLKEM1024_P384,
    kem.MLKEM768_X25519: reference.KEM.MLKEM768_X25519,
}
REFERENCE_KDF = {
    hpke.HKDF_SHA256: reference.KDF.HKDF_SHA256,
    hpke.HKDF_SHA384: reference.KDF.HKDF_SHA384,
    hpke.HKDF_SHA512: reference.KDF.HKDF_SHA512,
    hpke.SHAKE128: reference.KDF.SHAKE128,
    hpke.SHAKE256: reference.KDF.SHAKE256,
}
REFERENCE_AEAD = {
    1: reference.AEAD.AES_128_GCM,
    2: reference.AEAD.AES_256_GCM,
    3: reference.AEAD.CHACHA20_POLY1305,
}

# Points of small order on Curve25519 (RFC 7748 section 6.1): every exchange with them gives zero.
LOW_ORDER = [
    bytes(32),
    b"\x01" + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
]


def pair(kem_id: int, aead_id: int = 1) -> tuple[hpke.SenderContext, hpke.RecipientContext]:
    suite = hpke.suite(kem_id, 1, aead_id)
    key = suite.kem.generate()
    sender = suite.setup_sender(key.public_key, INFO)
    return sender, suite.setup_recipient(sender.enc, key, INFO)


CURVES = {kem.P256: ec.SECP256R1(), kem.P384: ec.SECP384R1(), kem.P521: ec.SECP521R1()}


def reference_key(kem_id: int, key: bytes) -> Any:
    """A serialised public key as OpenSSL's own HPKE takes it."""
    if kem_id in CURVES:
        return ec.EllipticCurvePublicKey.from_encoded_point(CURVES[kem_id], key)
    if kem_id == kem.X25519:
        return X25519PublicKey.from_public_bytes(key)
    if kem_id == kem.MLKEM768:
        return MLKEM768PublicKey.from_public_bytes(key)
    if kem_id == kem.MLKEM1024:
        return MLKEM1024PublicKey.from_public_bytes(key)
    if kem_id == kem.MLKEM1024_P384:
        return reference.MLKEM1024P384PublicKey(
            MLKEM1024PublicKey.from_public_bytes(key[:1568]), reference_key(kem.P384, key[1568:])
        )
    return reference.MLKEM768X25519PublicKey(
        MLKEM768PublicKey.from_public_bytes(key[:1184]), X25519PublicKey.from_public_bytes(key[1184:])
    )


@pytest.mark.parametrize("kem_id", REFERENCE_KEM)
@pytest.mark.parametrize("kdf_id", REFERENCE_KDF)
@pytest.mark.parametrize("aead_id", [1, 2, 3])
def test_agrees_with_openssl_single_shot(kem_id: int, kdf_id: int, aead_id: int) -> None:
    suite = hpke.suite(kem_id, kdf_id, aead_id)
    other = reference.Suite(REFERENCE_KEM[kem_id], REFERENCE_KDF[kdf_id], REFERENCE_AEAD[aead_id])
    key = suite.kem.generate()
    sealed = other.encrypt(b"from outside", reference_key(kem_id, key.public_key), INFO)
    size = suite.kem.enc_size
    assert suite.setup_recipient(sealed[:size], key, INFO).open(sealed[size:]) == b"from outside"


def test_openssl_opens_what_we_seal() -> None:
    suite = hpke.suite(kem.MLKEM768_X25519, 1, 2)
    mlkem, x25519 = MLKEM768PrivateKey.generate(), X25519PrivateKey.generate()
    public = mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()
    context = suite.setup_sender(public, INFO)
    other = reference.Suite(
        reference.KEM.MLKEM768_X25519, reference.KDF.HKDF_SHA256, reference.AEAD.AES_256_GCM
    )
    sealed = context.enc + context.seal(b"to outside")
    assert other.decrypt(sealed, reference.MLKEM768X25519PrivateKey(mlkem, x25519), INFO) == b"to outside"


@pytest.mark.parametrize("kem_id", KEMS)
def test_both_ends_agree(kem_id: int) -> None:
    sender, recipient = pair(kem_id)
    for position in range(5):
        message = bytes((position,)) * position
        assert recipient.open(sender.seal(message, b"aad"), b"aad") == message
    assert sender.export(b"context", 100) == recipient.export(b"context", 100)
    assert sender.export(b"context", 32) != sender.export(b"other", 32)


def test_a_failed_open_does_not_advance() -> None:
    sender, recipient = pair(kem.X25519)
    first, second = sender.seal(b"first"), sender.seal(b"second")
    for wrong in (b"", second, first[:-1], bytes(len(first))):
        with pytest.raises(HpkeError) as caught:
            recipient.open(wrong)
        assert caught.value.code == "decrypt"
    assert recipient.open(first) == b"first"
    assert recipient.open(second) == b"second"


def test_the_last_nonce_is_never_passed() -> None:
    sender, recipient = pair(kem.X25519)
    for context in (sender, recipient):
        assert context._aead is not None
        context._aead._sequence = aead.LAST_SEQUENCE - 1
    assert recipient.open(sender.seal(b"last")) == b"last"
    for attempt in (sender.seal, recipient.open):
        with pytest.raises(HpkeError) as caught:
            attempt(bytes(32))
        assert caught.value.code == "sequence_exhausted"
    assert sender._aead is not None
    assert sender._aead.sequence == aead.LAST_SEQUENCE


@pytest.mark.parametrize("point", LOW_ORDER)
def test_all_zero_exchanges_are_refused(point: bytes) -> None:
    suite = hpke.suite(kem.X25519, 1, 1)
    with pytest.raises(HpkeError) as caught:
        suite.setup_sender(point, INFO)
    assert caught.value.code == "invalid_public_key"
    with pytest.raises(HpkeError) as caught:
        suite.setup_recipient(point, suite.kem.generate(), INFO)
    assert caught.value.code == "invalid_encapsulation"
    xwing = hpke.suite(kem.MLKEM768_X25519, 1, 1)
    key = xwing.kem.generate()
    with pytest.raises(HpkeError) as caught:
        xwing.setup_sender(key.public_key[:1184] + point, INFO)
    assert caught.value.code == "invalid_public_key"
    enc = xwing.setup_sender(key.public_key, INFO).enc
    with pytest.raises(HpkeError) as caught:
        xwing.setup_recipient(enc[:1088] + point, key, INFO)
    assert caught.value.code == "invalid_encapsulation"


def test_points_must_be_uncompressed_and_on_the_curve() -> None:
    suite = hpke.suite(kem.P256, 1, 1)
    key = suite.kem.generate()
    x, y = key.public_key[1:33], key.public_key[33:]
    hybrid = bytes((6 + (y[-1] & 1),)) + x + y
    compressed = bytes((2 + (y[-1] & 1),)) + x
    off_curve = key.public_key[:-1] + bytes((y[-1] ^ 1,))
    for wrong in (hybrid, compressed, off_curve, b"\x00", bytes(65), b""):
        with pytest.raises(HpkeError) as caught:
            suite.setup_sender(wrong, INFO)
        assert caught.value.code == "invalid_public_key"
        with pytest.raises(HpkeError) as caught:
            suite.setup_recipient(wrong, key, INFO)
        assert caught.value.code == "invalid_encapsulation"


@pytest.mark.parametrize("kem_id", KEMS)
def test_private_keys_of_a_wrong_size_are_refused(kem_id: int) -> None:
    mechanism = kem.kem(kem_id)
    for size in (0, mechanism.private_key_size - 1, mechanism.private_key_size + 1):
        with pytest.raises(HpkeError) as caught:
            mechanism.load(b"\x01" * size)
        assert caught.value.code == "invalid_private_key"


@pytest.mark.parametrize("scalar", [bytes(32), b"\xff" * 32])
def test_scalars_outside_the_group_are_refused(scalar: bytes) -> None:
    with pytest.raises(HpkeError) as caught:
        kem.kem(kem.P256).load(scalar)
    assert caught.value.code == "invalid_private_key"


@pytest.mark.parametrize(
    "ids", [(0x0030, 1, 1), (0, 1, 1), (kem.X25519, 0, 1), (kem.X25519, 1, 0), (kem.X25519, 1, 4)]
)
def test_unknown_algorithms_are_refused(ids: tuple[int, int, int]) -> None:
    with pytest.raises(HpkeError) as caught:
        hpke.suite(*ids)
    assert caught.value.code in ("unsupported_kem", "unsupported_suite")
    assert not hpke.supports(*ids)


def test_keys_of_another_mechanism_are_refused() -> None:
    suite = hpke.suite(kem.X25519, 1, 1)
    key = suite.kem.generate()
    other = kem.kem(kem.P256).generate()
    with pytest.raises(HpkeError) as caught:
        suite.setup_recipient(key.public_key, other, INFO)
    assert caught.value.code == "wrong_kem"
    with pytest.raises(HpkeError) as caught:
        suite.setup_sender(key.public_key, INFO, ephemeral=kem.Ephemeral(other))
    assert caught.value.code == "wrong_kem"
    xwing = hpke.suite(kem.MLKEM768_X25519, 1, 1)
    with pytest.raises(HpkeError) as caught:
        xwing.setup_sender(xwing.kem.generate().public_key, INFO, ephemeral=kem.Ephemeral(key))
    assert caught.value.code == "ephemeral_unsupported"


@pytest.mark.parametrize("kdf_id", [hpke.HKDF_SHA256, hpke.HKDF_SHA512, hpke.SHAKE256])
def test_psk_mode_needs_the_same_psk_on_both_ends(kdf_id: int) -> None:
    suite = hpke.suite(kem.X25519, kdf_id, 1)
    key = suite.kem.generate()
    psk = hpke.Psk(b"s" * 32, b"name")
    sender = suite.setup_sender(key.public_key, INFO, psk=psk)
    sealed = sender.seal(b"hello")
    assert suite.setup_recipient(sender.enc, key, INFO, psk=psk).open(sealed) == b"hello"
    for wrong in (None, hpke.Psk(b"t" * 32, b"name"), hpke.Psk(b"s" * 32, b"other")):
        with pytest.raises(HpkeError):
            suite.setup_recipient(sender.enc, key, INFO, psk=wrong).open(sealed)
    for secret, identity in ((b"s" * 31, b"name"), (b"s" * 32, b"")):
        with pytest.raises(HpkeError) as caught:
            hpke.Psk(secret, identity)
        assert caught.value.code == "invalid_psk"


@pytest.mark.parametrize("kdf_id", [hpke.HKDF_SHA256, hpke.SHAKE128])
def test_info_of_any_length_is_bound(kdf_id: int) -> None:
    suite = hpke.suite(kem.X25519, kdf_id, 1)
    key = suite.kem.generate()
    for info in (b"", b"a", b"a" * 256, b"a" * 257, b"a" * 5000):
        sender = suite.setup_sender(key.public_key, info)
        sealed = sender.seal(b"x")
        assert suite.setup_recipient(sender.enc, key, info).open(sealed) == b"x"
        with pytest.raises(HpkeError):
            suite.setup_recipient(sender.enc, key, info + b"b").open(sealed)


def test_export_limits_and_export_only() -> None:
    suite = hpke.suite(kem.X25519, 1, aead.EXPORT_ONLY)
    context = suite.setup_sender(suite.kem.generate().public_key, INFO)
    assert context.export(b"", 0) == b""
    assert len(context.export(b"", 255 * 32)) == 255 * 32
    for length in (-1, 255 * 32 + 1, 65536):
        with pytest.raises(HpkeError) as caught:
            context.export(b"", length)
        assert caught.value.code == "invalid_length"
    with pytest.raises(HpkeError) as caught:
        context.seal(b"x")
    assert caught.value.code == "export_only"


@pytest.mark.parametrize("kdf_id", [hpke.SHAKE128, hpke.SHAKE256])
def test_one_stage_schedules_have_limits_of_their_own(kdf_id: int) -> None:
    suite = hpke.suite(kem.MLKEM768, kdf_id, aead.EXPORT_ONLY)
    key = suite.kem.generate()
    context = suite.setup_sender(key.public_key, INFO)
    other = suite.setup_recipient(context.enc, key, INFO)
    assert context.export(b"c", 65535) == other.export(b"c", 65535)
    assert context.export(b"c", 32) != context.export(b"c", 64)[:32], "the length is bound"
    for refused in (
        lambda: context.export(b"", -1),
        lambda: context.export(b"", 65536),
        lambda: suite.setup_sender(key.public_key, bytes(65536)),
        lambda: suite.setup_sender(key.public_key, INFO, psk=hpke.Psk(bytes(65536), b"n")),
        lambda: suite.setup_sender(key.public_key, INFO, psk=hpke.Psk(bytes(32), bytes(65536))),
    ):
        with pytest.raises(HpkeError) as caught:
            refused()
        assert caught.value.code == "invalid_length"
    with pytest.raises(HpkeError) as caught:
        _ = suite.hash_name
    assert caught.value.code == "unsupported_suite"


@pytest.mark.parametrize("kem_id", [kem.MLKEM768, kem.MLKEM1024, kem.MLKEM768_P256, kem.MLKEM1024_P384])
def test_a_seed_gives_the_same_key_every_time(kem_id: int) -> None:
    mechanism = kem.kem(kem_id)
    seed = bytes(range(mechanism.private_key_size))
    key = mechanism.load(seed)
    assert key.public_key == mechanism.load(seed).public_key
    assert len(key.public_key) == mechanism.public_key_size
    secret, enc = mechanism.encapsulate(key.public_key)
    assert len(enc) == mechanism.enc_size
    assert key.decapsulate(enc) == secret
    assert len(secret) == mechanism.secret_size


@pytest.mark.parametrize("kem_id", KEMS)
def test_nothing_secret_is_shown_or_leaves(kem_id: int) -> None:
    key = kem.kem(kem_id).generate()
    sender, _ = pair(kem_id)
    for shown in (repr(key), str(key), repr(sender), repr(sender.suite), repr(hpke.Psk(b"s" * 32, b"n"))):
        assert key.public_key.hex() not in shown
        assert "ssss" not in shown
    for copied in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError):
            copied(key)


@given(st.sampled_from(KEMS), st.binary(max_size=1300))
@settings(max_examples=60, deadline=None)
def test_any_bytes_as_keys_stay_in_the_error_family(kem_id: int, data: bytes) -> None:
    suite = hpke.suite(kem_id, 1, 1)
    private_key = SHARED_KEYS[kem_id]
    for size in (len(data), suite.kem.enc_size, suite.kem.public_key_size):
        candidate = data[:size].ljust(min(size, 1300), b"\x5a")
        with contextlib.suppress(OhttpError):
            suite.setup_recipient(candidate, private_key, INFO).open(bytes(40))
        with contextlib.suppress(OhttpError):
            suite.setup_sender(candidate, INFO)


SHARED_KEYS = {kem_id: kem.kem(kem_id).generate() for kem_id in KEMS}


@pytest.mark.parametrize("kem_id", [kem.X25519, kem.MLKEM768_X25519])
def test_every_bit_of_enc_matters(kem_id: int) -> None:
    suite = hpke.suite(kem_id, 1, 1)
    key = SHARED_KEYS[kem_id]
    sender = suite.setup_sender(key.public_key, INFO)
    sealed = sender.seal(b"x")
    for position in range(0, len(sender.enc), 1 if kem_id == kem.X25519 else 37):
        altered = bytearray(sender.enc)
        altered[position] ^= 1
        with pytest.raises(HpkeError):
            suite.setup_recipient(bytes(altered), key, INFO).open(sealed)


def test_many_threads_share_suites_and_keys() -> None:
    """Contexts of different threads have nothing in common that could be overwritten."""
    keys = [(hpke.suite(kem_id, 1, 2), SHARED_KEYS[kem_id]) for kem_id in (kem.X25519, kem.MLKEM768_X25519)]
    failures: list[BaseException] = []

    def exchange(worker: int) -> None:
        try:
            for round_number in range(20):
                suite, key = keys[(worker + round_number) % 2]
                info = f"request to key {(worker + round_number) % 5}".encode()
                sender = suite.setup_sender(key.public_key, info)
                assert suite.setup_recipient(sender.enc, key, info).open(sender.seal(info)) == info
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=exchange, args=(worker,)) for worker in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
