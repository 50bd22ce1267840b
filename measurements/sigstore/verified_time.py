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
    """At least one time; ``stampers`` are the time stamping authorities that stood for some of them."""

    times: tuple[datetime, ...]
    stampers: tuple[CertificateAuthority, ...]


def verify_times(
    bundle: SigstoreBundle, entry: ProvedEntry, root: TrustedRoot, *, at: datetime, max_future_s: int
) -> VerifiedTimes:
    """Every time that somebody vouches for, each inside the windows of who vouches and of the log's key.

    Time stamps that do not verify count for nothing. Raises TransparencyError: TIME_INVALID (none is left, or
    one lies after ``at``), TRUST_ROOT_VALIDITY.
    """
    times = [] if entry.promised_at is None else [entry.promised_at]
    stampers: list[CertificateAuthority] = []
    outside: TransparencyError | None = None
    for response in bundle.timestamps:
        stamper = _stamper(response, bundle.signature, root)
        if stamper is None:
            continue
        moment = response.tst_info.gen_time
        try:
            require_within(stamper.valid_for, moment, "time stamping authority")
        except TransparencyError as error:
            outside = error
            continue
        times.append(moment)
        stampers.append(stamper)
    if not times:
        raise outside or TransparencyError(
            Code.TIME_INVALID, "no trusted time of the signature", stage=_STAGE
        )
    for moment in times:
        require_within(entry.log.public_key.valid_for, moment, "log")
        if moment > at + timedelta(seconds=max_future_s):
            raise TransparencyError(
                Code.TIME_INVALID,
                "signed in the future",
                stage=_STAGE,
                expected=f"by {instant_text(at)}",
                found=instant_text(moment),
            )
    return VerifiedTimes(tuple(times), tuple(stampers))


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
