"""TPM quotes and keys: every field read from its place, every scheme verified, nothing read leniently."""

import hashlib
import struct
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from software_tpm import AK_ATTRIBUTES, REQUIRED, SoftwareTpm, sized

from attestation.errors import AttestationError, EvidenceMalformed, PolicyRejected
from attestation.tpm.ak import parse_public_area, spki_sha256
from attestation.tpm.attest import Scheme, TpmSignature, parse_attest, parse_signature, verify_signature
from attestation.tpm.boot_state import check_pins
from attestation.tpm.evidence import AzureEvidence, Quote, TpmEvidence
from attestation.tpm.gcp import GcpPolicy
from attestation.tpm.policy import TpmPolicy
from attestation.tpm.uki import pcr11
from attestation.tpm.verify import TpmCollateral, appraise

AT = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
NONCE = bytes(range(32))
RSA_KEY = rsa.generate_private_key(65537, 2048)


@pytest.fixture(scope="module")
def tpm() -> SoftwareTpm:
    return SoftwareTpm().boot()


def test_a_quotes_fields_are_read_from_their_places(tpm: SoftwareTpm) -> None:
    attest = parse_attest(tpm.attest(NONCE, [("sha384", (0, 23)), ("sha256", (8,))]))
    assert attest.extra_data == NONCE
    assert (attest.clock, attest.reset_count, attest.restart_count, attest.safe) == (5000, 1, 0, True)
    assert [(s.bank, s.indices) for s in attest.selections] == [("sha384", (0, 23)), ("sha256", (8,))]
    values = tpm.pcr("sha384", 0) + tpm.pcr("sha384", 23) + tpm.pcr("sha256", 8)
    assert attest.pcr_digest == hashlib.sha256(values).digest()


def patched(data: bytes, offset: int, value: bytes) -> bytes:
    return data[:offset] + value + data[offset + len(value) :]


def test_odd_quotes_are_malformed(tpm: SoftwareTpm) -> None:
    message = tpm.attest(NONCE, [("sha256", (0,))])
    listed = message.index(struct.pack(">IHB", 1, 0xB, 3))
    one = message[listed + 4 : listed + 10]
    twice = message[:listed] + struct.pack(">I", 2) + one + one + message[listed + 10 :]
    for odd, code in (
        (message + b"\0", "attest_malformed"),
        (patched(message, 0, b"\0"), "attest_malformed"),
        (patched(message, 4, b"\x80\x17"), "attest_type"),
        (twice, "attest_malformed"),
        (patched(message, listed, b"\xff\xff\xff\xff"), "attest_malformed"),
        (patched(message, listed - 9, b"\2"), "attest_malformed"),
        (message.replace(one, one[:2] + b"\4" + bytes(3) + b"\1"), "attest_malformed"),
        (bytes(4096), "attest_malformed"),
        *((message[:length], "attest_malformed") for length in range(len(message))),
    ):
        with pytest.raises(EvidenceMalformed) as refusal:
            parse_attest(odd)
        assert refusal.value.code == code


def test_every_scheme_is_verified() -> None:
    message = b"signed"
    other = rsa.generate_private_key(65537, 2048)
    p384 = ec.generate_private_key(ec.SECP384R1())
    small = rsa.generate_private_key(65537, 1024)  # noqa: S505 - one that must be refused
    for salt in (32, padding.PSS.MAX_LENGTH):
        pss = padding.PSS(padding.MGF1(hashes.SHA256()), salt)
        value = RSA_KEY.sign(message, pss, hashes.SHA256())
        signature = parse_signature(struct.pack(">HH", 0x16, 0xB) + sized(value))
        assert signature.scheme is Scheme.RSAPSS
        verify_signature(RSA_KEY.public_key(), signature, message)
        for key in (other.public_key(), p384.public_key()):
            with pytest.raises(AttestationError, match="signature"):
                verify_signature(key, signature, message)
    weak = TpmSignature(Scheme.RSASSA, "sha256", (small.sign(message, padding.PKCS1v15(), hashes.SHA256()),))
    with pytest.raises(AttestationError, match="2048"):
        verify_signature(small.public_key(), weak, message)
    for values in ((b"", b""), (b"\0" * 32, b"\0" * 32), (b"\xff" * 66, b"\xff" * 66)):
        with pytest.raises(AttestationError, match="signature"):
            verify_signature(p384.public_key(), TpmSignature(Scheme.ECDSA, "sha256", values), message)


@pytest.mark.parametrize("algorithm", [0x4, 0x10, 0x12, 0x27])
def test_signatures_by_another_hash_than_sha2_are_refused(algorithm: int) -> None:
    with pytest.raises(AttestationError, match="signature"):
        parse_signature(struct.pack(">HH", 0x14, algorithm) + sized(bytes(256)))


@pytest.mark.parametrize("key", [None, RSA_KEY])
def test_a_public_area_gives_its_key_and_its_name(key: rsa.RSAPrivateKey | None) -> None:
    tpm = SoftwareTpm() if key is None else SoftwareTpm(key)
    area = parse_public_area(tpm.public)
    assert spki_sha256(area.key) == spki_sha256(tpm.key.public_key())
    assert area.attributes == set(AK_ATTRIBUTES)
    assert area.name == b"\0\x0b" + hashlib.sha256(tpm.public[2:]).digest()
    assert area.scheme is (Scheme.ECDSA if key is None else Scheme.RSASSA)
    for odd in (tpm.public + b"\0", tpm.public[2:], *(tpm.public[:n] for n in range(len(tpm.public)))):
        with pytest.raises(EvidenceMalformed, match="ak_malformed"):
            parse_public_area(odd)


