"""When a signature was made, by witnesses other than its maker: the log's promise and RFC 3161 time stamps."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from rfc3161_client import TimeStampResponse, VerificationError, VerifierBuilder
from sigstore_models.trustroot.v1 import CertificateAuthority

from ..errors import Code, TransparencyError
from ..statement import instant_text
from .bundle import SigstoreBundle
from .log_entry import ProvedEntry
from .root import TrustedRoot, require_within, within

_STAGE: Final = "sigstore.time"


@dataclass(frozen=True, slots=True)
class VerifiedTimes:
    """``signed_at`` is when somebody vouches that the signature was there; all of ``times`` must lie where they may.

    ``stampers`` are the time stamping authorities that stand for some of them.
    """

    signed_at: datetime
    times: tuple[datetime, ...]
    stampers: tuple[CertificateAuthority, ...]


def verify_times(
    bundle: SigstoreBundle,
    entry: ProvedEntry,
    root: TrustedRoot,
    *,
    at: datetime,
    max_future_s: int,
    judged_again: bool,
) -> VerifiedTimes:
    """Every time that somebody vouches for, each inside the windows of who vouches and of the log's key.

    Where the bundle is ``judged_again`` by the library against the authorities given back, and the time rests on the
    log's promise or on one single time stamp, the stamps' signatures are left to it: it accepts nothing without a
    time that it has verified itself. Otherwise time stamps are verified here: those of nobody in the root count for
    nothing, and one of an authority whose window does not hold it refuses the bundle. Raises TransparencyError:
    TIME_INVALID (no time, or one after ``at``), TRUST_ROOT_VALIDITY.
    """
    if judged_again and (entry.promised_at is not None or len(bundle.timestamps) == 1):
        found = _stated_times(bundle, entry, root)
    else:
        found = _own_times(bundle, entry, root)
    for moment in found.times:
        require_within(entry.log.public_key.valid_for, moment, "log")
        if moment > at + timedelta(seconds=max_future_s):
            raise TransparencyError(
                Code.TIME_INVALID,
                "signed in the future",
                stage=_STAGE,
                expected=f"by {instant_text(at)}",
                found=instant_text(moment),
            )
    return found


def _stated_times(bundle: SigstoreBundle, entry: ProvedEntry, root: TrustedRoot) -> VerifiedTimes:
    stated = [response.tst_info.gen_time for response in bundle.timestamps]
    known = root.model.timestamp_authorities
    stampers = tuple(a for a in known if any(within(a.valid_for, moment) for moment in stated))
    if stated and known and not stampers:
        require_within(known[0].valid_for, stated[0], "time stamping authority")
    if stated and not stampers:
        raise TransparencyError(
            Code.TIME_INVALID, "the trusted root names no time stamping authority", stage=_STAGE
        )
    for moment in stated:
        if not any(within(authority.valid_for, moment) for authority in stampers):
            require_within(stampers[0].valid_for, moment, "time stamping authority")
    promised = [] if entry.promised_at is None else [entry.promised_at]
    times = (*promised, *stated)
    return VerifiedTimes(times[0], times, stampers)


def _own_times(bundle: SigstoreBundle, entry: ProvedEntry, root: TrustedRoot) -> VerifiedTimes:
    times = [] if entry.promised_at is None else [entry.promised_at]
    stampers: list[CertificateAuthority] = []
    for response in bundle.timestamps:
        stamper = _stamper(response, bundle.signature, root)
        if stamper is None:
            continue
        moment = response.tst_info.gen_time
        require_within(stamper.valid_for, moment, "time stamping authority")
        times.append(moment)
        stampers.append(stamper)
    if not times:
        raise TransparencyError(Code.TIME_INVALID, "no trusted time of the signature", stage=_STAGE)
    return VerifiedTimes(min(times), tuple(times), tuple(stampers))


def require_certificate_valid(certificate: x509.Certificate, times: VerifiedTimes) -> None:
    """Raises TransparencyError (TIME_INVALID) unless the certificate was valid at every time."""
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    for moment in times.times:
        if not begin <= moment <= end:
            raise TransparencyError(
                Code.TIME_INVALID,
                "not signed while the certificate was valid",
                stage=_STAGE,
                expected=f"{instant_text(begin)} to {instant_text(end)}",
                found=instant_text(moment),
            )


def _stamper(response: TimeStampResponse, message: bytes, root: TrustedRoot) -> CertificateAuthority | None:
    """The authority of the root that signed a time stamp over ``message``; one that trusts it then, if any."""
    found: CertificateAuthority | None = None
    for authority in root.model.timestamp_authorities:
        certificates = [
            x509.load_der_x509_certificate(c.raw_bytes) for c in authority.cert_chain.certificates
        ]
        if len(certificates) < 2:
            continue
        verifier = VerifierBuilder(
            tsa_certificate=certificates[0], intermediates=certificates[1:-1], roots=certificates[-1:]
        ).build()
        try:
            verifier.verify_message(response, message)
        except (VerificationError, ValueError, TypeError):
            continue
        if within(authority.valid_for, response.tst_info.gen_time):
            return authority
        found = found or authority
    return found
