"""Kinds of CPU evidence: the names that a bundle's ``cpu`` section and a policy's ``cpu.accept`` use."""

from typing import Final

SEV_SNP: Final = "sev-snp"
TDX: Final = "tdx"
TPM: Final = "tpm"
"""A TPM alone: it tells what was booted, and hides no memory from the host."""

AZURE_SNP: Final = "azure-snp"
AZURE_TDX: Final = "azure-tdx"
"""Azure's confidential VMs, where the CPU vouches for a paravisor and the paravisor for a vTPM."""

TEES: Final = frozenset({SEV_SNP, TDX, TPM, AZURE_SNP, AZURE_TDX})
"""All of them."""
