"""The one error family of attestation: every refusal has a stable code and says at which stage it arose.

AttestationError
├── EvidenceMalformed       evidence, claims or bundle are not what their format says   (stage parse)
├── CertificateMalformed    a certificate or revocation list cannot be read             (stage parse)
├── ChainUntrusted          a certificate does not lead to a pinned root                (stage chain)
├── RevocationFailed        a revocation list is missing, unusable, or names the key    (stage revocation)
├── CollateralInvalid       signed facts about firmware are malformed, forged or out of date (stage collateral)
├── EndorsementMismatch     a certificate speaks of other hardware or other firmware    (stage endorsement)
├── SignatureInvalid        evidence was not signed by the endorsed key                 (stage signature)
├── TcbRejected             firmware is inconsistent or older than the policy takes     (stage tcb)
├── BindingMismatch         evidence vouches for something else than was presented      (stage binding)
├── PolicyRejected          authentic evidence that the policy does not accept          (stage policy)
├── PolicyMalformed         the policy itself cannot be used                            (stage policy)
├── NotAvailable            the policy asks for a check that this version lacks         (stage policy)
└── PlatformFault           a platform or its device gave no evidence                   (stage platform)
"""

from typing import ClassVar

_SHOWN = 64
"""Characters of an expected or found value that a message shows."""


class AttestationError(Exception):
    """A refusal: ``code`` and ``stage`` are stable words for programs, ``detail`` is for people.

    ``expected`` and ``found`` hold what was compared, where a comparison failed. ``retryable`` is True where
    newer collateral, or another moment, may give another verdict; a bad signature never is.
    """

    default_stage: ClassVar[str] = "internal"

    def __init__(
        self,
        *,
        code: str,
        stage: str | None = None,
        expected: object = None,
        found: object = None,
        detail: str = "",
        retryable: bool = False,
    ) -> None:
        super().__init__(code)
        self.code = code
        self.stage = stage or self.default_stage
        self.expected = expected
        self.found = found
        self.detail = detail
        self.retryable = retryable

    def __str__(self) -> str:
        text = f"{self.code}: {self.detail}" if self.detail else self.code
        if self.expected is not None or self.found is not None:
            text += f" (expected {_shown(self.expected)}, found {_shown(self.found)})"
        if text.isprintable():
            return text
        # Evidence is quoted here, and may hold what a terminal would obey.
        return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


class EvidenceMalformed(AttestationError):
    """Evidence, claims or a bundle that do not follow their format."""

    default_stage = "parse"


class CertificateMalformed(AttestationError):
    """A certificate, or a revocation list, that cannot be read."""

    default_stage = "parse"


class ChainUntrusted(AttestationError):
    """A certificate chain that does not end, rightly signed and in force, at a pinned root."""

    default_stage = "chain"


class RevocationFailed(AttestationError):
    """A revoked certificate, or a revocation list that is missing or proves nothing."""

    default_stage = "revocation"


class CollateralInvalid(AttestationError):
    """Facts that a vendor signs about its firmware (TCB levels, identities) that cannot be used."""

    default_stage = "collateral"


class EndorsementMismatch(AttestationError):
    """A genuine certificate that endorses other hardware, or other firmware, than the evidence names."""

    default_stage = "endorsement"


class SignatureInvalid(AttestationError):
    """Evidence whose signature is not by the endorsed key."""

    default_stage = "signature"


class TcbRejected(AttestationError):
    """Firmware versions that contradict each other or lie below the policy's floor."""

    default_stage = "tcb"


class BindingMismatch(AttestationError):
    """Evidence that vouches for other bytes than those presented with it."""

    default_stage = "binding"


class PolicyRejected(AttestationError):
    """Authentic evidence of something that the policy does not accept."""

    default_stage = "policy"


class PolicyMalformed(AttestationError):
    """A policy with an unknown key, a wrong type or a value out of range."""

    default_stage = "policy"


class NotAvailable(AttestationError):
    """A check that the policy or the evidence needs and this version lacks: refused, never skipped."""

    default_stage = "policy"

    def __init__(self, what: str, *, detail: str = "") -> None:
        super().__init__(
            code="not_available", found=None, detail=detail or f"this version cannot check {what}"
        )
        self.what = what


class PlatformFault(AttestationError):
    """A platform, or the device by which a node reaches it, gave no evidence."""

    default_stage = "platform"


def _shown(value: object) -> str:
    try:
        text = bytes(value).hex() if isinstance(value, bytes | bytearray | memoryview) else str(value)
    except RecursionError:
        text = "nested too deep to show"  # evidence is JSON, and may nest as deep as it could be read
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
