"""Every kind of statement that a log of releases holds, and how each is read."""

from collections.abc import Callable, Mapping
from typing import Final

from .errors import Code, TransparencyError
from .key_listing import KEYS_TYPE, KeyListing
from .node_list import NODE_LIST_TYPE, NodeList
from .release import RELEASE_TYPE, STATUS_TYPE, Release, Status
from .revocation import REVOCATION_TYPE, RevocationNotice
from .signer_set import SIGNER_SET_TYPE, SignerSet
from .statement import PREDICATE_BASE, Statement

Kind = Release | Status | RevocationNotice | KeyListing | SignerSet | NodeList

KINDS: Final[Mapping[str, Callable[[Statement], Kind]]] = {
    RELEASE_TYPE: Release.parse,
    STATUS_TYPE: Status.parse,
    REVOCATION_TYPE: RevocationNotice.parse,
    KEYS_TYPE: KeyListing.parse,
    SIGNER_SET_TYPE: SignerSet.parse,
    NODE_LIST_TYPE: NodeList.parse,
}
"""Parsers by predicate type."""


def parse_kind(statement: Statement) -> Kind:
    """What a statement says. Raises TransparencyError (PREDICATE_TYPE for an unknown kind, STATEMENT_MALFORMED)."""
    parse = KINDS.get(statement.predicate_type)
    if parse is None:
        raise TransparencyError(
            Code.PREDICATE_TYPE,
            "an unknown kind of statement",
            stage="statement",
            found=statement.predicate_type[:200],
        )
    return parse(statement)


def kind_name(predicate_type: str) -> str:
    """The short name: ``cvm-release`` for the release's type; an unknown type itself."""
    own = predicate_type.removeprefix(f"{PREDICATE_BASE}/").removesuffix("/v1")
    return own if predicate_type in KINDS else predicate_type
