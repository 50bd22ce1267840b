"""The quick ways through what is plain give what the full readers give, or nothing."""

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.certificate import Certificate, RevocationList
from attestation.errors import CertificateMalformed
from attestation.plain_certificate import read_plain, read_plain_list

INTEL = x509.ObjectIdentifier("1.2.840.113741.1.13.1")
NAMES = (
    (x509.NameOID.COMMON_NAME, "Some Issuer"),
    (x509.NameOID.ORGANIZATION_NAME, "Some Corporation"),
    (x509.NameOID.COUNTRY_NAME, "US"),
)

POINT = x509.DistributionPoint(
    [x509.UniformResourceIdentifier("https://certificates.example/RootCA.der")], None, None, None
)


def certificate(
    *extensions: tuple[x509.ExtensionType, bool],
    serial: int = 1 << 158,
    curve: type[ec.EllipticCurve] = ec.SECP256R1,
    until: int = 2049,
    names: Sequence[tuple[x509.ObjectIdentifier, str]] = NAMES,
) -> bytes:
    key = ec.generate_private_key(curve())
    digest = hashes.SHA384() if curve is ec.SECP384R1 else hashes.SHA256()
    name = x509.Name([x509.NameAttribute(oid, text) for oid, text in names])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .serial_number(serial)
        .not_valid_before(datetime(2024, 2, 29, 1, 2, 3, tzinfo=UTC))
        .not_valid_after(datetime(until, 12, 31, 23, 59, 59, tzinfo=UTC))
        .public_key(key.public_key())
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(x509.AuthorityKeyIdentifier(b"\1" * 20, None, None), False)
        .add_extension(x509.CRLDistributionPoints([POINT]), False)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(key, digest).public_bytes(Encoding.DER)


BASIC = (x509.BasicConstraints(ca=True, path_length=None), True)
LONG = (x509.UnrecognizedExtension(INTEL, bytes(range(256)) * 2), False)
WIDE = (x509.UnrecognizedExtension(INTEL, bytes(150)), False)
FIRMWARE = (x509.UnrecognizedExtension(x509.ObjectIdentifier("2.23.133.5.4.1"), bytes(189)), False)
SIGNER = (x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.OCSP_SIGNING]), False)
UNKNOWN = (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b""), False)
LONG_NAME = (*NAMES, (x509.NameOID.ORGANIZATIONAL_UNIT_NAME, "A unit with a name that is rather long" * 2))
FORMS = {
    "short": certificate(BASIC),
    "long": certificate(BASIC, LONG),
    "high serial": certificate(BASIC, serial=(1 << 159) - 5),
    "low serial": certificate(BASIC, serial=1 << 142),
    "signed serial": certificate(BASIC, serial=1 << 127),
    "wide": certificate(BASIC, WIDE),
    "p384": certificate(BASIC, curve=ec.SECP384R1),
    "device": certificate(
        FIRMWARE, curve=ec.SECP384R1, until=9999, names=LONG_NAME, serial=0x41431D480FE5E87274
    ),
    "responder": certificate(SIGNER, curve=ec.SECP384R1, until=2050),
}


@pytest.mark.parametrize("data", FORMS.values(), ids=FORMS)
def test_a_plain_certificate_is_taken(data: bytes) -> None:
    assert read_plain(data) is not None
    assert Certificate.parse(data) == Certificate._parse(data)


@pytest.mark.parametrize("data", [certificate(BASIC, UNKNOWN), certificate(BASIC, serial=7)])
def test_other_forms_are_left_to_the_full_reader(data: bytes) -> None:
    assert read_plain(data) is None
    assert Certificate.parse(data) == Certificate._parse(data)


@pytest.mark.parametrize("name", ["short", "long", "wide", "device"])
def test_no_change_of_a_byte_makes_the_two_differ(name: str) -> None:
    data, taken = FORMS[name], 0
    for at in range(len(data)):
        for change in (0x01, 0x20, 0x80, 0xFF):
            changed = data[:at] + bytes([data[at] ^ change]) + data[at + 1 :]
            taken += _same(changed)
    assert taken > 100
    for end in range(len(data)):
        assert not _same(data[:end])
        assert not _same(data + data[: end + 1])


def _same(data: bytes) -> bool:
    """Whether the quick way takes it; then the full reader must find just the same."""
    found = read_plain(data)
    if found is None:
        return False
    try:
        quick = Certificate.parse(data)
    except CertificateMalformed:
        with pytest.raises(CertificateMalformed):
            Certificate._parse(data)
        return True
    assert quick == Certificate._parse(data)
    return True


def revocation_list(*serials: int) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    at = datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(x509.Name([x509.NameAttribute(oid, text) for oid, text in NAMES]))
        .last_update(at)
        .next_update(datetime(2049, 1, 1, tzinfo=UTC))
        .add_extension(x509.CRLNumber(1), False)
        .add_extension(x509.AuthorityKeyIdentifier(b"\1" * 20, None, None), False)
    )
    for serial in serials:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(at)
        entry = entry.add_extension(x509.CRLReason(x509.ReasonFlags.key_compromise), False)
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


LISTS = {
    "empty": revocation_list(),
    "one": revocation_list(1 << 158),
    "some": revocation_list(*((1 << 158) + number for number in range(3))),
    "many": revocation_list(*((1 << 158) + number for number in range(12))),
    "odd": revocation_list(1 << 158, 7),
}


@pytest.mark.parametrize("data", LISTS.values(), ids=LISTS)
def test_no_change_of_a_byte_makes_the_two_readers_of_lists_differ(data: bytes) -> None:
    assert (read_plain_list(data) is not None) == (len(data) >= 260)
    assert RevocationList.parse(data) == RevocationList._parse_in_full(data)
    for at in range(len(data)):
        for change in (0x01, 0x02, 0x20, 0x80, 0xFF):
            _same_list(data[:at] + bytes([data[at] ^ change]) + data[at + 1 :])
        _same_list(data[:at])
        _same_list(data + data[: at + 1])


def _same_list(data: bytes) -> None:
    try:
        found = RevocationList.parse(data)
    except CertificateMalformed:
        with pytest.raises(CertificateMalformed):
            RevocationList._parse_in_full(data)
    else:
        assert found == RevocationList._parse_in_full(data)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (x509.name._ASN1Type.UTF8String, "Zertifizierungsstelle Zürich"),
        (x509.name._ASN1Type.BMPString, "Zürich"),
        (x509.name._ASN1Type.PrintableString, "Zurich"),
    ],
)
def test_names_in_any_script_are_read(kind: x509.name._ASN1Type, name: str) -> None:
    """RFC 5280 section 4.1.2.4. A name that no role has is for the chain to refuse, not for the reader."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name, kind)])
    builder = x509.CertificateBuilder(
        subject, subject, key.public_key(), 1 << 100, datetime(2024, 1, 1), datetime(2030, 1, 1)
    )
    data = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
    assert Certificate.parse(data).common_name == name
    assert Certificate._parse(data).common_name == name
    broken = data.replace(name.encode("utf-8"), b"\xff" * len(name.encode("utf-8")))
    if broken != data:
        with pytest.raises(CertificateMalformed):
            Certificate.parse(broken)
