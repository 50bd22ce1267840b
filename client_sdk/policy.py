"""The one policy file that says what a client accepts.

A policy is TOML: ``version``, ``name``, the tables of ``attestation.policy`` ([cpu], [gpu], [simulated]),
[transparency] of ``measurements.policy``, and optionally [runtime] with ``padding``: the padding profiles that a
node's answers may have, ``["constant"]`` where it is not set; and [fleet], for a client that draws its node from a
list: ``min_nodes`` (2) and ``max_nodes`` (4096) of it, ``logged``: whether it must be an entry of the log (true
wherever [transparency] names one), and ``mirrors``, URLs of copies to compare it with. Unknown keys are errors; what is
not allowed is refused.
"""

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attestation.errors import AttestationError
from attestation.policy import AttestationPolicy
from measurements.errors import TransparencyError
from measurements.policy import SIGSTORE_ONLY, TransparencyPolicy
from ohttp.padding import PROFILES

from .directory import MAX_NODES
from .errors import PolicyError

MAX_POLICY = 256 * 1024
DEFAULT_PADDING = frozenset(("constant",))
_MAX_MIRRORS = 16
_ATTESTATION_TABLES = ("cpu", "gpu", "simulated")


@dataclass(frozen=True, slots=True)
class FleetDemands:
    """What a list of nodes must be: how many there are at least and at most, where its copies are, and whether the
    policy's log must hold it.
    """

    min_nodes: int = 2
    max_nodes: int = MAX_NODES
    mirrors: tuple[str, ...] = ()
    logged: bool = True


@dataclass(frozen=True, slots=True)
class Policy:
    """A parsed policy. ``digest`` is SHA-256 of the file's bytes, for the result to name what it was judged by;
    ``padding`` names the profiles allowed; ``fleet`` is None where the policy does not speak of choosing a node.
    """

    name: str
    attestation: AttestationPolicy
    transparency: TransparencyPolicy | None
    digest: bytes
    padding: frozenset[str] = DEFAULT_PADDING
    fleet: FleetDemands | None = None

    @classmethod
    def production(cls) -> "Policy":
        """Strict production: vendor roots alone, current TCB floors, debug off, GPUs with reference measurements.

        It names no log, since nobody's log can be trusted by default; until a policy file names one, every node is
        refused at ``log.signature``.
        """
        return cls("production", AttestationPolicy.production(), None, hashlib.sha256(b"").digest())

    @classmethod
    def load(cls, path: Path) -> "Policy":
        """Read and parse a policy file. Raises PolicyError."""
        try:
            with path.open("rb") as file:
                data = file.read(MAX_POLICY + 1)
        except OSError as error:
            raise PolicyError(
                "policy_unreadable", f"{path}: {error.strerror}", "name it with --policy"
            ) from error
        try:
            return cls.parse(data)
        except PolicyError as error:
            raise PolicyError(error.code, f"{path}: {error.detail}", error.hint) from error

    @classmethod
    def parse(cls, data: bytes) -> "Policy":
        """Parse a policy's bytes (at most 256 KiB). Raises PolicyError for anything unknown, missing or wrong."""
        if len(data) > MAX_POLICY:
            raise PolicyError("policy_too_large", f"a policy has at most {MAX_POLICY} bytes")
        try:
            document = tomllib.loads(data.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise PolicyError("policy_malformed", f"not TOML: {error}") from error
        unknown = set(document) - {
            *("version", "name", "transparency", "runtime", "fleet"),
            *_ATTESTATION_TABLES,
        }
        if unknown:
            raise PolicyError("policy_malformed", f"unknown key {sorted(unknown)[0]!r}")
        if document.get("version") != 1:
            raise PolicyError("policy_version", f"expected version = 1, found {document.get('version')!r}")
        name = document.get("name")
        if not isinstance(name, str):
            raise PolicyError("policy_malformed", "name must be a string")
        transparency = document.get("transparency")
        if not isinstance(transparency, dict):
            raise PolicyError(
                "policy_malformed",
                "the table [transparency] is missing",
                "name the log, its witnesses and the release signers you trust",
            )
        tables: Mapping[str, Any] = {key: document[key] for key in _ATTESTATION_TABLES if key in document}
        try:
            log = TransparencyPolicy.from_table(transparency)
            return cls(
                name=name,
                attestation=AttestationPolicy.from_table(tables),
                transparency=log,
                digest=hashlib.sha256(data).digest(),
                padding=_padding(document.get("runtime", {})),
                fleet=_fleet(document["fleet"], log.profile != SIGSTORE_ONLY)
                if "fleet" in document
                else None,
            )
        except AttestationError as error:
            raise PolicyError(error.code, error.detail or str(error)) from error
        except TransparencyError as error:
            raise PolicyError(error.code, str(error)) from error


def _padding(table: object) -> frozenset[str]:
    """The ``[runtime]`` table's profiles. Raises PolicyError."""
    if not isinstance(table, dict) or set(table) - {"padding"}:
        raise PolicyError("policy_malformed", "[runtime] is a table with padding alone")
    named = table.get("padding", sorted(DEFAULT_PADDING))
    if not isinstance(named, list) or not named or any(name not in PROFILES for name in named):
        raise PolicyError("policy_malformed", f"[runtime] padding lists profiles of {', '.join(PROFILES)}")
    return frozenset(named)


def _fleet(table: object, has_log: bool = True) -> FleetDemands:
    """The ``[fleet]`` table. Raises PolicyError."""
    if not isinstance(table, dict) or set(table) - {"min_nodes", "max_nodes", "mirrors", "logged"}:
        raise PolicyError(
            "policy_malformed", "[fleet] is a table with min_nodes, max_nodes, mirrors and logged alone"
        )
    least, most = table.get("min_nodes", 2), table.get("max_nodes", MAX_NODES)
    if type(least) is not int or type(most) is not int or not 1 <= least <= most <= MAX_NODES:
        raise PolicyError("policy_malformed", f"[fleet] wants 1 ≤ min_nodes ≤ max_nodes ≤ {MAX_NODES}")
    mirrors = table.get("mirrors", [])
    if (
        not isinstance(mirrors, list)
        or len(mirrors) > _MAX_MIRRORS
        or not all(isinstance(url, str) and url.startswith(("https://", "http://")) for url in mirrors)
    ):
        raise PolicyError("policy_malformed", f"[fleet] mirrors lists at most {_MAX_MIRRORS} URLs")
    # Who trusts a log is shown the list that everybody is shown, unless it says that it does without.
    logged = table.get("logged", has_log)
    if not isinstance(logged, bool) or (logged and not has_log):
        raise PolicyError(
            "policy_malformed", "[fleet] logged is true or false, and true only where a log is named"
        )
    return FleetDemands(least, most, tuple(mirrors), logged)
