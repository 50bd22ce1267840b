"""OCSP responses (RFC 6960) about certificates of devices and manifest signers, judged offline.

A response counts where it names the certificate (by its issuer's name and key and its serial number), is in
its time, and is signed by the issuer itself or by a responder that the issuer certified for that purpose.
NVIDIA answers GOOD for device certificates that it does not know under an issuer that it knows, so a good
status says "not revoked" and never "issued".
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from attestation import der
from attestation.certificate import OID_BASIC_CONSTRAINTS, OID_KEY_USAGE, Certificate
from attestation.nvidia.ocsp_response import DIGESTS, Reason, Response, Single, ocsp_error, parse_response
from attestation.nvidia.once import Once
from attestation.nvidia.path import DIGITAL_SIGNATURE, key_usage

CLOCK_SKEW: Final = timedelta(minutes=5)

_OCSP_SIGNING: Final = "1.3.6.1.5.5.7.3.9"
_EXTENDED_KEY_USAGE: Final = "2.5.29.37"
_SIGNATURES: Final[dict[bytes, hashes.HashAlgorithm]] = {
    bytes.fromhex("300a06082a8648ce3d040302"): hashes.SHA256(),
    bytes.fromhex("300a06082a8648ce3d040303"): hashes.SHA384(),
}


@dataclass(frozen=True, slots=True)
class CertificateStatus:
    """What an authentic and fresh response says of one certificate; ``reason`` only where it is revoked."""

    revoked: bool
    reason: Reason | None
    this_update: datetime
    next_update: datetime | None


def collateral_name(certificate: Certificate) -> str:
    """The name under which a bundle's GPU collateral carries the response about ``certificate``."""
    return f"ocsp/{certificate.sha256.hex()}"


def check_status(
    data: bytes,
    *,
    subject: Certificate,
    issuer: Certificate,
    at: datetime,
    max_age: timedelta,
    nonce: bytes | None = None,
    once: Once | None = None,
) -> CertificateStatus:
    """What the response ``data`` says of ``subject``, which ``issuer`` issued (the caller has verified that).

    ``max_age`` bounds a response that states no next update; ``nonce`` is what was asked with, where the
    response was fetched for this appraisal; ``once`` is the memory of the appraisal. Raises
    `RevocationError`: ``revocation_missing`` (it cannot be read, or the responder refused), ``ocsp_certid``,
    ``ocsp_responder``, ``ocsp_signature``, ``ocsp_nonce``,
    ``revocation_stale``, ``revocation_unknown``. A revoked certificate is returned, not raised.
    """
    once = once or Once()
    response = parse_response(data, once)
    single = _about(response, subject, issuer)
    _check_signer(response, subject, issuer, at, once)
    if nonce is not None and response.nonce != nonce:
        raise ocsp_error("ocsp_nonce", "the response answers another request", nonce, response.nonce)
    _check_time(single, at, max_age)
    if single.status == "unknown":
        raise ocsp_error("revocation_unknown", f"the responder does not know {subject.common_name}")
    return CertificateStatus(
        single.status == "revoked", single.reason, single.this_update, single.next_update
    )


def _about(response: Response, subject: Certificate, issuer: Certificate) -> Single:
    found = [single for single in response.singles if _names(single, subject, issuer)]
    if len(found) != 1:
        raise ocsp_error("ocsp_certid", f"the response is not about {subject.common_name}")
    return found[0]


def _names(single: Single, subject: Certificate, issuer: Certificate) -> bool:
    digest = DIGESTS[single.digest]
    return (
        single.serial == subject.serial
        and single.name_hash == digest(issuer.subject).digest()
        and single.key_hash == digest(_key_bits(issuer)).digest()
    )


