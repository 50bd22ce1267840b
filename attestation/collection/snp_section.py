"""An SEV-SNP report from a device, as a bundle's section with the collateral that came with it or was stapled."""

from collections.abc import Mapping
from typing import Final

from ..bundle import CpuSection
from ..errors import EvidenceMalformed
from ..sev_snp_report import parse_report
from .certificate_table import collateral_of, parse_certificate_table
from .faults import refused

SEV_SNP: Final = "sev-snp"
_VLEK: Final = 1


def snp_section(
    device: str, report: bytes, table: bytes, report_data: bytes, stapled: Mapping[str, bytes]
) -> CpuSection:
    """The section for a report over ``report_data``. ``stapled`` collateral takes precedence over the host's.

    Raises PlatformFault (``platform_refused``) where the device answered something else than was asked: such
    evidence would only be refused later, by every client.
    """
    try:
        parsed = parse_report(report)
        offered = parse_certificate_table(table)
    except EvidenceMalformed as error:
        raise refused(device, str(error)) from None
    if parsed.report_data != report_data:
        raise refused(device, "the report is over other data than was asked for")
    found = collateral_of(offered, vlek=parsed.signing_key == _VLEK)
    return CpuSection(SEV_SNP, report, {**found, **stapled})
