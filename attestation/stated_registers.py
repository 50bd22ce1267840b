"""What evidence says was measured, unverified: for the machine that has just made it itself.

A node knows its own measurement no other way than from its own device. Whoever gets evidence from elsewhere appraises
it (``appraisal.appraise_cpu``); nothing here is checked.
"""

from collections.abc import Mapping

from .bundle import CpuSection
from .errors import NotAvailable
from .tees import AZURE_SNP, AZURE_TDX, SEV_SNP, TDX, TPM


def stated_registers(section: CpuSection) -> Mapping[str, str]:
    """The registers by name, in hexadecimal, as ``VerifiedCpu.registers`` has them.

    Raises NotAvailable for a kind that is not known, EvidenceMalformed.
    """
    evidence = section.evidence
    if section.tee == SEV_SNP:
        return _snp(evidence)
    if section.tee == TDX:
        return _tdx(evidence)
    if section.tee == TPM:
        from .tpm.evidence import TpmEvidence
        from .tpm.pcr import named_values

        return named_values(TpmEvidence.parse(evidence).quote.pcrs)
    if section.tee in (AZURE_SNP, AZURE_TDX):
        from .tpm.azure import parse_hcl_report
        from .tpm.evidence import AzureEvidence
        from .tpm.pcr import named_values

        azure = AzureEvidence.parse(evidence, tdx=section.tee == AZURE_TDX)
        below = (
            _snp(parse_hcl_report(azure.hcl_report).hardware)
            if azure.td_quote is None
            else _tdx(azure.td_quote)
        )
        return {**below, **named_values(azure.quote.pcrs)}
    raise NotAvailable(f"evidence of the kind {section.tee}")


def _snp(evidence: bytes) -> Mapping[str, str]:
    from .sev_snp_report import parse_report

    return {"launchDigest": parse_report(evidence).measurement.hex()}


def _tdx(evidence: bytes) -> Mapping[str, str]:
    from .tdx.quote import parse_quote

    return {name: value.hex() for name, value in parse_quote(evidence).body.registers.items()}
