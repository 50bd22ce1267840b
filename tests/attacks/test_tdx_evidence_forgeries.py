"""A trust domain that is not what its evidence says: each attempt is made for real and must fail.

Beside each stands the control: the same attempt, judged without the one defence, does pass.
"""

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from tdx_world import (
    AT,
    Td,
    World,
    issue,
    platform_level,
    point,
    raw_signature,
    revocations,
    svn_level,
    tcb_info,
)

from attestation.appraisal import VerifiedCpu, appraise_cpu
from attestation.bundle import CpuSection, EvidenceBundle, TransparencySection
from attestation.claims import Claims, report_data
from attestation.policy import AttestationPolicy
from attestation.results import Appraisal
from attestation.tdx.collateral import COLLATERAL_NAMES, TdxCollateral
from attestation.tdx.policy import TdxPolicy
from attestation.tdx.tcb_status import TcbStatus
from attestation.tdx.verify import appraise

KEYS, RUNTIME, CHECKPOINT = b"key configs", b"{}", b"checkpoint"
_NOTHING = TransparencySection(b"", b"", b"", b"")


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module")
def policy(world: World) -> TdxPolicy:
    return TdxPolicy(simulated_root=world.root_sha256)


def refusal(
    world: World, policy: TdxPolicy, quote: bytes | None = None, collateral: TdxCollateral | None = None
) -> str | None:
    found = appraise(quote or world.quote(), collateral or world.collateral(), policy, AT)
    return found.error.code if found.error else None


def claims_over(keys: bytes = KEYS) -> Claims:
    return Claims.build(
        ohttp_keys=keys,
        gpu_section=b"",
        runtime=RUNTIME,
        checkpoint=CHECKPOINT,
        nonce=b"",
        not_before=AT - timedelta(minutes=1),
        not_after=AT + timedelta(days=1),
    )


def judged(
    claims: Claims, quote: bytes, collateral: TdxCollateral, policy: AttestationPolicy
) -> Appraisal[VerifiedCpu]:
    pieces = {name: getattr(collateral, name) for name in COLLATERAL_NAMES}
    cpu = CpuSection("tdx", quote, pieces)
    bundle = EvidenceBundle(claims.raw, cpu, b"", {}, KEYS, RUNTIME, _NOTHING, CHECKPOINT)
    return appraise_cpu(EvidenceBundle.parse(bundle.encode()), policy, AT)


def test_a_quote_that_vouches_for_another_key(world: World, policy: TdxPolicy) -> None:
    accepting = AttestationPolicy(tees=frozenset({"tdx"}), tdx=policy)
    ours, theirs = claims_over(), claims_over(b"the attacker's key configs")
    quote = world.quote(Td(report_data=report_data(ours.raw)))
    cpu = judged(ours, quote, world.collateral(), accepting).require()  # control
    assert cpu.tee == "tdx"
    assert cpu.simulated
    assert cpu.registers["mrtd"] == cpu.measurement.hex()
    assert set(cpu.registers) == {"mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"}
    found = judged(theirs, quote, world.collateral(), accepting)
    assert found.error is not None
    assert found.error.code == "report_data_mismatch"
    assert [row.id for row in found.rows if row.code] == ["cpu.report_data"]


def test_a_kind_of_evidence_that_the_policy_does_not_accept(world: World, policy: TdxPolicy) -> None:
    claims = claims_over()
    quote = world.quote(Td(report_data=report_data(claims.raw)))
    judged(claims, quote, world.collateral(), AttestationPolicy(frozenset({"tdx"}), tdx=policy)).require()
    found = judged(claims, quote, world.collateral(), AttestationPolicy(tdx=policy))
    assert found.error is not None
    assert found.error.code == "tee_not_accepted"


def test_levels_signed_by_another_key_under_the_root(world: World, policy: TdxPolicy) -> None:
    """A PCK is genuine, and its holder can sign; it must not speak for Intel's levels."""
    good = {**tcb_info(), "tcbLevels": [platform_level("UpToDate", 0, 0)]}
    outdated = Td(svn=bytes((3, 1, 0)) + bytes(13))
    signed = world.collateral(good)
    assert refusal(world, policy, world.quote(outdated)) == "tcb_status_not_accepted"
    assert refusal(world, policy, world.quote(outdated), signed) is None  # control: signed in its role
    for impostor, chain in (
        (world.pck, world.pck.pem + world.ca.pem + world.root.pem),
        (world.pck, world.pck.pem + world.root.pem),
        (world.ca, world.ca.pem + world.root.pem),
    ):
        forged = replace(
            signed,
            tcb_info_signature=raw_signature(impostor.key, signed.tcb_info),
            tcb_info_issuer_chain=chain.encode(),
        )
        assert refusal(world, policy, world.quote(outdated), forged) == "chain_wrong_role"


