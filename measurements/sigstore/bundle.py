"""Sigstore bundles v0.1 to v0.3: their shape, before anything in them is believed.

A bundle is taken apart once and must say one thing: re-encoding what was understood gives the JSON that came,
so unknown members, other spellings of base64 and of numbers, and members that stand twice are refused.
"""

from dataclasses import dataclass
from typing import Any, Final

from cryptography import x509
from rfc3161_client import TimeStampResponse, decode_timestamp_response
from sigstore_models.bundle.v1 import Bundle as BundleModel
from sigstore_models.common.v1 import HashAlgorithm
from sigstore_models.rekor.v1 import TransparencyLogEntry

from ..errors import Code, TransparencyError
from .strict_json import parse_strict

MAX_BUNDLE: Final = 1024 * 1024
MAX_TIMESTAMPS: Final = 8
_STAGE: Final = "sigstore.bundle"


@dataclass(frozen=True, slots=True)
class SigstoreBundle:
    """A bundle's parts; nothing in it has been verified.

    ``certificate`` is None where a key signed that the verifier must know (a managed key). ``payload`` and
    ``payload_type`` are of the DSSE envelope; both are None for a signature over an artifact, whose stated
    SHA-256 is ``message_digest`` where it is stated.
    """

    raw: bytes
    model: BundleModel
    certificate: x509.Certificate | None
    entry: TransparencyLogEntry
    signature: bytes
    payload: bytes | None
    payload_type: str | None
    message_digest: bytes | None
    timestamps: tuple[TimeStampResponse, ...]

    @classmethod
    def parse(cls, data: bytes) -> "SigstoreBundle":
        """Read a bundle (at most 1 MiB).

        Raises TransparencyError: PROOF_MALFORMED, LIMIT_EXCEEDED, PROOF_MISSING (no log entry, inclusion proof
        or checkpoint).
        """
        value = parse_strict(data, limit=MAX_BUNDLE, code=Code.PROOF_MALFORMED, what="bundle")
        _require_proof(value)
        try:
            return cls._from_model(data, value, BundleModel.from_json(data))
        except (ValueError, TypeError, RecursionError, x509.InvalidVersion) as error:
            raise _malformed("not a Sigstore bundle of a known version") from error

    @classmethod
    def _from_model(cls, data: bytes, value: Any, model: BundleModel) -> "SigstoreBundle":
        if model.to_dict() != _without_nulls(value):
            raise _malformed("it holds something that is not understood, or is not spelled canonically")
        material = model.verification_material
        chain = material.x509_certificate_chain
        leaf = material.certificate or (chain.certificates[0] if chain and chain.certificates else None)
        if leaf is None and material.public_key is None:
            raise _malformed("neither a certificate nor a key")
        stamps = material.timestamp_verification_data
        responses = stamps.rfc3161_timestamps if stamps else []
        if len(responses) > MAX_TIMESTAMPS or len({r.signed_timestamp for r in responses}) != len(responses):
            raise _malformed(f"more than {MAX_TIMESTAMPS} time stamps, or one twice")
        envelope, message = model.dsse_envelope, model.message_signature
        digest = None
        if envelope is not None:
            if len(envelope.signatures) != 1:
                raise _malformed("an envelope has exactly one signature")
            signature = envelope.signatures[0].sig
        else:
            assert message is not None
            signature = message.signature
            if message.message_digest is not None:
                if message.message_digest.algorithm is not HashAlgorithm.SHA2_256:
                    raise _malformed("a digest other than SHA-256")
                digest = message.message_digest.digest
        if not signature:
            raise _malformed("an empty signature")
        return cls(
            raw=data,
            model=model,
            certificate=None if leaf is None else x509.load_der_x509_certificate(leaf.raw_bytes),
            entry=material.tlog_entries[0],
            signature=signature,
            payload=envelope.payload if envelope else None,
            payload_type=envelope.payload_type if envelope else None,
            message_digest=digest,
            timestamps=tuple(decode_timestamp_response(r.signed_timestamp) for r in responses),
        )


def _require_proof(value: Any) -> None:
    """What is missing has a code of its own: a bundle without it is not malformed, but proves nothing."""
    material = value.get("verificationMaterial") if isinstance(value, dict) else None
    entries = material.get("tlogEntries") if isinstance(material, dict) else None
    if not entries:
        raise TransparencyError(Code.PROOF_MISSING, "no log entry in the bundle", stage=_STAGE)
    if not isinstance(entries, list) or len(entries) != 1 or not isinstance(entries[0], dict):
        raise _malformed("exactly one log entry")
    proof = entries[0].get("inclusionProof")
    if not proof or not isinstance(proof, dict) or not proof.get("checkpoint"):
        raise TransparencyError(
            Code.PROOF_MISSING, "no inclusion proof with a checkpoint in the bundle", stage=_STAGE
        )


def _without_nulls(value: Any) -> Any:
    """Protobuf's JSON may spell an absent member as null. Depth is bounded by the parser's."""
    if isinstance(value, dict):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


def _malformed(why: str) -> TransparencyError:
    return TransparencyError(Code.PROOF_MALFORMED, f"Sigstore bundle: {why}", stage=_STAGE)
