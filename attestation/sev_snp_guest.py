"""Whether a policy accepts the guest that an SEV-SNP report speaks of: its rights, its platform, its pins."""

from .errors import PolicyRejected
from .sev_snp_policy import SnpPolicy
from .sev_snp_report import Report


def check_guest(report: Report, policy: SnpPolicy) -> None:
    """Check what the report says of the guest and its platform against the policy.

    Raises PolicyRejected: ``debug_enabled``, ``migration_agent``, ``guest_policy``, ``vmpl``,
    ``platform_info``, ``firmware_version``, ``guest_svn``, ``mitigation_vector``, ``id_key_untrusted``,
    ``author_key_untrusted``, or ``<field>_mismatch`` for a pinned field.
    """
    _check_rights(report, policy)
    _check_platform(report, policy)
    _check_versions(report, policy)
    _check_keys(report, policy)
    for name, accepted in policy.pins.items():
        found = getattr(report, name)
        if found not in accepted:
            expected = ", ".join(sorted(value.hex() for value in accepted))
            raise PolicyRejected(code=f"{name}_mismatch", expected=expected, found=found)


def _check_rights(report: Report, policy: SnpPolicy) -> None:
    rights = report.guest_policy
    if "debug" in rights and not policy.allow_debug:
        raise PolicyRejected(code="debug_enabled", detail="the host may read the guest's memory")
    if "migration_agent" in rights and not policy.allow_migration_agent:
        raise PolicyRejected(code="migration_agent", detail="the guest may be moved by an agent")
    for name, allowed in (("smt", policy.allow_smt), ("cxl", policy.allow_cxl)):
        if name in rights and not allowed:
            raise PolicyRejected(code="guest_policy", found=name, detail="the guest policy allows too much")
    missing = sorted(policy.require_guest_policy - rights)
    if missing:
        raise PolicyRejected(code="guest_policy", expected=missing, detail="the guest policy allows too much")
    if report.abi < policy.min_abi:
        raise PolicyRejected(
            code="guest_policy", expected=policy.min_abi, found=report.abi, detail="ABI version"
        )
    if report.vmpl not in policy.vmpl:
        raise PolicyRejected(code="vmpl", expected=sorted(policy.vmpl), found=report.vmpl)


def _check_platform(report: Report, policy: SnpPolicy) -> None:
    missing = sorted(policy.require_platform - report.platform)
    if missing:
        raise PolicyRejected(code="platform_info", expected=missing, found=sorted(report.platform))
    unwanted = sorted(policy.forbid_platform & report.platform)
    if unwanted:
        raise PolicyRejected(code="platform_info", found=unwanted, detail="forbidden by the policy")
    if policy.strict_platform_bits and report.unknown_platform_bits:
        raise PolicyRejected(
            code="platform_info", found=f"0x{report.unknown_platform_bits:x}", detail="bits without a name"
        )


def _check_versions(report: Report, policy: SnpPolicy) -> None:
    for version in (report.current_version, report.committed_version):
        if version.order < policy.min_firmware:
            minimum = ".".join(map(str, policy.min_firmware))
            raise PolicyRejected(code="firmware_version", expected=f"at least {minimum}", found=version)
    if report.guest_svn < policy.min_guest_svn:
        raise PolicyRejected(code="guest_svn", expected=policy.min_guest_svn, found=report.guest_svn)
    for name, found, required in (
        ("launch", report.launch_mitigation_vector, policy.min_launch_mitigation_vector),
        ("current", report.current_mitigation_vector, policy.min_current_mitigation_vector),
    ):
        if required & ~found:
            raise PolicyRejected(
                code="mitigation_vector", expected=f"0x{required:x}", found=f"0x{found:x}", detail=name
            )


def _check_keys(report: Report, policy: SnpPolicy) -> None:
    trusted_authors = policy.trusted_author_key_digests or frozenset()
    by_author = report.author_key_en and report.author_key_digest in trusted_authors
    if policy.require_author_key and not by_author:
        raise PolicyRejected(code="author_key_untrusted", found=report.author_key_digest)
    if policy.trusted_id_key_digests is None and policy.trusted_author_key_digests is None:
        return
    if by_author or report.id_key_digest in (policy.trusted_id_key_digests or frozenset()):
        return
    if policy.trusted_id_key_digests is None:
        raise PolicyRejected(code="author_key_untrusted", found=report.author_key_digest)
    raise PolicyRejected(code="id_key_untrusted", found=report.id_key_digest)
