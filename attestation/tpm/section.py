"""The ``cpu`` section of a bundle where a TPM signs: which collateral it may carry, and its appraisal."""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Final

from ..bundle import CpuSection
from ..errors import ChainUntrusted
from ..results import Appraisal
from ..sev_snp import SnpCollateral, VerifiedSnp
from ..sev_snp_policy import SnpPolicy
from ..tdx.collateral import TdxCollateral
from ..tdx.policy import TdxPolicy
from ..tdx.verify import VerifiedTdx
from .gcp import GcpPolicy
from .policy import AzurePolicy, TpmPolicy
from .verify import TpmCollateral, VerifiedQuote, appraise
from .verify_azure import AzureDemands, VerifiedAzure, appraise_azure_snp, appraise_azure_tdx

_TPM_COLLATERAL: Final = ("eventlog", "ak_chain", "ak_crl")
_SNP_COLLATERAL: Final = ("vek", "ask", "ark")


def appraise_tpm_section(
    cpu: CpuSection, policy: TpmPolicy, gcp: GcpPolicy, nonce: bytes, at: datetime
) -> Appraisal[VerifiedQuote]:
    """Check evidence of kind ``tpm``. Raises ChainUntrusted (``collateral_unknown``)."""
    given = _collateral(cpu, (), _TPM_COLLATERAL)
    collateral = TpmCollateral(**{name: given.get(name) for name in _TPM_COLLATERAL})
    return appraise(cpu.evidence, collateral, policy, gcp, nonce, at)


def appraise_azure_snp_section(
    cpu: CpuSection, policy: SnpPolicy, tpm: TpmPolicy, azure: AzurePolicy, nonce: bytes, at: datetime
) -> Appraisal[VerifiedAzure[VerifiedSnp]]:
    """Check evidence of kind ``azure-snp``.

    Raises ChainUntrusted (``collateral_unknown``, ``collateral_missing``).
    """
    given = _collateral(cpu, _SNP_COLLATERAL, ("crl", "eventlog"))
    hardware = SnpCollateral(given["vek"], given["ask"], given["ark"], given.get("crl"))
    demands = AzureDemands(tpm, azure, nonce, given.get("eventlog"))
    return appraise_azure_snp(cpu.evidence, hardware, policy, demands, at)


def appraise_azure_tdx_section(
    cpu: CpuSection, policy: TdxPolicy, tpm: TpmPolicy, azure: AzurePolicy, nonce: bytes, at: datetime
) -> Appraisal[VerifiedAzure[VerifiedTdx]]:
    """Check evidence of kind ``azure-tdx``.

    Raises ChainUntrusted (``collateral_unknown``, ``collateral_missing``).
    """
    given = dict(cpu.collateral)
    demands = AzureDemands(tpm, azure, nonce, given.pop("eventlog", None))
    return appraise_azure_tdx(cpu.evidence, TdxCollateral.from_members(given), policy, demands, at)


def _collateral(cpu: CpuSection, required: Collection[str], optional: Collection[str]) -> Mapping[str, bytes]:
    unknown = sorted(cpu.collateral.keys() - {*required, *optional})
    if unknown:
        raise ChainUntrusted(code="collateral_unknown", stage="collateral", found=unknown[0])
    for name in required:
        if name not in cpu.collateral:
            raise ChainUntrusted(code="collateral_missing", stage="collateral", expected=name, retryable=True)
    return cpu.collateral
