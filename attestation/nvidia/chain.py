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

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestation.certificate import Certificate
from attestation.nvidia.errors import DeviceChainError
from attestation.nvidia.fwid import certificate_fwid
from attestation.nvidia.once import Once
from attestation.nvidia.path import check_extensions, check_issued, check_validity, p384, parse_certificate

NVIDIA_DEVICE_ROOT_SHA256 = "102bf659d5419614c9d8e6aecebc80454eb26b1df6a769ac720b9a690b167b48"
"""SHA-256 of the DER of "NVIDIA Device Identity CA" (serial 2D3670B1CA100411C1FEC0E82A065B54)."""

MAX_CHAIN = 16 * 1024
"""The longest PEM chain accepted, in bytes (real ones take about 5 kB)."""

CHAIN_LENGTH = 5

_PEM = re.compile(
    rb"-----BEGIN CERTIFICATE-----\r?\n([A-Za-z0-9+/=\r\n]+)-----END CERTIFICATE-----(?:\r?\n)*"
)


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
        key = p384(self.certificates[1], 1, _fault)
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


def parse_chain(pem: bytes, once: Once | None = None) -> DeviceChain:
    """Parse a PEM chain: exactly five certificates and nothing else. ``once`` is the memory of an appraisal.

    Raises `DeviceChainError`: ``chain_malformed``, ``chain_length``, ``chain_algorithm``.
    """
    if len(pem) > MAX_CHAIN:
        raise _error("chain_malformed", "chain too long", f"at most {MAX_CHAIN} bytes", f"{len(pem)} bytes")
    encodings = _pem_blocks(pem)
    if len(encodings) != CHAIN_LENGTH:
        raise _error("chain_length", "number of certificates", CHAIN_LENGTH, len(encodings))
    once = once or Once()
    return DeviceChain(
        tuple(
            parse_certificate(encoding, position, _fault, once) for position, encoding in enumerate(encodings)
        )
    )


def verify_chain(
    chain: DeviceChain, *, roots: Collection[str], at: datetime, once: Once | None = None
) -> VerifiedChain:
    """Verify a chain to one of ``roots`` (SHA-256 of a DER certificate, lower-case hexadecimal).

    ``once`` is the memory of an appraisal.

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
    once = once or Once()
    for position, (subject, issuer) in enumerate(pairwise(certificates)):
        check_issued(subject, issuer, position, _fault, once)
    for position, certificate in enumerate(certificates):
        check_validity(certificate, position, at, _fault)
        check_extensions(certificate, position, _fault)
    return VerifiedChain(
        chain=chain,
        attestation_key=p384(certificates[0], 0, _fault),
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


def _fault(code: str, detail: str, expected: object, found: object) -> DeviceChainError:
    return _error(f"chain_{code}", detail, expected, found)


def _error(code: str, detail: str, expected: object = None, found: object = None) -> DeviceChainError:
    return DeviceChainError(code=code, stage="gpu.chain", detail=detail, expected=expected, found=found)
