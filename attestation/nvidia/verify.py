"""GPU evidence, verified: one GPU, or all GPUs of a node together.

`verify_gpu` and `verify_gpus` raise at the first failure. `appraise_gpu_section` goes on after one and
reports every check that can still be made, as rows with stable ids.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from attestation.errors import AttestationError
from attestation.nvidia.chain import DeviceChain, VerifiedChain, parse_chain
from attestation.nvidia.device import (
    check_chain,
    check_configuration,
    check_fwid,
    check_measurements,
    check_nonce,
    check_revocation,
    check_signature,
)
from attestation.nvidia.errors import (
    DuplicateGpu,
    GpuAttestationError,
    GpuCheckNotAvailable,
    GpuRefused,
    ModeError,
)
from attestation.nvidia.evidence import GpuEvidence, parse_evidence_list
from attestation.nvidia.opaque import GpuFields, Mode
from attestation.nvidia.policy import GpuPolicy
from attestation.nvidia.spdm import Report
from attestation.results import NOT_EVALUATED, Outcome, Row

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
)
"""Ids of the rows, in the order of the protocol."""


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


@dataclass(frozen=True, slots=True)
class GpuSectionAppraisal:
    """The rows of a GPU section, the first error, and the verified GPUs (empty unless all passed).

    ``simulated`` is True as soon as one chain ends at the simulated root.
    """

    rows: tuple[Row, ...]
    error: AttestationError | None
    gpus: tuple[VerifiedGpu, ...]
    simulated: bool


def verify_gpu(evidence: GpuEvidence, expected_nonce: bytes, policy: GpuPolicy, at: datetime) -> VerifiedGpu:
    """Verify one GPU by itself. Says nothing about how many GPUs there are or whether they differ.

    Raises a `GpuAttestationError` for the first check that fails.
    """
    device = _Device(evidence)
    for step in _DEVICE_CHECKS.values():
        step(device, expected_nonce, policy, at)
    return device.verified(policy)


def verify_gpus(
    section: bytes, expected_nonce: bytes, policy: GpuPolicy, at: datetime
) -> tuple[VerifiedGpu, ...]:
    """Verify a node's whole GPU section (the JSON list as carried).

    Raises the first `AttestationError` of `appraise_gpu_section`.
    """
    appraisal = appraise_gpu_section(section, expected_nonce, policy, at)
    if appraisal.error is not None:
        raise appraisal.error
    return appraisal.gpus


def appraise_gpu_section(
    section: bytes, expected_nonce: bytes | None, policy: GpuPolicy, at: datetime
) -> GpuSectionAppraisal:
    """Check a node's GPU section and report a row for each of `CHECKS`.

    ``expected_nonce`` is None where it is not known (the claims did not parse): then ``gpu.nonce`` is not
    evaluated, which is a failure.
    """
    ledger = _Ledger()
    try:
        entries = parse_evidence_list(section)
        _check_count(entries, policy)
    except GpuAttestationError as error:
        ledger.fail("gpu.count", error)
        entries = _parsed_or_none(section)
    else:
        ledger.ok("gpu.count", f"{len(entries)} GPU{'' if len(entries) == 1 else 's'}")
    if not entries:
        return _without_devices(ledger, policy)
    devices = [_Device(entry) for entry in entries]
    for check, step in _DEVICE_CHECKS.items():
        _run(ledger, check, step, devices, expected_nonce, policy, at)
    if ledger.passed("gpu.mode"):
        try:
            _check_modes_together(devices)
        except GpuAttestationError as error:
            ledger.fail("gpu.mode", error)
    _run_distinct(ledger, devices)
    simulated = any(device.simulated(policy) for device in devices)
    gpus = () if ledger.failed else tuple(device.verified(policy) for device in devices)
    return GpuSectionAppraisal(ledger.rows(), ledger.first_error(), gpus, simulated)


class _Device:
    """What the checks of one device have established so far; later checks build on earlier ones."""

    __slots__ = ("chain", "evidence", "fields", "fwid", "report")

    def __init__(self, evidence: GpuEvidence) -> None:
        self.evidence = evidence
        self.chain: VerifiedChain | None = None
        self.report: Report | None = None
        self.fwid: bytes | None = None
        self.fields: GpuFields | None = None

    def trusted_chain(self, stage: str) -> VerifiedChain:
        if self.chain is None:
            raise _not_evaluated(stage, "the certificate chain is not trusted")
        return self.chain

    def signed_report(self, stage: str) -> Report:
        if self.report is None:
            raise _not_evaluated(stage, "the report is not authentic")
        return self.report

    def simulated(self, policy: GpuPolicy) -> bool:
        return self.chain is not None and self.chain.root_sha256 == policy.simulated_root

    def verified(self, policy: GpuPolicy) -> VerifiedGpu:
        chain, report = self.trusted_chain("gpu.chain"), self.signed_report("gpu.signature")
        if self.fields is None:
            raise _not_evaluated("gpu.mode", "the configuration was not read")
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
        )


_Step = Callable[[_Device, bytes | None, GpuPolicy, datetime], str | None]


def _chain_step(device: _Device, _nonce: bytes | None, policy: GpuPolicy, at: datetime) -> str:
    device.chain = check_chain(device.evidence, policy, at)
    root = "simulated root" if device.simulated(policy) else "NVIDIA Device Identity CA"
    return f"{device.chain.hardware_model}, {root}"


def _signature_step(device: _Device, _nonce: bytes | None, _policy: GpuPolicy, _at: datetime) -> str:
    device.report = check_signature(device.evidence, device.trusted_chain("gpu.signature"))
    return "SPDM 1.1 report, ECDSA P-384 with SHA-384"


def _nonce_step(device: _Device, nonce: bytes | None, _policy: GpuPolicy, _at: datetime) -> str:
    report = device.signed_report("gpu.nonce")
    if nonce is None:
        raise _not_evaluated("gpu.nonce", "the claims that the nonce comes from are not known")
    check_nonce(device.evidence, report, nonce)
    return "signed over this node's nonce"


def _fwid_step(device: _Device, _nonce: bytes | None, policy: GpuPolicy, _at: datetime) -> str | None:
    device.fwid = check_fwid(device.signed_report("gpu.fwid"), device.trusted_chain("gpu.fwid"), policy)
    return None if device.fwid is None else f"firmware {device.fwid.hex()[:16]}…"


def _mode_step(device: _Device, _nonce: bytes | None, policy: GpuPolicy, _at: datetime) -> str:
    report, chain = device.signed_report("gpu.mode"), device.trusted_chain("gpu.mode")
    device.fields = check_configuration(device.evidence, report, chain, policy)
    fields = device.fields
    return (
        f"{device.evidence.arch} {fields.mode}, driver {fields.driver_version}, VBIOS {fields.vbios_version}"
    )


def _measurements_step(device: _Device, _nonce: bytes | None, policy: GpuPolicy, _at: datetime) -> str | None:
    check_measurements(policy)
    return None


def _revocation_step(device: _Device, _nonce: bytes | None, policy: GpuPolicy, _at: datetime) -> str | None:
    check_revocation(policy)
    return None


_DEVICE_CHECKS: Mapping[str, _Step] = {
    "gpu.chain": _chain_step,
    "gpu.signature": _signature_step,
    "gpu.nonce": _nonce_step,
    "gpu.fwid": _fwid_step,
    "gpu.mode": _mode_step,
    "gpu.measurements": _measurements_step,
    "gpu.revocation": _revocation_step,
}


class _Ledger:
    """Rows by check id, and the errors behind those that failed."""

    def __init__(self) -> None:
        self._rows: dict[str, Row] = {}
        self._errors: dict[str, AttestationError] = {}

    def ok(self, check: str, detail: str) -> None:
        self._rows[check] = Row(id=check, outcome=Outcome.PASS, detail=detail)

    def not_required(self, check: str, detail: str) -> None:
        self._rows[check] = Row(id=check, outcome=Outcome.NOT_REQUIRED, detail=detail)

    def fail(self, check: str, error: GpuAttestationError) -> None:
        place = "" if error.gpu is None else f"GPU {error.gpu}: "
        self._rows[check] = Row(id=check, outcome=Outcome.FAIL, detail=f"{place}{error}", code=error.code)
        self._errors[check] = error

    def passed(self, check: str) -> bool:
        return check in self._rows and check not in self._errors

    @property
    def failed(self) -> bool:
        return bool(self._errors)

    def first_error(self) -> AttestationError | None:
        """The first failure that was really found, in the order of `CHECKS`."""
        errors = [self._errors[check] for check in CHECKS if check in self._errors]
        found = [error for error in errors if error.code != NOT_EVALUATED] or errors
        return found[0] if found else None

    def rows(self) -> tuple[Row, ...]:
        return tuple(self._rows[check] for check in CHECKS)


def _run(
    ledger: _Ledger,
    check: str,
    step: _Step,
    devices: Sequence[_Device],
    nonce: bytes | None,
    policy: GpuPolicy,
    at: datetime,
) -> None:
    details: list[str] = []
    failure: GpuAttestationError | None = None
    for index, device in enumerate(devices):
        try:
            detail = step(device, nonce, policy, at)
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


def _run_distinct(ledger: _Ledger, devices: Sequence[_Device]) -> None:
    try:
        _check_distinct(devices)
    except GpuAttestationError as error:
        ledger.fail("gpu.distinct", error)
    else:
        ledger.ok("gpu.distinct", f"{len(devices)} different device{'' if len(devices) == 1 else 's'}")


def _check_count(entries: Sequence[GpuEvidence], policy: GpuPolicy) -> None:
    if policy.count is None and not entries:
        raise GpuRefused(code="policy_gpu_count", stage="gpu.count", expected="at least 1", found=0)
    if policy.count is not None and len(entries) != policy.count:
        raise GpuRefused(
            code="policy_gpu_count", stage="gpu.count", expected=policy.count, found=len(entries)
        )


def _check_distinct(devices: Sequence[_Device]) -> None:
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
                    detail=f"GPUs {seen[mark]} and {index} are the same device",
                    found=chain.ueid,
                )
            seen[mark] = index
    if untrusted:
        raise _not_evaluated("gpu.distinct", "a certificate chain is not trusted")


def _untrusted_chain(evidence: GpuEvidence) -> DeviceChain | None:
    try:
        return parse_chain(evidence.certificate)
    except GpuAttestationError:
        return None


def _check_modes_together(devices: Sequence[_Device]) -> None:
    modes = {device.fields.mode for device in devices if device.fields is not None}
    if len(modes) > 1:
        raise ModeError(
            code="mode_mixed",
            stage="gpu.mode",
            detail="GPUs of one node run in different modes",
            found=sorted(mode.value for mode in modes),
        )
    if Mode.PPCIE in modes:
        raise GpuCheckNotAvailable("the NVSwitch topology of protected PCIe", stage="gpu.mode")


def _parsed_or_none(section: bytes) -> tuple[GpuEvidence, ...]:
    try:
        return parse_evidence_list(section)
    except GpuAttestationError:
        return ()


def _without_devices(ledger: _Ledger, policy: GpuPolicy) -> GpuSectionAppraisal:
    for check in CHECKS[1:]:
        if ledger.failed:
            ledger.fail(check, _not_evaluated(check, "there is no evidence to look at"))
        else:
            ledger.not_required(check, "the policy asks for no GPU")
    return GpuSectionAppraisal(ledger.rows(), ledger.first_error(), (), False)


def _not_evaluated(stage: str, detail: str) -> GpuAttestationError:
    return GpuAttestationError(code=NOT_EVALUATED, stage=stage, detail=detail)
