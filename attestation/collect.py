"""Where a node's evidence comes from: the two devices that it asks at boot, and for each challenge."""

from collections.abc import Mapping
from datetime import datetime
from typing import Protocol

from .bundle import CpuSection


class CpuDevice(Protocol):
    """The CPU's own attestation device, as ``/dev/sev-guest`` is on hardware, or a TPM."""

    @property
    def data_length(self) -> int:
        """How many bytes it signs: 64, or 32 for a TPM (``claims.device_data``). Raises PlatformFault."""
        ...

    def report(self, report_data: bytes) -> CpuSection:
        """Evidence over just so many bytes, with collateral. Raises PlatformFault."""
        ...


class GpuDevices(Protocol):
    """All GPUs of this machine."""

    def count(self) -> int:
        """How many GPUs the machine has, 0 to 255. Raises PlatformFault."""
        ...

    def evidence(self, nonce: bytes) -> bytes:
        """Evidence of every GPU over one nonce of 32 bytes, as the JSON list that a bundle carries.

        Empty where there is no GPU. Raises PlatformFault.
        """
        ...

    def collateral(self, at: datetime) -> Mapping[str, bytes]:
        """What a verifier needs beside the evidence to judge it at ``at``: ``rim/<id>`` and ``ocsp/<digest>``.

        As a bundle's ``gpu_collateral`` carries it (docs/gpu-evidence.md). Raises PlatformFault.
        """
        ...
