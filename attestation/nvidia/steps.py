"""The checks of one device in their order, each building on what the earlier ones established."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from itertools import pairwise

from attestation.nvidia.chain import VerifiedChain
from attestation.nvidia.collateral import Collateral, PathStatus
from attestation.nvidia.device import (
    LS10,
    check_chain,
    check_configuration,
    check_fwid,
    check_nonce,
    check_registered,
    check_reported_fwid,
    check_signature,
)
from attestation.nvidia.errors import GpuAttestationError
from attestation.nvidia.evidence import GpuEvidence
from attestation.nvidia.measurements import Comparison, check_digests, compare
from attestation.nvidia.opaque import GpuFields, read_fwid, read_gpu_fields, read_switch_bios_version
from attestation.nvidia.policy import GpuPolicy
from attestation.nvidia.rim_id import RimRequest, gpu_rims, switch_rim
from attestation.nvidia.spdm import Report
from attestation.nvidia.verified import Findings, Reference, VerifiedGpu, VerifiedSwitch
from attestation.results import NOT_EVALUATED


class Device:
    """What the checks of one device have established so far."""

    __slots__ = (
        "bios_version",
        "chain",
        "comparison",
        "evidence",
        "fields",
        "fwid",
        "references",
        "report",
        "revocation",
        "warnings",
    )

    def __init__(self, evidence: GpuEvidence) -> None:
        self.evidence = evidence
        self.chain: VerifiedChain | None = None
        self.report: Report | None = None
        self.fwid: bytes | None = None
        self.fields: GpuFields | None = None
        self.bios_version: str | None = None
        self.references: tuple[Reference, ...] | None = None
        self.comparison: Comparison | None = None
        self.revocation: PathStatus | None = None
        self.warnings: list[str] = []

    @property
    def is_switch(self) -> bool:
        """Whether the evidence claims to be an NVSwitch's, as its chain then must prove."""
        return self.evidence.arch == LS10

    def trusted_chain(self, stage: str) -> VerifiedChain:
        """The verified chain; where there is none, ``stage`` cannot be evaluated."""
        if self.chain is None:
            raise not_evaluated(stage, "the certificate chain is not trusted")
        return self.chain

    def signed_report(self, stage: str) -> Report:
        """The authentic report; where there is none, ``stage`` cannot be evaluated."""
        if self.report is None:
            raise not_evaluated(stage, "the report is not authentic")
        return self.report

    def simulated(self, policy: GpuPolicy) -> bool:
        """Whether the chain ends at the simulated root that the policy names."""
        return self.chain is not None and self.chain.root_sha256 == policy.simulated_root

    def verified_gpu(self, policy: GpuPolicy) -> VerifiedGpu:
        """The result, once every check of a GPU has passed."""
        chain, report = self.trusted_chain("gpu.chain"), self.signed_report("gpu.signature")
        if self.fields is None:
            raise not_evaluated("gpu.mode", "the configuration was not read")
        return VerifiedGpu(
            arch=self.evidence.arch,
            ueid=chain.ueid,
            identity_sha256=chain.identity_sha256,
            hardware_model=chain.hardware_model,
            driver_version=self.fields.driver_version,
            vbios_version=self.fields.vbios_version,
            fwid=self.fwid,
            mode=self.fields.mode,
            simulated=self.simulated(policy),
            report=report,
            findings=self._findings(chain),
        )

    def verified_switch(self, policy: GpuPolicy) -> VerifiedSwitch:
        """The result, once every check of an NVSwitch has passed."""
        chain, report = self.trusted_chain("gpu.chain"), self.signed_report("gpu.signature")
        if self.bios_version is None:
            raise not_evaluated("gpu.mode", "the configuration was not read")
        return VerifiedSwitch(
            arch=self.evidence.arch,
            ueid=chain.ueid,
            identity_sha256=chain.identity_sha256,
            hardware_model=chain.hardware_model,
            bios_version=self.bios_version,
            simulated=self.simulated(policy),
            report=report,
            findings=self._findings(chain),
        )

    def _findings(self, chain: VerifiedChain) -> Findings:
        return Findings(
            certificates=chain.chain.certificates,
            references=self.references or (),
            comparison=self.comparison,
            revocation=self.revocation,
            warnings=tuple(self.warnings),
        )


Step = Callable[[Device, bytes | None, GpuPolicy, datetime, Collateral], str | None]
"""A check: the line for its row, or None where the policy does not ask for it. Raises GpuAttestationError."""


def not_evaluated(stage: str, detail: str) -> GpuAttestationError:
    """A check that cannot be made any more, which is a failure."""
    return GpuAttestationError(code=NOT_EVALUATED, stage=stage, detail=detail)


def _chain(
    device: Device, _nonce: bytes | None, policy: GpuPolicy, at: datetime, collateral: Collateral
) -> str:
    device.chain = check_chain(device.evidence, policy, at, collateral.once)
    root = "simulated root" if device.simulated(policy) else "NVIDIA Device Identity CA"
    return f"{device.chain.hardware_model}, {root}"


def _signature(device: Device, _nonce: bytes | None, _policy: GpuPolicy, _at: datetime, _: Collateral) -> str:
    device.report = check_signature(device.evidence, device.trusted_chain("gpu.signature"))
    return "SPDM 1.1 report, ECDSA P-384 with SHA-384"


