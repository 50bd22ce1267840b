"""Every TDX case of the vectors, real hardware and synthetic, against the verifier."""

import hashlib
import json
import ssl
from pathlib import Path

import pytest
from tdx_cases import TdxCase, cases, readable

from attestation.certificate import Certificate
from attestation.cpu_memory import CpuMemory
from attestation.errors import AttestationError, ChainUntrusted
from attestation.results import Appraisal
from attestation.tdx.chain import PCK_CA, TCB_SIGNER, Trust, require_role, verify_p256
from attestation.tdx.collateral import CollateralCache, TdxCollateral, authenticate
from attestation.tdx.intel_root import INTEL_ISSUERS, INTEL_ROOT, INTEL_ROOT_SHA256
from attestation.tdx.policy import TdxPolicy
from attestation.tdx.quote import parse_quote
from attestation.tdx.verify import TDX_CHECKS, VerifiedTdx, appraise, verify


def _appraise(case: TdxCase) -> Appraisal[VerifiedTdx]:
    if case.unreadable is not None:
        return Appraisal((), case.unreadable, None)
    return appraise(case.quote, case.collateral, case.policy, case.at)


def _verdict(appraisal: Appraisal[VerifiedTdx]) -> str:
    return "accept" if appraisal.error is None else appraisal.error.code


def _complaint(case: TdxCase, found: Appraisal[VerifiedTdx]) -> str | None:
    expect = case.expect
    if expect.get("either_verdict_conforms"):
        return None
    wanted = ["accept"] if expect["verdict"] == "accept" else expect["code"].split("|")
    if _verdict(found) not in wanted:
        return f"{case.id}: expected {' or '.join(wanted)}, found {found.error or 'accept'}"
    if "tcb_status" in expect:
        row = next(row for row in found.rows if row.id == "cpu.tcb")
        passed, refused = f"{expect['tcb_status']} as of", f"found {expect['tcb_status']})"
        if not (row.detail.startswith(passed) or row.detail.endswith(refused) or row.code):
            return f"{case.id}: expected state {expect['tcb_status']}, found {row.detail}"
    advisories = found.value.tcb.advisories if found.value else ()
    if found.value and list(advisories) != sorted(expect.get("advisories", advisories)):
        return f"{case.id}: expected {expect['advisories']}, found {advisories}"
    return None


@pytest.mark.parametrize("kind", ["real", "synth"])
def test_every_case_has_its_verdict_its_code_and_its_state(vectors: Path, kind: str) -> None:
    complaints, count = [], 0
    for case in cases(vectors, kind):
        found = _appraise(case)
        complaints.append(_complaint(case, found))
        assert (found.value is None) == (found.error is not None), case.id
        assert case.unreadable or tuple(row.id for row in found.rows) == TDX_CHECKS, case.id
        count += 1
    assert [complaint for complaint in complaints if complaint] == []
    assert count


def test_without_collateral_the_chain_and_the_signatures_are_still_checked(vectors: Path) -> None:
    alone = [case for case in cases(vectors, "real") if case.members is None]
    assert alone
    for case in alone:
        found = {row.id: row.code for row in _appraise(case).rows}
        assert found["cpu.revocation"] == found["cpu.collateral"] == "collateral_missing"
        for id in ("cpu.format", "cpu.chain", "cpu.quoting_enclave", "cpu.signature"):
            assert (found[id] is None) == case.expect["signature_chain_ok"]


@pytest.mark.parametrize("kind", ["real", "synth"])
def test_line_ends_and_the_order_of_members_change_no_verdict(vectors: Path, kind: str) -> None:
    for case in readable(vectors, kind):
        if case.members is None:
            continue
        other = dict(reversed(case.members.items()))
        for name in other:
            if name.endswith("_chain"):
                other[name] = other[name].replace("\n", "\r\n")
        collateral = TdxCollateral.from_json(json.dumps(other, indent=3).encode())
        found = appraise(case.quote, collateral, case.policy, case.at)
        assert _verdict(found) == _verdict(_appraise(case)), case.id


