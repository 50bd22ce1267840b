"""What an appraisal of NVIDIA devices ends in: verified GPUs and switches, and NVIDIA's own names for it.

`gpu_claims` and `switch_claims` say in the claims of NVIDIA's attestation tools (version 3.0) what was found,
so that appraisal policies written for those tools read these results too. A check that the policy left out
is never told as a success.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from attestation.certificate import Certificate
from attestation.nvidia.collateral import PathStatus
from attestation.nvidia.measurements import Comparison
from attestation.nvidia.opaque import Mode, read_fwid
from attestation.nvidia.path import earliest_end
from attestation.nvidia.rim import Rim
from attestation.nvidia.rim_id import RimKind
from attestation.nvidia.spdm import Report

CLAIMS_VERSION = "3.0"


@dataclass(frozen=True, slots=True)
class Reference:
    """A manifest that a device was compared with; ``revocation`` of its signer's path, None where not asked."""

    kind: RimKind
    rim: Rim
    revocation: PathStatus | None


@dataclass(frozen=True, slots=True)
class Findings:
    """What the checks of one device found.

    ``certificates`` is the device's path, leaf first; ``comparison`` is None where the policy asks for no
    reference measurements, ``revocation`` where it asks for no revocation status.
    """

    certificates: tuple[Certificate, ...]
    references: tuple[Reference, ...]
    comparison: Comparison | None
    revocation: PathStatus | None
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class VerifiedGpu:
    """A GPU whose evidence is genuine, fresh and what the policy asks for.

    ``ueid`` is the decimal serial number of the attestation certificate; ``identity_sha256`` names the
    device whatever firmware it runs; ``fwid`` is 48 bytes or None (only where the policy allows that).
    """

    arch: str
    ueid: str
    identity_sha256: bytes
    hardware_model: str
    driver_version: str
    vbios_version: str
    fwid: bytes | None
    mode: Mode
    simulated: bool
    report: Report
    findings: Findings

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader of the result should know."""
        return self.findings.warnings


@dataclass(frozen=True, slots=True)
class VerifiedSwitch:
    """An NVSwitch whose evidence is genuine, fresh and what the policy asks for."""

    arch: str
    ueid: str
    identity_sha256: bytes
    hardware_model: str
    bios_version: str
    simulated: bool
    report: Report
    findings: Findings

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader of the result should know."""
        return self.findings.warnings


def gpu_claims(gpu: VerifiedGpu) -> dict[str, object]:
    """The claims about a verified GPU, under NVIDIA's names."""
    claims = _device_claims(gpu, "x-nvidia-gpu")
    claims["x-nvidia-device-type"] = "gpu"
    claims["x-nvidia-gpu-driver-version"] = gpu.driver_version
    claims["x-nvidia-gpu-vbios-version"] = gpu.vbios_version
    # The firmware id alone that a report names can match; one that differs never comes here.
    claims["x-nvidia-gpu-attestation-report-cert-chain-fwid-match"] = read_fwid(gpu.report.opaque) is not None
    claims["x-nvidia-gpu-vbios-index-no-conflict"] = gpu.findings.comparison is not None
    for kind, prefix in (
        (RimKind.DRIVER, "x-nvidia-gpu-driver-rim"),
        (RimKind.VBIOS, "x-nvidia-gpu-vbios-rim"),
    ):
        claims.update(_rim_claims(gpu.findings.references, kind, prefix))
    return claims


def switch_claims(switch: VerifiedSwitch) -> dict[str, object]:
    """The claims about a verified NVSwitch, under NVIDIA's names."""
    claims = _device_claims(switch, "x-nvidia-switch")
    claims["x-nvidia-device-type"] = "nvswitch"
    claims["x-nvidia-switch-bios-version"] = switch.bios_version
    # NVIDIA's claim is true where a report names no firmware id, as those of switches do not; one that names
    # another than its certificate never comes here.
    claims["x-nvidia-switch-attestation-report-cert-chain-fwid-match"] = True
    references = switch.findings.references
    claims.update(_rim_claims(references, RimKind.SWITCH_BIOS, "x-nvidia-switch-bios-rim"))
    return claims


def _device_claims(device: VerifiedGpu | VerifiedSwitch, prefix: str) -> dict[str, object]:
    findings = device.findings
    measured = findings.comparison is not None
    return {
        "ueid": device.ueid,
        "hwmodel": device.hardware_model,
        "oemid": "5703",
        "eat_nonce": device.report.nonce.hex(),
        # Secure boot and debug state are part of what is measured; without the comparison nothing is known.
        "measres": "success" if measured else "not-run",
        "secboot": True if measured else None,
        "dbgstat": "disabled" if measured else None,
        f"{prefix}-claims-version": CLAIMS_VERSION,
        f"{prefix}-arch-check": True,
        f"{prefix}-attestation-report-parsed": True,
        f"{prefix}-attestation-report-nonce-match": True,
        f"{prefix}-attestation-report-signature-verified": True,
        f"{prefix}-attestation-report-cert-chain": _path_claims(
            earliest_end(findings.certificates), findings.revocation
        ),
        "x-nvidia-mismatch-measurement-records": None,
        "x-nvidia-attestation-warning": "; ".join(findings.warnings) or None,
    }


def _rim_claims(references: Sequence[Reference], kind: RimKind, prefix: str) -> dict[str, object]:
    reference = next((item for item in references if item.kind is kind), None)
    found = reference is not None
    return {
        f"{prefix}-fetched": found,
        f"{prefix}-schema-validated": found,
        f"{prefix}-signature-verified": found,
        f"{prefix}-version-match": found,
        f"{prefix}-measurements-available": found,
        f"{prefix}-cert-chain": None
        if reference is None
        else _path_claims(reference.rim.expires, reference.revocation),
    }


def _path_claims(expires: datetime, revocation: PathStatus | None) -> dict[str, object]:
    return {
        "x-nvidia-cert-status": "valid",
        "x-nvidia-cert-ocsp-status": None if revocation is None else revocation.ocsp,
        "x-nvidia-cert-expiration-date": f"{expires:%Y-%m-%dT%H:%M:%SZ}",
        "x-nvidia-cert-revocation-reason": None
        if revocation is None or revocation.held is None
        else revocation.held.value,
    }
