"""Device certificate chains: five certificates from a GPU's attestation key to a pinned root.

Leaf first: attestation key (made for one firmware image), device identity (in the ROM), provisioner,
chip family, root. Every key is P-384 and every signature ECDSA with SHA-384. Validation follows RFC 5280
section 6.1 for this fixed shape; the trust anchor is named by the SHA-256 of its DER encoding.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtensionOID, NameOID, SignatureAlgorithmOID

from attestation.nvidia.errors import DeviceChainError
from attestation.nvidia.fwid import certificate_fwid

NVIDIA_DEVICE_ROOT_SHA256 = "102bf659d5419614c9d8e6aecebc80454eb26b1df6a769ac720b9a690b167b48"
"""SHA-256 of the DER of "NVIDIA Device Identity CA" (serial 2D3670B1CA100411C1FEC0E82A065B54)."""

MAX_CHAIN = 16 * 1024
"""The longest PEM chain accepted, in bytes (real ones take about 5 kB)."""

CHAIN_LENGTH = 5

_PEM = re.compile(
    rb"-----BEGIN CERTIFICATE-----\r?\n([A-Za-z0-9+/=\r\n]+)-----END CERTIFICATE-----(?:\r?\n)*"
)
_UNDERSTOOD = frozenset({ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE})


@dataclass(frozen=True, slots=True)
class DeviceChain:
    """A parsed chain, leaf first. Nothing in it is trusted before `verify_chain`."""

    certificates: tuple[x509.Certificate, ...]

    @property
    def ueid(self) -> str:
        """The device's unique id as NVIDIA gives it: the leaf's serial number in decimal."""
        return str(self.certificates[0].serial_number)

    @property
    def identity_sha256(self) -> bytes:
        """SHA-256 of the device identity key (SubjectPublicKeyInfo, DER).

        Stays the same when a device gets other firmware, and so another attestation key and UEID.
        """
        key = self.certificates[1].public_key()
        return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


@dataclass(frozen=True, slots=True)
class VerifiedChain:
    """What a chain that ends at a pinned root says about the device.

    ``root_sha256`` is lower-case hexadecimal, ``hardware_model`` the common name of the device identity
    certificate ("GH100 A01 GSP BROM"), ``fwid`` 48 bytes or None.
    """

    chain: DeviceChain
    attestation_key: ec.EllipticCurvePublicKey
    root_sha256: str
    ueid: str
    identity_sha256: bytes
    hardware_model: str
    fwid: bytes | None


def parse_chain(pem: bytes) -> DeviceChain:
    """Parse a PEM chain: exactly five certificates and nothing else.

    Raises `DeviceChainError`: ``chain_malformed``, ``chain_length``, ``chain_algorithm``.
    """
    if len(pem) > MAX_CHAIN:
        raise _error("chain_malformed", "chain too long", f"at most {MAX_CHAIN} bytes", f"{len(pem)} bytes")
    encodings = _pem_blocks(pem)
    if len(encodings) != CHAIN_LENGTH:
        raise _error("chain_length", "number of certificates", CHAIN_LENGTH, len(encodings))
    certificates = tuple(_certificate(der, position) for position, der in enumerate(encodings))
    return DeviceChain(certificates)


def verify_chain(chain: DeviceChain, *, roots: Collection[str], at: datetime) -> VerifiedChain:
    """Verify a chain to one of ``roots`` (SHA-256 of a DER certificate, lower-case hexadecimal).

    Raises `DeviceChainError`: ``chain_order``, ``chain_untrusted``, ``chain_expired``, ``chain_not_ca``,
    ``chain_algorithm``, ``chain_malformed``; `FirmwareError` for a malformed firmware id.
    """
    if at.tzinfo is None:
        raise _error("chain_malformed", "the time of appraisal carries no time zone")
    certificates = chain.certificates
    for position, (subject, issuer) in enumerate(pairwise(certificates)):
        if subject.issuer != issuer.subject:
            raise _error("chain_order", f"certificate {position} was not issued by its successor")
    root_sha256 = hashlib.sha256(certificates[-1].public_bytes(Encoding.DER)).hexdigest()
    if root_sha256 not in roots:
        raise _error("chain_untrusted", "root is not pinned", sorted(roots), root_sha256)
    for position, (subject, issuer) in enumerate(pairwise(certificates)):
        _check_issued(subject, issuer, position)
    for position, certificate in enumerate(certificates):
        _check_validity(certificate, position, at)
        _check_extensions(certificate, position)
    return VerifiedChain(
        chain=chain,
        attestation_key=_p384(certificates[0], 0),
        root_sha256=root_sha256,
        ueid=chain.ueid,
        identity_sha256=chain.identity_sha256,
        hardware_model=_common_name(certificates[1]),
        fwid=certificate_fwid(certificates[0].extensions),
    )


def _pem_blocks(pem: bytes) -> list[bytes]:
    encodings: list[bytes] = []
    offset = 0
    while offset < len(pem):
        block = _PEM.match(pem, offset)
        if block is None:
            raise _error("chain_malformed", "not a sequence of PEM certificates")
        body = b"".join(block[1].split())
        try:
            der = base64.b64decode(body, validate=True)
        except binascii.Error as error:
            raise _error("chain_malformed", "PEM body is not base64") from error
        if base64.b64encode(der) != body:
            raise _error("chain_malformed", "PEM body is not canonical base64")
        encodings.append(der)
        offset = block.end()
    return encodings


def _certificate(der: bytes, position: int) -> x509.Certificate:
    try:
        certificate = x509.load_der_x509_certificate(der)
        # Parts are decoded when first read; reading them here keeps every failure in this place.
        certificate.extensions  # noqa: B018
        certificate.subject  # noqa: B018
        certificate.issuer  # noqa: B018
        certificate.not_valid_before_utc  # noqa: B018
        certificate.not_valid_after_utc  # noqa: B018
        if certificate.serial_number <= 0 or certificate.version is not x509.Version.v3:
            raise ValueError("serial number or version")
    except Exception as error:  # what the decoder may raise for hostile input is an open set
        raise _error("chain_malformed", f"certificate {position} cannot be decoded") from error
    _p384(certificate, position)
    if certificate.signature_algorithm_oid != SignatureAlgorithmOID.ECDSA_WITH_SHA384:
        raise _error(
            "chain_algorithm",
            f"signature of certificate {position}",
            SignatureAlgorithmOID.ECDSA_WITH_SHA384.dotted_string,
            certificate.signature_algorithm_oid.dotted_string,
        )
    return certificate


def _p384(certificate: x509.Certificate, position: int) -> ec.EllipticCurvePublicKey:
    try:
        key = certificate.public_key()
    except Exception as error:  # as above: an open set
        raise _error("chain_algorithm", f"key of certificate {position} cannot be decoded") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise _error("chain_algorithm", f"key of certificate {position}", "P-384")
    return key


def _check_issued(subject: x509.Certificate, issuer: x509.Certificate, position: int) -> None:
    try:
        subject.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError) as error:
        raise _error(
            "chain_untrusted", f"certificate {position} does not carry its successor's signature"
        ) from error


def _check_validity(certificate: x509.Certificate, position: int, at: datetime) -> None:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not begin <= at <= end:
        raise _error(
            "chain_expired",
            f"certificate {position}",
            f"valid {begin.isoformat()} to {end.isoformat()}",
            at.isoformat(),
        )


def _check_extensions(certificate: x509.Certificate, position: int) -> None:
    issues = position > 0
    basic: x509.BasicConstraints | None = None
    usage: x509.KeyUsage | None = None
    for extension in certificate.extensions:
        if extension.critical and extension.oid not in _UNDERSTOOD:
            raise _error(
                "chain_malformed",
                f"certificate {position} has a critical extension that is not understood",
                found=extension.oid.dotted_string,
            )
        if isinstance(extension.value, x509.BasicConstraints):
            basic = extension.value
        elif isinstance(extension.value, x509.KeyUsage):
            usage = extension.value
    if usage is None:
        raise _error("chain_not_ca", f"certificate {position} names no key usage")
    if not issues:
        if (basic is not None and basic.ca) or usage.key_cert_sign or not usage.digital_signature:
            raise _error("chain_not_ca", "the attestation certificate must sign reports and nothing else")
        return
    if basic is None or not basic.ca or not usage.key_cert_sign:
        raise _error("chain_not_ca", f"certificate {position} may not issue certificates")
    if basic.path_length is not None and basic.path_length < position - 1:
        raise _error(
            "chain_not_ca", f"path length of certificate {position}", position - 1, basic.path_length
        )


def _common_name(certificate: x509.Certificate) -> str:
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(names) != 1 or not isinstance(names[0].value, str):
        raise _error("chain_malformed", "the device identity has no single common name")
    return names[0].value


def _error(code: str, detail: str, expected: object = None, found: object = None) -> DeviceChainError:
    return DeviceChainError(code=code, stage="gpu.chain", detail=detail, expected=expected, found=found)
