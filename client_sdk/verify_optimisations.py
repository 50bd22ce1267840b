"""What a node's manifest says of memory that outlives a request, of guessing, and of how answers are computed.

All of it is told in words of this file, numbers and digests; of the node's own words there is the draft model's file
name alone, which has a closed alphabet.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from attestation.errors import AttestationError

from .verify_rows import Recorder

_ABOUT: Final = {
    "runtime.leases": "leases",
    "runtime.draft": "a draft model",
    "runtime.serving": "how answers are computed",
}
CHECKS: Final = tuple(_ABOUT)

_NO_PREFIX: Final = hashlib.sha256(b"").hexdigest()
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_STORES: Final = {"pool": "in pages of their own", "sealed": "encrypted in private memory"}
_ENGINE: Final = frozenset(
    {"max_batch", "max_queue", "max_context", "page_tokens", "step_budget", "threads", "speculate"}
)
_WEIGHTS: Final = {"stored": "as stored", "int8": "rounded to 8 bits", "fp8": "rounded to 8-bit floats"}
_MOST: Final = 1 << 32


@dataclass(frozen=True, slots=True)
class Leases:
    """At most ``count`` at a time, of ``tokens`` each, for ``seconds``; ``store``: where they lie between turns."""

    count: int
    tokens: int
    seconds: int
    store: str

    def __str__(self) -> str:
        return (
            f"offered: {self.count} at a time, of {self.tokens:,} tokens, for {self.seconds:,} s at most, "
            f"{_STORES[self.store]}; what a request computed outlives it only for a client that holds a lease"
        )


@dataclass(frozen=True, slots=True)
class Draft:
    """A second model that guesses ahead: its file ``name``, ``digest`` (hex) and ``guesses`` at a time."""

    name: str
    digest: str
    guesses: int

    def __str__(self) -> str:
        return (
            f"{self.name}, digest {self.digest[:16]}…, {self.guesses} tokens ahead: what it guesses right is answered "
            "sooner, and answers stay the same"
        )


@dataclass(frozen=True, slots=True)
class Optimisations:
    """``leases`` and ``draft`` are None where there are none, or the manifest does not say; ``words`` are those of the
    row ``runtime.serving``, none where it does not say.
    """

    leases: Leases | None
    draft: Draft | None
    words: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        leases, draft = self.leases, self.draft
        return {
            "leases": None if leases is None else asdict(leases),
            "draft": None if draft is None else asdict(draft),
            "optimisations": list(self.words),
        }


def appraise_optimisations(rows: Recorder, manifest: Mapping[str, Any]) -> Optimisations | None:
    """Read what the manifest says; a row for each of ``CHECKS``. None where something cannot be read."""
    leases = draft = None
    words: tuple[str, ...] = ()
    sound = True
    for check in CHECKS:
        try:
            if check == "runtime.leases":
                leases = _leases(manifest.get("leases"))
                said = (
                    "none: nothing of a request is kept once it has ended" if leases is None else str(leases)
                )
                stated = "leases" in manifest
            elif check == "runtime.draft":
                draft = _draft(manifest.get("draft"))
                said, stated = "none" if draft is None else str(draft), "draft" in manifest
            else:
                stated = "engine" in manifest
                words = _words(manifest, leases, draft) if stated else ()
                said = ", ".join(words)
        except (ValueError, TypeError, KeyError, AttributeError):
            sound = False
            detail = f"what the runtime manifest says of {_ABOUT[check]} cannot be read"
            rows.failed(check, AttestationError(code="runtime_malformed", stage="runtime", detail=detail))
            continue
        if stated:
            rows.passed(check, said)
        else:
            rows.not_required(check, "the manifest does not say")
    return Optimisations(leases, draft, words) if sound else None


def _leases(stated: Any) -> Leases | None:
    table = _table(stated)
    if not table:
        return None
    store = table.pop("store", "pool")
    if set(table) != {"count", "tokens", "seconds"} or store not in _STORES:
        raise ValueError
    count, tokens, seconds = (_number(table[name], 1) for name in ("count", "tokens", "seconds"))
    return Leases(count, tokens, seconds, store)


def _draft(stated: Any) -> Draft | None:
    table = _table(stated)
    if not table:
        return None
    name, digest = table.pop("name"), table.pop("digest")
    if set(table) != {"guesses"} or not _NAME.fullmatch(name) or not _DIGEST.fullmatch(digest):
        raise ValueError
    return Draft(name, digest, _number(table["guesses"], 1))


def _words(manifest: Mapping[str, Any], leases: Leases | None, draft: Draft | None) -> tuple[str, ...]:
    engine, decoder = _table(manifest["engine"]), _table(manifest.get("decoder"))
    batch, lookup = _number(engine["max_batch"], 1), _number(engine["speculate"], 0)
    prefix = manifest.get("public_prefix", _NO_PREFIX)
    if not _DIGEST.fullmatch(prefix):
        raise ValueError
    words = [f"batches of up to {batch}"]
    words.append("memory by lease" if leases is not None else "no memory between requests")
    if lookup:
        words.append(f"guesses from the prompt, {lookup} ahead")
    elif draft is not None:
        words.append("guesses by a draft model")
    else:
        words.append("no guessing ahead")
    words.append("no public prefix" if prefix == _NO_PREFIX else f"a public prefix, sha256 {prefix[:16]}…")
    words.append(f"weights {_WEIGHTS[decoder.get('weights', 'stored')]}")
    if decoder.get("activations") == 8:
        words.append("activations rounded to 8 bits")
    unknown = len(set(engine) - _ENGINE)
    if unknown:
        words.append(f"{unknown} settings that this version does not know")
    return tuple(words)


def _table(value: Any) -> dict[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise ValueError
    return dict(value or {})


def _number(value: Any, least: int) -> int:
    if type(value) is not int or not least <= value < _MOST:
        raise ValueError
    return value
