"""Making a node's evidence: its GPUs sign for the key first, then the CPU for everything (docs/protocol.md
§2).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from attestation.bundle import EvidenceBundle, TransparencySection
from attestation.claims import Claims, device_data, gpu_nonce
from attestation.collect import CpuDevice, GpuDevices
from attestation.errors import AttestationError
from attestation.nvidia.policy import GpuPolicy
from attestation.nvidia.verify import verify_gpus
from enclave_runtime.errors import NodeError
from enclave_runtime.exit_codes import ExitCode
from measurements.staple import Staple


@dataclass(frozen=True, slots=True)
class EvidenceMaker:
    """All that evidence is made of but the key, the nonce and the time.

    ``gpu_count`` is how many GPUs the measured configuration says the node has, ``gpu_policy`` what it asks
    of them, ``runtime`` the runtime manifest.
    """

    cpu: CpuDevice
    gpus: GpuDevices
    gpu_count: int
    gpu_policy: GpuPolicy
    staple: Staple
    runtime: bytes

    def make(
        self, *, ohttp_keys: bytes, nonce: bytes, not_before: datetime, not_after: datetime, at: datetime
    ) -> bytes:
        """The bundle for these key configs, as served. Asks the devices, and so takes its time.

        Raises NodeError: GPU where a GPU is missing, too many or does not verify by the node's own policy
        at the time ``at``, PLATFORM where the CPU gives no evidence.
        """
        gpu_section, gpu_collateral = self._gpu_section(ohttp_keys, nonce, at)
        try:
            claims = Claims.build(
                ohttp_keys=ohttp_keys,
                gpu_section=gpu_section,
                runtime=self.runtime,
                checkpoint=self.staple.checkpoint,
                nonce=nonce,
                not_before=not_before,
                not_after=not_after,
            )
            bundle = EvidenceBundle(
                claims=claims.raw,
                cpu=self.cpu.report(device_data(claims.raw, self.cpu.data_length)),
                gpus=gpu_section,
                gpu_collateral=gpu_collateral,
                ohttp_keys=ohttp_keys,
                runtime=self.runtime,
                transparency=TransparencySection(
                    release_proof=self.staple.release_proof,
                    release_leaf=self.staple.release_leaf,
                    status_proof=self.staple.status_proof,
                    status_leaf=self.staple.status_leaf,
                    sigstore=self.staple.sigstore or None,
                    signers_proof=self.staple.signers_proof,
                    signers_leaf=self.staple.signers_leaf,
                ),
                checkpoint=self.staple.checkpoint,
            )
            return bundle.encode()
        except AttestationError as error:
            raise NodeError(error.code, ExitCode.PLATFORM, error.detail) from None

    def _gpu_section(
        self, ohttp_keys: bytes, nonce: bytes, at: datetime
    ) -> tuple[bytes, Mapping[str, bytes]]:
        """The GPUs' evidence and what it takes to judge it, once judged here."""
        try:
            found = self.gpus.count()
            if found != self.gpu_count:
                raise NodeError("gpu_count", ExitCode.GPU, f"{self.gpu_count} configured, {found} found")
            if found == 0:
                return b"", {}
            challenge = gpu_nonce(
                ohttp_keys=ohttp_keys, checkpoint=self.staple.checkpoint, nonce=nonce, gpu_count=found
            )
            section = self.gpus.evidence(challenge)
            collateral = self.gpus.collateral(at)
            verified = verify_gpus(section, challenge, self.gpu_policy, at, collateral)
            if len(verified) != found:
                raise NodeError("gpu_count", ExitCode.GPU, f"{found} GPUs, evidence of {len(verified)}")
        except AttestationError as error:
            raise NodeError(error.code, ExitCode.GPU, error.detail) from None
        return section, collateral
