"""Certificate paths of NVIDIA's kind: leaf first, every key P-384, every signature ECDSA with SHA-384.

Validation follows RFC 5280 section 6.1 for paths that are given whole. Each check takes a ``fault`` that
makes the caller's error from a code without prefix (``untrusted``, ``expired``, ``not_ca``, ``algorithm``,
``malformed``), so that a device's chain and a reference manifest's chain name their own failures; ``once`` is
the memory of the appraisal.
"""

from collections.abc import Callable, Iterable
from datetime import datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from attestation import der
from attestation.certificate import OID_BASIC_CONSTRAINTS, OID_KEY_USAGE, Certificate
from attestation.errors import AttestationError, CertificateMalformed
from attestation.nvidia.once import Once

Fault = Callable[[str, str, object, object], AttestationError]
"""Makes an error from a code, a detail, what was expected and what was found."""

ECDSA_WITH_SHA384 = bytes.fromhex("300a06082a8648ce3d040303")
"""The AlgorithmIdentifier of every signature, in DER."""

DIGITAL_SIGNATURE, KEY_CERT_SIGN = 0x80, 0x04  # bits 0 and 5 of the first byte of keyUsage
_UNDERSTOOD = frozenset({OID_BASIC_CONSTRAINTS, OID_KEY_USAGE})


def parse_certificate(encoding: bytes, position: int, fault: Fault, once: Once) -> Certificate:
    """Read one certificate of the path and require its serial number, key and algorithm to be NVIDIA's kind."""
    try:
        certificate = once.certificate(encoding)
    except CertificateMalformed as error:
        raise fault("malformed", f"certificate {position}: {error.detail}", None, None) from error
    if certificate.serial <= 0:
        raise fault("malformed", f"serial number of certificate {position}", "above zero", None)
    p384(certificate, position, fault)
    if certificate.algorithm != ECDSA_WITH_SHA384:
        raise fault("algorithm", f"signature of certificate {position}", "ECDSA with SHA-384", None)
    return certificate


def p384(certificate: Certificate, position: int, fault: Fault) -> ec.EllipticCurvePublicKey:
    """The certificate's key, which must be on P-384."""
    key = certificate.public_key
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise fault("algorithm", f"key of certificate {position}", "P-384", None)
    return key


def check_issued(subject: Certificate, issuer: Certificate, position: int, fault: Fault, once: Once) -> None:
    """``subject``, at ``position`` in the path, carries the signature of ``issuer``."""
    key = p384(issuer, position + 1, fault)
    try:
        once.verify(issuer, key, subject.signature, subject.signed, hashes.SHA384())
    except InvalidSignature as error:
        detail = f"certificate {position} does not carry its successor's signature"
        raise fault("untrusted", detail, None, None) from error


def check_validity(certificate: Certificate, position: int, at: datetime, fault: Fault) -> None:
    """The certificate is in force at ``at``."""
    begin, end = certificate.not_before, certificate.not_after
    if not begin <= at <= end:
        raise fault(
            "expired",
            f"certificate {position} ({certificate.common_name})",
            f"valid {begin.isoformat()} to {end.isoformat()}",
            at.isoformat(),
        )


def check_extensions(certificate: Certificate, position: int, fault: Fault) -> None:
    """Position 0 signs evidence and issues nothing; those above may issue, as deep as they do."""
    for extension in certificate.extensions:
        if extension.critical and extension.oid not in _UNDERSTOOD:
            detail = f"certificate {position} has a critical extension that is not understood"
            raise fault("malformed", detail, None, extension.oid)
    values = {extension.oid: extension.value for extension in certificate.extensions}
    try:
        usage = key_usage(values.get(OID_KEY_USAGE))
        ca, path_length = _basic_constraints(values.get(OID_BASIC_CONSTRAINTS))
    except der.DerError as error:
        raise fault("malformed", f"certificate {position}: {error.detail}", None, None) from error
    if position == 0:
        if ca or usage & KEY_CERT_SIGN or not usage & DIGITAL_SIGNATURE:
            raise fault("not_ca", "the first certificate must sign evidence and nothing else", None, None)
    elif not (ca and usage & KEY_CERT_SIGN):
        raise fault("not_ca", f"certificate {position} may not issue certificates", None, None)
    elif path_length is not None and path_length < position - 1:
        raise fault("not_ca", f"path length of certificate {position}", position - 1, path_length)


def key_usage(value: bytes | None) -> int:
    """The first byte of keyUsage (RFC 5280 section 4.2.1.3); 0 where there is none, which allows nothing.

    Raises `der.DerError`.
    """
    if value is None:
        return 0
    reader = der.Reader(value)
    bits = reader.element(der.BIT_STRING).content
    reader.end()
    if not bits or bits[0] > 7:
        raise der.DerError("keyUsage")
    return bits[1] if len(bits) > 1 else 0


def earliest_end(certificates: Iterable[Certificate]) -> datetime:
    """When the first certificate of a path runs out."""
    return min(certificate.not_after for certificate in certificates)


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