def _nonce(device: Device, nonce: bytes | None, _policy: GpuPolicy, _at: datetime, _: Collateral) -> str:
    report = device.signed_report("gpu.nonce")
    if nonce is None:
        raise not_evaluated("gpu.nonce", "the claims that the nonce comes from are not known")
    check_nonce(device.evidence, report, nonce)
    return "signed over this node's nonce"


def _fwid(
    device: Device, _nonce: bytes | None, policy: GpuPolicy, _at: datetime, _: Collateral
) -> str | None:
    report, chain = device.signed_report("gpu.fwid"), device.trusted_chain("gpu.fwid")
    if device.is_switch:
        # Real switches report none; the policy's list is of GPUs' firmware.
        reported = check_reported_fwid(report, chain)
        return None if reported is None else f"switch firmware {reported.hex()[:16]}…"
    device.fwid = fwid = check_fwid(report, chain, policy)
    if read_fwid(report.opaque) is None:
        # What the certificate names stands, but that this firmware made the report was not looked at.
        device.warnings.append("the report names no firmware id")
        if not policy.fwids:
            return None
    return None if fwid is None else f"firmware {fwid.hex()[:16]}…"


def _mode(device: Device, _nonce: bytes | None, policy: GpuPolicy, _at: datetime, _: Collateral) -> str:
    report, chain = device.signed_report("gpu.mode"), device.trusted_chain("gpu.mode")
    if device.is_switch:
        device.bios_version = read_switch_bios_version(report.opaque)
        check_registered(chain, policy)
        return f"NVSwitch {device.evidence.arch}, BIOS {device.bios_version}"
    device.fields = fields = read_gpu_fields(report.opaque)
    check_configuration(device.evidence, fields, chain, policy)
    return (
        f"{device.evidence.arch} {fields.mode}, driver {fields.driver_version}, VBIOS {fields.vbios_version}"
    )


def _measurements(
    device: Device, _nonce: bytes | None, policy: GpuPolicy, _at: datetime, collateral: Collateral
) -> str | None:
    stage = "gpu.measurements"
    if policy.rim == "off":
        if device.report is not None:
            check_digests(device.report.measurements)
        device.references = ()
        device.warnings.append("not compared with reference measurements")
        return None
    report = device.signed_report(stage)
    device.trusted_chain(stage)
    simulated = device.simulated(policy)
    rims = [(request, collateral.rim(request, simulated=simulated)) for request in _requests(device, report)]
    # Kept before the comparison, so that its failure does not hide a revoked signer.
    device.references = tuple(Reference(request.kind, rim, None) for request, rim in rims)
    decoder_off = device.fields is not None and not device.fields.nvdec_enabled
    device.comparison = compare(
        report.measurements,
        [rim for _, rim in rims],
        leave_out_nvdec=decoder_off and not policy.strict_msr35,
        reject_uncovered=policy.reject_uncovered,
    )
    device.warnings.extend(device.comparison.warnings)
    names = " and ".join(f"{request.kind} {request.version}" for request, _ in rims)
    lines = [f"{len(device.comparison.matched)} measurements as signed for {names}"]
    return "; ".join([*lines, *device.comparison.warnings])


def _requests(device: Device, report: Report) -> Sequence[RimRequest]:
    if device.bios_version is not None:
        return [switch_rim(device.bios_version)]
    if device.fields is None:
        raise not_evaluated("gpu.measurements", "the versions of driver and VBIOS are not known")
    return gpu_rims(device.evidence.arch, report.opaque, device.fields)


def _revocation(
    device: Device, _nonce: bytes | None, policy: GpuPolicy, _at: datetime, collateral: Collateral
) -> str | None:
    stage = "gpu.revocation"
    if policy.revocation == "off":
        device.warnings.append("revocation was not checked")
        return None
    chain = device.trusted_chain(stage)
    # The leaf is made on the device and known to nobody else; the root answers for itself.
    path = list(pairwise(chain.chain.certificates))[1:]
    signers = [one for reference in device.references or () for one in reference.rim.certificates[:-1]]
    collateral.read_ahead([*(subject for subject, _ in path), *signers])
    device.revocation = collateral.path_status(path, hold=False)
    if device.references is None:
        raise not_evaluated(stage, "the manifests' signers are not known")
    references = []
    for reference in device.references:
        path = list(pairwise(reference.rim.certificates))
        status = collateral.path_status(path, hold=policy.allow_rim_cert_hold)
        references.append(Reference(reference.kind, reference.rim, status))
        if status.held is not None:
            device.warnings.append(f"the signer of the {reference.kind} manifest is on hold")
    device.references = tuple(references)
    statuses = [device.revocation, *(item.revocation for item in references if item.revocation)]
    asked, checked = sum(item.asked for item in statuses), sum(item.checked for item in statuses)
    if checked < asked:
        device.warnings.append(f"revocation is known of {checked} of {asked} certificates")
    held = [f"{item.kind} manifest's signer on hold" for item in references if _is_held(item)]
    if checked == 0:
        return None
    return "; ".join([f"{checked} of {asked} certificates not revoked (OCSP)", *held])


def _is_held(reference: Reference) -> bool:
    return reference.revocation is not None and reference.revocation.held is not None


DEVICE_CHECKS: Mapping[str, Step] = {
    "gpu.chain": _chain,
    "gpu.signature": _signature,
    "gpu.nonce": _nonce,
    "gpu.fwid": _fwid,
    "gpu.mode": _mode,
    "gpu.measurements": _measurements,
    "gpu.revocation": _revocation,
}
"""The checks of one device by the ids of their rows, in order."""
