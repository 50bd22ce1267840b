"""A little world of TDX: roots, a platform, signed levels and quotes in Intel's formats, with keys of its own."""

import hashlib
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from attestation.simulated import der_writer
from attestation.tdx.collateral import TdxCollateral
from attestation.tdx.pck import OID_SGX_EXTENSIONS
from attestation.tdx.quote import INTEL_QE_VENDOR

AT = datetime(2026, 6, 1, tzinfo=UTC)
START, END = AT - timedelta(days=100), AT + timedelta(days=1000)
FMSPC, PCEID, PPID = bytes.fromhex("50806f000000"), bytes(2), bytes(range(16))
QE_SIGNER = bytes.fromhex("dc9e2a7c6f948f17474e34a7fc43ed030f7c1563f1babddf6340c82e0e54a8c5")
SEPT_VE_DISABLE = 1 << 28

Key = ec.EllipticCurvePrivateKey
USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def new_key() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


def raw_signature(key: Key, data: bytes) -> bytes:
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def point(key: Key) -> bytes:
    numbers = key.public_key().public_numbers()
    return numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")


def name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def time_text(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"


@dataclass
class Authority:
    """A key with its certificate."""

    key: Key
    certificate: x509.Certificate

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)


def issue(
    common_name: str,
    issuer: Authority | None,
    *,
    ca: bool,
    extensions: tuple[x509.ExtensionType, ...] = (),
    key: Key | None = None,
    usage: tuple[str, ...] | None = None,
) -> Authority:
    """Issue a certificate; without an issuer it signs itself. ``usage`` names what its key may be used for."""
    key = key or new_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(common_name))
        .issuer_name(issuer.certificate.subject if issuer else name(common_name))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(START)
        .not_valid_after(END)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    if usage is not None:
        named = {name: name in usage for name in USAGES}
        builder = builder.add_extension(x509.KeyUsage(**named), critical=True)
    return Authority(key, builder.sign(issuer.key if issuer else key, hashes.SHA256()))


