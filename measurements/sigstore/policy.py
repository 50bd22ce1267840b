"""The ``[transparency.sigstore]`` table of a policy: which Sigstore instance, and whose signature.

    [transparency.sigstore]
    issuer = "https://token.actions.githubusercontent.com"
    workflow = "https://github.com/ORG/REPO/.github/workflows/release.yml"
    tags = "v[0-9]+\\.[0-9]+\\.[0-9]+"         # the whole tag; or, instead of both: subject = "…", exact
    source_repository_id = "123456789"       # optional, as are the other rules of IdentityRule
    runner_environment = "github-hosted"
    root = "production"                      # the default; or root_json = '…', a TrustedRoot document
    witnesses = ["witness.example.net+…"]    # optional: cosigners of Rekor v2 checkpoints
    quorum = 1

Reading it imports nothing of the ``sigstore`` package.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ..errors import Code, TransparencyError
from ..note import VerifierKey
from .identity import IdentityRule
from .strict_json import parse_strict

MAX_ROOT: Final = 256 * 1024
PRODUCTION: Final = "production"
_OWN: Final = frozenset({"root", "root_json", "witnesses", "quorum"})


@dataclass(frozen=True, slots=True)
class SigstorePolicy:
    """Whose bundle is accepted. ``root_json`` is the trusted root, None for the pinned production root."""

    rule: IdentityRule
    root_json: bytes | None = None
    witnesses: tuple[VerifierKey, ...] = ()
    quorum: int = 0

    @classmethod
    def from_table(cls, table: object) -> "SigstorePolicy":
        """Read the table. Raises TransparencyError (TRUST_ROOT_INVALID)."""
        if not isinstance(table, Mapping):
            raise _invalid("is missing")
        rule = IdentityRule.from_table({name: table[name] for name in table if name not in _OWN})
        keys = table.get("witnesses", [])
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise _invalid("witnesses must be an array of strings")
        witnesses = tuple(VerifierKey.parse(key) for key in keys)
        quorum = table.get("quorum", 0)
        if type(quorum) is not int or not (1 <= quorum <= len(witnesses) or (quorum == 0 and not witnesses)):
            raise _invalid("quorum is at least 1 and at most the number of witnesses")
        return cls(rule, _root(table), witnesses, quorum)


def _root(table: Mapping[str, Any]) -> bytes | None:
    if "root_json" not in table:
        if table.get("root", PRODUCTION) != PRODUCTION:
            raise _invalid(f"root is {PRODUCTION!r}, or root_json holds another root")
        return None
    text = table["root_json"]
    if "root" in table or not isinstance(text, str):
        raise _invalid("root_json is a string, and stands alone")
    data = text.encode()
    parse_strict(data, limit=MAX_ROOT, code=Code.TRUST_ROOT_INVALID, what="trusted root")
    return data


def _invalid(why: str) -> TransparencyError:
    return TransparencyError(Code.TRUST_ROOT_INVALID, f"[transparency.sigstore]: {why}", stage="policy")
