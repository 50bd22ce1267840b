"""An attestation result in the names of the IETF's draft (draft-ietf-rats-ear-04), which have underscores.

The draft sorts what else is said of an attester: what its evidence said, and what the verifier adds. The profile
that ``ear`` writes is the older one, which deployed verifiers write and read.
"""

from collections.abc import Mapping
from typing import Any, Final

PROFILE: Final = "tag:ietf.org,2026:rats/ear#04"

_SUBMODULE: Final = {
    "ear.status": "ear_status",
    "ear.trustworthiness-vector": "ear_trustworthiness_vector",
}
_ATTESTER: Final = frozenset(
    {"ueid", "oemid", "hwmodel", "dbgstat", "oemboot", "cloister.registers", "cloister.tee"}
)
"""What the evidence said; all else that is ours the verifier added."""


def as_ietf_draft(result: Mapping[str, Any]) -> dict[str, Any]:
    """What ``ear.attestation_result`` made, under the draft's names and profile."""
    document = {name: value for name, value in result.items() if name not in ("ear.verifier-id", "submods")}
    return {
        **document,
        "eat_profile": PROFILE,
        "ear_verifier_id": dict(result["ear.verifier-id"]),
        "submods": {name: _submodule(claims) for name, claims in result["submods"].items()},
    }


def _submodule(claims: Mapping[str, Any]) -> dict[str, Any]:
    left = dict(claims)
    found = {name: left.pop(ours) for ours, name in _SUBMODULE.items()}
    found["ear_appraisal_policy_ids"] = [left.pop("ear.appraisal-policy-id")]
    found["ear_attester_claims"] = {name: left.pop(name) for name in tuple(left) if name in _ATTESTER}
    found["ear_verifier_claims"] = left
    return found
