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

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestation import der
from attestation.certificate import OID_BASIC_CONSTRAINTS, OID_KEY_USAGE, Certificate
from attestation.errors import CertificateMalformed
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
_UNDERSTOOD = frozenset({OID_BASIC_CONSTRAINTS, OID_KEY_USAGE})
_ECDSA_WITH_SHA384 = bytes.fromhex("300a06082a8648ce3d040303")
_DIGITAL_SIGNATURE, _KEY_CERT_SIGN = 0x80, 0x04  # bits 0 and 5 of the first byte of keyUsage


@dataclass(frozen=True, slots=True)
class DeviceChain:
    """A parsed chain, leaf first. Nothing in it is trusted before `verify_chain`."""

    certificates: tuple[Certificate, ...]

    @property
    def ueid(self) -> str:
        """The device's unique id as NVIDIA gives it: the leaf's serial number in decimal."""
        return str(self.certificates[0].serial)

    @property
    def identity_sha256(self) -> bytes:
        """SHA-256 of the device identity key (SubjectPublicKeyInfo, DER).

        Stays the same when a device gets other firmware, and so another attestation key and UEID.
        """
        key = _p384(self.certificates[1], 1)
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
    certificates = tuple(_certificate(encoding, position) for position, encoding in enumerate(encodings))
    return DeviceChain(certificates)


def verify_chain(chain: DeviceChain, *, roots: Collection[str], at: datetime) -> VerifiedChain:
    """Verify a chain to one of ``roots`` (SHA-256 of a DER certificate, lower-case hexadecimal).

    Raises `DeviceChainError`: ``chain_order``, ``chain_untrusted``, ``chain_expired``, ``chain_not_ca``,
    ``chain_algorithm``, ``chain_malformed``, ``time_invalid`` (no time zone); `FirmwareError` for a malformed
    firmware id.
    """
    if at.tzinfo is None:
        raise _error("time_invalid", "the time of appraisal carries no time zone")
    certificates = chain.certificates
    for position, (subject, issuer) in enumerate(pairwise(certificates)):
        if subject.issuer != issuer.subject:
            raise _error("chain_order", f"certificate {position} was not issued by its successor")
    root_sha256 = certificates[-1].sha256.hex()
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
        hardware_model=certificates[1].common_name,
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
            encoding = base64.b64decode(body, validate=True)
        except binascii.Error as error:
            raise _error("chain_malformed", "PEM body is not base64") from error
        if base64.b64encode(encoding) != body:
            raise _error("chain_malformed", "PEM body is not canonical base64")
        encodings.append(encoding)
        offset = block.end()
    return encodings


def _certificate(encoding: bytes, position: int) -> Certificate:
    try:
        certificate = Certificate.parse(encoding)
    except CertificateMalformed as error:
        raise _error("chain_malformed", f"certificate {position}: {error.detail}") from error
    if certificate.serial <= 0:
        raise _error("chain_malformed", f"serial number of certificate {position}", "above zero")
    _p384(certificate, position)
    if certificate.algorithm != _ECDSA_WITH_SHA384:
        raise _error("chain_algorithm", f"signature of certificate {position}", "ECDSA with SHA-384")
    return certificate


def _p384(certificate: Certificate, position: int) -> ec.EllipticCurvePublicKey:
    key = certificate.public_key
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise _error("chain_algorithm", f"key of certificate {position}", "P-384")
    return key


def _check_issued(subject: Certificate, issuer: Certificate, position: int) -> None:
    key = _p384(issuer, position + 1)
    try:
        key.verify(subject.signature, subject.signed, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature as error:
        raise _error(
            "chain_untrusted", f"certificate {position} does not carry its successor's signature"
        ) from error


def _check_validity(certificate: Certificate, position: int, at: datetime) -> None:
    begin, end = certificate.not_before, certificate.not_after
    if not begin <= at <= end:
        raise _error(
            "chain_expired",
            f"certificate {position}",
            f"valid {begin.isoformat()} to {end.isoformat()}",
            at.isoformat(),
        )


def _check_extensions(certificate: Certificate, position: int) -> None:
    for extension in certificate.extensions:
        if extension.critical and extension.oid not in _UNDERSTOOD:
            raise _error(
                "chain_malformed",
                f"certificate {position} has a critical extension that is not understood",
                found=extension.oid,
            )
    values = {extension.oid: extension.value for extension in certificate.extensions}
    try:
        usage = _key_usage(values.get(OID_KEY_USAGE))
        ca, path_length = _basic_constraints(values.get(OID_BASIC_CONSTRAINTS))
    except der.DerError as error:
        raise _error("chain_malformed", f"certificate {position}: {error.detail}") from error
    if position == 0:
        if ca or usage & _KEY_CERT_SIGN or not usage & _DIGITAL_SIGNATURE:
            raise _error("chain_not_ca", "the attestation certificate must sign reports and nothing else")
    elif not (ca and usage & _KEY_CERT_SIGN):
        raise _error("chain_not_ca", f"certificate {position} may not issue certificates")
    elif path_length is not None and path_length < position - 1:
        raise _error("chain_not_ca", f"path length of certificate {position}", position - 1, path_length)


def _key_usage(value: bytes | None) -> int:
    """The first byte of keyUsage (RFC 5280 section 4.2.1.3); 0 where there is none, which allows nothing."""
    if value is None:
        return 0
    reader = der.Reader(value)
    bits = reader.element(der.BIT_STRING).content
    reader.end()
    if not bits or bits[0] > 7:
        raise der.DerError("keyUsage")
    return bits[1] if len(bits) > 1 else 0


def _basic_constraints(value: bytes | None) -> tuple[bool, int | None]:
    """Whether the subject is a CA, and its path length (RFC 5280 section 4.2.1.9)."""
    if value is None:
        return False, None
    reader = der.Reader(value)
    fields = reader.inside()
    reader.end()
    ca = fields.next_is(der.BOOLEAN) and fields.boolean()
    path_length = fields.integer() if fields.next_is(der.INTEGER) else None
    fields.end()
    return ca, path_length


def _error(code: str, detail: str, expected: object = None, found: object = None) -> DeviceChainError:
    return DeviceChainError(code=code, stage="gpu.chain", detail=detail, expected=expected, found=found)
