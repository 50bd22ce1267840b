"""The attestation key's certificate: from a pinned CA, through its intermediates, to the key (RFC 5280 §6.1).

The chain travels as DER certificates one after the other, the key's own first and the pinned root last.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from .. import der
from ..certificate import (
    OID_BASIC_CONSTRAINTS,
    OID_KEY_USAGE,
    Certificate,
    PublicKey,
    RevocationList,
    key_name,
)
from ..errors import AttestationError, ChainUntrusted, RevocationFailed

MAX_CHAIN: Final = 64 * 1024
MAX_CERTIFICATES: Final = 5

_HASHES: Final = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}
_RSA_OIDS: Final = {
    "1.2.840.113549.1.1.11": "sha256",
    "1.2.840.113549.1.1.12": "sha384",
    "1.2.840.113549.1.1.13": "sha512",
}
_ECDSA_OIDS: Final = {
    "1.2.840.10045.4.3.2": "sha256",
    "1.2.840.10045.4.3.3": "sha384",
    "1.2.840.10045.4.3.4": "sha512",
}
_SUBJECT_ALTERNATIVE_NAME: Final = "2.5.29.17"
_EXTENDED_KEY_USAGE: Final = "2.5.29.37"
_UNDERSTOOD: Final = frozenset(
    {OID_BASIC_CONSTRAINTS, OID_KEY_USAGE, _SUBJECT_ALTERNATIVE_NAME, _EXTENDED_KEY_USAGE}
)
_MIN_RSA_BITS: Final = 2048
_CURVES: Final = ("secp256r1", "secp384r1", "secp521r1")
_DIGITAL_SIGNATURE: Final = 0x80
_CERT_SIGN: Final = 0x04
_CRL_SIGN: Final = 0x02


@dataclass(frozen=True, slots=True)
class AkChain:
    """An AK's certificate and its issuers, the root last."""

    certificates: tuple[Certificate, ...]

    @property
    def leaf(self) -> Certificate:
        """The AK's own certificate."""
        return self.certificates[0]

    @property
    def root(self) -> Certificate:
        """The certificate that must be pinned."""
        return self.certificates[-1]

    @classmethod
    def parse(cls, data: bytes) -> "AkChain":
        """Read certificates one after the other.

        Raises CertificateMalformed (``cert_malformed``) or ChainUntrusted (``chain_malformed``).
        """
        if len(data) > MAX_CHAIN:
            raise ChainUntrusted(code="chain_malformed", expected=f"at most {MAX_CHAIN} bytes")
        reader = der.Reader(data)
        found: list[Certificate] = []
        while reader.more:
            if len(found) == MAX_CERTIFICATES:
                raise ChainUntrusted(code="chain_malformed", expected=f"at most {MAX_CERTIFICATES}")
            found.append(Certificate.parse(reader.element(der.SEQUENCE).raw))
        if len(found) < 2:
            raise ChainUntrusted(code="chain_malformed", expected="the AK's certificate and its CA's")
        return cls(tuple(found))

    def verify(self, roots: Collection[bytes], at: datetime) -> None:
        """Check the chain up to a root whose SHA-256 is in ``roots``, at the time ``at`` (aware).

        Raises ChainUntrusted: ``chain_untrusted``, ``chain_wrong_role``, ``cert_extension``,
        ``cert_signature_algorithm``, ``cert_key_type``, ``cert_expired`` or ``cert_not_yet_valid``.
        """
        if self.root.sha256 not in roots:
            raise ChainUntrusted(
                code="chain_untrusted",
                expected=", ".join(sorted(root.hex() for root in roots)) or "a pinned root",
                found=self.root.sha256,
                detail="the root certificate is not pinned",
            )
        _require_role(self.leaf, ca=False, usage=_DIGITAL_SIGNATURE)
        for below, issuer in enumerate(self.certificates[1:]):
            _require_role(issuer, ca=True, usage=_CERT_SIGN)
            _require_path_length(issuer, below)
        for certificate in self.certificates:
            _require_understood(certificate)
            _require_in_force(certificate, at)
        # The root is trusted by its bytes: who signed it, or how, adds nothing (RFC 5280 §6.1.1 d).
        for subject, issuer in pairwise(self.certificates):
            if subject.issuer != issuer.subject:
                raise ChainUntrusted(code="chain_untrusted", detail="a certificate is of another issuer")
            _verify_signature(issuer.public_key, subject.algorithm, subject.signature, subject.signed)

    def verify_not_revoked(self, crl: bytes, at: datetime) -> RevocationList:
        """Check the revocation list of the AK certificate's issuer, and that it does not name the AK.

        Raises RevocationFailed (``crl_issuer_mismatch``, ``crl_signature``, ``crl_not_yet_valid``,
        ``crl_expired``, ``cert_revoked``) or CertificateMalformed (``crl_malformed``).
        """
        issuer = self.certificates[1]
        revocations = RevocationList.parse(crl)
        if revocations.issuer != issuer.subject:
            raise RevocationFailed(code="crl_issuer_mismatch", detail="not a list of the AK's issuer")
        try:
            _require_role(issuer, ca=True, usage=_CRL_SIGN)
            _verify_signature(
                issuer.public_key, revocations.algorithm, revocations.signature, revocations.signed
            )
        except AttestationError as error:
            raise RevocationFailed(code="crl_signature", detail=str(error)) from None
        if at < revocations.this_update:
            raise RevocationFailed(
                code="crl_not_yet_valid", expected=revocations.this_update, found=at, retryable=True
            )
        if at > revocations.next_update:
            raise RevocationFailed(
                code="crl_expired", expected=revocations.next_update, found=at, retryable=True
            )
        if self.leaf.serial in revocations.revoked:
            raise RevocationFailed(code="cert_revoked", found=self.leaf.serial)
        return revocations


