"""Rules over the claims about devices, by NVIDIA's claim names, and NVIDIA's own policy files read as they are.

A policy file is JSON: ``{"version": "4.0", "authorization-rules": {"type": "JWT", "overall-claims": {...},
"detached-claims": {...}}}``. A claim must be there and equal its rule in type and value; an object must
hold every member of its rule. Version 3.0 files have the same form over claims of version 2.0.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from attestation.errors import EvidenceMalformed
from attestation.nvidia.errors import ClaimError, GpuPolicyError
from attestation.strict_json import exact_members, load_object

MAX_RULES: Final = 64 * 1024
"""Bytes of a policy file at most; NVIDIA's examples have less than 2 kB."""

GPU: Final = "gpu"
SWITCH: Final = "switch"

_FILE_VERSIONS: Final = frozenset({"3.0", "4.0"})
_MAX_DEPTH: Final = 8
_INVALID: Final = "policy_invalid"
_GOOD_CHAIN: Final = {"x-nvidia-cert-status": "valid", "x-nvidia-cert-ocsp-status": "good"}
# Not every version states these; one that is stated and says otherwise speaks against the device.
_CHAIN_IF_STATED: Final = {
    "x-nvidia-cert-ocsp-response-valid": True,
    "x-nvidia-cert-ocsp-nonce-matches": True,
    "x-nvidia-cert-revocation-reason": None,
}


@dataclass(frozen=True, slots=True)
class ClaimRules:
    """What claims must say: ``overall`` those of a whole answer, ``device`` those of every device.

    ``if_stated``: claims of a device that may be absent, and must equal the rule where they are present.
    """

    overall: Mapping[str, Any] = field(default_factory=dict)
    device: Mapping[str, Any] = field(default_factory=dict)
    if_stated: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, data: bytes) -> "ClaimRules":
        """Read a policy file of NVIDIA. Raises `GpuPolicyError` (``policy_invalid``)."""
        try:
            document = load_object(data, limit=MAX_RULES, code=_INVALID)
            members = exact_members(
                document, ("version", "authorization-rules"), code=_INVALID, where="the policy file"
            )
            rules = exact_members(
                members["authorization-rules"],
                ("type", "overall-claims", "detached-claims"),
                code=_INVALID,
                where="authorization-rules",
            )
        except EvidenceMalformed as error:
            raise _invalid(error.detail) from None
        if members["version"] not in _FILE_VERSIONS:
            raise _invalid("version of the policy file", sorted(_FILE_VERSIONS), members["version"])
        if rules["type"] != "JWT":
            raise _invalid("type of the authorization rules", "JWT", rules["type"])
        for name in ("overall-claims", "detached-claims"):
            if not isinstance(rules[name], dict) or _depth(rules[name]) > _MAX_DEPTH:
                raise _invalid(f"{name} is not a flat object")
        if not rules["detached-claims"]:
            raise _invalid("detached-claims asks nothing of a device")
        return cls(overall=rules["overall-claims"], device=rules["detached-claims"])

    def about(self, kind: str) -> str | None:
        """A rule about a claim that devices of this ``kind`` alone make; None where there is none."""
        return next((name for name in self.device if name.startswith(f"x-nvidia-{kind}-")), None)

    def for_kind(self, kind: str) -> "ClaimRules":
        """The rules for devices of this ``kind``: all but those about claims that the other kind alone makes."""
        other = f"x-nvidia-{SWITCH if kind == GPU else GPU}-"
        device = {name: rule for name, rule in self.device.items() if not name.startswith(other)}
        if_stated = {name: rule for name, rule in self.if_stated.items() if not name.startswith(other)}
        return ClaimRules(self.overall, device, if_stated)

    def check_overall(self, claims: Mapping[str, Any]) -> None:
        """The claims of a whole answer follow the rules. Raises `ClaimError`."""
        _check(self.overall, claims, "", None)

    def check_device(self, claims: Mapping[str, Any], place: int | None = None) -> None:
        """The claims of the device at ``place`` follow the rules.

        Raises `ClaimError`: ``claim_missing``, ``claim_type``, ``claim_mismatch``.
        """
        _check(self.device, claims, "", place)
        for name, rule in self.if_stated.items():
            _check_if_stated(rule, claims, name, name, place)


