"""The attestation key's public area (TPMT_PUBLIC, TPM 2.0 Library part 2 §12.2): its key and what it may do.

Only a *restricted* signing key proves anything by a quote: the TPM lets it sign nothing that pretends to have
been made inside the TPM. The area is not signed; what makes its word good is that a certificate or a pin
names the key, and that issuer or owner saw to its attributes.
"""

import hashlib
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from ..errors import PolicyRejected, SignatureInvalid
from .attest import SCHEMES, AkKey, Scheme, TpmSignature
from .structures import HASH_NAMES, TpmReader

MAX_PUBLIC_AREA: Final = 2048

ATTRIBUTES: Final = {
    "fixedTPM": 1 << 1,
    "stClear": 1 << 2,
    "fixedParent": 1 << 4,
    "sensitiveDataOrigin": 1 << 5,
    "userWithAuth": 1 << 6,
    "adminWithPolicy": 1 << 7,
    "noDA": 1 << 10,
    "encryptedDuplication": 1 << 11,
    "restricted": 1 << 16,
    "decrypt": 1 << 17,
    "sign": 1 << 18,
}
"""Bits of TPMA_OBJECT."""

REQUIRED_ATTRIBUTES: Final = ("fixedTPM", "fixedParent", "restricted", "sign")

_MALFORMED: Final = "ak_malformed"
_RSA: Final = 0x0001
_ECC: Final = 0x0023
_NULL: Final = 0x0010
_CURVES: Final = {0x0003: ec.SECP256R1(), 0x0004: ec.SECP384R1(), 0x0005: ec.SECP521R1()}
_MAX_COORDINATE: Final = 66
_MAX_MODULUS: Final = 512


@dataclass(frozen=True, slots=True)
class PublicArea:
    """A parsed public area. ``scheme`` and ``hash`` are None where the key may sign by any.

    ``name`` is the TPM's name of the key: its name algorithm and the digest of the area.
    """

    key: AkKey
    attributes: frozenset[str]
    scheme: Scheme | None
    hash: str | None
    name: bytes


def parse_public_area(data: bytes) -> PublicArea:
    """Read a TPM2B_PUBLIC, to its last byte. Raises EvidenceMalformed (``ak_malformed``)."""
    outer = TpmReader(data, code=_MALFORMED)
    area = outer.sized(MAX_PUBLIC_AREA)
    outer.end()
    reader = TpmReader(area, code=_MALFORMED)
    kind, name_algorithm, attributes = reader.number(2), reader.number(2), reader.number(4)
    name_hash = HASH_NAMES.get(name_algorithm)
    if kind not in (_RSA, _ECC) or name_hash is None:
        raise reader.malformed("neither an RSA nor an elliptic-curve key, or named by an unknown hash")
    reader.sized(64)  # the policy that use of the key needs
    if reader.number(2) != _NULL:
        reader.take(4)  # a symmetric algorithm's key size and mode: of storage keys
    scheme, hash_name = _scheme(reader)
    key = _rsa_key(reader) if kind == _RSA else _ecc_key(reader)
    reader.end()
    return PublicArea(
        key=key,
        attributes=frozenset(name for name, bit in ATTRIBUTES.items() if attributes & bit),
        scheme=scheme,
        hash=hash_name,
        name=name_algorithm.to_bytes(2, "big") + hashlib.new(name_hash, area).digest(),
    )


def check_attributes(area: PublicArea) -> None:
    """Check that the key is a restricted signing key that never leaves its TPM.

    Raises PolicyRejected (``ak_attributes``).
    """
    missing = [name for name in REQUIRED_ATTRIBUTES if name not in area.attributes]
    if missing:
        raise PolicyRejected(
            code="ak_attributes",
            expected=", ".join(REQUIRED_ATTRIBUTES),
            found=f"without {', '.join(missing)}",
            detail="this key could also sign a quote that no TPM made",
        )


def check_scheme(area: PublicArea, signature: TpmSignature) -> None:
    """Check that the signature is of the one scheme that the key signs by. Raises SignatureInvalid."""
    if area.scheme not in (None, signature.scheme) or area.hash not in (None, signature.hash):
        raise SignatureInvalid(
            code="signature",
            expected=f"{area.scheme} with {area.hash}",
            found=f"{signature.scheme} with {signature.hash}",
            detail="the key does not sign by this scheme",
        )


def spki_sha256(key: AkKey) -> bytes:
    """SHA-256 of a key's SubjectPublicKeyInfo, by which AKs are pinned."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(key.public_bytes(serialization.Encoding.DER, form)).digest()


def _scheme(reader: TpmReader) -> tuple[Scheme | None, str | None]:
    algorithm = reader.number(2)
    if algorithm == _NULL:
        return None, None
    scheme, hash_name = SCHEMES.get(algorithm), HASH_NAMES.get(reader.number(2))
    if scheme is None or hash_name is None:
        raise reader.malformed("signs by a scheme that is not accepted")
    return scheme, hash_name


def _rsa_key(reader: TpmReader) -> rsa.RSAPublicKey:
    bits, exponent = reader.number(2), reader.number(4) or 65537
    modulus = reader.sized(_MAX_MODULUS)
    if 8 * len(modulus) != bits:
        raise reader.malformed("the modulus has another size than it says")
    try:
        return rsa.RSAPublicNumbers(exponent, int.from_bytes(modulus, "big")).public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise reader.malformed("not an RSA key") from None


def _ecc_key(reader: TpmReader) -> ec.EllipticCurvePublicKey:
    curve = _CURVES.get(reader.number(2))
    if curve is None:
        raise reader.malformed("a curve that is not accepted")
    if reader.number(2) != _NULL:
        reader.number(2)  # hash of the key derivation scheme, which a signing key has no use for
    x, y = (int.from_bytes(reader.sized(_MAX_COORDINATE), "big") for _ in range(2))
    try:
        return ec.EllipticCurvePublicNumbers(x, y, curve).public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise reader.malformed("not a point of the curve") from None
