"""Signed notes and verifier keys (c2sp.org/signed-note).

A note is UTF-8 text, an empty line, and signature lines ``— name base64(key id ‖ signature)``. Keys are known
by name *and* id: signatures of unknown keys are ignored, a signature of a known key that fails refuses the
note.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from . import strict_base64
from .errors import Code, TransparencyError

ED25519: Final = 0x01
"""Plain Ed25519 over the note's text."""
COSIGNATURE_ED25519: Final = 0x04
"""Timestamped Ed25519 cosignature (c2sp.org/tlog-cosignature)."""
COSIGNATURE_MLDSA44: Final = 0x06
"""Timestamped ML-DSA-44 cosignature (c2sp.org/tlog-cosignature)."""

PUBLIC_KEY_BYTES: Final = {ED25519: 32, COSIGNATURE_ED25519: 32, COSIGNATURE_MLDSA44: 1312}

MAX_NOTE: Final = 256 * 1024
MAX_SIGNATURES: Final = 64
MAX_NAME: Final = 255
_MAX_VKEY: Final = 4096
_STAGE: Final = "note"
_DASH: Final = "— "


def key_id(name: str, algorithm: int, public_key: bytes) -> bytes:
    """SHA-256(name ‖ LF ‖ algorithm ‖ public key), its first four bytes."""
    return hashlib.sha256(name.encode() + b"\n" + bytes([algorithm]) + public_key).digest()[:4]


