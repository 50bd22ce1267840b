"""DSSE envelopes with Ed25519 (secure-systems-lab/dsse v1), in canonical JSON: the leaf of the log."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from . import strict_base64
from .errors import Code, TransparencyError
from .note import ED25519, VerifierKey, verify_ed25519
from .signing_key import SigningKey
from .statement import canonical, malformed, parse_canonical, record, sequence, text

MAX_LEAF: Final = 65_535
"""Entry bundles carry 16-bit lengths (c2sp.org/tlog-tiles)."""
MAX_SIGNATURES: Final = 16
_STAGE: Final = "dsse"


@dataclass(frozen=True, slots=True)
class EnvelopeSignature:
    """Who claims to have signed (``name+id`` of a verifier key), and the bytes."""

    keyid: str
    signature: bytes


@dataclass(frozen=True, slots=True)
class Envelope:
    """A parsed envelope; the payload means nothing until ``verify`` has returned."""

    payload: bytes
    payload_type: str
    signatures: tuple[EnvelopeSignature, ...]

    @classmethod
    def sign(cls, payload: bytes, payload_type: str, keys: Sequence[SigningKey]) -> "Envelope":
        """Sign with every key. Raises TransparencyError for witness keys."""
        if not keys or any(key.public.algorithm != ED25519 for key in keys):
            raise TransparencyError(
                Code.KEY_UNUSABLE, "statements are signed by plain Ed25519 keys", stage=_STAGE
            )
        message = pre_authentication(payload_type, payload)
        signatures = tuple(EnvelopeSignature(signer_id(key.public), key.sign(message)) for key in keys)
        return cls(payload, payload_type, signatures)

    @classmethod
    def parse(cls, leaf: bytes) -> "Envelope":
        """Read a leaf.

        Raises TransparencyError (PROOF_MISSING if empty, STATEMENT_MALFORMED, LIMIT_EXCEEDED).
        """
        if not leaf:
            raise TransparencyError(Code.PROOF_MISSING, "no envelope", stage=_STAGE)
        value = record(parse_canonical(leaf, limit=MAX_LEAF), "envelope")
        if set(value) != {"payload", "payloadType", "signatures"}:
            raise malformed("not a DSSE envelope")
        signatures = []
        for entry in sequence(value["signatures"], "signatures", most=MAX_SIGNATURES):
            item = record(entry, "signature")
            if set(item) != {"keyid", "sig"}:
                raise malformed("a signature has keyid and sig")
            signatures.append(EnvelopeSignature(text(item["keyid"], "keyid"), _bytes(item["sig"], "sig")))
        return cls(
            _bytes(value["payload"], "payload"), text(value["payloadType"], "payloadType"), tuple(signatures)
        )

    def encode(self) -> bytes:
        """The leaf: canonical JSON. Raises TransparencyError (LIMIT_EXCEEDED) beyond 65,535 bytes."""
        leaf = canonical(
            {
                "payload": strict_base64.encode(self.payload),
                "payloadType": self.payload_type,
                "signatures": [
                    {"keyid": s.keyid, "sig": strict_base64.encode(s.signature)} for s in self.signatures
                ],
            }
        )
        if len(leaf) > MAX_LEAF:
            raise TransparencyError(
                Code.LIMIT_EXCEEDED, "leaf too large", stage=_STAGE, expected=f"≤ {MAX_LEAF} B"
            )
        return leaf

    def verify(self, signers: Iterable[VerifierKey], threshold: int) -> tuple[VerifierKey, ...]:
        """The distinct known signers, at least ``threshold`` of them.

        Signatures under unknown ids are ignored. Raises TransparencyError: SIGNATURE_INVALID where one
        under a known id fails, IDENTITY_MISMATCH where too few known signers remain.
        """
        message = pre_authentication(self.payload_type, self.payload)
        known = {signer_id(key): key for key in signers}
        signed: dict[str, VerifierKey] = {}
        for signature in self.signatures:
            key = known.get(signature.keyid)
            if key is not None:
                verify_ed25519(key, signature.signature, message, Code.SIGNATURE_INVALID)
                signed[signature.keyid] = key
        if len(signed) < max(threshold, 1):
            raise TransparencyError(
                Code.IDENTITY_MISMATCH,
                "not signed by enough of the release signers",
                stage=_STAGE,
                expected=max(threshold, 1),
                found=len(signed),
            )
        return tuple(signed.values())


def pre_authentication(payload_type: str, payload: bytes) -> bytes:
    """DSSE's PAE: what is signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def signer_id(key: VerifierKey) -> str:
    """The ``keyid`` of a signer: its vkey without the key itself."""
    return f"{key.name}+{key.id.hex()}"


def _bytes(value: object, what: str) -> bytes:
    if not isinstance(value, str):
        raise malformed(f"{what} must be base64")
    try:
        return strict_base64.decode(value)
    except ValueError as error:
        raise malformed(f"{what}: {error}") from error
