"""A bundle's log entry: checkpoint, inclusion and the log's promise, each verified by the log's one key.

Rekor v1 (dsse and hashedrekord 0.0.1, intoto 0.0.2) promises an entry and its time by a signed entry
timestamp; Rekor v2 (hashedrekord 0.0.2) states no time of its own. Checkpoints are signed notes.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlsplit

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm
from sigstore_models.common.v1 import PublicKeyDetails
from sigstore_models.rekor.v1 import TransparencyLogEntry
from sigstore_models.trustroot.v1 import TransparencyLogInstance

from .. import strict_base64
from ..checkpoint import Checkpoint
from ..errors import Code, TransparencyError
from ..merkle import leaf_hash, verify_inclusion
from ..note import Note
from .root import TrustedRoot, log_key

V1_KINDS: Final = frozenset({("dsse", "0.0.1"), ("hashedrekord", "0.0.1"), ("intoto", "0.0.2")})
V2_KINDS: Final = frozenset({("hashedrekord", "0.0.2")})
MAX_INTEGRATED_TIME: Final = 2**40
_STAGE: Final = "sigstore.log"
_TREE_ID: Final = re.compile(r" - [0-9]{1,20}", re.ASCII)
_ECDSA_HASHES: Final[dict[PublicKeyDetails, HashAlgorithm]] = {
    PublicKeyDetails.PKIX_ECDSA_P256_SHA_256: SHA256(),
    PublicKeyDetails.PKIX_ECDSA_P384_SHA_384: SHA384(),
    PublicKeyDetails.PKIX_ECDSA_P521_SHA_512: SHA512(),
}


@dataclass(frozen=True, slots=True)
class ProvedEntry:
    """An entry that is in the log: ``checkpoint`` and its ``note`` are signed by ``log``, ``promised_at`` is
    the time in the log's promise, None where it made none. ``index`` is the one that the promise or the proof vouches
    for.
    """

    log: TransparencyLogInstance
    checkpoint: Checkpoint
    note: Note
    index: int
    promised_at: datetime | None


def prove_entry(entry: TransparencyLogEntry, root: TrustedRoot) -> ProvedEntry:
    """Verify everything about ``entry`` but its body.

    Raises TransparencyError: LOG_UNKNOWN, CHECKPOINT_SIGNATURE, INCLUSION_INVALID, TIME_INVALID (a promise
    that does not verify), LOG_ENTRY_MISMATCH (unknown kind), PROOF_MALFORMED.
    """
    kind = (entry.kind_version.kind, entry.kind_version.version)
    if kind not in V1_KINDS | V2_KINDS:
        raise TransparencyError(
            Code.LOG_ENTRY_MISMATCH,
            "a kind of log entry that is not understood",
            stage=_STAGE,
            found=" ".join(kind)[:100],
        )
    log = root.log(entry.log_id.key_id)
    proof = entry.inclusion_proof
    assert proof.checkpoint is not None
    note = Note.parse(proof.checkpoint.envelope.encode())
    checkpoint = Checkpoint.parse(note.text)
    _check_origin(checkpoint.origin, log, tree_ids=kind in V1_KINDS)
    _check_signature(note, log)
    if proof.tree_size != checkpoint.size:
        raise _not_included(
            "the proof is for another size than the checkpoint's", checkpoint.size, proof.tree_size
        )
    if proof.root_hash != checkpoint.root:
        raise _not_included("the proof is for another root", checkpoint.root.hex(), proof.root_hash.hex())
    if kind in V2_KINDS and entry.log_index != proof.log_index:
        raise _not_included("the entry states another index than is proved", proof.log_index, entry.log_index)
    verify_inclusion(
        index=proof.log_index,
        size=checkpoint.size,
        leaf=leaf_hash(entry.canonicalized_body),
        path=proof.hashes,
        root=checkpoint.root,
    )
    promised_at = _promised_at(entry, log, kind)
    # Rekor v1 counts over all its trees, and only its promise signs that number.
    index = entry.log_index if promised_at is not None else proof.log_index
    return ProvedEntry(log, checkpoint, note, index, promised_at)


def _check_origin(origin: str, log: TransparencyLogInstance, *, tree_ids: bool) -> None:
    """The origin is the log's host (and path); Rekor v1 puts its tree's number behind that."""
    host = _host(log)
    rest = origin.removeprefix(host)
    if not host or not origin.startswith(host) or not (rest == "" or (tree_ids and _TREE_ID.fullmatch(rest))):
        raise TransparencyError(
            Code.LOG_UNKNOWN,
            "the checkpoint is of another log",
            stage=_STAGE,
            expected=host,
            found=origin[:200],
        )


def _check_signature(note: Note, log: TransparencyLogInstance) -> None:
    """Every line by the log's name and key id must verify, and there is one."""
    key_id, host = log.log_id.key_id[:4], _host(log)
    lines = [line for line in note.signatures if (line.name, line.key_id) == (host, key_id)]
    if not lines:
        raise TransparencyError(
            Code.CHECKPOINT_SIGNATURE, "the checkpoint is not signed by its log", stage=_STAGE, expected=host
        )
    for line in lines:
        _verify(log, line.signature, note.text.encode(), Code.CHECKPOINT_SIGNATURE, "checkpoint")


def _promised_at(
    entry: TransparencyLogEntry, log: TransparencyLogInstance, kind: tuple[str, str]
) -> datetime | None:
    promise, seconds = entry.inclusion_promise, entry.integrated_time
    if promise is None:
        return None
    if kind in V2_KINDS:
        raise TransparencyError(Code.TIME_INVALID, "Rekor v2 makes no promises", stage=_STAGE)
    if seconds is None or not 0 < seconds < MAX_INTEGRATED_TIME:
        raise TransparencyError(Code.TIME_INVALID, "a promise without a time", stage=_STAGE)
    # Numbers beyond 2^53 have no canonical form, and no log has such an index.
    if entry.log_index >= 2**53:
        raise TransparencyError(Code.PROOF_MALFORMED, "log index", stage=_STAGE)
    message = rfc8785.dumps(
        {
            "body": strict_base64.encode(entry.canonicalized_body),
            "integratedTime": seconds,
            "logID": entry.log_id.key_id.hex(),
            "logIndex": entry.log_index,
        }
    )
    _verify(log, promise.signed_entry_timestamp, message, Code.TIME_INVALID, "signed entry timestamp")
    return datetime.fromtimestamp(seconds, UTC)


def _host(log: TransparencyLogInstance) -> str:
    address = urlsplit(log.base_url)
    return address.netloc + address.path.rstrip("/")


def _verify(log: TransparencyLogInstance, signature: bytes, message: bytes, code: Code, what: str) -> None:
    key, details = log_key(log.public_key), log.public_key.key_details
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, message)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            algorithm = _ECDSA_HASHES.get(details)
            if algorithm is None:
                raise TransparencyError(
                    Code.TRUST_ROOT_INVALID, "kind of log key", stage=_STAGE, found=details
                )
            key.verify(signature, message, ec.ECDSA(algorithm))
        else:
            key.verify(signature, message, padding.PKCS1v15(), SHA256())
    except InvalidSignature as error:
        raise TransparencyError(code, f"the {what} does not verify by the log's key", stage=_STAGE) from error


def _not_included(why: str, expected: object, found: object) -> TransparencyError:
    return TransparencyError(Code.INCLUSION_INVALID, why, stage=_STAGE, expected=expected, found=found)