def check_key_name(name: str) -> str:
    """``name`` itself, if it may name a key: not empty, no ``+``, no space or control character of any
    script.

    Raises TransparencyError (PROOF_MALFORMED).
    """
    try:
        length = len(name.encode())
    except UnicodeEncodeError as error:
        raise TransparencyError(Code.PROOF_MALFORMED, "a key name is not UTF-8", stage=_STAGE) from error
    if not 0 < length <= MAX_NAME or "+" in name or any(c.isspace() or ord(c) < 0x20 for c in name):
        raise TransparencyError(Code.PROOF_MALFORMED, "not a key name", stage=_STAGE)
    return name


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key with its name and kind; ``str(key)`` is its vkey, ``name+id+base64(kind ‖ key)``."""

    name: str
    algorithm: int
    public_key: bytes

    @classmethod
    def parse(cls, vkey: str) -> "VerifierKey":
        """Read a vkey.

        Raises TransparencyError (TRUST_ROOT_INVALID) unless the id is right and the kind known.
        """

        def refuse(why: str) -> TransparencyError:
            return TransparencyError(Code.TRUST_ROOT_INVALID, f"not a verifier key: {why}", stage="vkey")

        if len(vkey) > _MAX_VKEY:
            raise refuse("too long")
        # The name holds no plus sign, base64 may.
        name, _, rest = vkey.partition("+")
        identifier, _, encoded = rest.partition("+")
        try:
            check_key_name(name)
            material = strict_base64.decode(encoded)
        except ValueError as error:
            raise refuse(str(error)) from error
        except TransparencyError as error:
            raise refuse(error.detail) from error
        if not re.fullmatch("[0-9a-f]{8}", identifier):
            raise refuse("the id is not eight lowercase hex digits")
        if not material or len(material) - 1 != PUBLIC_KEY_BYTES.get(material[0]):
            raise refuse("unknown kind or wrong length of key")
        key = cls(name, material[0], material[1:])
        if key.id.hex() != identifier:
            raise refuse("the id does not belong to the key")
        return key

    @property
    def id(self) -> bytes:
        """The four-byte key id."""
        return key_id(self.name, self.algorithm, self.public_key)

    def __str__(self) -> str:
        return (
            f"{self.name}+{self.id.hex()}+{strict_base64.encode(bytes([self.algorithm]) + self.public_key)}"
        )


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """One signature line: who claims to have signed, and the bytes."""

    name: str
    key_id: bytes
    signature: bytes

    @classmethod
    def parse(cls, line: str) -> "NoteSignature":
        """Read a line without its newline. Raises TransparencyError (PROOF_MALFORMED)."""
        name, space, encoded = line[len(_DASH) :].partition(" ")
        if not line.startswith(_DASH) or not space:
            raise TransparencyError(Code.PROOF_MALFORMED, "not a signature line", stage=_STAGE)
        check_key_name(name)
        try:
            blob = strict_base64.decode(encoded)
        except ValueError as error:
            raise TransparencyError(Code.PROOF_MALFORMED, f"signature: {error}", stage=_STAGE) from error
        if len(blob) < 5:
            raise TransparencyError(
                Code.PROOF_MALFORMED, "a signature line without a signature", stage=_STAGE
            )
        return cls(name, blob[:4], blob[4:])

    def is_by(self, key: VerifierKey) -> bool:
        """Whether the line names this key: same name and same id. It says nothing of its validity."""
        return self.name == key.name and self.key_id == key.id

    def __str__(self) -> str:
        return f"{_DASH}{self.name} {strict_base64.encode(self.key_id + self.signature)}\n"


@dataclass(frozen=True, slots=True)
class Note:
    """A parsed note. ``text`` ends in a newline and is to be ignored until a trusted key was verified."""

    text: str
    signatures: tuple[NoteSignature, ...]

    @classmethod
    def parse(cls, data: bytes) -> "Note":
        """Read a note. Raises TransparencyError (PROOF_MALFORMED, LIMIT_EXCEEDED)."""
        if len(data) > MAX_NOTE:
            raise TransparencyError(
                Code.LIMIT_EXCEEDED, "note too large", stage=_STAGE, expected=f"≤ {MAX_NOTE} B"
            )
        try:
            content = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise TransparencyError(Code.PROOF_MALFORMED, "note is not UTF-8", stage=_STAGE) from error
        if re.search(r"[\x00-\x09\x0b-\x1f]", content):
            raise TransparencyError(Code.PROOF_MALFORMED, "control character in a note", stage=_STAGE)
        # Text may hold empty lines itself: the last one parts it from the signatures.
        cut = content.rfind("\n\n")
        if cut < 0 or not content.endswith("\n") or cut + 2 >= len(content):
            raise TransparencyError(Code.PROOF_MALFORMED, "no signature block in a note", stage=_STAGE)
        lines = content[cut + 2 : -1].split("\n")
        if len(lines) > MAX_SIGNATURES:
            raise TransparencyError(
                Code.LIMIT_EXCEEDED,
                "signatures",
                stage=_STAGE,
                expected=f"≤ {MAX_SIGNATURES}",
                found=len(lines),
            )
        return cls(content[: cut + 1], tuple(NoteSignature.parse(line) for line in lines))

    def encode(self) -> bytes:
        """The note's bytes."""
        return (self.text + "\n" + "".join(map(str, self.signatures))).encode()

    def by(self, key: VerifierKey) -> tuple[NoteSignature, ...]:
        """The lines that name ``key``, unverified."""
        return tuple(signature for signature in self.signatures if signature.is_by(key))

    def verify(self, keys: Iterable[VerifierKey]) -> tuple[VerifierKey, ...]:
        """The plain Ed25519 keys (kind 0x01) of ``keys`` that signed, at least one.

        Raises TransparencyError (CHECKPOINT_SIGNATURE) where a known key's signature fails or none is there.
        """
        signed: list[VerifierKey] = []
        for key in keys:
            if key.algorithm != ED25519:
                continue
            lines = self.by(key)
            for line in lines:
                verify_ed25519(key, line.signature, self.text.encode(), Code.CHECKPOINT_SIGNATURE)
            if lines:
                signed.append(key)
        if not signed:
            raise TransparencyError(Code.CHECKPOINT_SIGNATURE, "not signed by any trusted key", stage=_STAGE)
        return tuple(signed)


def verify_ed25519(key: VerifierKey, signature: bytes, message: bytes, code: Code) -> None:
    """Check an Ed25519 signature (RFC 8032). Raises TransparencyError with ``code``."""
    try:
        Ed25519PublicKey.from_public_bytes(key.public_key).verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        raise TransparencyError(code, f"signature of {key.name} does not verify", stage=_STAGE) from error
