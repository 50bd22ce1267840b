"""What a VCEK's extensions say, held against a report: odd forms that are legal, and those that are not."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestation import der
from attestation.certificate import Certificate
from attestation.sev_snp import SnpCollateral, appraise
from attestation.sev_snp_certificates import OID_HWID, OID_PRODUCT_NAME, OID_STRUCT_VERSION, RESERVED_TCB_OIDS
from attestation.sev_snp_policy import SnpPolicy
from attestation.sev_snp_report import SIGNED_LENGTH, Product, reserved_tcb
from attestation.simulated import amd_certificates
from attestation.simulated import der_writer as write
from attestation.simulated.amd import SimulatedAmd
from attestation.simulated.amd_certificates import sign_authority, sign_revocation_list

AT = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
ARC = "1.3.6.1.4.1.3704.1.3"

Extensions = list[tuple[str, bool, bytes]]


@dataclass(frozen=True)
class Line:
    """A line of certificates of this test's own below the simulated root, down to a key that signs reports."""

    amd: SimulatedAmd
    ask: bytes
    ask_key: rsa.RSAPrivateKey
    key: ec.EllipticCurvePrivateKey

    def extensions(self) -> Extensions:
        """Those of a VCEK for the simulated chip at its firmware level."""
        levels = {1: 10, 2: 0, 3: 0x1B, 4: 0, 5: 0, 6: 0, 7: 0, 8: 0x58}
        return [
            (OID_STRUCT_VERSION, False, write.integer(0)),
            (OID_PRODUCT_NAME, False, write.text("Genoa", der.IA5_STRING)),
            *((f"{ARC}.{number}", False, write.integer(level)) for number, level in levels.items()),
            (OID_HWID, False, self.amd.chip_id),
        ]

    def vcek(self, extensions: Extensions) -> bytes:
        listed = (
            write.sequence(
                write.oid(oid), *((write.boolean(True),) if critical else ()), write.octet_string(value)
            )
            for oid, critical, value in extensions
        )
        signed = write.sequence(
            write.explicit(0, write.integer(2)),
            write.integer(0),
            write.PSS_SHA384,
            _subject(self.ask),
            write.sequence(write.time(AT - timedelta(days=1)), write.time(AT + timedelta(days=1))),
            write.sequence(_attribute("SEV-VCEK")),
            self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            write.explicit(3, write.sequence(*listed)),
        )
        signature = self.ask_key.sign(signed, padding.PSS(padding.MGF1(hashes.SHA384()), 48), hashes.SHA384())
        return write.sequence(signed, write.PSS_SHA384, write.bit_string(signature))

    def report(self, change: Callable[[bytearray], None] = lambda _: None) -> bytes:
        """An ordinary report, changed and then signed by this line's key."""
        report = bytearray(self.amd.section(bytes(64), self.amd.settings(bytes(48))).evidence)
        change(report)
        r, s = decode_dss_signature(self.key.sign(bytes(report[:SIGNED_LENGTH]), ec.ECDSA(hashes.SHA384())))
        report[SIGNED_LENGTH : SIGNED_LENGTH + 144] = r.to_bytes(72, "little") + s.to_bytes(72, "little")
        return bytes(report)

    def judged(
        self, extensions: Extensions, report: bytes | None = None, crl: bytes | None = None
    ) -> str | None:
        """The code of the refusal, None where the report is accepted."""
        policy = SnpPolicy(simulated_root=self.amd.root_sha256, require_crl=False, bulletins=())
        collateral = SnpCollateral(self.vcek(extensions), self.ask, self.amd.ark, crl)
        error = appraise(report or self.report(), collateral, policy, AT).error
        return None if error is None else error.code


def _attribute(common_name: str) -> bytes:
    value = write.sequence(write.oid("2.5.4.3"), write.text(common_name, der.UTF8_STRING))
    return write.element(der.SET, value)


def _subject(certificate: bytes) -> bytes:
    return Certificate.parse(certificate).subject


@pytest.fixture(scope="module")
def line(amd: SimulatedAmd) -> Line:
    key = rsa.generate_private_key(65537, 4096)
    ask = sign_authority(
        "SEV-Genoa", key.public_key(), "ARK-Genoa", amd._ark_key, serial=7, not_before=AT - timedelta(days=9)
    )
    return Line(amd, ask, key, ec.generate_private_key(ec.SECP384R1()))


def test_the_control(line: Line) -> None:
    assert line.judged(line.extensions()) is None


def test_an_extension_that_is_understood_may_be_critical(line: Line) -> None:
    assert line.judged([(oid, True, value) for oid, _, value in line.extensions()]) is None
    unknown = ("1.3.6.1.4.1.3704.1.99", True, write.integer(0))
    assert line.judged([*line.extensions(), unknown]) == "cert_extension"


@pytest.mark.parametrize("oid", [f"{ARC}.1", f"{ARC}.8", OID_HWID, OID_PRODUCT_NAME])
def test_an_extension_that_occurs_twice(line: Line, oid: str) -> None:
    twice = [one for one in line.extensions() if one[0] == oid]
    assert line.judged([*line.extensions(), *twice]) == "cert_extension"


def set_bytes(*places: int) -> Callable[[bytearray], None]:
    def change(report: bytearray) -> None:
        for place in places:
            report[place] = 3

    return change


@pytest.mark.parametrize("part", [2, 3, 4, 5])
def test_levels_of_parts_without_a_name_are_compared_too(line: Line, part: int) -> None:
    """Current, reported and committed TCB alike: what the key is certified for must be what is reported."""
    changed = line.report(set_bytes(0x38 + part, 0x180 + part, 0x1E0 + part))
    assert line.judged(line.extensions(), changed) == "tcb_cert_mismatch"
    certified = [
        (oid, critical, write.integer(3) if oid == RESERVED_TCB_OIDS[part - 2] else value)
        for oid, critical, value in line.extensions()
    ]
    assert line.judged(certified) == "tcb_cert_mismatch"
    assert line.judged(certified, changed) is None


def test_where_the_parts_without_a_name_are() -> None:
    data = bytes(range(8))
    assert reserved_tcb(data, Product.MILAN) == reserved_tcb(data, Product.GENOA) == bytes((2, 3, 4, 5))
    assert reserved_tcb(data, Product.TURIN) == bytes((4, 5, 6))


def test_a_root_that_its_own_list_names(line: Line) -> None:
    def listing(*serials: int) -> bytes:
        return sign_revocation_list(
            "ARK-Genoa",
            line.amd._ark_key,
            number=1,
            revoked=serials,
            this_update=AT,
            next_update=AT + timedelta(days=1),
        )

    root = Certificate.parse(line.amd.ark).serial
    assert line.judged(line.extensions(), crl=listing(root + 1000)) is None
    assert line.judged(line.extensions(), crl=listing(root)) == "cert_revoked"
    assert line.judged(line.extensions(), crl=listing(7)) == "cert_revoked"


def test_an_intermediate_that_may_issue_nothing(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its keyUsage permits lists alone (RFC 5280 section 6.1.4 n)."""
    for permitted, expected in ((b"\x02\x04", None), (b"\x01\x02", "chain_untrusted")):
        monkeypatch.setattr(amd_certificates, "_SIGN_CERTIFICATES_AND_LISTS", permitted)
        ask = amd_certificates.sign_authority(
            "SEV-Genoa",
            line.ask_key.public_key(),
            "ARK-Genoa",
            line.amd._ark_key,
            serial=7,
            not_before=AT - timedelta(days=9),
        )
        assert replace(line, ask=ask).judged(line.extensions()) == expected
