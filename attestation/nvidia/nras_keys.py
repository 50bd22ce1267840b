"""Keys of NVIDIA's attestation service: a JSON Web Key set (RFC 7517) in which nothing is trusted by itself.

Every key comes with ``x5c``: a certificate that lives for hours, and the intermediate authority above it.
The service's root is not published, so the authority is pinned by its key, and only what it issued counts.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestation import der
from attestation.certificate import OID_BASIC_CONSTRAINTS, OID_KEY_USAGE, Certificate
from attestation.errors import CertificateMalformed, EvidenceMalformed
from attestation.nvidia.errors import TokenKeyError
from attestation.strict_json import base64_bytes, load_object

NRAS_AUTHORITIES_SHA256: Final = frozenset(
    {
        "fd32837f954e2c45db073105166dfe6985ae0480bb113fba63b091a75affe896",
        "ba14d00377699189b6762c22c744a9dbdc62aa9396097ada7150426c6ff39afc",
    }
)
"""SHA-256 of the SubjectPublicKeyInfo of "NVIDIA Attestation Service GPU Intermediate" 004 and 005."""

MAX_KEY_SET: Final = 1024 * 1024
"""Bytes of a key set at most (a real one of 32 keys has 81 kB)."""

_MAX_KEYS: Final = 256
_MAX_CHAIN: Final = 4
_MAX_CERTIFICATE: Final = 8 * 1024
_COORDINATE: Final = re.compile(r"[A-Za-z0-9_-]{64}")
_UNDERSTOOD: Final = frozenset({OID_BASIC_CONSTRAINTS, OID_KEY_USAGE})
_DIGITAL_SIGNATURE: Final = 0x80
_RSA_SHA256: Final = bytes.fromhex("300d06092a864886f70d01010b0500")
_RSA_SHA384: Final = bytes.fromhex("300d06092a864886f70d01010c0500")
_ECDSA_SHA256: Final = bytes.fromhex("300a06082a8648ce3d040302")
_ECDSA_SHA384: Final = bytes.fromhex("300a06082a8648ce3d040303")


@dataclass(frozen=True, slots=True)
class ServiceKey:
    """A key that a pinned authority issued; ``certificates`` are its own and the authority's."""

    kid: str
    public_key: ec.EllipticCurvePublicKey
    certificates: tuple[Certificate, Certificate]

    def require_in_force(self, at: datetime) -> None:
        """The key was in force at ``at``, when a token says it was made. Raises `TokenKeyError` (``key_expired``)."""
        for certificate in self.certificates:
            if not certificate.not_before <= at <= certificate.not_after:
                raise _error(
                    "key_expired",
                    certificate.common_name,
                    f"{certificate.not_before.isoformat()} to {certificate.not_after.isoformat()}",
                    at.isoformat(),
                )


class ServiceKeys:
    """A key set, and the authorities (SHA-256 of their SubjectPublicKeyInfo, hexadecimal) that it must rest on."""

    def __init__(self, entries: Sequence[Mapping[str, Any]], authorities: Collection[str]) -> None:
        self._entries = entries
        self._authorities = frozenset(authorities)
        self._found: dict[str, ServiceKey] = {}

    @classmethod
    def parse(cls, data: bytes, authorities: Collection[str]) -> "ServiceKeys":
        """Read a key set as the service gives it. Raises `TokenKeyError` (``key_set_malformed``)."""
        try:
            document = load_object(data, limit=MAX_KEY_SET, code="key_set_malformed")
        except EvidenceMalformed as error:
            raise _error("key_set_malformed", error.detail) from None
        entries = document.get("keys")
        if not isinstance(entries, list) or len(entries) > _MAX_KEYS:
            raise _error("key_set_malformed", f"no list of at most {_MAX_KEYS} keys")
        if not all(isinstance(entry, dict) for entry in entries):
            raise _error("key_set_malformed", "a key is not an object")
        return cls(entries, authorities)

    def find(self, kid: object) -> ServiceKey:
        """The one key of this id, once it is proved to be the service's.

        Raises `TokenKeyError`: ``key_unknown``, ``key_duplicate``, ``key_malformed``, ``key_untrusted``.
        """
        if not isinstance(kid, str) or not kid:
            raise _error("key_unknown", "the token names no key")
        if kid not in self._found:
            entries = [entry for entry in self._entries if entry.get("kid") == kid]
            if not entries:
                raise _error("key_unknown", "no such key in the key set", found=kid)
            if len(entries) > 1:
                raise _error("key_duplicate", "several keys have this id", found=kid)
            self._found[kid] = _read_key(kid, entries[0], self._authorities)
        return self._found[kid]


