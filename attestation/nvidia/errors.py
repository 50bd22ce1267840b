"""Errors of NVIDIA device evidence: one family, each with a stable ``code``."""

from attestation.errors import AttestationError


class GpuAttestationError(AttestationError):
    """A GPU (or the set of GPUs) failed a check.

    ``gpu`` is the device's place in the evidence list, counted from zero, or None where the failure is
    of the list as a whole or the place is not known.
    """

    def __init__(
        self,
        *,
        code: str,
        stage: str,
        expected: object = None,
        found: object = None,
        detail: str = "",
        retryable: bool = False,
        gpu: int | None = None,
    ) -> None:
        super().__init__(
            code=code, stage=stage, expected=expected, found=found, detail=detail, retryable=retryable
        )
        self.gpu = gpu


class EvidenceFormatError(GpuAttestationError):
    """The JSON list of evidence is not NVIDIA's wire form."""


class ReportError(GpuAttestationError):
    """The SPDM request and response are malformed, or not what a verifier asks for."""


class DeviceChainError(GpuAttestationError):
    """The device's certificate chain is malformed, untrusted or out of its time."""


class ReportSignatureError(GpuAttestationError):
    """The report was not signed by the attestation key of the chain."""


class NonceError(GpuAttestationError):
    """The report answers another nonce."""


class FirmwareError(GpuAttestationError):
    """The firmware id (FWID) is missing, malformed, or differs between report and certificate."""


class FieldError(GpuAttestationError):
    """A field of the report's opaque data is missing or has a value that no device gives."""


class ModeError(GpuAttestationError):
    """The confidential-computing mode is unknown, mixed, or not one the policy allows."""


class GpuRefused(GpuAttestationError):
    """The evidence is genuine, and the policy does not want this device (or this number of devices)."""


class DuplicateGpu(GpuAttestationError):
    """Two entries of the evidence list are the same device."""


class NotAvailable(GpuAttestationError):
    """The policy asks for a check that this version cannot make; what cannot be checked has failed."""


class GpuPolicyError(GpuAttestationError):
    """The ``[gpu]`` table of a policy is not valid."""
