"""A TPM's quote, appraised: whose key signed it, for which challenge, over which PCRs, and what booted.

``appraise`` judges evidence of kind ``tpm``; ``appraise_quote`` the part that every vTPM has in common, with an
attestation key that something else vouches for. Both go on after a failure and report a row for each step.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Final

from ..errors import BindingMismatch, ChainUntrusted, PolicyRejected, RevocationFailed
from ..results import Appraisal, Checklist
from .ak import PublicArea, check_attributes, check_scheme, parse_public_area, spki_sha256
from .ak_certificate import AkChain
from .attest import AkKey, Attest, TpmSignature, parse_attest, parse_signature, verify_signature
from .boot_state import check_image, check_pins, check_replay
from .eventlog import SECURE_BOOT_PCR, EventLog, parse_event_log
from .evidence import Quote, TpmEvidence
from .gcp import GCP_ROOTS_SHA256, GcpInstance, GcpPolicy, check_instance, read_instance
from .pcr import PcrValues, check_banks, check_required, check_values, named_values
from .policy import TpmPolicy

QUOTE_CHECKS: Final = (
    "tpm.signature",
    "tpm.quote",
    "tpm.nonce",
    "tpm.pcrs",
    "tpm.image",
    "tpm.eventlog",
    "tpm.state",
)
"""Ids of the rows of ``appraise_quote``, in order."""

TPM_CHECKS: Final = ("tpm.format", "tpm.key", "tpm.revocation", "tpm.attributes", *QUOTE_CHECKS)
"""Ids of the rows of ``appraise``, in order."""


@dataclass(frozen=True, slots=True)
class TpmCollateral:
    """What comes beside a quote: the event log, and the AK's certificates (DER, one after the other)."""

    eventlog: bytes | None = None
    ak_chain: bytes | None = None
    ak_crl: bytes | None = None


@dataclass(frozen=True, slots=True)
class VerifiedQuote:
    """An authentic quote that the policy accepts. ``secure_boot`` is None where the policy did not ask.

    ``ak_spki_sha256`` names the attestation key; ``instance`` is Google's, where its CA vouches for the key.
    """

    attest: Attest
    pcrs: PcrValues
    ak_spki_sha256: bytes
    secure_boot: bool | None
    instance: GcpInstance | None = None

    @property
    def registers(self) -> Mapping[str, str]:
        """The quoted PCRs, as ``pcr<index>``, in hexadecimal; SHA-384 where it was quoted, else SHA-256."""
        return named_values(self.pcrs)


def appraise(
    evidence: bytes,
    collateral: TpmCollateral,
    policy: TpmPolicy,
    gcp: GcpPolicy,
    nonce: bytes,
    at: datetime,
) -> Appraisal[VerifiedQuote]:
    """Check evidence of kind ``tpm`` at the time ``at`` (aware) against the challenge ``nonce``."""
    checks = Checklist()
    found = checks.check(TPM_CHECKS[0], lambda: _read(evidence, collateral), "a quote, and the key it names")
    if found is None:
        for id in TPM_CHECKS[1:]:
            checks.not_evaluated(id, "the evidence cannot be read")
        return Appraisal(checks.rows, checks.error, None)
    quote, area, chain = found
    instance = checks.check(
        "tpm.key",
        lambda: _check_trust(area, chain, policy, gcp, at),
        lambda trusted: (
            f"AK {spki_sha256(area.key).hex()[:16]}…" + (f", project {trusted.project_id}" if trusted else "")
        ),
    )
    _check_revocation(checks, area, chain, collateral.ak_crl, policy, at)
    if policy.require_restricted_ak:
        checks.check(
            "tpm.attributes", lambda: check_attributes(area), "a restricted key that stays in its TPM"
        )
    else:
        checks.not_required("tpm.attributes", "the policy takes keys that are not restricted")
    verified = appraise_quote(checks, quote, area.key, area, collateral.eventlog, policy, nonce)
    if checks.error is not None or verified is None:
        return Appraisal(checks.rows, checks.error, None)
    value = VerifiedQuote(
        verified.attest, verified.pcrs, verified.ak_spki_sha256, verified.secure_boot, instance
    )
    return Appraisal(checks.rows, None, value)


def appraise_quote(
    checks: Checklist,
    quote: Quote,
    key: AkKey,
    area: PublicArea | None,
    eventlog: bytes | None,
    policy: TpmPolicy,
    nonce: bytes,
) -> VerifiedQuote | None:
    """Add the rows of ``QUOTE_CHECKS``: the verified quote, or None where any row of ``checks`` has failed."""
    signature = checks.check(
        "tpm.signature", lambda: _check_signature(quote, key, area), lambda s: f"{s.scheme} with {s.hash}"
    )
    attest = checks.check(
        "tpm.quote",
        lambda: parse_attest(quote.message),
        lambda a: f"reset {a.reset_count}, clock {a.clock} ms",
    )
    if attest is None:
        for id in QUOTE_CHECKS[2:]:
            checks.not_evaluated(id, "the quote cannot be read")
        return None
    checks.check("tpm.nonce", lambda: _check_nonce(attest, nonce), "answers this challenge")
    if signature is None:
        checks.not_evaluated("tpm.pcrs", "the signature's hash is not known")
    else:
        checks.check(
            "tpm.pcrs",
            lambda: _check_pcrs(attest, quote.pcrs, signature.hash, policy),
            f"{sum(map(len, quote.pcrs.values()))} values, as quoted",
        )
    if policy.uki is None and not policy.pins:
        checks.not_required("tpm.image", "the policy pins no PCR; a release does")
    else:
        checks.check("tpm.image", lambda: _check_image(quote.pcrs, policy), "PCRs as pinned")
    log = _check_eventlog(checks, quote.pcrs, eventlog, policy)
    secure_boot = checks.check(
        "tpm.state",
        lambda: _check_state(attest, quote.pcrs, log, policy),
        lambda on: {True: "Secure Boot on", False: "Secure Boot off", None: "Secure Boot is not asked for"}[
            on
        ],
    )
    if checks.error is not None:
        return None
    return VerifiedQuote(attest, quote.pcrs, spki_sha256(key), secure_boot)