def test_a_root_with_intels_names_and_another_key(world: World, policy: TdxPolicy) -> None:
    other = World()
    assert refusal(other, policy, other.quote(), other.collateral()) == "chain_untrusted"
    trusting = TdxPolicy(simulated_root=other.root_sha256)
    assert refusal(other, trusting, other.quote(), other.collateral()) is None  # control
    # Nor may one trusted root's levels be used for a platform under another.
    both = replace(policy, roots=frozenset({world.root_sha256, other.root_sha256}))
    assert refusal(world, both, world.quote(), world.collateral()) is None
    assert refusal(world, both, world.quote(), other.collateral()) == "chain_untrusted"


def test_a_certificate_slipped_in_between(world: World, policy: TdxPolicy) -> None:
    """The PCK, which is no CA, issues a PCK of its own."""
    fake = issue("Intel SGX PCK Certificate", world.pck, ca=False, extensions=(world.extension,))
    for chain in (
        fake.pem + world.pck.pem + world.root.pem,
        fake.pem + world.pck.pem + world.ca.pem + world.root.pem,
        fake.pem + world.ca.pem + world.root.pem,
    ):
        quote = world.quote(chain=chain.encode())
        assert refusal(world, policy, quote) in ("chain_wrong_role", "chain_untrusted")


def test_a_revoked_platform_or_signer(world: World, policy: TdxPolicy) -> None:
    assert refusal(world, policy) is None  # control
    for piece, issuer, revoked in (
        ("pck_crl", world.ca, world.pck),
        ("root_ca_crl", world.root, world.ca),
        ("root_ca_crl", world.root, world.signer),
    ):
        crl = revocations(issuer, revoked.certificate.serial_number)
        assert refusal(world, policy, collateral=world.collateral(**{piece: crl})) == "cert_revoked"
    # A list of another issuer, or by another key, says nothing.
    other = World()
    assert (
        refusal(world, policy, collateral=world.collateral(pck_crl=revocations(other.ca))) == "crl_signature"
    )
    crls = {"pck_crl": revocations(world.root), "root_ca_crl": revocations(world.ca)}
    assert refusal(world, policy, collateral=world.collateral(**crls)) == "crl_issuer_mismatch"


def test_an_old_platform_behind_a_new_module(world: World, policy: TdxPolicy) -> None:
    """The module's level never stands in for the platform's."""
    levels = {
        **tcb_info(),
        "tcbLevels": [platform_level("UpToDate", 6, 4), platform_level("OutOfDate", 1, 0)],
    }
    levels["tdxModuleIdentities"][0]["tcbLevels"] = [svn_level("UpToDate", 1)]
    assert refusal(world, policy) is None  # control: the same platform while its level is the newest
    assert refusal(world, policy, collateral=world.collateral(levels)) == "tcb_status_not_accepted"
    accepting = replace(policy, accepted_tcb_statuses=frozenset({TcbStatus.OUT_OF_DATE}))
    assert refusal(world, accepting, collateral=world.collateral(levels)) is None


def test_levels_written_twice_in_one_document(world: World, policy: TdxPolicy) -> None:
    """Two readers of one signed document must not read two states."""
    text = json.dumps({**tcb_info(), "tcbLevels": [platform_level("OutOfDate", 1, 0)]})
    twice = text.replace('"tcbStatus": "OutOfDate"', '"tcbStatus": "OutOfDate", "tcbStatus": "UpToDate"')
    for document, expected in ((text, "tcb_status_not_accepted"), (twice, "tcb_info_malformed")):
        raw = document.encode()
        signature = raw_signature(world.signer.key, raw)
        collateral = world.collateral(tcb_info=raw, tcb_info_signature=signature)
        assert refusal(world, policy, collateral=collateral) == expected


def test_an_attestation_key_that_the_quoting_enclave_did_not_make(world: World, policy: TdxPolicy) -> None:
    quote = world.quote()
    end = 48 + 584 + 4
    other = World(root=world.root)
    forged = bytearray(quote)
    forged[end : end + 64] = raw_signature(other.attestation_key, quote[: 48 + 584])
    forged[end + 64 : end + 128] = point(other.attestation_key)
    assert refusal(world, policy, quote) is None  # control
    assert refusal(world, policy, bytes(forged)) == "qe_report_data_mismatch"
    # All 64 bytes of the enclave's report data count, those after the digest too.
    digest = bytes(appraise(quote, world.collateral(), policy, AT).require().quote.qe_report.report_data[:32])
    tail = world.quote(qe_report_data=digest + b"\1" + bytes(31))
    assert refusal(world, policy, tail) == "qe_report_data_mismatch"


def test_a_td_that_its_host_can_read(world: World, policy: TdxPolicy) -> None:
    debug = world.quote(Td(attributes=1 << 28 | 1))
    assert refusal(world, policy, debug) == "td_debug"
    assert refusal(world, replace(policy, allow_debug=True), debug) is None  # control
