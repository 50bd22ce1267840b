"""The TDX cases of the vectors: quote, collateral, time, policy and the verdict that is right."""

import base64
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from attestation.errors import AttestationError
from attestation.tdx.collateral import TdxCollateral
from attestation.tdx.intel_root import INTEL_ROOT_SHA256
from attestation.tdx.policy import TdxPolicy
from attestation.tdx.quote import parse_quote
from attestation.tdx.tcb_status import TcbStatus

_PINS = (
    "mrtd",
    "rtmr0",
    "rtmr1",
    "rtmr2",
    "rtmr3",
    "mrseam",
    "mr_config_id",
    "mr_owner",
    "mr_owner_config",
    "report_data",
)


@dataclass(frozen=True)
class TdxCase:
    """One case. ``members`` is the collateral as the manifests write it; None where a case has none."""

    id: str
    quote: bytes
    members: dict[str, str] | None
    policy: TdxPolicy
    at: datetime
    expect: dict[str, Any]

    @property
    def collateral(self) -> TdxCollateral | None:
        """The pieces. Raises AttestationError where they cannot be read, or one is missing."""
        return None if self.members is None else TdxCollateral.from_json(json.dumps(self.members).encode())

    @property
    def unreadable(self) -> AttestationError | None:
        """Why the collateral cannot even be taken apart, which is the verdict then."""
        try:
            _ = self.collateral
        except AttestationError as error:
            return error
        return None


def cases(vectors: Path, kind: str) -> Iterator[TdxCase]:
    """All cases of a manifest: ``real`` under Intel's root, ``synth`` under the vectors' own."""
    folder = vectors / "tdx"
    root, base = INTEL_ROOT_SHA256, {}
    if kind == "synth":
        root = hashlib.sha256((folder / "synth" / "root_ca.der").read_bytes()).hexdigest()
        base = json.loads((folder / "synth" / "collateral_base.json").read_text())
    for case in json.loads((folder / kind / "cases.json").read_text()):
        if kind == "synth":
            changed = {**base, **case["collateral_overrides"]}
            members = {name: value for name, value in changed.items() if value is not None}
            quote = base64.b64decode(case["quote_b64"])
        else:
            quote, members = (folder / case["quote"]).read_bytes(), None
            if case["collateral"]:
                members = json.loads((folder / case["collateral"]).read_text())
        time = case["time"]
        at = datetime.fromtimestamp(time, UTC) if time else _when_valid(quote)
        yield TdxCase(case["id"], quote, members, policy(case["policy"], root), at, case["expect"])


def readable(vectors: Path, kind: str) -> Iterator[TdxCase]:
    """Those whose collateral can be taken apart, as nearly all are."""
    return (case for case in cases(vectors, kind) if case.unreadable is None)


def policy(given: dict[str, Any], root: str) -> TdxPolicy:
    """A policy with the defaults that the manifests define, and what a case asks for."""
    left = dict(given)
    values: dict[str, Any] = {"roots": frozenset({root})}
    values["pins"] = {
        name: frozenset(map(bytes.fromhex, _listed(left.pop(name))))
        for name in _PINS
        if left.get(name) is not None
    }
    if "grace" in left:
        grace = left.pop("grace")
        values["grace"] = timedelta(days=grace["days"])
        statuses = grace.get("statuses", grace.get("status", ["OutOfDate"]))
        values["grace_statuses"] = frozenset(map(TcbStatus, _listed(statuses)))
    if "td_attributes_allowed" in left:
        values["td_attributes"] = frozenset(left.pop("td_attributes_allowed"))
    for name in ("xfam_fixed1", "xfam_fixed0"):
        if isinstance(left.get(name), str):
            left[name] = int(left[name], 16)
    if "platform" in left:
        names = {"smt": "smt", "dynamic": "dynamic_platform", "cached_keys": "cached_keys"}
        refused = {names[name] for name, allowed in left.pop("platform").items() if not allowed}
        values["forbid_platform"] = frozenset(refused)
    if "forbid_platform" in left:
        values["forbid_platform"] = frozenset(left.pop("forbid_platform"))
    if "accepted_tcb_statuses" in left:
        values["accepted_tcb_statuses"] = frozenset(map(TcbStatus, left.pop("accepted_tcb_statuses")))
    if "allowed_advisories" in left:
        values["allowed_advisories"] = frozenset(left.pop("allowed_advisories"))
    if "min_tee_tcb_svn" in left:
        values["min_tee_tcb_svn"] = bytes.fromhex(left.pop("min_tee_tcb_svn"))
    for name in ("fmspc", "ppid"):
        if name in left:
            values[name] = frozenset(map(bytes.fromhex, left.pop(name)))
    if "min_tcb_date" in left:
        date = datetime.fromisoformat(left.pop("min_tcb_date"))
        values["min_tcb_date"] = date if date.tzinfo else date.replace(tzinfo=UTC)
    return TdxPolicy(**{**values, **left})


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else value


def _when_valid(quote: bytes) -> datetime:
    """A moment at which the chain in the quote is in force, for cases that name none."""
    from attestation.certificate import Certificate
    from attestation.tdx.chain import read_pem

    return max(Certificate.parse(data).not_before for data in read_pem(parse_quote(quote).pck_chain))
