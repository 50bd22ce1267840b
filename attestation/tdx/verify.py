"""Intel TDX evidence, verified: who made a quote, on which platform in which state, and whether it is accepted.

``verify`` raises at the first check that fails. ``appraise`` goes on after one and reports a row for each
step, in the order of Intel's own library; the first failure is the verdict. Both are pure: bytes, a policy
and a time in, a result out.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple, TypeVar

from cryptography.hazmat.primitives.asymmetric import ec

from ..certificate import PublicKey
from ..errors import BindingMismatch, ChainUntrusted, CollateralInvalid, SignatureInvalid
from ..results import Appraisal, Checklist, FirstFailure
from .chain import PckChain, Trust, read_revocations, require_in_force
from .collateral import (
    AuthenticCollateral,
    CollateralCache,
    Signers,
    TdxCollateral,
    collateral_missing,
    read_enclave,
    read_levels,
    read_signers,
)
from .guest import check_debug, check_guest, check_tcb
from .pck import PckPlatform
from .policy import TdxPolicy
from .qe_identity import QeIdentity
from .quote import Quote, parse_quote
from .signed_document import verify_signed
from .tcb import TcbVerdict, appraise_tcb, check_module
from .tcb_info import TcbInfo

TDX_CHECKS: Final = (
    "cpu.format",
    "cpu.chain",
    "cpu.revocation",
    "cpu.collateral",
    "cpu.module",
    "cpu.quoting_enclave",
    "cpu.qe_identity",
    "cpu.signature",
    "cpu.debug",
    "cpu.tcb",
    "cpu.guest_policy",
)
"""Ids of the rows of ``appraise``, in order."""

_NO_CACHE: Final = CollateralCache()
_BODIES: Final = {2: "TD report 1.0", 3: "TD report 1.5", 4: "TD report 1.5 extended"}
_P256: Final = ec.SECP256R1()
_T = TypeVar("_T")
_N = TypeVar("_N")


@dataclass(frozen=True, slots=True)
class VerifiedTdx:
    """An authentic quote that the policy accepts, the platform that made it, and that platform's state."""

    quote: Quote
    platform: PckPlatform
    tcb: TcbVerdict
    simulated: bool


def verify(
    quote: bytes,
    collateral: TdxCollateral | None,
    policy: TdxPolicy,
    at: datetime,
    cache: CollateralCache = _NO_CACHE,
) -> VerifiedTdx:
    """Verify a quote at the time ``at`` (aware). Raises the first error of ``appraise``."""
    return _Steps(parse_quote(quote), collateral, policy, at, cache, FirstFailure()).run().require()


def appraise(
    quote: bytes,
    collateral: TdxCollateral | None,
    policy: TdxPolicy,
    at: datetime,
    cache: CollateralCache = _NO_CACHE,
) -> Appraisal[VerifiedTdx]:
    """Check a quote step by step; without ``collateral`` only what the quote itself carries can pass.

    ``cache`` holds collateral whose signatures an earlier appraisal has checked (``authenticate``): for the
    very same bytes they are not checked again. Dates and revocation always are.
    """
    checks = Checklist()
    evidence = checks.check("cpu.format", lambda: parse_quote(quote), _describe)
    if evidence is None:
        for id in TDX_CHECKS[1:]:
            checks.not_evaluated(id, "the evidence cannot be read")
        return Appraisal(checks.rows, checks.error, None)
    return _Steps(evidence, collateral, policy, at, cache, checks).run()


class _Chains(NamedTuple):
    pck: PckChain
    signers: Signers | None

    @property
    def platform(self) -> PckPlatform:
        return self.pck.platform


