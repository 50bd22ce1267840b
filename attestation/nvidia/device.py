"""One NVIDIA device judged by itself: chain, signature, nonce, firmware id, and what it says it is.

Every function takes what it needs; nothing is kept but in the memory of the appraisal that it is given.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from attestation.nvidia.chain import VerifiedChain, parse_chain, verify_chain
from attestation.nvidia.errors import (
    DeviceChainError,
    FieldError,
    FirmwareError,
    GpuRefused,
    ModeError,
    NonceError,
    ReportError,
    ReportSignatureError,
)
from attestation.nvidia.evidence import GpuEvidence
from attestation.nvidia.once import Once
from attestation.nvidia.opaque import GpuFields, read_fwid
from attestation.nvidia.policy import GpuPolicy, vbios_key, version_key
from attestation.nvidia.spdm import NONCE_BYTES, SIGNATURE_BYTES, Report, parse_report


@dataclass(frozen=True, slots=True)
class Architecture:
    """A kind of device: how its certificates name its chip, how many measurements it reports."""

    chip: str
    measurements: int


HOPPER, BLACKWELL, LS10 = "HOPPER", "BLACKWELL", "LS10"

ARCHITECTURES = {
    HOPPER: Architecture(chip="GH", measurements=64),
    BLACKWELL: Architecture(chip="GB", measurements=64),
    LS10: Architecture(chip="LS_10 ", measurements=31),
}


def check_chain(
    evidence: GpuEvidence, policy: GpuPolicy, at: datetime, once: Once | None = None
) -> VerifiedChain:
    """The certificate chain ends at a pinned root and is one of the claimed architecture's devices.

    ``once`` is the memory of the appraisal. Raises `DeviceChainError` or `FirmwareError` (malformed firmware id).
    """
    architecture = ARCHITECTURES.get(evidence.arch)
    if architecture is None:
        raise DeviceChainError(
            code="arch_unknown", stage="gpu.chain", expected=sorted(ARCHITECTURES), found=evidence.arch
        )
    parsed = parse_chain(evidence.certificate, once)
    chain = verify_chain(parsed, roots=policy.roots, at=at, once=once)
    if not chain.hardware_model.startswith(architecture.chip):
        raise DeviceChainError(
            code="arch_mismatch", stage="gpu.chain", expected=evidence.arch, found=chain.hardware_model
        )
    return chain


def check_signature(evidence: GpuEvidence, chain: VerifiedChain) -> Report:
    """The report is well formed and signed by the chain's attestation key.

    Raises `ReportError` or `ReportSignatureError`.
    """
    report = parse_report(evidence.evidence)
    expected = ARCHITECTURES[evidence.arch].measurements
    if len(report.measurements) != expected:
        raise ReportError(
            code="report_malformed",
            stage="gpu.signature",
            detail="number of measurements",
            expected=expected,
            found=len(report.measurements),
        )
    half = SIGNATURE_BYTES // 2
    r = int.from_bytes(report.signature[:half], "big")
    s = int.from_bytes(report.signature[half:], "big")
    try:
        chain.attestation_key.verify(encode_dss_signature(r, s), report.signed, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature as error:
        raise ReportSignatureError(
            code="report_signature_invalid",
            stage="gpu.signature",
            detail="the chain's attestation key did not sign this report",
        ) from error
    return report


def check_nonce(evidence: GpuEvidence, report: Report, expected: bytes) -> None:
    """The report answers our nonce. Raises `NonceError`."""
    if len(expected) != NONCE_BYTES or report.nonce != expected:
        raise NonceError(
            code="nonce_mismatch", stage="gpu.nonce", expected=expected.hex(), found=report.nonce.hex()
        )
    if evidence.nonce is not None and evidence.nonce != expected:
        raise NonceError(
            code="nonce_mismatch",
            stage="gpu.nonce",
            detail="the evidence list states another nonce than the report",
            expected=expected.hex(),
            found=evidence.nonce.hex(),
        )


def check_fwid(report: Report, chain: VerifiedChain, policy: GpuPolicy) -> bytes | None:
    """The firmware that answered is the one the ROM issued the key to, and one the policy allows.

    Returns the certificate's firmware id. Raises `FirmwareError`, `FieldError` or `GpuRefused`.
    """
    if policy.require_fwid and read_fwid(report.opaque) is None:
        raise FieldError(
            code="field_missing", stage="gpu.fwid", expected="FWID", detail="the report names no firmware id"
        )
    check_reported_fwid(report, chain)
    if policy.fwids and chain.fwid not in policy.fwids:
        raise GpuRefused(
            code="policy_fwid",
            stage="gpu.fwid",
            expected=sorted(fwid.hex() for fwid in policy.fwids),
            found=None if chain.fwid is None else chain.fwid.hex(),
        )
    return chain.fwid


def check_reported_fwid(report: Report, chain: VerifiedChain) -> bytes | None:
    """A firmware id in the report is the certificate's; the report's, if it names one.

    Raises `FirmwareError`, `FieldError`.
    """
    reported = read_fwid(report.opaque)
    if reported is not None and reported != chain.fwid:
        raise FirmwareError(
            code="fwid_mismatch",
            stage="gpu.fwid",
            expected=None if chain.fwid is None else chain.fwid.hex(),
            found=reported.hex(),
        )
    return reported


def check_configuration(
    evidence: GpuEvidence, fields: GpuFields, chain: VerifiedChain, policy: GpuPolicy
) -> None:
    """Architecture, mode, driver and VBIOS are what the sender claims and allowed; the device is not blocked.

    ``fields`` are those of the signed report. Raises `FieldError`, `ModeError` or `GpuRefused`.
    """
    if evidence.arch not in policy.architectures:
        raise GpuRefused(
            code="policy_architecture",
            stage="gpu.mode",
            expected=sorted(policy.architectures),
            found=evidence.arch,
        )
    _check_claim("driver_version", evidence.driver_version, fields.driver_version)
    _check_claim("vbios_version", evidence.vbios_version, fields.vbios_version)
    if fields.mode not in policy.modes:
        raise ModeError(
            code="mode_not_allowed",
            stage="gpu.mode",
            expected=sorted(mode.value for mode in policy.modes),
            found=fields.mode.value,
        )
    if policy.min_driver is not None and version_key(fields.driver_version) < version_key(policy.min_driver):
        raise _refused("policy_driver", f"at least {policy.min_driver}", fields.driver_version)
    if policy.drivers and fields.driver_version not in policy.drivers:
        raise _refused("policy_driver", sorted(policy.drivers), fields.driver_version)
    if policy.min_vbios:
        _check_vbios_floor(fields.vbios_version, policy.min_vbios)
    if policy.vbios and fields.vbios_version not in policy.vbios:
        raise _refused("policy_vbios", sorted(policy.vbios), fields.vbios_version)
    _check_pair(fields, policy)
    check_registered(chain, policy)


def _check_vbios_floor(version: str, floors: Collection[str]) -> None:
    found = vbios_key(version)
    floor = next((floor for floor in floors if vbios_key(floor)[0] == found[0]), None)
    if floor is None or found < vbios_key(floor):
        raise _refused("policy_vbios", f"at least {floor or sorted(floors)}", version)


def _check_pair(fields: GpuFields, policy: GpuPolicy) -> None:
    pair = (fields.driver_version, fields.vbios_version)
    if not policy.pairs or pair in policy.pairs:
        return
    beside = sorted(vbios for driver, vbios in policy.pairs if driver == fields.driver_version)
    if not beside:
        raise _refused("policy_driver", sorted({driver for driver, _ in policy.pairs}), fields.driver_version)
    raise _refused("policy_vbios", beside, fields.vbios_version)


def check_registered(chain: VerifiedChain, policy: GpuPolicy) -> None:
    """The policy takes this very device. Raises `GpuRefused` (``policy_ueid``, ``policy_identity``)."""
    if chain.ueid in policy.blocked_ueids:
        raise _refused("policy_ueid", "a device that is not blocked", chain.ueid)
    if policy.identities and chain.identity_sha256 not in policy.identities:
        found = chain.identity_sha256.hex()
        raise _refused("policy_identity", "a device of the policy's register", found)


def _check_claim(name: str, claimed: str | None, reported: str) -> None:
    if claimed is not None and claimed.upper() != reported.upper():
        raise FieldError(
            code="field_invalid",
            stage="gpu.mode",
            detail=f"{name} in the evidence list is not the one the device signed",
            expected=reported,
            found=claimed,
        )


def _refused(code: str, expected: object, found: object) -> GpuRefused:
    return GpuRefused(code=code, stage="gpu.mode", expected=expected, found=found)