def _read(evidence: bytes, collateral: TpmCollateral) -> tuple[Quote, PublicArea, AkChain | None]:
    parsed = TpmEvidence.parse(evidence)
    chain = None if collateral.ak_chain is None else AkChain.parse(collateral.ak_chain)
    return parsed.quote, parse_public_area(parsed.ak_public), chain


def _check_trust(
    area: PublicArea, chain: AkChain | None, policy: TpmPolicy, gcp: GcpPolicy, at: datetime
) -> GcpInstance | None:
    """Google's instance where its CA vouches for the key, None where another does or the key is pinned."""
    spki = spki_sha256(area.key)
    if _is_pinned(area, policy):
        return None
    if chain is None:
        raise ChainUntrusted(
            code="ak_untrusted", found=spki, detail="the AK is not pinned, and no certificate comes with it"
        )
    chain.verify(policy.ca | GCP_ROOTS_SHA256 if gcp.names_instances else policy.ca, at)
    certified = chain.leaf.public_key
    if certified is None or spki_sha256(certified) != spki:
        raise ChainUntrusted(code="ak_certificate_mismatch", detail="the certificate is of another key")
    if chain.root.sha256 not in GCP_ROOTS_SHA256:
        return None
    instance = read_instance(chain.leaf)
    check_instance(instance, gcp)
    return instance


def _is_pinned(area: PublicArea, policy: TpmPolicy) -> bool:
    return area.name in policy.pinned_names or spki_sha256(area.key) in policy.pinned_spki


def _check_revocation(
    checks: Checklist,
    area: PublicArea,
    chain: AkChain | None,
    crl: bytes | None,
    policy: TpmPolicy,
    at: datetime,
) -> None:
    id = "tpm.revocation"
    if _is_pinned(area, policy):
        checks.not_required(id, "the AK itself is pinned")
    elif crl is not None and chain is not None:
        checks.check(id, partial(chain.verify_not_revoked, crl, at), "the AK's certificate is not revoked")
    elif policy.require_crl:
        checks.failed(id, RevocationFailed(code="crl_missing", detail="no revocation list with the evidence"))
    else:
        checks.not_required(id, "the policy asks for no revocation list")


def _check_signature(quote: Quote, key: AkKey, area: PublicArea | None) -> TpmSignature:
    signature = parse_signature(quote.signature)
    if area is not None:
        check_scheme(area, signature)
    verify_signature(key, signature, quote.message)
    return signature


def _check_nonce(attest: Attest, nonce: bytes) -> None:
    if not nonce or attest.extra_data != nonce:
        raise BindingMismatch(
            code="nonce_mismatch",
            expected=nonce,
            found=attest.extra_data,
            detail="the quote answers another challenge",
        )


def _check_pcrs(attest: Attest, values: PcrValues, digest_hash: str, policy: TpmPolicy) -> None:
    check_values(attest, values, digest_hash)
    check_banks(values, policy.banks)
    check_required(values, policy.required_pcrs)


def _check_image(values: PcrValues, policy: TpmPolicy) -> None:
    check_pins(values, policy.pins)
    if policy.uki is not None:
        check_image(values, policy.uki, pinned=frozenset(policy.pins))


def _check_eventlog(
    checks: Checklist, values: PcrValues, data: bytes | None, policy: TpmPolicy
) -> EventLog | None:
    id = "tpm.eventlog"
    if not policy.replay_eventlog:
        checks.not_required(id, "the policy asks for no event log")
        return None
    if data is None:
        checks.failed(
            id, BindingMismatch(code="eventlog_missing", stage="eventlog", detail="no log with the evidence")
        )
        return None
    return checks.check(
        id, lambda: _replayed(data, values), lambda log: f"{len(log.events)} events give the quoted PCRs"
    )


def _replayed(data: bytes, values: PcrValues) -> EventLog:
    log = parse_event_log(data)
    check_replay(log, values)
    log.check_digests()
    return log


def _check_state(attest: Attest, values: PcrValues, log: EventLog | None, policy: TpmPolicy) -> bool | None:
    limit = policy.max_reset_age_s
    if limit is not None and (attest.clock > 1000 * limit or not attest.safe):
        found = f"{attest.clock // 1000} s" if attest.safe else "a clock that lost time"
        raise PolicyRejected(code="tpm_reset_age", expected=f"at most {limit} s", found=found)
    if not policy.secure_boot:
        return None
    if log is None or not any(SECURE_BOOT_PCR in pcrs for pcrs in values.values()):
        raise PolicyRejected(code="secure_boot", detail="needs an event log that the quoted PCR 7 confirms")
    if not log.secure_boot():
        raise PolicyRejected(code="secure_boot", expected="on", found="off")
    return True