def revocations(issuer: Authority, *serials: int) -> bytes:
    """A revocation list that names these."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(AT - timedelta(days=1))
        .next_update(AT + timedelta(days=20))
        .add_extension(x509.CRLNumber(1), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.certificate.public_key()),  # type: ignore[arg-type]
            critical=False,
        )
    )
    for serial in serials:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(START).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(issuer.key, hashes.SHA256()).public_bytes(Encoding.DER)


def sgx_extension(
    components: bytes = bytes([5] * 16), pcesvn: int = 13, configuration: dict[int, bool] | None = None
) -> x509.UnrecognizedExtension:
    arc = OID_SGX_EXTENSIONS
    levels = [_pair(f"{arc}.2.{number}", der_writer.integer(svn)) for number, svn in enumerate(components, 1)]
    levels.append(_pair(f"{arc}.2.17", der_writer.integer(pcesvn)))
    levels.append(_pair(f"{arc}.2.18", der_writer.octet_string(components)))
    parts = [
        _pair(f"{arc}.1", der_writer.octet_string(PPID)),
        _pair(f"{arc}.2", der_writer.sequence(*levels)),
        _pair(f"{arc}.3", der_writer.octet_string(PCEID)),
        _pair(f"{arc}.4", der_writer.octet_string(FMSPC)),
        _pair(f"{arc}.5", b"\x0a\x01\x01"),
    ]
    if configuration is not None:
        flags = [
            _pair(f"{arc}.7.{number}", b"\x01\x01" + (b"\xff" if value else b"\x00"))
            for number, value in configuration.items()
        ]
        parts.append(_pair(f"{arc}.7", der_writer.sequence(*flags)))
    return x509.UnrecognizedExtension(x509.ObjectIdentifier(arc), der_writer.sequence(*parts))


def _pair(oid: str, value: bytes) -> bytes:
    return der_writer.sequence(der_writer.oid(oid), value)


@dataclass
class Td:
    """What a quote says of a TD; ``kind`` 3 and 4 need a version 5 quote."""

    kind: int = 2
    svn: bytes = bytes((3, 1, 4)) + bytes(13)
    svn2: bytes = bytes((3, 1, 4)) + bytes(13)
    attributes: int = SEPT_VE_DISABLE
    xfam: int = 0x3
    report_data: bytes = bytes(64)
    seam_attributes: bytes = bytes(8)
    service_td: bytes = bytes(48)
    extended: bytes = bytes(237)

    def body(self) -> bytes:
        registers = b"".join(bytes([number]) * 48 for number in range(1, 9))
        body = self.svn + bytes([9] * 48) + bytes(48) + self.seam_attributes
        body += self.attributes.to_bytes(8, "little") + self.xfam.to_bytes(8, "little") + registers
        body += self.report_data
        if self.kind >= 3:
            body += self.svn2 + self.service_td
        if self.kind == 4:
            body += self.extended
        assert len(body) == {2: 584, 3: 648, 4: 885}[self.kind]
        return body


def platform_level(
    status: str, svn: int, tdx: int, date: str = "2026-01-01", *advisories: str
) -> dict[str, Any]:
    return {
        "tcb": {
            "sgxtcbcomponents": [{"svn": svn}] * 16,
            "pcesvn": 13,
            "tdxtcbcomponents": [{"svn": 0}, {"svn": 0}, {"svn": tdx}] + [{"svn": 0}] * 13,
        },
        "tcbDate": f"{date}T00:00:00Z",
        "tcbStatus": status,
        "advisoryIDs": list(advisories),
    }


def svn_level(status: str, isvsvn: int, date: str = "2026-01-01", *advisories: str) -> dict[str, Any]:
    return {
        "tcb": {"isvsvn": isvsvn},
        "tcbDate": f"{date}T00:00:00Z",
        "tcbStatus": status,
        "advisoryIDs": list(advisories),
    }


def _module(**more: Any) -> dict[str, Any]:
    return {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8, **more}


def tcb_info() -> dict[str, Any]:
    """A TCB Info: everything of ``Td`` and ``World`` is up to date by it."""
    return {
        "id": "TDX",
        "version": 3,
        "issueDate": time_text(AT - timedelta(days=1)),
        "nextUpdate": time_text(AT + timedelta(days=20)),
        "fmspc": FMSPC.hex().upper(),
        "pceId": PCEID.hex(),
        "tcbType": 0,
        "tcbEvaluationDataNumber": 20,
        "tdxModule": _module(),
        "tdxModuleIdentities": [
            _module(
                id="TDX_01",
                tcbLevels=[svn_level("UpToDate", 3), svn_level("OutOfDate", 1, "2025-01-01", "INTEL-SA-1")],
            )
        ],
        "tcbLevels": [
            platform_level("UpToDate", 5, 4),
            platform_level("OutOfDate", 1, 0, "2025-02-01", "INTEL-SA-2"),
        ],
    }


def qe_identity() -> dict[str, Any]:
    return {
        "id": "TD_QE",
        "version": 2,
        "issueDate": time_text(AT - timedelta(days=1)),
        "nextUpdate": time_text(AT + timedelta(days=20)),
        "tcbEvaluationDataNumber": 20,
        "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": "11" + "00" * 15,
        "attributesMask": "FB" + "FF" * 7 + "00" * 8,
        "mrsigner": QE_SIGNER.hex().upper(),
        "isvprodid": 2,
        "tcbLevels": [svn_level("UpToDate", 8)],
    }


@dataclass
class World:
    """A root of its own, a platform below it, and a quoting enclave on that platform."""

    root: Authority = field(default_factory=lambda: issue("Intel SGX Root CA", None, ca=True))
    ca: Authority = field(init=False)
    pck: Authority = field(init=False)
    signer: Authority = field(init=False)
    extension: x509.UnrecognizedExtension = field(default_factory=sgx_extension)
    attestation_key: Key = field(default_factory=new_key)
    qe_data: bytes = bytes(range(32))

    def __post_init__(self) -> None:
        self.ca = issue("Intel SGX PCK Platform CA", self.root, ca=True)
        self.pck = issue("Intel SGX PCK Certificate", self.ca, ca=False, extensions=(self.extension,))
        self.signer = issue("Intel SGX TCB Signing", self.root, ca=False)

    @property
    def root_sha256(self) -> str:
        return hashlib.sha256(self.root.der).hexdigest()

    def quote(self, td: Td | None = None, **changed: bytes) -> bytes:
        """A quote of ``td``; ``changed`` replaces ``qe_report_data``, or the text of the ``chain``."""
        td = td or Td()
        version = 4 if td.kind == 2 else 5
        header = version.to_bytes(2, "little") + b"\x02\x00" + (0x81).to_bytes(4, "little") + bytes(4)
        header += INTEL_QE_VENDOR + bytes(20)
        body = td.body()
        if version == 5:
            header += td.kind.to_bytes(2, "little") + len(body).to_bytes(4, "little")
        key = point(self.attestation_key)
        bound = hashlib.sha256(key + self.qe_data).digest() + bytes(32)
        report = bytearray(384)
        report[0x30] = 0x11
        report[0x80:0xA0] = QE_SIGNER
        report[0x100:0x104] = b"\x02\x00\x08\x00"
        report[0x140:0x180] = changed.get("qe_report_data", bound)
        chain = changed.get("chain", (self.pck.pem + self.ca.pem + self.root.pem).encode() + b"\0")
        inner = bytes(report) + raw_signature(self.pck.key, bytes(report))
        inner += len(self.qe_data).to_bytes(2, "little") + self.qe_data
        inner += b"\x05\x00" + len(chain).to_bytes(4, "little") + chain
        auth = raw_signature(self.attestation_key, header + body) + key
        auth += b"\x06\x00" + len(inner).to_bytes(4, "little") + inner
        return header + body + len(auth).to_bytes(4, "little") + auth

    def collateral(
        self,
        levels: dict[str, Any] | None = None,
        enclave: dict[str, Any] | None = None,
        **changed: bytes,
    ) -> TdxCollateral:
        """Collateral for this platform, signed; ``changed`` replaces pieces after that."""
        levels_raw = json.dumps(levels or tcb_info()).encode()
        enclave_raw = json.dumps(enclave or qe_identity()).encode()
        signer_chain = (self.signer.pem + self.root.pem).encode()
        pieces = {
            "pck_crl_issuer_chain": (self.ca.pem + self.root.pem).encode(),
            "root_ca_crl": revocations(self.root),
            "pck_crl": revocations(self.ca),
            "tcb_info_issuer_chain": signer_chain,
            "tcb_info": levels_raw,
            "tcb_info_signature": raw_signature(self.signer.key, levels_raw),
            "qe_identity_issuer_chain": signer_chain,
            "qe_identity": enclave_raw,
            "qe_identity_signature": raw_signature(self.signer.key, enclave_raw),
        }
        return TdxCollateral(**{**pieces, **changed})
