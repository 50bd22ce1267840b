"""A list of nodes with the proof that the log holds it: one document, and how a client checks it, offline.

The document is canonical JSON with base64 members: ``leaf`` and ``proof`` (a c2sp.org/tlog-proof with its cosigned
checkpoint), ``signers_leaf`` and ``signers_proof`` where roots appoint the signers, and ``version`` 2 (version 1 is a
list by itself, without a proof). Whoever serves it is not trusted.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from . import strict_base64
from .errors import Code, TransparencyError
from .log_trust import (
    appointed_signers,
    named_signers,
    require_leaf,
    require_one_history,
    require_trust,
)
from .merkle import leaf_hash
from .node_list import NodeList
from .policy import SIGSTORE_ONLY, TransparencyPolicy
from .release import open_leaf
from .rollback import RollbackMemory, Sighting, check_views
from .statement import canonical, malformed, parse_canonical, record, utc
from .tlog_proof import TlogProof

MAX_DOCUMENT: Final = 400 * 1024
BEGINS: Final = b'{"leaf":'
"""How a document begins, by its canonical form; a list by itself does not."""

_VERSION: Final = 2
_MEMBERS: Final = frozenset({"leaf", "proof"})
_OPTIONAL: Final = frozenset({"signers_leaf", "signers_proof"})
_STAGE: Final = "list.log"


@dataclass(frozen=True, slots=True)
class LoggedList:
    """A parsed document; nothing of it is checked. The last two are empty where the policy names the signers."""

    leaf: bytes
    proof: bytes
    signers_leaf: bytes = b""
    signers_proof: bytes = b""

    def encode(self) -> bytes:
        """The document's bytes."""
        members = {name: getattr(self, name) for name in sorted(_MEMBERS | _OPTIONAL)}
        held = {name: strict_base64.encode(value) for name, value in members.items() if value}
        return canonical({**held, "version": _VERSION})

    @classmethod
    def parse(cls, data: bytes) -> "LoggedList":
        """Read a document of at most 400 KiB. Raises TransparencyError (STATEMENT_MALFORMED, LIMIT_EXCEEDED)."""
        value = dict(record(parse_canonical(data, limit=MAX_DOCUMENT), "list of nodes"))
        version = value.pop("version", None)
        if set(value) - _OPTIONAL != _MEMBERS or version != _VERSION or isinstance(version, bool):
            raise malformed("not a logged list of nodes of a known version")
        try:
            members = {name: strict_base64.decode(text) for name, text in value.items()}
        except (ValueError, AttributeError, TypeError) as error:
            raise malformed("a member of a logged list is not base64") from error
        if not all(members.values()):
            raise malformed("a member of a logged list is empty")
        return cls(**members)


@dataclass(frozen=True, slots=True)
class VerifiedList:
    """A list that the log holds, signed, witnessed and in its time; ``sighting`` is for the caller to remember once
    it has taken the list. ``cosigned_by`` names the witnesses that counted.
    """

    node_list: NodeList
    leaf_hash: bytes
    index: int
    log: str
    tree_size: int
    cosigned_by: tuple[str, ...]
    sighting: Sighting


def check_logged_list(
    document: LoggedList, policy: TransparencyPolicy, *, at: datetime, memory: RollbackMemory
) -> VerifiedList:
    """Check a list at the time ``at`` (aware), by the same rules as a node's staple.

    ``memory`` is asked, not written. Raises TransparencyError: LOG_UNKNOWN for a policy without a log, then in this
    order TRUST_ROOT_VALIDITY, PROOF_MALFORMED, CHECKPOINT_SIGNATURE, SPLIT_VIEW, WITNESS_QUORUM, WITNESS_STALE,
    those of the set of signers, INCLUSION_INVALID, SIGNATURE_INVALID, IDENTITY_MISMATCH, PREDICATE_TYPE for an entry of
    another kind, NODE_LIST_EXPIRED, TIME_INVALID, and ROLLBACK for a list older than one already seen.
    """
    at = utc(at)
    if policy.profile == SIGSTORE_ONLY:
        raise TransparencyError(Code.LOG_UNKNOWN, "the policy names no log", stage=_STAGE)
    require_trust(policy, at, stage=_STAGE)
    proof = TlogProof.parse(document.proof)
    signed = policy.trust.open(proof.checkpoint)
    tree, appointed, views = signed.checkpoint, named_signers(policy), [signed]
    counted = policy.trust.check_witnesses(
        signed, at=at, max_age_s=policy.max_checkpoint_age_s, max_future_s=policy.max_future_s
    )
    if policy.roots:
        set_proof = TlogProof.parse(document.signers_proof)
        set_tree = policy.trust.open(set_proof.checkpoint)
        views.append(set_tree)
        require_one_history(views, stage=_STAGE)
        policy.trust.check_witnesses(set_tree, at=at, max_age_s=None, max_future_s=policy.max_future_s)
        appointed = appointed_signers(policy, document.signers_leaf, set_proof, set_tree.checkpoint, at)
    require_leaf("list", document.leaf, proof, tree, stage=_STAGE)
    node_list = NodeList.parse(open_leaf(document.leaf, appointed.signers, appointed.threshold))
    node_list.judge(policy.channel, at, max_future_s=policy.max_future_s)
    chosen = appointed.signer_set
    sighting = Sighting(
        log=tree.origin,
        channel=policy.channel,
        status_sequence=0,
        status=b"",
        min_release_sequence=0,
        size=tree.size,
        root=tree.root,
        checkpoint=signed.raw,
        signers_sequence=chosen.sequence if chosen else 0,
        signers=leaf_hash(document.signers_leaf) if chosen else b"",
        list_sequence=node_list.sequence,
        node_list=leaf_hash(document.leaf),
    )
    check_views(memory, sighting, views)
    memory.check(sighting)
    return VerifiedList(
        node_list=node_list,
        leaf_hash=sighting.node_list,
        index=proof.index,
        log=tree.origin,
        tree_size=tree.size,
        cosigned_by=tuple(sorted({one.key.name for one in counted})),
        sighting=sighting,
    )
