"""A local appraisal told in NVIDIA's claims, so that policy files written for NVIDIA's tools run on it.

The claims are this program's own and signed by nobody; they are for the caller's rules, not for a third party.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from attestation.nvidia.claim_rules import GPU, SWITCH, ClaimRules
from attestation.nvidia.errors import ClaimError, GpuRefused
from attestation.nvidia.verified import CLAIMS_VERSION, VerifiedGpu, VerifiedSwitch, gpu_claims, switch_claims

ISSUER: Final = "LOCAL_GPU_VERIFIER"
"""What NVIDIA's local verifier names as issuer, which its policy files for local results ask for."""

_GPU_NAME: Final = "GPU-"


@dataclass(frozen=True, slots=True)
class LocalClaims:
    """Claims about the whole appraisal, and about each device by its name ("GPU-0", "SWITCH-0")."""

    overall: Mapping[str, Any]
    devices: Mapping[str, Mapping[str, Any]]

    def follow(self, rules: ClaimRules) -> None:
        """The claims follow ``rules``; what they say of GPUs is asked of GPUs, of switches of switches.

        Raises `ClaimError`, or `GpuRefused` where there is no device at all.
        """
        if not self.devices:
            raise GpuRefused(code="policy_gpu_count", stage="gpu.claims", expected="at least 1", found=0)
        rules.check_overall(self.overall)
        kinds = {name: GPU if name.startswith(_GPU_NAME) else SWITCH for name in self.devices}
        for kind in (GPU, SWITCH):
            rule = rules.about(kind)
            if rule is not None and kind not in kinds.values():
                raise ClaimError(
                    code="claim_missing", stage="gpu.claims", detail=rule, expected=rules.device[rule]
                )
        for place, (name, claims) in enumerate(self.devices.items()):
            rules.for_kind(kinds[name]).check_device(claims, place)

    def to_json(self) -> dict[str, Any]:
        """The claims as JSON can hold them."""
        return {
            "overall": dict(self.overall),
            "devices": {name: dict(one) for name, one in self.devices.items()},
        }


def local_claims(
    gpus: Sequence[VerifiedGpu], switches: Sequence[VerifiedSwitch], at: datetime
) -> LocalClaims:
    """The claims of an appraisal at ``at`` in which every check passed that the policy asked for.

    The overall result is true only where every device was compared with its reference measurements: NVIDIA's
    tools know no success without.
    """
    devices = {f"{_GPU_NAME}{place}": gpu_claims(gpu) for place, gpu in enumerate(gpus)}
    devices |= {f"SWITCH-{place}": switch_claims(switch) for place, switch in enumerate(switches)}
    overall = {
        "iss": ISSUER,
        "iat": int(at.timestamp()),
        "x-nvidia-ver": CLAIMS_VERSION,
        "x-nvidia-overall-att-result": bool(devices)
        and all(claims["measres"] == "success" for claims in devices.values()),
    }
    return LocalClaims(overall, devices)