@pytest.mark.parametrize("kind", ["real", "synth"])
def test_cached_collateral_changes_no_verdict(vectors: Path, kind: str) -> None:
    cache = CollateralCache({})
    for case in readable(vectors, kind):
        if case.collateral is None:
            continue
        plain = _appraise(case)
        try:
            cache = cache.adding(authenticate(case.collateral, case.policy.trusted_roots))
        except AttestationError:
            assert plain.error is not None, case.id
        found = appraise(case.quote, case.collateral, case.policy, case.at, cache)
        assert found.rows == plain.rows, case.id
    assert cache.entries


@pytest.mark.parametrize("kind", ["real", "synth"])
def test_what_a_client_remembers_changes_no_verdict(vectors: Path, kind: str) -> None:
    memory = CpuMemory(limit=4)
    for case in readable(vectors, kind):
        if case.collateral is None:
            continue
        plain = _appraise(case)
        for _ in range(2):
            found = appraise(case.quote, case.collateral, case.policy, case.at, memory.tdx)
            assert found.rows == plain.rows, case.id
            if found.value is not None:
                memory.learn_tdx(case.collateral, found.value.quote.pck_chain, case.policy.trusted_roots)
    assert 0 < len(memory.tdx.entries) <= 4
    assert 0 < len(memory.tdx.chains) <= 4


@pytest.mark.parametrize("kind", ["real", "synth"])
def test_verifying_raises_the_first_error_of_the_appraisal(vectors: Path, kind: str) -> None:
    for case in readable(vectors, kind):
        expected = _appraise(case)
        if expected.error is None:
            assert verify(case.quote, case.collateral, case.policy, case.at) == expected.value, case.id
            continue
        with pytest.raises(AttestationError) as caught:
            verify(case.quote, case.collateral, case.policy, case.at)
        assert (caught.value.code, str(caught.value)) == (expected.error.code, str(expected.error)), case.id


def test_intels_root_does_not_vouch_for_the_synthetic_keys(vectors: Path) -> None:
    for case in readable(vectors, "synth"):
        found = appraise(case.quote, case.collateral, TdxPolicy(), case.at)
        assert found.value is None, case.id
        known = CollateralCache({})
        try:
            known = CollateralCache.of(authenticate(case.collateral, case.policy.roots))  # type: ignore[arg-type]
        except AttestationError:
            continue
        assert appraise(case.quote, case.collateral, TdxPolicy(), case.at, known).value is None, case.id


def test_the_pinned_root_is_intels_own(vectors: Path) -> None:
    data = (vectors / "tdx" / "trust" / "intel_sgx_root_ca.der").read_bytes()
    assert hashlib.sha256(data).hexdigest() == INTEL_ROOT_SHA256
    root = Certificate.parse(data)
    assert root == INTEL_ROOT
    assert (root.common_name, root.is_ca, root.issuer) == ("Intel SGX Root CA", True, root.subject)


def test_the_issuers_that_are_known_are_signed_by_that_root_for_their_roles() -> None:
    assert len(INTEL_ISSUERS) == 3
    for issuer in INTEL_ISSUERS:
        assert issuer == Certificate._parse(issuer.raw)
        assert issuer.issuer == INTEL_ROOT.subject
        verify_p256(INTEL_ROOT.public_key, issuer.algorithm, issuer.signature, issuer.signed)
        require_role(issuer, PCK_CA if issuer.is_ca else TCB_SIGNER)
        changed = issuer.signed[:-1] + bytes([issuer.signed[-1] ^ 1])
        with pytest.raises(ChainUntrusted):
            verify_p256(INTEL_ROOT.public_key, issuer.algorithm, issuer.signature, changed)


def test_a_known_issuer_in_another_role_is_refused(vectors: Path) -> None:
    """Intel's signer of TCB levels, where a PCK's issuer belongs: known, and still not a CA."""
    case = next(
        case for case in cases(vectors, "real") if case.collateral and case.expect["verdict"] == "accept"
    )
    assert case.collateral is not None
    pck, _, root = Trust(case.policy.trusted_roots).pck_chain(parse_quote(case.quote).pck_chain)[:3]
    signer = next(issuer for issuer in INTEL_ISSUERS if not issuer.is_ca)
    pem = "".join(ssl.DER_cert_to_PEM_cert(one.raw) for one in (pck, signer, root)).encode()
    with pytest.raises(ChainUntrusted) as caught:
        Trust(case.policy.trusted_roots).pck_chain(pem)
    assert caught.value.code == "chain_wrong_role"
