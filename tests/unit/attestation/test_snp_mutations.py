"""SEV-SNP evidence changed at random, whole or piece by piece: refused by name, or still accepted, never a crash."""

import random
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta

import pytest

from attestation.errors import AttestationError
from attestation.sev_snp import SnpCollateral, appraise
from attestation.sev_snp_policy import SnpPolicy
from attestation.sev_snp_report import REPORT_LENGTH, parse_report
from attestation.simulated.amd import SimulatedAmd

AT = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
SAMPLE, ALL = 300, 200_000


def _mutate(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        place, kind = rng.randrange(len(changed)), rng.randrange(5)
        if kind == 0:
            changed[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            changed[place] = rng.randrange(256)
        elif kind == 2:
            del changed[place : place + rng.randrange(1, 9)]
        elif kind == 3:
            changed[place:place] = rng.randbytes(rng.randrange(1, 9))
        else:
            other = rng.randrange(len(changed))
            changed[place : place + 16] = changed[other : other + 16]
        if not changed:
            return b""
    return bytes(changed)


def _mutations(amd: SimulatedAmd, count: int, seed: int) -> None:
    rng = random.Random(seed)
    section = amd.section(bytes(64), amd.settings(bytes(48)))
    good = SnpCollateral(**section.collateral)
    policy = SnpPolicy(simulated_root=amd.root_sha256, bulletins=())
    names = [piece.name for piece in fields(SnpCollateral)]
    rows = tuple(row.id for row in appraise(section.evidence, good, policy, AT).rows)
    appraise(section.evidence, good, policy, AT).require()  # control
    for _ in range(count):
        report, pieces = section.evidence, good
        if rng.random() < 0.5:
            report = _mutate(report, rng)
        else:
            name = rng.choice(names)
            pieces = replace(good, **{name: _mutate(getattr(good, name), rng)})
        found = appraise(report, pieces, policy, AT)
        assert (found.error is None) == (found.value is not None)
        assert tuple(row.id for row in found.rows) == rows
        assert report == section.evidence or found.error is not None


def test_a_sample_of_mutations_stays_in_the_error_family(amd: SimulatedAmd) -> None:
    _mutations(amd, SAMPLE, 1)


@pytest.mark.exhaustive
def test_many_mutations_stay_in_the_error_family(amd: SimulatedAmd) -> None:
    _mutations(amd, ALL, 2)


def test_every_cut_of_every_piece_is_refused(amd: SimulatedAmd) -> None:
    section = amd.section(bytes(64), amd.settings(bytes(48)))
    good = SnpCollateral(**section.collateral)
    policy = SnpPolicy(simulated_root=amd.root_sha256, bulletins=())
    for length in range(REPORT_LENGTH):
        with pytest.raises(AttestationError):
            parse_report(section.evidence[:length])
    for name, piece in section.collateral.items():
        for length in range(0, len(piece), 5):
            found = appraise(section.evidence, replace(good, **{name: piece[:length]}), policy, AT)
            assert found.error is not None, (name, length)
    late = AT + timedelta(days=365 * 30)
    assert appraise(section.evidence, good, policy, late).error is not None
