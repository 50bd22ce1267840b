"""SEV-SNP evidence, verified: who signed a report, on which firmware, and whether the policy accepts it.

``verify`` raises at the first check that fails. ``appraise`` goes on after one and reports a row for each
step; a row that passes after an earlier one failed says only that this step found no fault of its own.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from .certificate import Certificate
from .errors import (
    CertificateMalformed,
    ChainUntrusted,
    EndorsementMismatch,
    PolicyRejected,
    RevocationFailed,
    SignatureInvalid,
    TcbRejected,
)
from .results import Appraisal, Checklist
from .sev_snp_certificates import (
    Endorsement,
    KeyKind,
    certified_product,
    read_endorsement,
    verify_chain,
    verify_not_revoked,
)
from .sev_snp_guest import check_guest
from .sev_snp_policy import SnpPolicy
from .sev_snp_report import Product, Report, Tcb, parse_report, read_tcb, reserved_tcb

_P384_ORDER: Final = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973", 16
)
_KINDS: Final = {0: KeyKind.VCEK, 1: KeyKind.VLEK}


@dataclass(frozen=True, slots=True)
class SnpCollateral:
    """What comes beside a report, DER: ``vek`` is the VCEK or VLEK, ``ask`` the ASK or ASVK."""

    vek: bytes
    ask: bytes
    ark: bytes
    crl: bytes | None = None


@dataclass(frozen=True, slots=True)
class VerifiedSnp:
    """An authentic report that the policy accepts. ``chip_id`` is None where the host masks it."""

    report: Report
    product: Product
    signed_by: KeyKind
    tcb: Tcb
    chip_id: bytes | None
    csp_id: str | None
    simulated: bool


def verify(report: bytes, collateral: SnpCollateral, policy: SnpPolicy, at: datetime) -> VerifiedSnp:
    """Verify a report of 1184 bytes at the time ``at`` (aware). Raises the first error of ``appraise``."""
    return appraise(report, collateral, policy, at).require()


def appraise(
    report: bytes, collateral: SnpCollateral, policy: SnpPolicy, at: datetime
) -> Appraisal[VerifiedSnp]:
    """Check a report step by step: format, chain, revocation, TCB, signature, guest policy."""
    checks = Checklist()
    evidence = checks.check("cpu.format", lambda: _read(report, collateral, policy), _Evidence.describe)
    if evidence is None:
        for id in ("cpu.chain", "cpu.revocation", "cpu.tcb", "cpu.signature", "cpu.guest_policy"):
            checks.not_evaluated(id, "the evidence cannot be read")
        return Appraisal(checks.rows, checks.error, None)
    simulated = evidence.ark.sha256.hex() == policy.simulated_root
    root = "simulated root" if simulated else "AMD's root"
    checks.check(
        "cpu.chain",
        lambda: _check_chain(evidence, policy, at),
        f"{evidence.vek.common_name} for {evidence.product.capitalize()}, {root}",
    )
    _check_revocation(checks, evidence, collateral.crl, policy, at)
    forged = _forged(evidence)
    endorsement = checks.check(
        "cpu.tcb",
        # What a report says of itself counts once it is signed; what its key certifies is compared before.
        lambda: _check_tcb(evidence, policy) if forged is None else _check_endorsement(evidence, policy),
        f"{evidence.reported_tcb}",
    )
    if forged is None:
        checks.passed("cpu.signature", f"ECDSA P-384 by the {evidence.kind.upper()}")
    else:
        checks.failed("cpu.signature", forged)
    checks.check(
        "cpu.guest_policy",
        lambda: check_guest(evidence.report, policy),
        f"policy 0x{evidence.report.policy:x}, VMPL {evidence.report.vmpl}, debug off"
        if not policy.allow_debug
        else f"policy 0x{evidence.report.policy:x}, VMPL {evidence.report.vmpl}, debug permitted",
    )
    if checks.error is not None or endorsement is None:
        return Appraisal(checks.rows, checks.error, None, simulated)
    verified = VerifiedSnp(
        report=evidence.report,
        product=evidence.product,
        signed_by=evidence.kind,
        tcb=evidence.reported_tcb,
        chip_id=None if evidence.report.chip_id_masked else evidence.report.chip_id,
        csp_id=endorsement.csp_id,
        simulated=simulated,
    )
    return Appraisal(checks.rows, None, verified, simulated)


@dataclass(frozen=True, slots=True)
class _Evidence:
    report: Report
    product: Product
    kind: KeyKind
    vek: Certificate
    ask: Certificate
    ark: Certificate

    @property
    def reported_tcb(self) -> Tcb:
        return read_tcb(self.report.reported_tcb, self.product)

    def describe(self) -> str:
        cpuid = f", {self.report.cpuid}" if self.report.cpuid else ""
        return f"report version {self.report.version}, {self.product.capitalize()}{cpuid}"


def _read(data: bytes, collateral: SnpCollateral, policy: SnpPolicy) -> _Evidence:
    report = parse_report(data)
    if report.version < policy.min_report_version:
        raise PolicyRejected(
            code="report_version_below_minimum", expected=policy.min_report_version, found=report.version
        )
    vek = Certificate.parse(collateral.vek)
    certified = certified_product(vek)
    product = report.cpuid.product if report.cpuid else certified
    if product is not certified:
        raise ChainUntrusted(
            code="product_mismatch",
            expected=product,
            found=certified,
            detail="certificate of another product",
        )
    if product not in policy.products:
        raise PolicyRejected(code="product_not_allowed", expected=sorted(policy.products), found=product)
    kind = _KINDS.get(report.signing_key)
    if kind is None or kind not in policy.signing_keys:
        raise ChainUntrusted(
            code="signing_key", expected=sorted(policy.signing_keys), found=kind or report.signing_key
        )
    try:
        ask, ark = Certificate.parse(collateral.ask), Certificate.parse(collateral.ark)
    except CertificateMalformed as error:
        raise ChainUntrusted(code="chain_malformed", detail=error.detail) from None
    return _Evidence(report, product, kind, vek, ask, ark)


def _check_chain(evidence: _Evidence, policy: SnpPolicy, at: datetime) -> None:
    verify_chain(
        evidence.vek,
        evidence.ask,
        evidence.ark,
        kind=evidence.kind,
        product=evidence.product,
        roots=policy.trusted_roots,
        at=at,
    )


def _check_revocation(
    checks: Checklist, evidence: _Evidence, crl: bytes | None, policy: SnpPolicy, at: datetime
) -> None:
    id = "cpu.revocation"
    if crl is not None:
        checks.check(
            id,
            lambda: verify_not_revoked(evidence.ask, evidence.ark, crl, at),
            lambda found: f"not revoked; list of {found.this_update:%Y-%m-%d}",
        )
    elif policy.require_crl:
        checks.failed(id, RevocationFailed(code="crl_missing", detail="no revocation list with the evidence"))
    else:
        checks.not_required(id, "the policy asks for no revocation list")


def _check_tcb(evidence: _Evidence, policy: SnpPolicy) -> Endorsement:
    endorsement = _check_endorsement(evidence, policy)
    _check_consistency(evidence.report, evidence.product, policy)
    _check_floors(evidence.report, evidence.product, policy)
    return endorsement


def _check_endorsement(evidence: _Evidence, policy: SnpPolicy) -> Endorsement:
    report, product = evidence.report, evidence.product
    endorsement = read_endorsement(evidence.vek, evidence.kind, product)
    if evidence.reported_tcb != endorsement.tcb:
        raise EndorsementMismatch(
            code="tcb_cert_mismatch", expected=endorsement.tcb, found=evidence.reported_tcb
        )
    # A level of a part without a name cannot be judged, but it is signed for, and must be the same too.
    reserved = reserved_tcb(report.reported_tcb, product)
    if reserved != endorsement.reserved:
        raise EndorsementMismatch(
            code="tcb_cert_mismatch", expected=endorsement.reserved, found=reserved, detail="reserved parts"
        )
    _check_chip(report, endorsement)
    if policy.csp_ids is not None and endorsement.csp_id not in policy.csp_ids:
        raise PolicyRejected(code="csp_id", expected=sorted(policy.csp_ids), found=endorsement.csp_id)
    return endorsement


def _check_chip(report: Report, endorsement: Endorsement) -> None:
    if endorsement.hwid is None or report.chip_id_masked:
        return
    expected = endorsement.hwid.ljust(len(report.chip_id), b"\0")
    if report.chip_id != expected:
        raise EndorsementMismatch(code="hwid_mismatch", expected=expected, found=report.chip_id)


def _check_consistency(report: Report, product: Product, policy: SnpPolicy) -> None:
    current, committed = read_tcb(report.current_tcb, product), read_tcb(report.committed_tcb, product)
    reported = read_tcb(report.reported_tcb, product)
    for name, tcb in (("reported", reported), ("committed", committed)):
        if current.below(tcb):
            raise TcbRejected(
                code="tcb_inconsistent", expected=f"{name} at most {current}", found=f"{name} {tcb}"
            )
    if report.committed_version.order > report.current_version.order:
        raise TcbRejected(
            code="tcb_inconsistent",
            expected=f"at most {report.current_version}",
            found=report.committed_version,
        )
    if policy.permit_provisional_firmware:
        return
    if committed != current or report.committed_version != report.current_version:
        raise TcbRejected(
            code="provisional_firmware",
            expected=f"{current}, firmware {report.current_version} committed",
            found=f"{committed}, firmware {report.committed_version}",
        )


def _check_floors(report: Report, product: Product, policy: SnpPolicy) -> None:
    reported, launch = read_tcb(report.reported_tcb, product), read_tcb(report.launch_tcb, product)
    for bulletin in policy.bulletins:
        if not bulletin.concerns(product, report.cpuid):
            continue
        if bulletin.refused:
            raise PolicyRejected(
                code="product_not_allowed",
                found=product,
                detail=f"{bulletin.id}: a policy that takes it waives this by name",
            )
        floor = Tcb(**{"bl": 0, "tee": 0, "snp": 0, "ucode": 0, **bulletin.floor})
        # What a flawed firmware measured at launch stays doubtful after an update.
        for name, tcb in (("reported", reported), ("launch", launch)):
            _require_floor(tcb, floor, f"{bulletin.id}, {name} TCB")
        missing = sorted(bulletin.platform - report.platform)
        if missing:
            raise PolicyRejected(code="platform_info", expected=missing, detail=bulletin.id)
        missing = sorted(bulletin.guest_policy - report.guest_policy)
        if missing:
            raise PolicyRejected(code="guest_policy", expected=missing, detail=bulletin.id)
    for name, tcb, floors in (
        ("reported", reported, policy.min_tcb),
        ("launch", launch, policy.min_launch_tcb),
    ):
        if floors and product not in floors:
            raise TcbRejected(
                code="tcb_below_minimum", detail=f"the policy has no {name} floor for {product}"
            )
        if product in floors:
            _require_floor(tcb, floors[product], f"{name} TCB")


def _require_floor(tcb: Tcb, floor: Tcb, what: str) -> None:
    low = tcb.below(floor)
    if low:
        raise TcbRejected(
            code="tcb_below_minimum",
            expected=", ".join(f"{part} {getattr(floor, part)}" for part in low),
            found=", ".join(f"{part} {getattr(tcb, part)}" for part in low),
            detail=what,
            retryable=True,
        )


def _forged(evidence: _Evidence) -> SignatureInvalid | None:
    """Why the report is not authentic; None where it is."""
    try:
        _check_signature(evidence)
    except SignatureInvalid as error:
        return error
    return None


def _check_signature(evidence: _Evidence) -> None:
    report, key = evidence.report, evidence.vek.public_key
    r, s = (int.from_bytes(scalar, "little") for scalar in (report.signature_r, report.signature_s))
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise SignatureInvalid(code="report_signature", detail="the certificate holds no elliptic-curve key")
    if not (0 < r < _P384_ORDER and 0 < s < _P384_ORDER):
        raise SignatureInvalid(code="report_signature", detail="a scalar is out of range")
    try:
        key.verify(encode_dss_signature(r, s), report.signed, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        raise SignatureInvalid(
            code="report_signature", detail="the report was not signed by this key"
        ) from None
