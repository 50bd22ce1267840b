"""What a relying party accepts as evidence: the ``[cpu]``, ``[gpu]`` and ``[simulated]`` tables of a policy.

Whatever a table leaves out has its strict production value; an unknown key is an error. Only a policy that
names a simulated platform's roots in ``[simulated]`` trusts them, and every result that rests on one says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from .errors import PolicyMalformed
from .policy_table import PolicyTable
from .tees import SEV_SNP, TDX, TEES

if TYPE_CHECKING:
    from .nvidia.policy import GpuPolicy
    from .sev_snp_policy import SnpPolicy
    from .tdx.policy import TdxPolicy
    from .tpm.gcp import GcpPolicy
    from .tpm.policy import AzurePolicy, TpmPolicy

__all__ = ["SEV_SNP", "TDX", "TEES", "AttestationPolicy"]

_SHA256: Final = r"[0-9a-f]{64}"


# Each kind's policy is imported with the first policy that is made, so that importing this costs little.
def _snp() -> "SnpPolicy":
    from .sev_snp_policy import SnpPolicy

    return SnpPolicy()


def _tdx() -> "TdxPolicy":
    from .tdx.policy import TdxPolicy

    return TdxPolicy()


def _tpm() -> "TpmPolicy":
    from .tpm.policy import TpmPolicy

    return TpmPolicy()


def _azure() -> "AzurePolicy":
    from .tpm.policy import AzurePolicy

    return AzurePolicy()


def _gcp() -> "GcpPolicy":
    from .tpm.gcp import GcpPolicy

    return GcpPolicy()


def _gpu() -> "GpuPolicy":
    from .nvidia.policy import GpuPolicy

    return GpuPolicy.production()


@dataclass(frozen=True, slots=True)
class AttestationPolicy:
    """Demands on a node's evidence. ``tees``: kinds of CPU evidence accepted, any one of them."""

    tees: frozenset[str] = frozenset({SEV_SNP})
    snp: "SnpPolicy" = field(default_factory=_snp)
    tdx: "TdxPolicy" = field(default_factory=_tdx)
    tpm: "TpmPolicy" = field(default_factory=_tpm)
    azure: "AzurePolicy" = field(default_factory=_azure)
    gcp: "GcpPolicy" = field(default_factory=_gcp)
    gpu: "GpuPolicy" = field(default_factory=_gpu)

    @property
    def names_simulated_root(self) -> bool:
        """Whether any simulated root is trusted."""
        roots = (self.snp.simulated_root, self.tdx.simulated_root, self.gpu.simulated_root)
        return any(root is not None for root in roots)

    @classmethod
    def production(cls) -> "AttestationPolicy":
        """The strict default: genuine hardware only, with nothing waived."""
        return cls()

    @classmethod
    def from_table(cls, document: Mapping[str, object]) -> "AttestationPolicy":
        """Read the tables ``cpu``, ``gpu`` and ``simulated``, each of which may be absent.

        Raises PolicyMalformed (``policy_invalid``) for an unknown key or a value of the wrong kind.
        """
        from .nvidia.policy import GpuPolicy
        from .sev_snp_certificates import AMD_ROOTS_SHA256
        from .sev_snp_policy import SnpPolicy
        from .tdx.intel_root import INTEL_ROOT_SHA256
        from .tdx.policy import TdxPolicy
        from .tpm.policy import AzurePolicy, TpmPolicy, read_gcp_policy

        top = PolicyTable(document, "")
        simulated = top.table("simulated")
        amd_root = simulated.text("amd_root_sha256", _SHA256, "64 lower-case hexadecimal digits")
        nvidia_root = simulated.text("nvidia_root_sha256", _SHA256, "64 lower-case hexadecimal digits")
        rim_root = simulated.text("nvidia_rim_root_sha256", _SHA256, "64 lower-case hexadecimal digits")
        intel_root = simulated.text("intel_root_sha256", _SHA256, "64 lower-case hexadecimal digits")
        nras = simulated.text("nvidia_nras_sha256", _SHA256, "64 lower-case hexadecimal digits")
        simulated.end()
        for name, vendor, root, genuine in (
            ("amd_root_sha256", "AMD", amd_root, AMD_ROOTS_SHA256.values()),
            ("intel_root_sha256", "Intel", intel_root, (INTEL_ROOT_SHA256,)),
        ):
            if root in genuine:
                raise PolicyMalformed(
                    code="policy_invalid",
                    detail=f"simulated.{name}",
                    expected=f"a root other than {vendor}'s",
                    found=root,
                )
        cpu = top.table("cpu")
        tees = cpu.names("accept", (SEV_SNP,), allowed=TEES)
        snp = SnpPolicy.from_table(cpu.table("snp"), simulated_root=amd_root)
        tdx = TdxPolicy.from_table(cpu.table("tdx"), simulated_root=intel_root)
        tpm = TpmPolicy.from_table(cpu.table("tpm"))
        azure = AzurePolicy.from_table(cpu.table("azure"))
        gcp = read_gcp_policy(cpu.table("gcp"))
        cpu.end()
        gpu = GpuPolicy.from_table(
            top.mapping("gpu"), simulated_root=nvidia_root, simulated_rim_root=rim_root, simulated_nras=nras
        )
        top.end()
        return cls(tees=tees, snp=snp, tdx=tdx, tpm=tpm, azure=azure, gcp=gcp, gpu=gpu)
