"""The state of a platform, by Intel's levels for it (Intel QVL, steps 4.1.2.5): platform, TDX module, enclave."""

from collections.abc import Iterable
from datetime import datetime
from typing import Final, NamedTuple

from ..errors import EndorsementMismatch, TcbRejected
from .pck import PckPlatform
from .qe_identity import QeIdentity
from .quote import QeReport, TdReport
from .tcb_info import SvnLevel, TcbInfo, TdxModule
from .tcb_status import TcbStatus, converge, with_relaunch

_MINOR: Final = 0
_MAJOR: Final = 1


class TcbVerdict(NamedTuple):
    """The state of platform, module and enclave together.

    ``advisories`` are those of every level that applies; ``date`` is the earliest of their dates: what was
    known up to then is mitigated.
    """

    status: TcbStatus
    advisories: tuple[str, ...]
    date: datetime
    evaluation_number: int


def check_module(body: TdReport, tcb_info: TcbInfo) -> TdxModule:
    """Check that a TDX module which Intel signed made the report.

    Raises EndorsementMismatch: ``tdx_module_unknown`` or ``tdx_module_mismatch``.
    """
    module = find_module(tcb_info, body.tee_tcb_svn)
    mask, attributes = module.attributes_mask, body.seam_attributes
    masked = bytes(a & m for a, m in zip(attributes, mask, strict=True))
    for field, expected, found in (
        ("MRSIGNERSEAM", module.mrsigner, body.mrsignerseam),
        ("SEAMATTRIBUTES", module.attributes, masked),
        ("SEAMATTRIBUTES", bytes(8), attributes),  # a production module has none set
    ):
        if expected != found:
            raise EndorsementMismatch(
                code="tdx_module_mismatch", expected=expected, found=found, detail=field
            )
    return module


def find_module(tcb_info: TcbInfo, svn: bytes) -> TdxModule:
    """The module of this major version. Raises EndorsementMismatch (``tdx_module_unknown``)."""
    module = tcb_info.modules.get(svn[_MAJOR])
    if module is None:
        raise EndorsementMismatch(
            code="tdx_module_unknown",
            expected=sorted(tcb_info.modules),
            found=svn[_MAJOR],
            detail="version",
            retryable=True,
        )
    return module


def appraise_tcb(
    platform: PckPlatform, body: TdReport, qe_report: QeReport, tcb_info: TcbInfo, qe_identity: QeIdentity
) -> TcbVerdict:
    """Evaluate the levels that apply, for the TD's launch and, where the report tells, for what runs now.

    Raises TcbRejected (``tcb_not_supported``) where no level applies, EndorsementMismatch
    (``tdx_module_unknown``).
    """
    enclave = _first(qe_identity.levels, qe_report.isvsvn, "quoting enclave")
    launch = _evaluate(platform, body.tee_tcb_svn, tcb_info, enclave)
    status, parts = launch.status, [launch]
    if body.tee_tcb_svn2 is not None:
        current = _evaluate(platform, body.tee_tcb_svn2, tcb_info, enclave)
        status = with_relaunch(launch.status, current.status)
        parts.append(current)
    return TcbVerdict(
        status=status,
        advisories=tuple(sorted(frozenset().union(*(part.advisories for part in parts)))),
        date=min(part.date for part in parts),
        evaluation_number=min(tcb_info.evaluation_number, qe_identity.evaluation_number),
    )


class _Evaluation(NamedTuple):
    status: TcbStatus
    date: datetime
    advisories: frozenset[str]


def _evaluate(platform: PckPlatform, svn: bytes, tcb_info: TcbInfo, enclave: SvnLevel) -> _Evaluation:
    # From major version 1 on, the module has levels of its own, and the platform's do not speak of it.
    start = 2 if svn[_MAJOR] else 0
    for level in tcb_info.levels:
        if (
            platform.pcesvn >= level.pcesvn
            and _covers(platform.components, level.sgx)
            and _covers(svn[start:], level.tdx[start:])
        ):
            break
    else:
        raise _not_supported("platform", svn.hex())
    statuses, dates = [level.status, enclave.status], [level.date, enclave.date]
    advisories = level.advisories | enclave.advisories
    if svn[_MAJOR]:
        module = _first(find_module(tcb_info, svn).levels, svn[_MINOR], "TDX module")
        statuses.append(module.status)
        dates.append(module.date)
        advisories |= module.advisories
    return _Evaluation(converge(*statuses), min(dates), advisories)


def _covers(found: bytes, required: bytes) -> bool:
    return all(have >= need for have, need in zip(found, required, strict=True))


def _first(levels: Iterable[SvnLevel], isvsvn: int, what: str) -> SvnLevel:
    for level in levels:
        if isvsvn >= level.isvsvn:
            return level
    raise _not_supported(what, str(isvsvn))


def _not_supported(what: str, found: str) -> TcbRejected:
    return TcbRejected(
        code="tcb_not_supported", found=found, detail=f"no level applies to this {what}", retryable=True
    )
