"""What one appraisal need not work out twice: certificates and responses read, and signatures found good.

Devices of one node share the upper part of their chains, manifests that of their signers' paths, and OCSP
responses their responders. A `Once` is made at the start of an appraisal and goes with it, so that nothing is
remembered from one appraisal to the next. Failures are never remembered.
"""

import hashlib
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from attestation.certificate import Certificate

if TYPE_CHECKING:
    from attestation.nvidia.ocsp_response import Response


class Once:
    """The memory of one appraisal."""

    __slots__ = ("_certificates", "_good", "responses")

    def __init__(self) -> None:
        self._certificates: dict[bytes, Certificate] = {}
        self._good: set[bytes] = set()
        self.responses: dict[bytes, Response] = {}
        """OCSP responses read so far, by their bytes; kept by ``parse_response``."""

    def certificate(self, encoding: bytes) -> Certificate:
        """`Certificate.parse`, once for the same bytes. Raises CertificateMalformed."""
        found = self._certificates.get(encoding)
        if found is None:
            found = self._certificates[encoding] = Certificate.parse(encoding)
        return found

    def verify(
        self,
        signer: Certificate,
        key: ec.EllipticCurvePublicKey,
        signature: bytes,
        signed: bytes,
        algorithm: hashes.HashAlgorithm,
    ) -> None:
        """``signature`` is ``key``'s over ``signed``; ``key`` is the one that ``signer`` certifies.

        Raises `cryptography.exceptions.InvalidSignature`.
        """
        mark = _mark(signer.raw, signature, signed, algorithm.name.encode("ascii"))
        if mark in self._good:
            return
        key.verify(signature, signed, ec.ECDSA(algorithm))
        self._good.add(mark)


def _mark(*parts: bytes) -> bytes:
    """SHA-256 over the parts, each after its length, so that no other parts give the same bytes."""
    state = hashlib.sha256()
    for part in parts:
        state.update(len(part).to_bytes(4, "big"))
        state.update(part)
    return state.digest()
