"""Claims, and the two values by which hardware vouches for them."""

import contextlib
import hashlib
import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.claims import MAX_CLAIMS, Claims, gpu_nonce, report_data
from attestation.errors import AttestationError, EvidenceMalformed

START = datetime(2026, 3, 1, 12, 0, 0, 987654, tzinfo=UTC)


def built(**changes: object) -> Claims:
    values: dict[str, object] = {
        "ohttp_keys": b"keys",
        "gpu_section": b"[]",
        "runtime": b"{}",
        "checkpoint": b"log",
        "nonce": b"",
        "not_before": START,
        "not_after": START + timedelta(days=1),
    }
    return Claims.build(**{**values, **changes})  # type: ignore[arg-type]


def test_claims_are_of_the_bytes_as_served() -> None:
    claims = built(nonce=b"\x07" * 32)
    assert claims.ohttp_keys == hashlib.sha256(b"keys").digest()
    assert claims.gpu_evidence == hashlib.sha256(b"[]").digest()
    assert claims.nonce == b"\x07" * 32
    assert claims.not_before == START.replace(microsecond=0)
    assert Claims.parse(claims.raw) == claims


def test_no_gpu_hashes_as_the_empty_section() -> None:
    assert built(gpu_section=b"").gpu_evidence == hashlib.sha256(b"").digest()


def test_report_data_and_gpu_nonce_follow_the_protocol() -> None:
    claims = built()
    assert report_data(claims.raw) == hashlib.sha512(b"cloister/report-data/v1\0" + claims.raw).digest()
    keys, log = hashlib.sha256(b"keys").digest(), hashlib.sha256(b"log").digest()
    expected = hashlib.sha256(b"cloister/gpu-nonce/v1\0" + keys + log + b"\x01" * 32 + b"\x08").digest()
    assert gpu_nonce(ohttp_keys=b"keys", checkpoint=b"log", nonce=b"\x01" * 32, gpu_count=8) == expected


@pytest.mark.parametrize(("nonce", "count"), [(b"short", 1), (b"", 256), (b"", -1)])
def test_gpu_nonce_refuses_what_cannot_be_encoded(nonce: bytes, count: int) -> None:
    with pytest.raises(EvidenceMalformed):
        gpu_nonce(ohttp_keys=b"", checkpoint=b"", nonce=nonce, gpu_count=count)


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"v": True},
        {"v": "1"},
        {"runtime": "AB" * 32},
        {"runtime": "ab" * 31},
        {"nonce": "ab"},
        {"nonce": None},
        {"not_after": "2026-03-01T12:00:00+00:00"},
        {"not_after": "2026-13-01T12:00:00Z"},
        {"not_after": "2026-02-01T12:00:00Z"},
        {"extra": 1},
    ],
)
def test_a_changed_member_is_refused(change: dict[str, object]) -> None:
    members = {**json.loads(built().raw), **change}
    with pytest.raises(EvidenceMalformed):
        Claims.parse(json.dumps(members).encode())


def test_a_missing_or_double_member_is_refused() -> None:
    raw = built().raw
    for name in json.loads(raw):
        members = json.loads(raw)
        del members[name]
        with pytest.raises(EvidenceMalformed):
            Claims.parse(json.dumps(members).encode())
    with pytest.raises(EvidenceMalformed):
        Claims.parse(b'{"v":1,' + raw[1:])


def test_oversized_claims_are_refused_before_they_are_read() -> None:
    with pytest.raises(EvidenceMalformed):
        Claims.parse(built().raw + b" " * MAX_CLAIMS)


def test_truncated_and_changed_claims_stay_in_the_family() -> None:
    raw = built().raw
    for end in range(len(raw)):
        with pytest.raises(EvidenceMalformed):
            Claims.parse(raw[:end])
    for at in range(len(raw)):
        changed = bytearray(raw)
        changed[at] ^= 0x15
        with contextlib.suppress(AttestationError):
            assert report_data(Claims.parse(bytes(changed)).raw) != report_data(raw)


@given(st.binary(max_size=300))
def test_random_bytes_stay_in_the_family(data: bytes) -> None:
    with pytest.raises(EvidenceMalformed):
        Claims.parse(data)
