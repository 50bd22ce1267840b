"""Damaged TDX evidence never leaves the error family, and no damage to what is signed is accepted."""

import random
from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tdx_world import AT, Td, World

from attestation.errors import AttestationError
from attestation.tdx.chain import read_pem
from attestation.tdx.collateral import TdxCollateral, split_served
from attestation.tdx.policy import TdxPolicy
from attestation.tdx.quote import parse_quote
from attestation.tdx.verify import TDX_CHECKS, appraise

SAMPLE, ALL = 3_000, 1_000_000


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def _mutate(data: bytes, rng: random.Random) -> bytes:
    """One change of a random kind: bytes, bits, cuts, doublings, splices of JSON and of lengths."""
    changed = bytearray(data)
    at = rng.randrange(len(data)) if data else 0
    kind = rng.randrange(7)
    if not data or kind == 0:
        changed[at:at] = rng.randbytes(rng.randrange(1, 9))
    elif kind == 1:
        changed[at] ^= 1 << rng.randrange(8)
    elif kind == 2:
        changed[at] = rng.choice((0x00, 0x30, 0x7F, 0x80, 0x82, 0xFF))
    elif kind == 3:
        del changed[at:]
    elif kind == 4:
        del changed[at : at + rng.randrange(1, 40)]
    elif kind == 5:
        changed[at:at] = changed[at : at + rng.randrange(1, 200)]
    else:
        changed[at : at + 1] = rng.choice(
            (b'"', b"{", b"[", b"null", b"1e999", b"-1", b"\\u0000", b"-----BEGIN")
        )
    return bytes(changed)


def _mutations(world: World, count: int, seed: int) -> None:
    rng = random.Random(seed)
    policy = TdxPolicy(simulated_root=world.root_sha256)
    quotes = [world.quote(Td(kind=kind)) for kind in (2, 3, 4)]
    collateral = world.collateral()
    names = [piece.name for piece in fields(TdxCollateral)]
    for quote in quotes:
        appraise(quote, collateral, policy, AT).require()  # control
    for _ in range(count):
        quote, pieces = rng.choice(quotes), collateral
        if rng.random() < 0.5:
            quote = _mutate(quote, rng)
        else:
            name = rng.choice(names)
            pieces = replace(collateral, **{name: _mutate(getattr(collateral, name), rng)})
        found = appraise(quote, pieces, policy, AT)
        assert (found.error is None) == (found.value is not None)
        assert tuple(row.id for row in found.rows) == TDX_CHECKS


def test_a_sample_of_mutations_stays_in_the_error_family(world: World) -> None:
    _mutations(world, SAMPLE, 1)


@pytest.mark.exhaustive
def test_a_million_mutations_stay_in_the_error_family(world: World) -> None:
    _mutations(world, ALL, 2)


def test_every_cut_of_a_quote_is_malformed(world: World) -> None:
    for kind in (2, 4):
        quote = world.quote(Td(kind=kind))
        for length in range(len(quote)):
            with pytest.raises(AttestationError) as refusal:
                parse_quote(quote[:length])
            assert refusal.value.code == "quote_malformed"


def test_no_changed_byte_of_the_signed_part_is_accepted(world: World) -> None:
    policy, collateral = TdxPolicy(simulated_root=world.root_sha256), world.collateral()
    quote = world.quote(Td(kind=3))
    for at in range(0, len(quote) - 1, 7):  # the last byte is the NUL after the chain
        changed = bytearray(quote)
        changed[at] ^= 0x01
        found = appraise(bytes(changed), collateral, policy, AT)
        pem = quote.index(b"-----BEGIN")
        assert found.error is not None or at >= pem, at  # PEM has line ends, which may change


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=1200))
def test_random_bytes_are_refused(data: bytes) -> None:
    for read in (parse_quote, read_pem, TdxCollateral.from_json, lambda raw: split_served(raw, "tcbInfo")):
        with pytest.raises(AttestationError):
            read(data)
    assert appraise(data, None, TdxPolicy(), AT).error is not None
