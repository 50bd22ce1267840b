"""OCSP responses: who may answer, about what, for how long; and hostile bytes."""

import random
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from attestation.certificate import Certificate
from attestation.errors import AttestationError
from attestation.nvidia.ocsp import CertificateStatus, check_status, collateral_name
from attestation.nvidia.ocsp_response import Reason
from attestation.simulated.nvidia import SimulatedDevicePki
from attestation.simulated.nvidia_certificates import Authority
from attestation.simulated.nvidia_ocsp import Answer, answer, response_name

AT = datetime(2026, 11, 21, 12, tzinfo=UTC)
WEEK = timedelta(days=7)
PKI = SimulatedDevicePki.create()
OTHER = SimulatedDevicePki.create()
DEVICE = PKI.make_identity()
NEIGHBOUR = PKI.make_identity()


def parsed(certificate: x509.Certificate) -> Certificate:
    return Certificate.parse(certificate.public_bytes(Encoding.DER))


SUBJECT, ISSUER = parsed(DEVICE.certificate), parsed(PKI.provisioner.certificate)


def respond(how: Answer | None = None, issuer: Authority = PKI.provisioner) -> bytes:
    return answer(DEVICE.certificate, issuer, AT, how or Answer())


def judge(data: bytes, nonce: bytes | None = None, at: datetime = AT) -> CertificateStatus:
    return check_status(data, subject=SUBJECT, issuer=ISSUER, at=at, max_age=WEEK, nonce=nonce)


def code_of(data: bytes, **options: object) -> str:
    try:
        judge(data, **options)  # type: ignore[arg-type]
    except AttestationError as error:
        return error.code
    return ""


GOOD = respond()


def test_good_answers() -> None:
    assert not judge(GOOD).revoked
    assert not judge(respond(Answer(delegated=False))).revoked
    assert not judge(respond(Answer(lifetime=None))).revoked
    assert collateral_name(SUBJECT) == response_name(DEVICE.certificate)


@pytest.mark.parametrize(
    ("flag", "reason"),
    [
        (x509.ReasonFlags.certificate_hold, Reason.CERTIFICATE_HOLD),
        (x509.ReasonFlags.key_compromise, Reason.KEY_COMPROMISE),
        (x509.ReasonFlags.unspecified, Reason.UNSPECIFIED),
    ],
)
def test_revoked(flag: x509.ReasonFlags, reason: Reason) -> None:
    status = judge(respond(Answer(reason=flag)))
    assert (status.revoked, status.reason) == (True, reason)


@pytest.mark.parametrize(
    ("how", "code"),
    [
        (Answer(purpose=False), "ocsp_responder"),
        (Answer(signer=OTHER.provisioner), "ocsp_responder"),
        (Answer(signer=PKI.family), "ocsp_responder"),
        (Answer(signer=DEVICE), "ocsp_responder"),
        (Answer(signer=NEIGHBOUR), "ocsp_responder"),
        (Answer(stands_in=NEIGHBOUR.certificate), "ocsp_certid"),
        (Answer(age=timedelta(days=8)), "revocation_stale"),
        (Answer(age=timedelta(days=8), lifetime=None), "revocation_stale"),
        (Answer(age=-timedelta(minutes=6)), "revocation_stale"),
        (Answer(age=-timedelta(minutes=4)), ""),
    ],
)
def test_answers_that_prove_nothing(how: Answer, code: str) -> None:
    assert code_of(respond(how)) == code


def test_an_answer_of_another_authority_with_the_same_name() -> None:
    assert code_of(respond(issuer=OTHER.provisioner)) == "ocsp_certid"


def test_a_nonce_is_compared_where_one_was_sent() -> None:
    asked = bytes(range(32))
    # The extension's value is an OCTET STRING, which holds the nonce.
    assert code_of(respond(Answer(nonce=asked)), nonce=asked) == ""
    assert code_of(respond(Answer(nonce=bytes(32))), nonce=asked) == "ocsp_nonce"
    assert code_of(GOOD, nonce=asked) == "ocsp_nonce"
    assert code_of(respond(Answer(nonce=asked))) == ""


@pytest.mark.parametrize("status", range(1, 8))
def test_refusals_of_the_responder(status: int) -> None:
    assert code_of(bytes([0x30, 0x03, 0x0A, 0x01, status])) == "revocation_missing"


def test_what_is_no_response() -> None:
    for data in (b"", b"\x30", b"\x30\x00", bytes(20_000), GOOD + b"\0", b"\x30\x03\x0a\x01\x00"):
        assert code_of(data) == "revocation_missing"


def test_truncation_and_every_changed_byte() -> None:
    for length in range(len(GOOD)):
        assert code_of(GOOD[:length]) == "revocation_missing"
    for place in range(0, len(GOOD), 3):
        mutated = bytearray(GOOD)
        mutated[place] ^= 0x41
        # A change in the responder's certificate that leaves its key alone is caught by its own signature.
        assert code_of(bytes(mutated)), place


@given(st.binary(max_size=400))
def test_random_bytes_stay_in_the_family(data: bytes) -> None:
    with suppress(AttestationError):
        judge(data)


@pytest.mark.exhaustive
def test_many_changes() -> None:
    generator = random.Random(5)
    revoked = respond(Answer(reason=x509.ReasonFlags.key_compromise))
    longest = 0.0
    for _ in range(100_000):
        mutated = bytearray(revoked)
        for _ in range(generator.choice((1, 1, 2, 4))):
            mutated[generator.randrange(len(mutated))] = generator.randrange(256)
        begin = time.process_time()
        with suppress(AttestationError):
            assert judge(bytes(mutated)).revoked, mutated.hex()
        longest = max(longest, time.process_time() - begin)
    assert longest < 0.1