class _Steps:
    """The steps after the format, each of which needs what an earlier one gave, or fails unevaluated."""

    def __init__(
        self,
        quote: Quote,
        collateral: TdxCollateral | None,
        policy: TdxPolicy,
        at: datetime,
        cache: CollateralCache,
        checks: Checklist,
    ) -> None:
        self._quote = quote
        self._collateral = collateral
        self._policy = policy
        self._at = at
        self._checks = checks
        self._cache = cache
        self._known: AuthenticCollateral | None = None
        if cache.entries and collateral is not None:
            self._known = cache.find(collateral, policy.trusted_roots)

    def run(self) -> Appraisal[VerifiedTdx]:
        quote, policy, checks = self._quote, self._policy, self._checks
        chains = checks.check("cpu.chain", self._chains, self._describe_chains)
        self._after("cpu.revocation", chains, self._revocation, "neither the PCK nor an issuer is revoked")
        documents = self._after("cpu.collateral", chains, self._documents, _describe_documents)
        self._after(
            "cpu.module",
            documents,
            lambda found: check_module(quote.body, found[0]),
            lambda _: f"TDX module {quote.body.tee_tcb_svn[1]}.{quote.body.tee_tcb_svn[0]}, signed by Intel",
        )
        self._after(
            "cpu.quoting_enclave",
            chains,
            lambda found: _check_quoting_enclave(quote, found.pck.pck.public_key),
            "certified by the PCK, and vouches for the attestation key",
        )
        self._after(
            "cpu.qe_identity",
            documents,
            lambda found: found[1].check(quote.qe_report),
            lambda _: f"Intel's TD quoting enclave, level {quote.qe_report.isvsvn}",
        )
        checks.check("cpu.signature", lambda: _check_signature(quote), "ECDSA P-256 by the attestation key")
        checks.check("cpu.debug", lambda: check_debug(quote.body, policy), lambda _: _describe_debug(quote))
        tcb = self._after(
            "cpu.tcb",
            None if chains is None or documents is None else (chains, documents),
            lambda found: self._tcb(found[0], found[1]),
            _describe_tcb,
        )
        self._after(
            "cpu.guest_policy",
            chains,
            lambda found: check_guest(quote.body, found.platform, policy),
            lambda _: f"attributes 0x{quote.body.td_attributes:x}, XFAM 0x{quote.body.xfam:x}",
        )
        simulated = chains is not None and self._simulated(chains)
        if checks.error is not None or chains is None or tcb is None:
            return Appraisal(checks.rows, checks.error, None, simulated)
        verified = VerifiedTdx(quote, chains.platform, tcb, simulated)
        return Appraisal(checks.rows, None, verified, simulated)

    def _after(
        self, id: str, needed: _N | None, test: Callable[[_N], _T], detail: Callable[[_T], str] | str
    ) -> _T | None:
        if needed is None:
            self._checks.not_evaluated(id, "needs what an earlier check refused")
            return None
        return self._checks.check(id, lambda: test(needed), detail)

    def _chains(self) -> _Chains:
        known = self._known
        trust = Trust(self._policy.trusted_roots, known.issued if known else ())
        chain = self._cache.find_chain(self._quote.pck_chain, self._policy.trusted_roots)
        chain = chain or trust.pck_chain(self._quote.pck_chain)
        chain.require_in_force(self._at)
        if known is not None:
            signers: Signers | None = known.signers
        else:
            signers = None if self._collateral is None else read_signers(self._collateral, trust)
        if signers is not None:
            three = (signers.tcb_info, signers.qe_identity, signers.pck_crl)
            require_in_force((signer.certificate for signer in three), self._at)
            # One word of trust for both: a simulated platform's levels say nothing of a genuine one.
            if any(signer.root.raw != chain.root.raw for signer in three):
                raise ChainUntrusted(code="chain_untrusted", detail="quote and collateral end at other roots")
        return _Chains(chain, signers)

    def _revocation(self, chains: _Chains) -> None:
        if self._collateral is None or chains.signers is None:
            raise collateral_missing("root_ca_crl")
        signers, collateral = chains.signers, self._collateral
        if self._known and self._known.revocations.of_issuer(chains.pck.ca):
            lists = self._known.revocations
        else:
            # The list that counts is that of the CA which issued this PCK.
            lists = read_revocations(
                collateral.root_ca_crl, collateral.pck_crl, chains.pck.root, chains.pck.ca
            )
        lists.check(chains.pck, (signers.tcb_info, signers.qe_identity, signers.pck_crl), self._at)

    def _documents(self, chains: _Chains) -> tuple[TcbInfo, QeIdentity]:
        if self._collateral is None or chains.signers is None:
            raise collateral_missing("tcb_info")
        if self._known:
            tcb_info, qe_identity = self._known.tcb_info, self._known.qe_identity
            _require_current(tcb_info, "tcb_info", self._at)
        else:
            tcb_info = read_levels(self._collateral, chains.signers)
            _require_current(tcb_info, "tcb_info", self._at)
            qe_identity = read_enclave(self._collateral, chains.signers)
        _require_current(qe_identity, "qe_identity", self._at)
        for field, expected, found in (
            ("FMSPC", chains.platform.fmspc, tcb_info.fmspc),
            ("PCEID", chains.platform.pceid, tcb_info.pceid),
        ):
            if expected != found:
                raise CollateralInvalid(
                    code="tcb_info_mismatch", expected=expected, found=found, detail=field
                )
        return tcb_info, qe_identity

    def _tcb(self, chains: _Chains, documents: tuple[TcbInfo, QeIdentity]) -> TcbVerdict:
        quote = self._quote
        verdict = appraise_tcb(chains.platform, quote.body, quote.qe_report, *documents)
        check_tcb(verdict, self._policy, self._at)
        return verdict

    def _simulated(self, chains: _Chains) -> bool:
        return chains.pck.root.sha256.hex() == self._policy.simulated_root

    def _describe_chains(self, chains: _Chains) -> str:
        root = "simulated root" if self._simulated(chains) else "Intel's root"
        return f"{chains.pck.ca.common_name}, FMSPC {chains.platform.fmspc.hex()}, {root}"


