"""The key encapsulation mechanisms for HPKE, by their identifiers (RFC 9180 section 7.1, draft-ietf-hpke-pq).

DHKEM over X25519, P-256, P-384 and P-521 is in dhkem.py; ML-KEM, alone and in hybrids of which X-Wing is one,
in mlkem.py.
"""

from .dhkem import DH_KEMS, P256, P384, P521, X25519
from .errors import HpkeError
from .kem_interface import Ephemeral, Kem, PrivateKey
from .mlkem import MLKEM768, MLKEM768_P256, MLKEM768_X25519, MLKEM1024, MLKEM1024_P384, MLKEM_KEMS

__all__ = [
    "MLKEM768",
    "MLKEM768_P256",
    "MLKEM768_X25519",
    "MLKEM1024",
    "MLKEM1024_P384",
    "P256",
    "P384",
    "P521",
    "X25519",
    "Ephemeral",
    "Kem",
    "PrivateKey",
    "kem",
    "supports",
]

_KEMS: dict[int, Kem] = {**DH_KEMS, **MLKEM_KEMS}


def kem(kem_id: int) -> Kem:
    """The mechanism with this identifier; raises HpkeError ``unsupported_kem``."""
    try:
        return _KEMS[kem_id]
    except KeyError:
        raise HpkeError(
            "unsupported_kem", "no key encapsulation mechanism with this identifier here"
        ) from None


def supports(kem_id: int) -> bool:
    """Whether ``kem`` knows this identifier."""
    return kem_id in _KEMS