def default_rules(version: str, kind: str) -> ClaimRules:
    """What every answer must say about devices of this ``kind``, whatever else a policy file asks for.

    ``version`` is that of the claims ("2.0" or "3.0").
    """
    checks = f"x-nvidia-{kind}-"
    manifests = ("driver-rim", "vbios-rim") if kind == GPU else ("bios-rim",)
    flags = ["arch-check"]
    flags += [f"attestation-report-{flag}" for flag in ("parsed", "nonce-match", "signature-verified")]
    if kind == GPU:
        flags.append("vbios-index-no-conflict")
    chains = [f"{checks}attestation-report-cert-chain"]
    for manifest in manifests:
        flags += [
            f"{manifest}-{flag}" for flag in ("fetched", "signature-verified", "measurements-available")
        ]
        chains.append(f"{checks}{manifest}-cert-chain")
    device: dict[str, Any] = {"measres": "success", "secboot": True, "dbgstat": "disabled"}
    if_stated: dict[str, Any] = {
        "x-nvidia-mismatch-measurement-records": None,
        "x-nvidia-error-details": None,
    }
    if version == "2.0":
        flags.append("attestation-report-cert-chain-validated")
        flags += [f"{manifest}-cert-validated" for manifest in manifests]
        flags += [f"{manifest}-schema-validated" for manifest in manifests]
    else:
        flags.append("attestation-report-cert-chain-fwid-match")
        flags += [f"{manifest}-version-match" for manifest in manifests]
        device |= dict.fromkeys(chains, _GOOD_CHAIN)
        if_stated |= dict.fromkeys(chains, _CHAIN_IF_STATED)
        if_stated |= {f"{checks}{manifest}-schema-validated": True for manifest in manifests}
    device |= {checks + flag: True for flag in flags}
    return ClaimRules(overall={"x-nvidia-overall-att-result": True}, device=device, if_stated=if_stated)


def _check(rules: Mapping[str, Any], claims: Mapping[str, Any], above: str, place: int | None) -> None:
    for name, rule in rules.items():
        path = above + name
        if name not in claims:
            raise _refused("claim_missing", path, rule, None, place)
        claim = claims[name]
        if isinstance(rule, Mapping) and isinstance(claim, Mapping):
            _check(rule, claim, f"{path}/", place)
        elif type(rule) is not type(claim):
            # A claim that is null was looked at and not given: the check behind it did not pass.
            raise _refused("claim_type" if claim is not None else "claim_mismatch", path, rule, claim, place)
        elif not _same(rule, claim):
            raise _refused("claim_mismatch", path, rule, claim, place)


def _check_if_stated(rule: Any, claims: Mapping[str, Any], name: str, path: str, place: int | None) -> None:
    if name not in claims:
        return
    claim = claims[name]
    if isinstance(rule, Mapping) and isinstance(claim, Mapping):
        for member, inner in rule.items():
            _check_if_stated(inner, claim, member, f"{path}/{member}", place)
    elif rule is None:
        if claim:
            raise _refused("claim_mismatch", path, "nothing", claim, place)
    elif not _same(rule, claim):
        raise _refused("claim_mismatch", path, rule, claim, place)


def _same(rule: Any, claim: Any) -> bool:
    """Equal in type too, all the way down: 1 is not true, and "true" is not either."""
    if type(rule) is not type(claim):
        return False
    if isinstance(rule, list):
        return len(rule) == len(claim) and all(map(_same, rule, claim))
    if isinstance(rule, dict):
        return rule.keys() == claim.keys() and all(_same(rule[name], claim[name]) for name in rule)
    return bool(rule == claim)


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(_depth, value), default=0)
    return 0


def _refused(code: str, path: str, expected: object, found: object, place: int | None) -> ClaimError:
    error = ClaimError(code=code, stage="gpu.nras", detail=path[:160], expected=expected, found=found)
    error.gpu = place
    return error


def _invalid(detail: str, expected: object = None, found: object = None) -> GpuPolicyError:
    return GpuPolicyError(code=_INVALID, stage="policy", detail=detail, expected=expected, found=found)
