"""Key configurations: reading lists from outside, and the gateway's ring."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ohttp import hpke, kem
from ohttp.encapsulation import RequestHeader
from ohttp.errors import HpkeError, KeyConfigError, OhttpError, UnknownKey, UnsupportedSuite
from ohttp.keyconfig import (
    DEFAULT_SUITES,
    MAX_LIST_SIZE,
    GatewayKey,
    KeyConfig,
    KeyRing,
    encode_key_configs,
    parse_key_config,
    parse_key_configs,
    parse_pinned_key_configs,
    preferred,
)

XWING = GatewayKey.generate(7, kem.MLKEM768_X25519)
CLASSIC = GatewayKey.generate(8, kem.X25519)
# A KEM that is not ours, with a key of a size that only its length field tells.
FOREIGN = bytes.fromhex("0900300102030400040001ffff")


def prefixed(*entries: bytes) -> bytes:
    return b"".join(len(entry).to_bytes(2) + entry for entry in entries)


def test_a_list_comes_back_as_it_went() -> None:
    ring = KeyRing([XWING, CLASSIC])
    assert parse_key_configs(ring.encoded()) == ring.configs == (XWING.config, CLASSIC.config)
    assert encode_key_configs(ring.configs) == ring.encoded()
    assert parse_pinned_key_configs(ring.encoded(), hashlib.sha256(ring.encoded()).digest()) == ring.configs
    assert XWING.config.suites == DEFAULT_SUITES


def test_the_hybrid_is_preferred_wherever_it_stands() -> None:
    for order in ((XWING, CLASSIC), (CLASSIC, XWING)):
        assert preferred([key.config for key in order]) == XWING.config
    assert preferred([CLASSIC.config]) == CLASSIC.config


def test_what_cannot_be_used_is_not_preferred() -> None:
    foreign_suites = KeyConfig(1, kem.MLKEM768_X25519, XWING.config.public_key, ((1, 99), (99, 1)))
    assert preferred([foreign_suites, CLASSIC.config]) == CLASSIC.config
    for nothing in ([], [foreign_suites]):
        with pytest.raises(KeyConfigError) as caught:
            preferred(nothing)
        assert caught.value.code == "no_keys"
    with pytest.raises(KeyConfigError) as caught:
        foreign_suites.choose()
    assert caught.value.code == "unsupported_suite"


def test_a_kdf_that_cannot_key_a_response_is_not_chosen() -> None:
    shake = ((hpke.SHAKE128, 1), (hpke.SHAKE256, 2))
    only = GatewayKey.generate(1, kem.X25519, shake)
    with pytest.raises(KeyConfigError) as caught:
        only.config.choose()
    assert caught.value.code == "unsupported_suite"
    assert preferred([only.config, CLASSIC.config]) == CLASSIC.config
    for kdf_id, aead_id in shake:
        header = RequestHeader(1, kem.X25519, kdf_id, aead_id).encode()
        assert header == only.config.request_header((kdf_id, aead_id))
        with pytest.raises(UnsupportedSuite):
            KeyRing([only]).select(header)


def test_only_a_listed_suite_is_chosen() -> None:
    config = KeyConfig(1, kem.X25519, CLASSIC.config.public_key, ((77, 1), (1, 3), (1, 1)))
    assert config.choose() is hpke.suite(kem.X25519, 1, 3)
    assert config.choose((1, 1)) is hpke.suite(kem.X25519, 1, 1)
    for wanted in ((1, 2), (77, 1)):
        with pytest.raises(KeyConfigError) as caught:
            config.choose(wanted)
        assert caught.value.code == "unsupported_suite"


def test_an_unknown_kem_is_skipped_by_its_length() -> None:
    encoded = prefixed(FOREIGN, CLASSIC.config.encode())
    assert parse_key_configs(encoded) == (CLASSIC.config,)
    assert parse_key_configs(prefixed(FOREIGN)) == parse_key_configs(b"") == ()
    with pytest.raises(HpkeError) as caught:
        parse_key_config(FOREIGN)
    assert caught.value.code == "unsupported_kem"


def malformed_lists() -> dict[str, bytes]:
    good, other = CLASSIC.config.encode(), XWING.config.encode()
    return {
        "odd suites": prefixed(good[:-10] + b"\x00\x06" + good[-8:-2]),
        "no suites": prefixed(good[:-10] + b"\x00\x00"),
        "suites longer than said": prefixed(good + bytes(4)),
        "suites shorter than said": prefixed(good[:-4]),
        "key cut": prefixed(good[:20]),
        "only a KEM": prefixed(good[:3]),
        "shorter than a KEM": prefixed(good[:2]),
        "empty entry": prefixed(good, b""),
        "length beyond the end": prefixed(good, other)[:-1],
        "half a length": prefixed(good) + b"\x00",
        "one bad entry among good ones": prefixed(other, good[:-4], FOREIGN),
    }


@pytest.mark.parametrize("name", malformed_lists())
def test_a_badly_encoded_list_is_discarded_whole(name: str) -> None:
    with pytest.raises(KeyConfigError) as caught:
        parse_key_configs(malformed_lists()[name])
    assert caught.value.code == "malformed"


def test_limits_of_a_list() -> None:
    with pytest.raises(KeyConfigError) as caught:
        parse_key_configs(prefixed(FOREIGN) * (MAX_LIST_SIZE // 15 + 1))
    assert caught.value.code == "too_large"
    with pytest.raises(KeyConfigError) as caught:
        encode_key_configs([KeyConfig(1, kem.MLKEM768_X25519, XWING.config.public_key, ((1, 1),) * 16383)])
    assert caught.value.code == "too_large"


def test_an_identifier_stands_for_one_key() -> None:
    twin = GatewayKey.generate(CLASSIC.config.key_id, kem.X25519)
    for refused in (
        lambda: KeyRing([CLASSIC, twin]),
        lambda: parse_key_configs(prefixed(CLASSIC.config.encode(), twin.config.encode())),
    ):
        with pytest.raises(KeyConfigError) as caught:
            refused()
        assert caught.value.code == "duplicate_key_id"


def test_the_ring_knows_its_keys_and_no_others() -> None:
    ring = KeyRing([XWING, CLASSIC])
    assert ring.find(7) is XWING
    assert ring.find(8) is CLASSIC
    with pytest.raises(UnknownKey) as caught:
        ring.find(9)
    assert caught.value.code == "unknown_key"
    with pytest.raises(KeyConfigError) as refused:
        KeyRing([])
    assert refused.value.code == "no_keys"
    nothing = KeyRing.empty()
    assert (nothing.configs, nothing.encoded()) == ((), b"")
    with pytest.raises(UnknownKey):
        nothing.find(7)


def test_configurations_that_say_the_impossible_are_refused() -> None:
    public = CLASSIC.config.public_key
    for key_id, kem_id, key, suites in (
        (256, kem.X25519, public, DEFAULT_SUITES),
        (-1, kem.X25519, public, DEFAULT_SUITES),
        (1, 0x30, public, DEFAULT_SUITES),
        (1, kem.P256, public, DEFAULT_SUITES),
        (1, kem.X25519, public[:-1], DEFAULT_SUITES),
        (1, kem.X25519, public, ()),
        (1, kem.X25519, public, ((1, 65536),)),
        (1, kem.X25519, public, ((1, 1),) * 16384),
    ):
        with pytest.raises(OhttpError):
            KeyConfig(key_id, kem_id, key, suites)
    with pytest.raises(KeyConfigError) as caught:
        GatewayKey(CLASSIC.config, XWING.private_key)
    assert caught.value.code == "key_mismatch"


def test_a_gateway_key_shows_its_public_half_only() -> None:
    assert "private" not in repr(CLASSIC)


@given(st.binary(max_size=400))
@settings(max_examples=150)
def test_any_bytes_are_a_list_or_an_error_of_ours(data: bytes) -> None:
    for parse in (parse_key_configs, parse_key_config):
        try:
            parse(data)
        except OhttpError:
            continue


def test_cut_or_altered_lists_are_lists_or_errors_of_ours() -> None:
    encoded = KeyRing([CLASSIC, GatewayKey.generate(3, kem.P256)]).encoded()
    for cut in range(1, len(encoded)):
        if cut != len(CLASSIC.config.encode()) + 2:
            with pytest.raises(KeyConfigError):
                parse_key_configs(encoded[:cut])
    for position in range(len(encoded)):
        for flip in (1, 0x80, 0xFF):
            altered = bytearray(encoded)
            altered[position] ^= flip
            try:
                parse_key_configs(bytes(altered))
            except OhttpError:
                continue
