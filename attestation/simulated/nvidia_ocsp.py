"""OCSP responses of the simulated NVIDIA-format authorities, as NVIDIA's responder gives them.

A responder is certified for each answer by the authority that issued the certificate in question. Answers
that no verifier should take can be asked for too; what becomes of them is the verifier's business.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from attestation.simulated.nvidia_certificates import Authority, name_of, new_key, usage

LIFETIME = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Answer:
    """What to answer: status, and how the responder proves itself.

    ``reason`` revokes the certificate. ``age`` is how long ago the answer was made; ``lifetime`` is None for
    one without a next update. ``delegated``: by a certified responder, else by the issuer itself; ``purpose``:
    whether that responder is certified for OCSP. ``stands_in``: another certificate to answer about.
    """

    reason: x509.ReasonFlags | None = None
    age: timedelta = timedelta(minutes=1)
    lifetime: timedelta | None = LIFETIME
    delegated: bool = True
    purpose: bool = True
    signer: Authority | None = None
    stands_in: x509.Certificate | None = None
    nonce: bytes | None = None


def response_name(certificate: x509.Certificate) -> str:
    """The name of the response about ``certificate`` among a bundle's GPU collateral."""
    return f"ocsp/{hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()}"


def answer(subject: x509.Certificate, issuer: Authority, at: datetime, how: Answer) -> bytes:
    """A response (DER) about ``subject``, which ``issuer`` issued, made at ``at`` unless ``how`` says else."""
    made = (at - how.age).replace(microsecond=0)
    signer = how.signer or (_responder(issuer, how.purpose) if how.delegated else issuer)
    builder = ocsp.OCSPResponseBuilder().add_response(
        cert=how.stands_in or subject,
        issuer=issuer.certificate,
        algorithm=hashes.SHA384(),
        cert_status=ocsp.OCSPCertStatus.REVOKED if how.reason else ocsp.OCSPCertStatus.GOOD,
        this_update=made,
        next_update=None if how.lifetime is None else made + how.lifetime,
        revocation_time=made if how.reason else None,
        revocation_reason=how.reason,
    )
    builder = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, signer.certificate)
    if signer is not issuer:
        builder = builder.certificates([signer.certificate])
    if how.nonce is not None:
        builder = builder.add_extension(x509.OCSPNonce(how.nonce), critical=False)
    return builder.sign(signer.key, hashes.SHA384()).public_bytes(Encoding.DER)


def _responder(issuer: Authority, purpose: bool) -> Authority:
    key = new_key()
    wanted = ExtendedKeyUsageOID.OCSP_SIGNING if purpose else ExtendedKeyUsageOID.SERVER_AUTH
    certificate = issuer.issue(
        key.public_key(),
        name_of("Simulated OCSP responder"),
        (usage(digital_signature=True), True),
        (x509.ExtendedKeyUsage([wanted]), False),
    )
    return Authority(key, certificate)