def _read_key(kid: str, entry: Mapping[str, Any], authorities: Collection[str]) -> ServiceKey:
    if entry.get("kty") != "EC" or entry.get("crv") != "P-384":
        raise _error("key_malformed", "not a key on P-384")
    if entry.get("alg", "ES384") != "ES384" or entry.get("use", "sig") != "sig":
        raise _error("key_malformed", "not a key for ES384 signatures")
    chain = entry.get("x5c")
    if not isinstance(chain, list) or not 2 <= len(chain) <= _MAX_CHAIN:
        raise _error("key_untrusted", "the key comes without its certificates")
    leaf, authority = (_certificate(item) for item in chain[:2])
    pinned = _spki_sha256(authority)
    if pinned not in authorities:
        raise _error("key_untrusted", "the authority is not pinned", sorted(authorities), pinned)
    _check_issued(leaf, authority)
    _check_extensions(leaf)
    key = leaf.public_key
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise _error("key_malformed", "the certificate's key is not on P-384")
    numbers = key.public_numbers()
    if (_coordinate(entry.get("x")), _coordinate(entry.get("y"))) != (numbers.x, numbers.y):
        raise _error("key_untrusted", "the key is not that of its certificate")
    return ServiceKey(kid, key, (leaf, authority))


def _certificate(item: object) -> Certificate:
    try:
        encoding = base64_bytes(item, limit=_MAX_CERTIFICATE, code="key_malformed", where="x5c")
        return Certificate.parse(encoding)
    except (EvidenceMalformed, CertificateMalformed) as error:
        raise _error("key_malformed", error.detail) from None


def _spki_sha256(certificate: Certificate) -> str:
    if certificate.public_key is None:
        raise _error("key_untrusted", "the authority's key is of an unknown kind")
    spki = certificate.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).hexdigest()


def _check_issued(leaf: Certificate, authority: Certificate) -> None:
    if leaf.issuer != authority.subject:
        raise _error("key_untrusted", "the key's certificate names another issuer")
    key, algorithm = authority.public_key, leaf.algorithm
    try:
        if isinstance(key, rsa.RSAPublicKey) and algorithm in (_RSA_SHA256, _RSA_SHA384):
            hashed = hashes.SHA256() if algorithm == _RSA_SHA256 else hashes.SHA384()
            key.verify(leaf.signature, leaf.signed, padding.PKCS1v15(), hashed)
        elif isinstance(key, ec.EllipticCurvePublicKey) and algorithm in (_ECDSA_SHA256, _ECDSA_SHA384):
            hashed = hashes.SHA256() if algorithm == _ECDSA_SHA256 else hashes.SHA384()
            key.verify(leaf.signature, leaf.signed, ec.ECDSA(hashed))
        else:
            raise _error("key_untrusted", "signature algorithm of the key's certificate")
    except InvalidSignature:
        raise _error("key_untrusted", "the pinned authority did not sign the key's certificate") from None


def _check_extensions(leaf: Certificate) -> None:
    values = {extension.oid: extension.value for extension in leaf.extensions}
    if any(extension.critical and extension.oid not in _UNDERSTOOD for extension in leaf.extensions):
        raise _error("key_malformed", "a critical extension is not understood")
    if leaf.is_ca:
        raise _error("key_untrusted", "the key is an authority's own")
    if OID_KEY_USAGE in values:
        try:
            bits = der.Reader(values[OID_KEY_USAGE]).element(der.BIT_STRING).content
        except der.DerError as error:
            raise _error("key_malformed", error.detail) from None
        if len(bits) < 2 or not bits[1] & _DIGITAL_SIGNATURE:
            raise _error("key_untrusted", "the key may not sign")


def _coordinate(value: object) -> int:
    if not isinstance(value, str) or not _COORDINATE.fullmatch(value):
        raise _error("key_malformed", "coordinates", "48 bytes in base64url")
    try:
        return int.from_bytes(base64.urlsafe_b64decode(value), "big")
    except binascii.Error:
        raise _error("key_malformed", "coordinates", "48 bytes in base64url") from None


def _error(code: str, detail: str, expected: object = None, found: object = None) -> TokenKeyError:
    return TokenKeyError(
        code=code,
        stage="gpu.nras",
        detail=detail,
        expected=expected,
        found=found,
        retryable=code == "key_unknown",
    )
