"""Revocation lists: whatever their entries look like, they say the same as another reader says."""

import random
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from tdx_world import issue, name

from attestation.certificate import RevocationList
from attestation.errors import CertificateMalformed

AT = datetime(2026, 1, 2, tzinfo=UTC)
SERIALS = [1, 127, 128, 255, 1 << 63, (1 << 151) - 1, 1 << 151, (1 << 159) - 1, (1 << 158) + 7]
ISSUER = issue("A CA", None, ca=True)


def revocation_list(serials: list[int], *extensions: x509.ExtensionType, critical: bool = False) -> bytes:
    builder = x509.CertificateRevocationListBuilder().issuer_name(name("A CA")).last_update(AT)
    builder = builder.next_update(datetime(2030, 1, 1, tzinfo=UTC))
    for serial in serials:
        year = 2051 if serial == 128 else 2025
        entry = x509.RevokedCertificateBuilder().serial_number(serial)
        entry = entry.revocation_date(datetime(year, 3, 4, 5, 6, 7, tzinfo=UTC))
        for extension in extensions:
            entry = entry.add_extension(extension, critical)
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(ISSUER.key, hashes.SHA256()).public_bytes(Encoding.DER)


@pytest.mark.parametrize("serials", [[], SERIALS, SERIALS[5:], [SERIALS[0]], list(reversed(SERIALS))])
@pytest.mark.parametrize(
    "extensions",
    [(), (x509.CRLReason(x509.ReasonFlags.key_compromise),), (x509.InvalidityDate(datetime(2025, 1, 1)),)],
)
def test_revoked_is_who_is_in_the_list(
    serials: list[int], extensions: tuple[x509.ExtensionType, ...]
) -> None:
    parsed = RevocationList.parse(revocation_list(serials, *extensions))
    assert parsed.revoked == set(serials)
    for serial in SERIALS:
        assert parsed.revokes(serial) == (serial in serials)
        assert not parsed.revokes(serial ^ (1 << 70))


def test_part_of_a_serial_is_not_that_serial() -> None:
    parsed = RevocationList.parse(revocation_list([int.from_bytes(b"\x01\x02\x03" * 6, "big")]))
    assert not parsed.revokes(0x0102)
    assert not parsed.revokes(0x030102)


def test_a_critical_extension_of_an_entry_is_refused() -> None:
    reason = x509.CRLReason(x509.ReasonFlags.key_compromise)
    RevocationList.parse(revocation_list(SERIALS, reason))  # control
    with pytest.raises(CertificateMalformed):
        RevocationList.parse(revocation_list(SERIALS, reason, critical=True))


def test_damaged_lists_stay_in_the_family_and_never_gain_a_meaning_of_their_own() -> None:
    rng = random.Random(5)
    for data in (
        revocation_list(SERIALS),
        revocation_list(SERIALS[5:], x509.CRLReason(x509.ReasonFlags.superseded)),
    ):
        for length in range(len(data)):
            with pytest.raises(CertificateMalformed):
                RevocationList.parse(data[:length])
        for at in range(len(data)):
            changed = bytearray(data)
            changed[at] ^= 1 << rng.randrange(8)
            try:
                parsed = RevocationList.parse(bytes(changed))
            except CertificateMalformed:
                continue
            assert all(map(parsed.revokes, parsed.revoked))
