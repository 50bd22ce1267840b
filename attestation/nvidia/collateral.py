"""What it takes beside the evidence to judge a device: reference manifests and revocation, as stapled.

A bundle's ``gpu_collateral`` maps names to bytes: ``rim/<id>`` holds the manifest that NVIDIA serves under
that id, ``ocsp/<SHA-256 of a certificate's DER>`` the OCSP response about that certificate. It is untrusted
transport: manifests and responses prove themselves by their signatures.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from attestation.certificate import Certificate
from attestation.nvidia.errors import RevocationError, RimError
from attestation.nvidia.ocsp import CertificateStatus, check_status
from attestation.nvidia.ocsp import collateral_name as ocsp_name
from attestation.nvidia.ocsp_response import Reason, parse_response
from attestation.nvidia.once import Once
from attestation.nvidia.policy import GpuPolicy
from attestation.nvidia.rim import Paths, Rim, check_rim, verify_rim
from attestation.nvidia.rim_id import RimRequest
from attestation.nvidia.rim_id import collateral_name as rim_name


@dataclass(frozen=True, slots=True)
class PathStatus:
    """What was found of the revocation of one path's certificates.

    ``checked`` of ``asked`` certificates have a response; ``held`` is the reason of a tolerated revocation.
    """

    asked: int
    checked: int
    held: Reason | None = None

    @property
    def ocsp(self) -> str | None:
        """NVIDIA's word for it: "good" where every certificate is, "revoked" on hold, None if not all known."""
        if self.held is not None:
            return "revoked"
        return "good" if self.checked == self.asked else None


class Collateral:
    """The collateral of one appraisal, which judges each piece once for each purpose.

    Made anew for every appraisal, so nothing carries over from one to the next.
    """

    def __init__(self, pieces: Mapping[str, bytes], policy: GpuPolicy, at: datetime) -> None:
        self._pieces = pieces
        self._policy = policy
        self._at = at
        self.once = Once()
        """The memory of this appraisal."""
        self._paths: dict[bool, Paths] = {True: {}, False: {}}
        self._rims: dict[tuple[str, bool], Rim] = {}
        self._statuses: dict[tuple[bytes, bytes], CertificateStatus] = {}

    def rim(self, request: RimRequest, *, simulated: bool) -> Rim:
        """The verified manifest that ``request`` asks for.

        Raises `RimError` (``rim_not_found``, and those of `verify_rim` and `check_rim`).
        """
        found = self._rims.get((request.id, simulated))
        if found is None:
            found = self._rims[request.id, simulated] = self._verified(request.id, simulated)
        check_rim(found, request)
        return found

    def read_ahead(self, subjects: Iterable[Certificate]) -> None:
        """Read the responses about these, before any is judged: reading goes quicker in one go."""
        for subject in subjects:
            data = self._pieces.get(ocsp_name(subject))
            if data is not None:
                with suppress(RevocationError):  # which its judgement raises
                    parse_response(data, self.once)

    def path_status(self, path: Sequence[tuple[Certificate, Certificate]], *, hold: bool) -> PathStatus:
        """The revocation status of certificates, each given with its verified issuer.

        ``hold``: the first may be on hold (a manifest signer, and the policy allows it). Raises
        `RevocationError`: ``revoked``, ``revocation_missing``, and those of `ocsp.check_status`.
        """
        checked, held = 0, None
        for place, (subject, issuer) in enumerate(path):
            status = self._status(subject, issuer)
            if status is None:
                continue
            checked += 1
            if status.revoked and hold and place == 0 and status.reason is Reason.CERTIFICATE_HOLD:
                held = status.reason
            elif status.revoked:
                raise RevocationError(
                    code="revoked",
                    stage="gpu.revocation",
                    detail=f"{subject.common_name}: {status.reason}",
                )
        return PathStatus(len(path), checked, held)

    def _verified(self, rim_id: str, simulated: bool) -> Rim:
        data = self._pieces.get(rim_name(rim_id))
        if data is None:
            raise RimError(code="rim_not_found", stage="gpu.measurements", detail=rim_id, retryable=True)
        roots = self._policy.rim_roots(simulated=simulated)
        return verify_rim(data, roots=roots, at=self._at, paths=self._paths[simulated], once=self.once)

    def _status(self, subject: Certificate, issuer: Certificate) -> CertificateStatus | None:
        data = self._pieces.get(ocsp_name(subject))
        if data is None:
            if self._policy.revocation == "stapled":
                return None
            raise RevocationError(
                code="revocation_missing",
                stage="gpu.revocation",
                detail=f"no response about {subject.common_name}",
                retryable=True,
            )
        found = self._statuses.get((subject.raw, issuer.raw))
        if found is None:
            found = self._statuses[subject.raw, issuer.raw] = check_status(
                data,
                subject=subject,
                issuer=issuer,
                at=self._at,
                max_age=self._policy.ocsp_max_age,
                once=self.once,
            )
        return found