def _require_current(document: TcbInfo | QeIdentity, name: str, at: datetime) -> None:
    if at < document.issued:
        raise CollateralInvalid(
            code=f"{name}_not_yet_valid", expected=document.issued, found=at, retryable=True
        )
    if at > document.next_update:
        raise CollateralInvalid(
            code=f"{name}_expired", expected=document.next_update, found=at, retryable=True
        )


def _check_quoting_enclave(quote: Quote, pck: PublicKey | None) -> None:
    verify_signed(
        pck,
        quote.qe_report_signature,
        quote.qe_report.raw,
        lambda: SignatureInvalid(code="qe_report_signature", detail="not signed by this PCK"),
    )
    bound = hashlib.sha256(quote.attestation_key + quote.qe_authentication_data).digest() + bytes(32)
    if quote.qe_report.report_data != bound:
        raise BindingMismatch(
            code="qe_report_data_mismatch",
            expected=bound,
            found=quote.qe_report.report_data,
            detail="the quoting enclave vouches for another attestation key",
        )


def _check_signature(quote: Quote) -> None:
    try:
        key = ec.EllipticCurvePublicKey.from_encoded_point(_P256, b"\x04" + quote.attestation_key)
    except ValueError:
        raise SignatureInvalid(code="attestation_key_invalid", detail="not a point of P-256") from None
    verify_signed(
        key,
        quote.signature,
        quote.signed,
        lambda: SignatureInvalid(code="quote_signature", detail="not signed by this attestation key"),
    )


def _describe(quote: Quote) -> str:
    return f"quote version {quote.version}, {_BODIES[quote.body.kind]}"


def _describe_documents(found: tuple[TcbInfo, QeIdentity]) -> str:
    tcb_info, qe_identity = found
    until = min(tcb_info.next_update, qe_identity.next_update)
    return f"TCB evaluation {tcb_info.evaluation_number}, good until {until.isoformat()[:19]}Z"


def _describe_debug(quote: Quote) -> str:
    return "debug permitted by the policy" if quote.body.td_attributes & 1 else "debug off"


def _describe_tcb(verdict: TcbVerdict) -> str:
    advisories = f", {len(verdict.advisories)} advisories" if verdict.advisories else ""
    return f"{verdict.status} as of {verdict.date.date()}{advisories}"
