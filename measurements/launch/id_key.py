"""The digest by which an SEV-SNP report names the key that signed a guest's identity block.

AMD 56860, table "ECDSA P-384 Public Key": curve u32 (2), X and Y in 72 bytes little-endian, zero to 0x404.
"""

import hashlib
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from .record import malformed

KEY_LENGTH: Final = 0x404
_CURVE_P384: Final = 2
_COORDINATE: Final = 72
MAX_PEM: Final = 16 * 1024


def id_key_digest(pem: bytes) -> bytes:
    """SHA-384 of a public key (PEM, P-384) in AMD's form: ID_KEY_DIGEST or AUTHOR_KEY_DIGEST of a report.

    Raises ImageError for anything that is not such a key.
    """
    if len(pem) > MAX_PEM:
        raise malformed(f"a public key in PEM has at most {MAX_PEM} bytes")
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise malformed("not a public key in PEM") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise malformed("SEV-SNP takes identity keys on the curve P-384 alone")
    point = key.public_numbers()
    form = _CURVE_P384.to_bytes(4, "little") + b"".join(
        value.to_bytes(_COORDINATE, "little") for value in (point.x, point.y)
    )
    return hashlib.sha384(form.ljust(KEY_LENGTH, b"\0")).digest()