def _check_signer(
    response: Response, subject: Certificate, issuer: Certificate, at: datetime, once: Once
) -> None:
    if _is_responder(response, issuer):
        signer = issuer
    else:
        named = [item for item in response.certificates if _is_responder(response, item)]
        if len(named) != 1:
            raise ocsp_error("ocsp_responder", "the response does not carry its responder's certificate")
        signer = named[0]
        _check_delegation(signer, subject, issuer, at, once)
    algorithm = _SIGNATURES.get(response.algorithm)
    if algorithm is None or not _verifies(signer, response.signature, response.signed, algorithm, once):
        raise ocsp_error("ocsp_signature", "the responder did not sign this response")


def _check_delegation(
    signer: Certificate, subject: Certificate, issuer: Certificate, at: datetime, once: Once
) -> None:
    """RFC 6960 section 4.2.2.2: issued directly by the issuer, for signing OCSP responses."""
    algorithm = _SIGNATURES.get(signer.algorithm)
    if signer.issuer != issuer.subject or algorithm is None:
        raise ocsp_error("ocsp_responder", "the issuer did not certify this responder")
    if not _verifies(issuer, signer.signature, signer.signed, algorithm, once):
        raise ocsp_error("ocsp_responder", "the issuer did not certify this responder")
    values = {extension.oid: extension.value for extension in signer.extensions}
    known = {OID_BASIC_CONSTRAINTS, OID_KEY_USAGE, _EXTENDED_KEY_USAGE}
    if any(extension.critical and extension.oid not in known for extension in signer.extensions):
        raise ocsp_error("ocsp_responder", "the responder's certificate has an unknown critical extension")
    try:
        purposes = _purposes(values.get(_EXTENDED_KEY_USAGE))
        may_sign = OID_KEY_USAGE not in values or key_usage(values[OID_KEY_USAGE]) & DIGITAL_SIGNATURE
    except der.DerError as error:
        raise ocsp_error("revocation_missing", f"the response cannot be read: {error.detail}") from None
    if _OCSP_SIGNING not in purposes or not may_sign or signer.is_ca or signer.raw == subject.raw:
        raise ocsp_error("ocsp_responder", "the responder's certificate is not for signing OCSP responses")
    if not signer.not_before <= at <= signer.not_after:
        raise ocsp_error(
            "ocsp_responder",
            "the responder's certificate is out of its time",
            f"{signer.not_before.isoformat()} to {signer.not_after.isoformat()}",
            at.isoformat(),
        )


def _check_time(single: Single, at: datetime, max_age: timedelta) -> None:
    if single.this_update > at + CLOCK_SKEW:
        raise ocsp_error("revocation_stale", "the response is of the future", at, single.this_update)
    end = single.next_update if single.next_update is not None else single.this_update + max_age
    if at > end:
        raise ocsp_error("revocation_stale", "the response has run out", f"until {end.isoformat()}", at)


def _is_responder(response: Response, certificate: Certificate) -> bool:
    if response.responder_name is not None:
        return certificate.subject == response.responder_name
    # RFC 6960 section 4.2.1: the responder is named by the SHA-1 of its key.
    found = hashlib.sha1(_key_bits(certificate), usedforsecurity=False).digest()
    return found == response.responder_key_hash


def _key_bits(certificate: Certificate) -> bytes:
    """The key as the certificate writes it (the content of subjectPublicKey), which is what OCSP hashes."""
    fields = der.Reader(certificate.key_info).inside()
    fields.element(der.SEQUENCE)
    return fields.bits()


def _verifies(
    signer: Certificate, signature: bytes, signed: bytes, algorithm: hashes.HashAlgorithm, once: Once
) -> bool:
    key = signer.public_key
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.key_size < 256:
        return False
    try:
        once.verify(signer, key, signature, signed, algorithm)
    except InvalidSignature:
        return False
    return True


def _purposes(value: bytes | None) -> set[str]:
    if value is None:
        return set()
    reader = der.Reader(value)
    sequence = reader.inside()
    reader.end()
    purposes = set()
    while sequence.more:
        purposes.add(sequence.oid())
    return purposes
