"""GPU evidence, verified: one GPU, or all GPUs of a node together.

`verify_gpu` and `verify_gpus` raise at the first failure. `appraise_gpu_section` goes on after one and
reports every check that can still be made, as rows with stable ids.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from attestation.errors import AttestationError
from attestation.nvidia.chain import DeviceChain, parse_chain
from attestation.nvidia.collateral import Collateral
from attestation.nvidia.device import LS10
from attestation.nvidia.errors import (
    DeviceChainError,
    DuplicateGpu,
    GpuAttestationError,
    GpuRefused,
    ModeError,
    TopologyError,
)
from attestation.nvidia.evidence import GpuEvidence, parse_evidence_list
from attestation.nvidia.ledger import Ledger
from attestation.nvidia.local_claims import local_claims
from attestation.nvidia.opaque import Mode
from attestation.nvidia.policy import GpuPolicy
from attestation.nvidia.second_opinion import check_second_opinion
from attestation.nvidia.steps import DEVICE_CHECKS, Device, Step, not_evaluated
from attestation.nvidia.topology import check_topology, gpu_links, switch_links
from attestation.nvidia.verified import VerifiedGpu, VerifiedSwitch
from attestation.results import NOT_EVALUATED, Row

__all__ = [
    "CHECKS",
    "GpuSectionAppraisal",
    "VerifiedGpu",
    "VerifiedSwitch",
    "appraise_gpu_section",
    "count_gpus",
    "verify_gpu",
    "verify_gpus",
    "verify_switch",
]

CHECKS = (
    "gpu.count",
    "gpu.distinct",
    "gpu.chain",
    "gpu.signature",
    "gpu.nonce",
    "gpu.fwid",
    "gpu.mode",
    "gpu.measurements",
    "gpu.revocation",
    "gpu.topology",
    "gpu.nras",
    "gpu.claims",
)
"""Ids of the rows, in the order of the protocol."""


@dataclass(frozen=True, slots=True)
class GpuSectionAppraisal:
    """The rows of a GPU section, the first error, and the verified devices (none unless all passed).

    ``simulated`` is True as soon as one chain ends at the simulated root. ``switches`` are the NVSwitches
    that belong to the GPUs, in protected PCIe mode alone.
    """

    rows: tuple[Row, ...]
    error: AttestationError | None
    gpus: tuple[VerifiedGpu, ...]
    simulated: bool
    switches: tuple[VerifiedSwitch, ...] = ()


def verify_gpu(
    evidence: GpuEvidence,
    expected_nonce: bytes,
    policy: GpuPolicy,
    at: datetime,
    collateral: Mapping[str, bytes] | None = None,
) -> VerifiedGpu:
    """Verify one GPU by itself. Says nothing about how many GPUs there are or whether they differ.

    ``collateral`` is what a bundle's ``gpu_collateral`` holds. Raises a `GpuAttestationError` for the first
    check that fails.
    """
    device = Device(evidence)
    if device.is_switch:
        raise DeviceChainError(code="arch_mismatch", stage="gpu.chain", expected="a GPU", found=LS10)
    _check_device(device, expected_nonce, policy, at, collateral or {})
    return device.verified_gpu(policy)


def verify_switch(
    evidence: GpuEvidence,
    expected_nonce: bytes,
    policy: GpuPolicy,
    at: datetime,
    collateral: Mapping[str, bytes] | None = None,
) -> VerifiedSwitch:
    """Verify one NVSwitch by itself. Raises a `GpuAttestationError` for the first check that fails."""
    device = Device(evidence)
    if not device.is_switch:
        raise DeviceChainError(code="arch_mismatch", stage="gpu.chain", expected=LS10, found=evidence.arch)
    _check_device(device, expected_nonce, policy, at, collateral or {})
    return device.verified_switch(policy)


def verify_gpus(
    section: bytes,
    expected_nonce: bytes,
    policy: GpuPolicy,
    at: datetime,
    collateral: Mapping[str, bytes] | None = None,
) -> tuple[VerifiedGpu, ...]:
    """Verify a node's whole GPU section (the JSON list as carried).

    Raises the first `AttestationError` of `appraise_gpu_section`.
    """
    appraisal = appraise_gpu_section(section, expected_nonce, policy, at, collateral)
    if appraisal.error is not None:
        raise appraisal.error
    return appraisal.gpus


def appraise_gpu_section(
    section: bytes,
    expected_nonce: bytes | None,
    policy: GpuPolicy,
    at: datetime,
    collateral: Mapping[str, bytes] | None = None,
) -> GpuSectionAppraisal:
    """Check a node's GPU section and report a row for each of `CHECKS`.

    ``expected_nonce`` is None where it is not known (the claims did not parse): then ``gpu.nonce`` is not
    evaluated, which is a failure. ``collateral`` is what a bundle's ``gpu_collateral`` holds.
    """
    ledger = Ledger(CHECKS)
    try:
        entries = parse_evidence_list(section)
        _check_count(entries, policy)
    except GpuAttestationError as error:
        ledger.fail("gpu.count", error)
        entries = _parsed_or_none(section)
    else:
        ledger.ok("gpu.count", _counted(entries))
    if not entries:
        return _without_devices(ledger, policy)
    devices = [Device(entry) for entry in entries]
    judged = Collateral(collateral or {}, policy, at)
    for check, step in DEVICE_CHECKS.items():
        _run(ledger, check, step, devices, expected_nonce, policy, at, judged)
    if ledger.passed("gpu.mode"):
        try:
            _check_modes_together(devices)
        except GpuAttestationError as error:
            ledger.fail("gpu.mode", error)
    _run_distinct(ledger, devices)
    _run_topology(ledger, devices)
    _run_second_opinion(ledger, devices, expected_nonce, policy, at, collateral or {})
    _run_claim_rules(ledger, devices, policy, at)
    simulated = any(device.simulated(policy) for device in devices)
    if ledger.failed:
        return GpuSectionAppraisal(ledger.rows(), ledger.first_error(), (), simulated)
    return GpuSectionAppraisal(
        ledger.rows(),
        None,
        tuple(device.verified_gpu(policy) for device in devices if not device.is_switch),
        simulated,
        tuple(device.verified_switch(policy) for device in devices if device.is_switch),
    )


def count_gpus(section: bytes) -> int:
    """How many GPUs a section has, switches not counted: the count that every GPU's nonce covers.

    Raises `EvidenceListError`.
    """
    return sum(entry.arch != LS10 for entry in parse_evidence_list(section))


def _check_device(
    device: Device, nonce: bytes, policy: GpuPolicy, at: datetime, pieces: Mapping[str, bytes]
) -> None:
    # Both are about all devices of a node together: what this cannot check must not read as passed.
    if policy.nras != "off":
        raise _not_for_one_device("gpu.nras", "an answer of NVIDIA's service")
    if policy.claim_rules is not None:
        raise _not_for_one_device("gpu.claims", "rules over claims")
    collateral = Collateral(pieces, policy, at)
    for step in DEVICE_CHECKS.values():
        step(device, nonce, policy, at, collateral)


def _run(
    ledger: Ledger,
    check: str,
    step: Step,
    devices: Sequence[Device],
    nonce: bytes | None,
    policy: GpuPolicy,
    at: datetime,
    collateral: Collateral,
) -> None:
    details: list[str] = []
    failure: GpuAttestationError | None = None
    for index, device in enumerate(devices):
        try:
            detail = step(device, nonce, policy, at, collateral)
        except GpuAttestationError as error:
            error.gpu = index
            # A failure that was found tells more than one that could not be looked for.
            if failure is None or failure.code == NOT_EVALUATED:
                failure = error
        else:
            if detail is not None and detail not in details:
                details.append(detail)
    if failure is not None:
        ledger.fail(check, failure)
    elif details:
        ledger.ok(check, "; ".join(details))
    else:
        ledger.not_required(check, "not required by the policy")


def _run_distinct(ledger: Ledger, devices: Sequence[Device]) -> None:
    try:
        _check_distinct(devices)
    except GpuAttestationError as error:
        ledger.fail("gpu.distinct", error)
    else:
        ledger.ok("gpu.distinct", f"{len(devices)} different device{'' if len(devices) == 1 else 's'}")


def _run_topology(ledger: Ledger, devices: Sequence[Device]) -> None:
    gpus = [device for device in devices if not device.is_switch]
    switches = [device for device in devices if device.is_switch]
    modes = {None if device.fields is None else device.fields.mode for device in gpus}
    try:
        if switches and (None in modes or not ledger.passed("gpu.signature")):
            raise not_evaluated("gpu.topology", "the devices are not known")
        if Mode.PPCIE in modes:
            check_topology(
                [gpu_links(device.signed_report("gpu.topology").opaque) for device in gpus],
                [switch_links(device.signed_report("gpu.topology").opaque) for device in switches],
            )
        elif switches:
            raise TopologyError(
                code="topology",
                stage="gpu.topology",
                detail="switches beside GPUs that are not in protected PCIe mode",
                found=f"{len(switches)} switches",
            )
        elif None in modes:
            raise not_evaluated("gpu.topology", "the mode is not known")
    except GpuAttestationError as error:
        ledger.fail("gpu.topology", error)
        return
    if Mode.PPCIE in modes:
        ledger.ok("gpu.topology", f"{len(gpus)} GPUs and {len(switches)} switches of one board")
    else:
        ledger.not_required("gpu.topology", "NVLink is encrypted, or not used, in this mode")


def _run_second_opinion(
    ledger: Ledger,
    devices: Sequence[Device],
    nonce: bytes | None,
    policy: GpuPolicy,
    at: datetime,
    pieces: Mapping[str, bytes],
) -> None:
    if policy.nras == "off":
        ledger.not_required("gpu.nras", "not required by the policy")
        return
    gpus = [device for device in devices if not device.is_switch]
    try:
        if nonce is None or not ledger.passed("gpu.mode"):
            raise not_evaluated("gpu.nras", "the devices, or the nonce, are not known")
        verified = [device.verified_gpu(policy) for device in gpus]
        answer = check_second_opinion(
            [(gpu.ueid, gpu.driver_version, gpu.vbios_version) for gpu in verified],
            pieces=pieces,
            nonce=nonce,
            policy=policy,
            simulated=any(gpu.simulated for gpu in verified),
            at=at,
        )
    except GpuAttestationError as error:
        ledger.fail("gpu.nras", error)
        return
    ledger.ok("gpu.nras", f"NVIDIA's service agrees, until {answer.expires_at:%Y-%m-%dT%H:%M:%SZ}")


def _run_claim_rules(ledger: Ledger, devices: Sequence[Device], policy: GpuPolicy, at: datetime) -> None:
    if policy.claim_rules is None:
        ledger.not_required("gpu.claims", "the policy names no rules over claims")
        return
    try:
        if ledger.failed:
            raise not_evaluated("gpu.claims", "there are no claims before every other check passed")
        gpus = [device.verified_gpu(policy) for device in devices if not device.is_switch]
        switches = [device.verified_switch(policy) for device in devices if device.is_switch]
        local_claims(gpus, switches, at).follow(policy.claim_rules)
    except GpuAttestationError as error:
        ledger.fail("gpu.claims", error)
        return
    ledger.ok("gpu.claims", "every rule of the policy file holds")


def _not_for_one_device(stage: str, what: str) -> GpuRefused:
    detail = f"{what} can be checked for a whole list of devices alone"
    return GpuRefused(code="not_available", stage=stage, detail=detail)


def _check_count(entries: Sequence[GpuEvidence], policy: GpuPolicy) -> None:
    count = sum(entry.arch != LS10 for entry in entries)
    if count == 0 and (policy.count is None or entries):
        raise GpuRefused(code="policy_gpu_count", stage="gpu.count", expected="at least 1", found=0)
    if policy.count is not None and count != policy.count:
        raise GpuRefused(code="policy_gpu_count", stage="gpu.count", expected=policy.count, found=count)


def _counted(entries: Sequence[GpuEvidence]) -> str:
    switches = sum(entry.arch == LS10 for entry in entries)
    count = len(entries) - switches
    text = f"{count} GPU{'' if count == 1 else 's'}"
    return f"{text} and {switches} switches" if switches else text


def _check_distinct(devices: Sequence[Device]) -> None:
    seen: dict[object, int] = {}
    untrusted = False
    for index, device in enumerate(devices):
        chain = device.chain.chain if device.chain is not None else _untrusted_chain(device.evidence)
        untrusted = untrusted or device.chain is None
        if chain is None:
            continue
        # The serial number alone would let one device pass for two after a change of firmware.
        for mark in (("ueid", chain.ueid), ("identity", chain.identity_sha256)):
            if mark in seen:
                raise DuplicateGpu(
                    code="duplicate_gpu",
                    stage="gpu.distinct",
                    detail=f"devices {seen[mark]} and {index} are the same",
                    found=chain.ueid,
                )
            seen[mark] = index
    if untrusted:
        raise not_evaluated("gpu.distinct", "a certificate chain is not trusted")


def _untrusted_chain(evidence: GpuEvidence) -> DeviceChain | None:
    try:
        return parse_chain(evidence.certificate)
    except GpuAttestationError:
        return None


def _check_modes_together(devices: Sequence[Device]) -> None:
    modes = {device.fields.mode for device in devices if device.fields is not None}
    if len(modes) > 1:
        raise ModeError(
            code="mode_mixed",
            stage="gpu.mode",
            detail="GPUs of one node run in different modes",
            found=sorted(mode.value for mode in modes),
        )


def _parsed_or_none(section: bytes) -> tuple[GpuEvidence, ...]:
    try:
        return parse_evidence_list(section)
    except GpuAttestationError:
        return ()


def _without_devices(ledger: Ledger, policy: GpuPolicy) -> GpuSectionAppraisal:
    for check in CHECKS[1:]:
        if ledger.failed:
            ledger.fail(check, not_evaluated(check, "there is no evidence to look at"))
        else:
            ledger.not_required(check, "the policy asks for no GPU")
    return GpuSectionAppraisal(ledger.rows(), ledger.first_error(), (), False)
