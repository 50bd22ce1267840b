"""Witness cosignatures on checkpoints (c2sp.org/tlog-cosignature): Ed25519 (0x04) and ML-DSA-44 (0x06).

A cosignature says: at this time, this was the largest consistent tree of this log that the witness had seen.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from .checkpoint import Checkpoint
from .errors import Code, TransparencyError
from .note import COSIGNATURE_ED25519, COSIGNATURE_MLDSA44, Note, NoteSignature, VerifierKey, verify_ed25519
from .signing_key import SigningKey

COSIGNATURE_KINDS = (COSIGNATURE_ED25519, COSIGNATURE_MLDSA44)
_SIGNATURE_BYTES = {COSIGNATURE_ED25519: 64, COSIGNATURE_MLDSA44: 2420}
_STAGE = "cosignature"


@dataclass(frozen=True, slots=True)
class Cosignature:
    """A verified cosignature: by whom, and when (POSIX seconds)."""

    key: VerifierKey
    time: int


def ed25519_message(text: str, time: int) -> bytes:
    """What an Ed25519 witness signs: header, time line, and the whole checkpoint text."""
    return f"cosignature/v1\ntime {time}\n{text}".encode()


def mldsa44_message(name: str, checkpoint: Checkpoint, time: int) -> bytes:
    """What an ML-DSA-44 witness signs: the ``cosigned_message`` structure for a whole tree (start 0).

    Unlike the Ed25519 message it names the witness, and leaves the extension lines out.
    """
    witness, origin = name.encode(), checkpoint.origin.encode()
    if len(witness) > 255 or len(origin) > 255:
        raise TransparencyError(Code.LIMIT_EXCEEDED, "witness name or origin longer than 255 B", stage=_STAGE)
    return (
        b"subtree/v1\n\0"
        + bytes([len(witness)])
        + witness
        + struct.pack(">QB", time, len(origin))
        + origin
        + struct.pack(">QQ", 0, checkpoint.size)
        + checkpoint.root
    )


def cosign(key: SigningKey, text: str, time: int) -> NoteSignature:
    """A cosignature line over a checkpoint's text, of the key's kind.

    Raises TransparencyError: KEY_UNUSABLE for a key that is no witness's, and what ``Checkpoint.parse`` raises.
    """
    if key.public.algorithm not in COSIGNATURE_KINDS:
        raise TransparencyError(Code.KEY_UNUSABLE, "not a witness key", stage=_STAGE)
    if not 0 <= time < 2**63:
        raise TransparencyError(Code.TIME_INVALID, "cosignature time out of range", stage=_STAGE, found=time)
    if key.public.algorithm == COSIGNATURE_ED25519:
        message = ed25519_message(text, time)
    else:
        message = mldsa44_message(key.public.name, Checkpoint.parse(text), time)
    return NoteSignature(key.public.name, key.public.id, struct.pack(">Q", time) + key.sign(message))


def verify_cosignatures(
    note: Note, checkpoint: Checkpoint, witnesses: Iterable[VerifierKey]
) -> tuple[Cosignature, ...]:
    """Every valid cosignature of a known witness on ``note``, whose text is ``checkpoint``.

    A witness may appear more than once; who counts a quorum counts keys. Lines of unknown keys are ignored.
    Raises TransparencyError (WITNESS_QUORUM) where a known witness's line does not verify.
    """
    found: list[Cosignature] = []
    for key in witnesses:
        for line in note.by(key):
            found.append(Cosignature(key, _verify(key, line, note.text, checkpoint)))
    return tuple(found)


def _verify(key: VerifierKey, line: NoteSignature, text: str, checkpoint: Checkpoint) -> int:
    size = _SIGNATURE_BYTES.get(key.algorithm)
    if size is None or len(line.signature) != 8 + size:
        raise TransparencyError(Code.WITNESS_QUORUM, f"not a cosignature by {key.name}", stage=_STAGE)
    time: int = struct.unpack(">Q", line.signature[:8])[0]
    if time >= 2**63:
        raise TransparencyError(Code.WITNESS_QUORUM, "cosignature time out of range", stage=_STAGE)
    if key.algorithm == COSIGNATURE_ED25519:
        verify_ed25519(key, line.signature[8:], ed25519_message(text, time), Code.WITNESS_QUORUM)
    else:
        _verify_mldsa44(key, line.signature[8:], mldsa44_message(key.name, checkpoint, time))
    return time


def _verify_mldsa44(key: VerifierKey, signature: bytes, message: bytes) -> None:
    try:
        from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey

        public = MLDSA44PublicKey.from_public_bytes(key.public_key)
    except (ImportError, UnsupportedAlgorithm) as error:
        # A policy that names such a key must not pass because this build cannot check it.
        raise TransparencyError(
            Code.NOT_AVAILABLE, "this build of OpenSSL has no ML-DSA-44", stage=_STAGE
        ) from error
    except ValueError as error:
        raise TransparencyError(
            Code.TRUST_ROOT_INVALID, f"unusable key of {key.name}", stage=_STAGE
        ) from error
    try:
        public.verify(signature, message)
    except InvalidSignature as error:
        raise TransparencyError(
            Code.WITNESS_QUORUM, f"signature of {key.name} does not verify", stage=_STAGE
        ) from error
