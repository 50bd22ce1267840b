"""AMD-format certificates and revocation lists: read as a general reader reads them, but strictly."""

import contextlib
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from attestation.certificate import Certificate, RevocationList, key_name, require_pss_sha384
from attestation.errors import AttestationError, CertificateMalformed, ChainUntrusted, EndorsementMismatch
from attestation.sev_snp_certificates import KeyKind, certified_product, read_endorsement, verify_not_revoked
from attestation.sev_snp_report import Product, Tcb
from attestation.simulated import der_writer as write
from attestation.simulated.amd import CURRENT_TCB, SimulatedAmd
from attestation.simulated.amd_certificates import sign_revocation_list, sign_vcek

AT = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def test_authorities_read_as_a_general_reader_reads_them(amd: SimulatedAmd) -> None:
    for data in (amd.ark, amd.ask):
        ours, theirs = Certificate.parse(data), x509.load_der_x509_certificate(data)
        assert ours.serial == theirs.serial_number
        assert (ours.not_before, ours.not_after) == (theirs.not_valid_before_utc, theirs.not_valid_after_utc)
        assert (ours.issuer, ours.subject) == (theirs.issuer.public_bytes(), theirs.subject.public_bytes())
        assert ours.signed == theirs.tbs_certificate_bytes
        assert ours.is_ca
        theirs.verify_directly_issued_by(x509.load_der_x509_certificate(amd.ark))


def test_a_vcek_has_serial_number_0_and_says_its_chip_and_firmware(amd: SimulatedAmd) -> None:
    vcek = Certificate.parse(amd.vcek)
    assert vcek.serial == 0
    assert not vcek.is_ca
    assert certified_product(vcek) is Product.GENOA
    endorsement = read_endorsement(vcek, KeyKind.VCEK, Product.GENOA)
    assert endorsement.tcb == CURRENT_TCB
    assert endorsement.hwid == amd.chip_id
    with pytest.raises(EndorsementMismatch):
        read_endorsement(vcek, KeyKind.VLEK, Product.GENOA)


def test_turin_certificates_carry_fmc_and_a_short_hardware_id() -> None:
    key = rsa.generate_private_key(65537, 2048)
    subject = ec.generate_private_key(ec.SECP384R1()).public_key()
    tcb = Tcb(fmc=1, bl=1, tee=0, snp=4, ucode=0x51)
    data = sign_vcek(
        subject, "SEV-Turin", key, product=Product.TURIN, tcb=tcb, hwid=b"12345678", not_before=AT
    )
    endorsement = read_endorsement(Certificate.parse(data), KeyKind.VCEK, Product.TURIN)
    assert (endorsement.tcb, endorsement.hwid) == (tcb, b"12345678")
    with pytest.raises(EndorsementMismatch):
        read_endorsement(Certificate.parse(data), KeyKind.VCEK, Product.GENOA)


def _revocations(amd: SimulatedAmd, *serials: int) -> bytes:
    return sign_revocation_list(
        "ARK-Genoa",
        amd._ark_key,
        number=1,
        revoked=serials,
        this_update=AT,
        next_update=AT + timedelta(days=30),
    )


def test_revocation_lists_read_as_a_general_reader_reads_them(amd: SimulatedAmd) -> None:
    data = _revocations(amd, 5, 7)
    ours, theirs = RevocationList.parse(data), x509.load_der_x509_crl(data)
    assert ours.revoked == {5, 7} == {entry.serial_number for entry in theirs}
    assert (ours.this_update, ours.next_update) == (theirs.last_update_utc, theirs.next_update_utc)
    key = x509.load_der_x509_certificate(amd.ark).public_key()
    assert theirs.is_signature_valid(key)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("at", "revoked", "code"),
    [
        (AT - timedelta(seconds=1), False, "crl_not_yet_valid"),
        (AT + timedelta(days=31), False, "crl_expired"),
        (AT, True, "cert_revoked"),
    ],
)
def test_lists_that_prove_nothing_are_refused(
    amd: SimulatedAmd, at: datetime, revoked: bool, code: str
) -> None:
    ask, ark = Certificate.parse(amd.ask), Certificate.parse(amd.ark)
    verify_not_revoked(ask, ark, _revocations(amd), AT)
    with pytest.raises(AttestationError) as caught:
        verify_not_revoked(ask, ark, _revocations(amd, *([ask.serial] if revoked else [])), at)
    assert caught.value.code == code


def test_a_changed_list_is_refused(amd: SimulatedAmd) -> None:
    ask, ark = Certificate.parse(amd.ask), Certificate.parse(amd.ark)
    data = bytearray(_revocations(amd))
    data[-1] ^= 1
    with pytest.raises(AttestationError) as caught:
        verify_not_revoked(ask, ark, bytes(data), AT)
    assert caught.value.code == "crl_signature"


def test_other_signature_algorithms_are_refused() -> None:
    require_pss_sha384(write.PSS_SHA384)
    pkcs1_sha384 = write.sequence(write.oid("1.2.840.113549.1.1.12"), write.element(5))
    sha256 = write.PSS_SHA384.replace(bytes.fromhex("0402020500a1"), bytes.fromhex("0402010500a1"), 1)
    short_salt = write.PSS_SHA384.replace(bytes.fromhex("020130"), bytes.fromhex("020120"))
    defaults = write.sequence(write.oid("1.2.840.113549.1.1.10"), write.sequence())
    for algorithm in (pkcs1_sha384, sha256, short_salt, defaults):
        assert algorithm != write.PSS_SHA384
        with pytest.raises(ChainUntrusted) as caught:
            require_pss_sha384(algorithm)
        assert caught.value.code == "cert_signature_algorithm"


def test_keys_are_named_not_shown(amd: SimulatedAmd) -> None:
    assert key_name(Certificate.parse(amd.vcek).public_key) == "secp384r1"
    assert key_name(Certificate.parse(amd.ark).public_key) == "RSA-4096"
    assert "key" not in repr(amd).lower()


@pytest.mark.parametrize("which", ["vcek", "list"])
def test_truncation_and_every_single_byte_change_stay_in_the_family(amd: SimulatedAmd, which: str) -> None:
    data = amd.vcek if which == "vcek" else _revocations(amd, 5)
    parse = Certificate.parse if which == "vcek" else RevocationList.parse
    parse(data)
    for end in range(len(data)):
        with pytest.raises(CertificateMalformed):
            parse(data[:end])
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 0x81
        with contextlib.suppress(AttestationError):
            parse(bytes(changed))


@given(st.binary(max_size=200))
def test_random_bytes_stay_in_the_family(data: bytes) -> None:
    for parse in (Certificate.parse, RevocationList.parse):
        with pytest.raises(CertificateMalformed):
            parse(data)