def test_a_point_off_the_curve_is_no_key(tpm: SoftwareTpm) -> None:
    with pytest.raises(EvidenceMalformed, match="ak_malformed"):
        parse_public_area(tpm.public[:-1] + bytes([tpm.public[-1] ^ 1]))


def test_an_rsa_key_signs_as_well() -> None:
    tpm = SoftwareTpm(RSA_KEY).boot()
    policy = TpmPolicy(pinned_spki=frozenset({spki_sha256(RSA_KEY.public_key())}))
    collateral = TpmCollateral(eventlog=tpm.event_log())
    found = appraise(tpm.evidence(NONCE).encode(), collateral, policy, GcpPolicy(), NONCE, AT)
    assert found.require().ak_spki_sha256 == spki_sha256(RSA_KEY.public_key())


def test_a_key_signs_by_its_own_scheme_alone() -> None:
    """An RSASSA key's signature shown as RSAPSS would fail anyway; a PSS one by the same key must too."""
    tpm = SoftwareTpm(RSA_KEY).boot()
    quote = tpm.quote(NONCE)
    pss = RSA_KEY.sign(quote.message, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
    other = replace(quote, signature=struct.pack(">HH", 0x16, 0xB) + sized(pss))
    policy = TpmPolicy(pinned_spki=frozenset({spki_sha256(RSA_KEY.public_key())}))
    evidence = TpmEvidence(other, tpm.public).encode()
    found = appraise(evidence, TpmCollateral(eventlog=tpm.event_log()), policy, GcpPolicy(), NONCE, AT)
    assert found.error is not None
    assert found.error.code == "signature"


def test_evidence_travels_unchanged(tpm: SoftwareTpm) -> None:
    evidence = tpm.evidence(NONCE, {"sha384": (3, 1), "sha256": REQUIRED})
    assert TpmEvidence.parse(evidence.encode()) == evidence
    for td_quote in (None, b"quote"):
        azure = AzureEvidence(evidence.quote, b"report", td_quote)
        assert AzureEvidence.parse(azure.encode(), tdx=td_quote is not None) == azure
        with pytest.raises(EvidenceMalformed, match="tpm_malformed"):
            AzureEvidence.parse(azure.encode(), tdx=td_quote is None)


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        (b'"v":1', b'"v":2', "tpm_version_unsupported"),
        (b'"v":1', b'"v":true', "tpm_version_unsupported"),
        (b'"v":1', b'"v":1,"more":1', "tpm_malformed"),
        (b'"v":1', b'"v":1,"v":1', "tpm_malformed"),
        (b'"sha256"', b'"sha257"', "pcr_malformed"),
        (b'"11":', b'"24":', "pcr_malformed"),
        (b'"11":', b'"011":', "pcr_malformed"),
        (b'"11":"', b'"11":"00', "pcr_malformed"),
        (b'"11":"', b'"11":" ', "pcr_malformed"),
    ],
)
def test_odd_evidence_is_malformed(tpm: SoftwareTpm, old: bytes, new: bytes, code: str) -> None:
    data = tpm.evidence(NONCE).encode()
    assert old in data
    with pytest.raises(EvidenceMalformed) as refusal:
        TpmEvidence.parse(data.replace(old, new, 1))
    assert refusal.value.code == code


def test_pins_hold_in_every_bank_that_has_them(tpm: SoftwareTpm) -> None:
    quote: Quote = tpm.quote(NONCE, {"sha256": (4,), "sha384": (4,)})
    sha256, sha384 = (quote.pcrs[bank][4] for bank in ("sha256", "sha384"))
    check_pins(quote.pcrs, {4: frozenset({sha256})})
    check_pins(quote.pcrs, {4: frozenset({bytes(32), sha256, sha384})})
    for accepted, code in (
        ({sha256, bytes(48)}, "pcr_value_mismatch"),
        ({sha256[:-1] + b"\0"}, "pcr_value_mismatch"),
        ({bytes(64)}, "pcr_required_missing"),
    ):
        with pytest.raises(PolicyRejected) as refusal:
            check_pins(quote.pcrs, {4: frozenset(accepted)})
        assert refusal.value.code == code
    with pytest.raises(PolicyRejected, match="pcr_required_missing"):
        check_pins(quote.pcrs, {5: frozenset({bytes(32)})})


def test_a_clock_tells_how_long_ago_a_reset_may_be() -> None:
    tpm = SoftwareTpm().boot()
    policy = TpmPolicy(pinned_spki=frozenset({spki_sha256(tpm.key.public_key())}), max_reset_age_s=5)
    collateral = TpmCollateral(eventlog=tpm.event_log())
    for clock, code in ((5000, None), (5001, "tpm_reset_age")):
        tpm.clock = clock
        found = appraise(tpm.evidence(NONCE).encode(), collateral, policy, GcpPolicy(), NONCE, AT)
        assert (found.error.code if found.error else None) == code


def test_an_image_without_a_kernel_has_no_pcr_11() -> None:
    for sections in ({}, {"osrel": bytes(32)}, {"linux": bytes(32), "text": bytes(32)}):
        with pytest.raises(AttestationError, match="policy_invalid"):
            pcr11(sections, "sha256")