def _require_role(certificate: Certificate, *, ca: bool, usage: int) -> None:
    if certificate.is_ca is not ca or not _key_usage(certificate) & usage:
        raise ChainUntrusted(
            code="chain_wrong_role",
            expected="a CA" if ca else "a signing key's certificate",
            found=certificate.common_name or "a certificate without a name",
        )


def _key_usage(certificate: Certificate) -> int:
    """The first byte of keyUsage, none where it is absent."""
    value = _extension(certificate, OID_KEY_USAGE)
    if value is None:
        return 0
    reader = der.Reader(value)
    content = reader.element(der.BIT_STRING).content
    reader.end()
    return content[1] if len(content) > 1 else 0


def _require_path_length(issuer: Certificate, below: int) -> None:
    fields = der.Reader(_extension(issuer, OID_BASIC_CONSTRAINTS) or b"").inside()
    if fields.next_is(der.BOOLEAN):
        fields.boolean()
    if fields.more and fields.integer() < below:
        raise ChainUntrusted(code="chain_untrusted", detail="more CAs below one than it permits")


def _require_understood(certificate: Certificate) -> None:
    for extension in certificate.extensions:
        if extension.critical and extension.oid not in _UNDERSTOOD:
            raise ChainUntrusted(
                code="cert_extension", found=extension.oid, detail="critical, not understood"
            )


def _require_in_force(certificate: Certificate, at: datetime) -> None:
    name = certificate.common_name
    if at < certificate.not_before:
        raise ChainUntrusted(
            code="cert_not_yet_valid", expected=certificate.not_before, found=at, detail=name, retryable=True
        )
    if at > certificate.not_after:
        raise ChainUntrusted(
            code="cert_expired", expected=certificate.not_after, found=at, detail=name, retryable=True
        )


def _extension(certificate: Certificate, oid: str) -> bytes | None:
    return next((e.value for e in certificate.extensions if e.oid == oid), None)


def _verify_signature(key: PublicKey | None, algorithm: bytes, signature: bytes, signed: bytes) -> None:
    fields = der.Reader(algorithm).inside()
    name = fields.oid()
    try:
        if isinstance(key, rsa.RSAPublicKey) and name in _RSA_OIDS:
            if key.key_size < _MIN_RSA_BITS:
                raise ChainUntrusted(code="cert_key_type", expected="RSA-2048 or more", found=key_name(key))
            key.verify(signature, signed, padding.PKCS1v15(), _HASHES[_RSA_OIDS[name]])
        elif isinstance(key, ec.EllipticCurvePublicKey) and name in _ECDSA_OIDS:
            if key.curve.name not in _CURVES:
                raise ChainUntrusted(code="cert_key_type", expected=", ".join(_CURVES), found=key_name(key))
            key.verify(signature, signed, ec.ECDSA(_HASHES[_ECDSA_OIDS[name]]))
        else:
            raise ChainUntrusted(
                code="cert_signature_algorithm",
                expected="RSASSA-PKCS1-v1_5 or ECDSA with SHA-2",
                found=f"{name} by {key_name(key)}",
            )
    except InvalidSignature:
        raise ChainUntrusted(code="chain_untrusted", detail="a certificate's signature is wrong") from None
