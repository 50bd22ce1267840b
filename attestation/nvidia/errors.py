"""Errors of NVIDIA device evidence: part of the one family, each also of the general kind it is."""

from attestation.errors import (
    AttestationError,
    ChainUntrusted,
    EvidenceMalformed,
    PlatformFault,
    PolicyMalformed,
    PolicyRejected,
    RevocationFailed,
    SignatureInvalid,
)


class GpuAttestationError(AttestationError):
    """A GPU (or the set of GPUs) failed a check; ``stage`` is the id of that check's row.

    ``gpu`` is the device's place in the evidence list, counted from zero, or None where the failure is
    of the list as a whole or the place is not known.
    """

    gpu: int | None = None


class EvidenceListError(GpuAttestationError, EvidenceMalformed):
    """The JSON list of evidence is not NVIDIA's wire form."""


class ReportError(GpuAttestationError, EvidenceMalformed):
    """The SPDM request and response are malformed, or not what a verifier asks for."""


class DeviceChainError(GpuAttestationError, ChainUntrusted):
    """The device's certificate chain is malformed, untrusted or out of its time."""


class ReportSignatureError(GpuAttestationError, SignatureInvalid):
    """The report was not signed by the attestation key of the chain."""


class NonceError(GpuAttestationError):
    """The report answers another nonce."""


class FirmwareError(GpuAttestationError):
    """The firmware id (FWID) is missing, malformed, or differs between report and certificate."""


class FieldError(GpuAttestationError, EvidenceMalformed):
    """A field of the report's opaque data is missing or has a value that no device gives."""


class ModeError(GpuAttestationError):
    """The confidential-computing mode is unknown, mixed, or not one the policy allows."""


class GpuRefused(GpuAttestationError, PolicyRejected):
    """The evidence is genuine, and the policy does not want this device (or this number of devices)."""


class DuplicateGpu(GpuAttestationError):
    """Two entries of the evidence list are the same device."""


class RimError(GpuAttestationError, EvidenceMalformed):
    """A reference integrity manifest (RIM) is missing, malformed, or of another device or version."""


class RimChainError(GpuAttestationError, ChainUntrusted):
    """A manifest's signer does not lead to the pinned reference-value root, or is out of its time."""


class RimSignatureError(GpuAttestationError, SignatureInvalid):
    """A manifest was not signed by its signer, or was changed afterwards."""


class MeasurementError(GpuAttestationError):
    """A device measured something else than its reference manifests name."""


class RevocationError(GpuAttestationError, RevocationFailed):
    """A certificate is revoked, or its status is missing, stale, or not told by whoever may tell it."""


class TopologyError(GpuAttestationError):
    """GPUs and NVSwitches of one board do not see each other, and only each other."""


class GpuPolicyError(GpuAttestationError, PolicyMalformed):
    """The ``[gpu]`` table of a policy is not valid."""


class TokenError(GpuAttestationError, EvidenceMalformed):
    """An answer of NVIDIA's attestation service (NRAS) is malformed, unsigned, out of its time or incomplete."""


class TokenKeyError(GpuAttestationError, ChainUntrusted):
    """The key of a token is unknown, ambiguous, out of its time, or not issued by a pinned authority."""


class ClaimError(GpuAttestationError, PolicyRejected):
    """A claim about a device is missing, of another type, or not what the rules ask for."""


class GpuFault(GpuAttestationError, PlatformFault):
    """This machine's driver gave no evidence, or is not in a state in which its evidence means anything."""


class CollateralFault(GpuAttestationError, PlatformFault):
    """Reference measurements or revocation status could not be fetched, or the cache of them is damaged."""
