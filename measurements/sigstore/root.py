"""The trusted root of a Sigstore instance: which CA, CT log, log and time stamping keys counted, and when.

Windows are closed, ``[start, end]``, as the format says (protobuf-specs, TimeRange). A key is looked up by
what it must have signed, and its window is compared with the time of that, never with a clock.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from importlib.resources import files
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key
from sigstore_models.common.v1 import HashAlgorithm, PublicKey, TimeRange
from sigstore_models.trustroot.v1 import CertificateAuthority, TransparencyLogInstance
from sigstore_models.trustroot.v1 import TrustedRoot as RootModel

from ..errors import Code, TransparencyError
from ..statement import instant_text
from .policy import MAX_ROOT
from .strict_json import parse_strict

_BEGINNING: Final = datetime(1970, 1, 1, tzinfo=UTC)
_STAGE: Final = "sigstore.root"

LogKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey


@dataclass(frozen=True, slots=True)
class TrustedRoot:
    """A parsed root; ``sha256`` is that of its bytes."""

    model: RootModel
    sha256: bytes

    @classmethod
    def parse(cls, data: bytes) -> "TrustedRoot":
        """Read a TrustedRoot document (at most 256 KiB).

        Raises TransparencyError (TRUST_ROOT_INVALID, LIMIT_EXCEEDED): malformed, or without a log, a CA or a
        CT log, or with a key that has no window.
        """
        return _parse(data)

    @classmethod
    def production(cls) -> "TrustedRoot":
        """The root of Sigstore's public instance as it was when this version was made."""
        return _parse(production_root())

    def log(self, log_id: bytes) -> TransparencyLogInstance:
        """The one log with this id. Raises TransparencyError (LOG_UNKNOWN)."""
        found = [log for log in self.model.tlogs if log.log_id.key_id == log_id]
        if len(found) != 1:
            raise TransparencyError(
                Code.LOG_UNKNOWN,
                "the trusted root does not name this log (cloister release trusted-root fetches a newer one)",
                stage="sigstore.log",
                expected="one log",
                found=f"{len(found)} with id {log_id.hex()[:64]}",
            )
        return found[0]

    def ct_log(self, log_id: bytes) -> TransparencyLogInstance:
        """The CT log whose key hashes to this id. Raises TransparencyError (SCT_INVALID)."""
        for log in self.model.ctlogs:
            if hashlib.sha256(log.public_key.raw_bytes or b"").digest() == log_id:
                return log
        raise TransparencyError(
            Code.SCT_INVALID,
            "the trusted root does not name the CT log of the certificate",
            stage="sigstore.sct",
            found=log_id.hex(),
        )

    def authorities(self, times: Iterable[datetime]) -> tuple[CertificateAuthority, ...]:
        """The CAs whose windows hold every one of ``times``."""
        moments = tuple(times)
        return tuple(
            authority
            for authority in self.model.certificate_authorities
            if all(within(authority.valid_for, moment) for moment in moments)
        )

    def narrowed(
        self,
        log: TransparencyLogInstance,
        ct_log: TransparencyLogInstance,
        authorities: Iterable[CertificateAuthority],
        stampers: Iterable[CertificateAuthority],
    ) -> RootModel:
        """A root with these members alone, without windows: they have been judged by ``require_within``."""
        always = TimeRange(start=_BEGINNING)
        return RootModel.model_construct(
            media_type=self.model.media_type,
            tlogs=[_open_ended(log)],
            ctlogs=[_open_ended(ct_log)],
            certificate_authorities=[a.model_copy(update={"valid_for": always}) for a in authorities],
            timestamp_authorities=[a.model_copy(update={"valid_for": always}) for a in stampers],
        )


def production_root() -> bytes:
    """The bytes of the pinned root."""
    return files(__package__).joinpath("production_root.json").read_bytes()


def within(window: TimeRange | None, moment: datetime) -> bool:
    """Whether ``moment`` lies in a closed window; nothing lies in a window that is missing."""
    return window is not None and window.start <= moment and (window.end is None or moment <= window.end)


def require_within(window: TimeRange | None, moment: datetime, what: str) -> None:
    """Raises TransparencyError (TRUST_ROOT_VALIDITY) unless ``moment`` lies in the window."""
    if not within(window, moment):
        start = instant_text(window.start) if window else "never"
        end = instant_text(window.end) if window and window.end else ""
        raise TransparencyError(
            Code.TRUST_ROOT_VALIDITY,
            f"the trusted root does not trust the {what} at that time",
            stage=_STAGE,
            expected=f"{start} to {end}",
            found=instant_text(moment),
        )


def log_key(key: PublicKey) -> LogKey:
    """The public key of a log. Raises TransparencyError (TRUST_ROOT_INVALID)."""
    try:
        loaded = load_der_public_key(key.raw_bytes or b"")
    except ValueError as error:
        raise _invalid("a key cannot be read") from error
    if not isinstance(loaded, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey):
        raise _invalid("a key of an unknown kind")
    return loaded


@lru_cache(maxsize=8)
def _parse(data: bytes) -> TrustedRoot:
    parse_strict(data, limit=MAX_ROOT, code=Code.TRUST_ROOT_INVALID, what="trusted root")
    try:
        model = RootModel.from_json(data)
    except (ValueError, RecursionError) as error:
        raise _invalid("not a trusted root of a known version") from error
    for what, members in (
        ("log", model.tlogs),
        ("CA", model.certificate_authorities),
        ("CT log", model.ctlogs),
    ):
        if not members:
            raise _invalid(f"it lists no {what}")
    for log in (*model.tlogs, *model.ctlogs):
        if log.public_key.valid_for is None or log.hash_algorithm is not HashAlgorithm.SHA2_256:
            raise _invalid("a log without a window, or not over SHA-256")
        log_key(log.public_key)
    for window in (
        *(log.public_key.valid_for for log in (*model.tlogs, *model.ctlogs)),
        *(
            authority.valid_for
            for authority in (*model.certificate_authorities, *model.timestamp_authorities)
        ),
    ):
        assert window is not None
        if any(moment is not None and moment.tzinfo is None for moment in (window.start, window.end)):
            raise _invalid("a time without a zone")
    return TrustedRoot(model, hashlib.sha256(data).digest())


def _open_ended(log: TransparencyLogInstance) -> TransparencyLogInstance:
    return log.model_copy(update={"public_key": log.public_key.model_copy(update={"valid_for": None})})


def _invalid(why: str) -> TransparencyError:
    return TransparencyError(Code.TRUST_ROOT_INVALID, f"trusted root: {why}", stage=_STAGE)
