"""Whether a policy accepts the trust domain and the platform that a TDX quote speaks of."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from ..errors import PolicyRejected, TcbRejected
from .pck import PckPlatform
from .policy import TD_ATTRIBUTES, TdxPolicy
from .quote import TdReport
from .tcb import TcbVerdict
from .tcb_status import TcbStatus

_DEBUG: Final = 1
_SEPT_VE_DISABLE: Final = 1 << TD_ATTRIBUTES["sept_ve_disable"]
_PIN_CODES: Final[Mapping[str, str]] = {f"rtmr{number}": "td_rtmr" for number in range(4)}


def check_debug(body: TdReport, policy: TdxPolicy) -> None:
    """Check that the host cannot read the TD's memory. Raises PolicyRejected (``td_debug``).

    This comes before the state of the platform: there is nothing to protect in a TD that is open.
    """
    if body.td_attributes & _DEBUG and not policy.allow_debug:
        raise PolicyRejected(code="td_debug", detail="the host may read the TD's memory")


def check_tcb(verdict: TcbVerdict, policy: TdxPolicy, at: datetime) -> None:
    """Check the state of the platform against the policy.

    Raises TcbRejected (``tcb_status_not_accepted``, ``tcb_eval_number_too_low``, ``tcb_below_minimum``) or
    PolicyRejected (``advisory_not_allowed``).
    """
    if verdict.evaluation_number < policy.min_tcb_evaluation_data_number:
        raise TcbRejected(
            code="tcb_eval_number_too_low",
            expected=policy.min_tcb_evaluation_data_number,
            found=verdict.evaluation_number,
            retryable=True,
        )
    in_grace = verdict.status in policy.grace_statuses and at - verdict.date <= policy.grace
    revoked = verdict.status is TcbStatus.REVOKED
    if revoked or not (verdict.status in policy.accepted_tcb_statuses or in_grace):
        raise TcbRejected(
            code="tcb_status_not_accepted",
            expected=", ".join(sorted(policy.accepted_tcb_statuses)),
            found=verdict.status,
            detail=", ".join(verdict.advisories),
            retryable=True,
        )
    if policy.min_tcb_date is not None and verdict.date < policy.min_tcb_date:
        raise TcbRejected(
            code="tcb_below_minimum", expected=policy.min_tcb_date, found=verdict.date, retryable=True
        )
    if policy.allowed_advisories is not None:
        unwanted = [name for name in verdict.advisories if name not in policy.allowed_advisories]
        if unwanted:
            raise PolicyRejected(
                code="advisory_not_allowed",
                expected=", ".join(sorted(policy.allowed_advisories)),
                found=", ".join(unwanted),
            )


def check_guest(body: TdReport, platform: PckPlatform, policy: TdxPolicy) -> None:
    """Check what the quote says of the TD and its platform against the policy.

    Raises PolicyRejected: ``td_attributes``, ``td_xfam``, ``td_service_td``, ``td_partition``,
    ``td_tcb_svn``, ``fmspc_not_allowed``, ``ppid_not_allowed``, ``platform_configuration``, and
    ``td_<field>`` for a pinned field (``td_rtmr`` for each of the four).
    """
    _check_rights(body, policy)
    if any(have < need for have, need in zip(body.tee_tcb_svn, policy.min_tee_tcb_svn, strict=True)):
        raise PolicyRejected(code="td_tcb_svn", expected=policy.min_tee_tcb_svn, found=body.tee_tcb_svn)
    _check_platform(platform, policy)
    for name, accepted in policy.pins.items():
        found = getattr(body, name)
        if found not in accepted:
            expected = ", ".join(sorted(value.hex() for value in accepted))
            raise PolicyRejected(
                code=_PIN_CODES.get(name, f"td_{name}"), expected=expected, found=found, detail=name
            )


def _check_rights(body: TdReport, policy: TdxPolicy) -> None:
    attributes = body.td_attributes
    allowed = _DEBUG if policy.allow_debug else 0
    for name in policy.td_attributes:
        allowed |= 1 << TD_ATTRIBUTES[name]
    if attributes & ~allowed:
        raise PolicyRejected(
            code="td_attributes", found=f"0x{attributes & ~allowed:x}", detail="bits that are not allowed"
        )
    if policy.require_sept_ve_disable and not attributes & _SEPT_VE_DISABLE:
        raise PolicyRejected(
            code="td_attributes",
            expected="sept_ve_disable",
            found=f"0x{attributes:x}",
            detail="the host may take pages from under the TD unseen",
        )
    if policy.xfam_fixed1 & ~body.xfam or body.xfam & ~policy.xfam_fixed0:
        raise PolicyRejected(
            code="td_xfam",
            expected=f"all of 0x{policy.xfam_fixed1:x}, nothing outside 0x{policy.xfam_fixed0:x}",
            found=f"0x{body.xfam:x}",
        )
    if any(body.service_tds) and not policy.allow_service_td:
        raise PolicyRejected(
            code="td_service_td", found=body.service_tds, detail="another TD has rights over this one"
        )
    if body.vmid:
        # The measurements are those of the whole TD, not of the partition that wrote the report data.
        raise PolicyRejected(code="td_partition", expected=0, found=body.vmid)


def _check_platform(platform: PckPlatform, policy: TdxPolicy) -> None:
    for code, accepted, found in (
        ("fmspc_not_allowed", policy.fmspc, platform.fmspc),
        ("ppid_not_allowed", policy.ppid, platform.ppid),
    ):
        if accepted is not None and found not in accepted:
            raise PolicyRejected(
                code=code, expected=", ".join(sorted(value.hex() for value in accepted)), found=found
            )
    if not policy.forbid_platform:
        return
    if platform.configuration is None:
        raise PolicyRejected(code="platform_configuration", detail="the certificate does not tell")
    unwanted = sorted(policy.forbid_platform & platform.configuration)
    if unwanted:
        raise PolicyRejected(code="platform_configuration", found=unwanted, detail="forbidden by the policy")
