"""The appraisal of TDX quotes: bodies of all kinds, states and how they combine, policy, cache."""

import tomllib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from tdx_world import (
    AT,
    END,
    FMSPC,
    PPID,
    START,
    Authority,
    Td,
    World,
    issue,
    platform_level,
    qe_identity,
    revocations,
    sgx_extension,
    svn_level,
    tcb_info,
)

from attestation.errors import AttestationError, CollateralInvalid, PolicyMalformed
from attestation.policy import AttestationPolicy
from attestation.results import NOT_EVALUATED
from attestation.tdx.chain import Trust
from attestation.tdx.collateral import CollateralCache, TdxCollateral, authenticate, split_served
from attestation.tdx.policy import TdxPolicy
from attestation.tdx.quote import parse_quote
from attestation.tdx.tcb_status import TcbStatus, converge, with_relaunch
from attestation.tdx.verify import TDX_CHECKS, VerifiedTdx, appraise, verify

S = TcbStatus


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module")
def policy(world: World) -> TdxPolicy:
    return TdxPolicy(simulated_root=world.root_sha256)


def code(
    world: World, policy: TdxPolicy, td: Td | None = None, at: datetime = AT, **levels: dict[str, Any]
) -> str | None:
    found = appraise(world.quote(td), world.collateral(**levels), policy, at)
    return found.error.code if found.error else None


@pytest.mark.parametrize("kind", [2, 3, 4])
def test_every_kind_of_body_is_verified(world: World, policy: TdxPolicy, kind: int) -> None:
    td = Td(kind=kind, report_data=bytes(range(64)))
    found = appraise(world.quote(td), world.collateral(), policy, AT)
    verified = found.require()
    assert isinstance(verified, VerifiedTdx)
    assert tuple(row.id for row in found.rows) == TDX_CHECKS
    assert found.simulated
    assert verified.simulated
    body = verified.quote.body
    assert (body.kind, body.report_data) == (kind, bytes(range(64)))
    assert [value[0] for value in body.registers.values()] == [1, 5, 6, 7, 8]
    assert (body.mr_config_id[0], body.mr_owner[0], body.mr_owner_config[0]) == (2, 3, 4)
    assert verified.platform.fmspc == FMSPC
    assert verified.tcb.status is S.UP_TO_DATE


def test_the_extended_body_tells_of_partitions_and_service_tds(world: World, policy: TdxPolicy) -> None:
    extended = bytes((0,)) + bytes(range(32)) + bytes(204)
    quote = parse_quote(world.quote(Td(kind=4, extended=extended)))
    assert (quote.body.vmid, quote.body.td_id) == (0, bytes(range(32)))
    for at, expected in ((0, "td_partition"), (81, "td_service_td"), (136, "td_service_td")):
        changed = bytearray(237)
        changed[at] = 1
        assert code(world, policy, Td(kind=4, extended=bytes(changed))) == expected
    for at in (181, 236):
        changed = bytearray(237)
        changed[at] = 1
        assert code(world, policy, Td(kind=4, extended=bytes(changed))) == "td_service_td"
    bound = Td(kind=3, service_td=b"\1" * 48)
    assert code(world, policy, bound) == "td_service_td"
    assert code(world, replace(policy, allow_service_td=True), bound) is None


@pytest.mark.parametrize(
    ("parts", "whole"),
    [
        ([S.UP_TO_DATE, S.UP_TO_DATE], S.UP_TO_DATE),
        ([S.UP_TO_DATE, S.OUT_OF_DATE], S.OUT_OF_DATE),
        ([S.SW_HARDENING_NEEDED, S.OUT_OF_DATE], S.OUT_OF_DATE),
        ([S.CONFIGURATION_NEEDED, S.OUT_OF_DATE], S.OUT_OF_DATE_CONFIGURATION_NEEDED),
        ([S.CONFIGURATION_AND_SW_HARDENING_NEEDED, S.OUT_OF_DATE], S.OUT_OF_DATE_CONFIGURATION_NEEDED),
        ([S.OUT_OF_DATE_CONFIGURATION_NEEDED, S.OUT_OF_DATE], S.OUT_OF_DATE_CONFIGURATION_NEEDED),
        ([S.SW_HARDENING_NEEDED, S.UP_TO_DATE], S.SW_HARDENING_NEEDED),
        ([S.UP_TO_DATE, S.CONFIGURATION_NEEDED], S.CONFIGURATION_NEEDED),
        ([S.OUT_OF_DATE, S.REVOKED], S.REVOKED),
        ([S.REVOKED, S.UP_TO_DATE], S.REVOKED),
    ],
)
def test_states_of_parts_combine(parts: list[S], whole: S) -> None:
    assert converge(*parts) is whole
    assert converge(*reversed(parts)) is whole


@pytest.mark.parametrize(
    ("launch", "current", "expected"),
    [
        (S.OUT_OF_DATE, S.UP_TO_DATE, S.TD_RELAUNCH_ADVISED),
        (S.OUT_OF_DATE, S.SW_HARDENING_NEEDED, S.TD_RELAUNCH_ADVISED),
        (S.OUT_OF_DATE, S.CONFIGURATION_NEEDED, S.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED),
        (
            S.OUT_OF_DATE_CONFIGURATION_NEEDED,
            S.UP_TO_DATE,
            S.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED,
        ),
        (S.OUT_OF_DATE, S.OUT_OF_DATE, S.OUT_OF_DATE),
        (S.UP_TO_DATE, S.UP_TO_DATE, S.UP_TO_DATE),
        (S.UP_TO_DATE, S.OUT_OF_DATE, S.OUT_OF_DATE),
        (S.UP_TO_DATE, S.REVOKED, S.REVOKED),
        (S.OUT_OF_DATE, S.REVOKED, S.REVOKED),
        (S.CONFIGURATION_NEEDED, S.UP_TO_DATE, S.CONFIGURATION_NEEDED),
    ],
)
def test_launch_and_current_state_combine(launch: S, current: S, expected: S) -> None:
    assert with_relaunch(launch, current) is expected


@pytest.mark.parametrize("kind", [3, 4])
def test_a_td_launched_under_an_old_module_is_advised_to_launch_anew(
    world: World, policy: TdxPolicy, kind: int
) -> None:
    old = Td(kind=kind, svn=bytes((1, 1, 4)) + bytes(13))
    found = appraise(world.quote(old), world.collateral(), policy, AT)
    assert found.error is not None
    assert (found.error.code, found.error.found) == ("tcb_status_not_accepted", S.TD_RELAUNCH_ADVISED)
    accepting = replace(policy, accepted_tcb_statuses=frozenset({S.TD_RELAUNCH_ADVISED}))
    verdict = verify(world.quote(old), world.collateral(), accepting, AT).tcb
    assert verdict.advisories == ("INTEL-SA-1",)
    assert verdict.date == datetime(2025, 1, 1, tzinfo=UTC)


def test_an_unknown_word_or_a_state_that_only_an_appraisal_reaches_is_no_level(
    world: World, policy: TdxPolicy
) -> None:
    for status in ("TDRelaunchAdvised", "Fine", "uptodate", ""):
        levels = {**tcb_info(), "tcbLevels": [platform_level(status, 5, 4)]}
        assert code(world, policy, levels=levels) == "tcb_status_unrecognized"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"id": "SGX"}, "tcb_info_invalid"),
        ({"version": 3.0}, "tcb_info_invalid"),
        ({"version": True}, "tcb_info_invalid"),
        ({"tcbType": 1}, "tcb_info_invalid"),
        ({"fmspc": "50806f00000"}, "tcb_info_malformed"),
        ({"fmspc": "50806f000001"}, "tcb_info_mismatch"),
        ({"pceId": "0001"}, "tcb_info_mismatch"),
        ({"pceId": " 0 0"}, "tcb_info_malformed"),
        ({"issueDate": "2026-05-31"}, "tcb_info_malformed"),
        ({"issueDate": "2026-05-31T00:00:00+00:00"}, "tcb_info_malformed"),
        ({"issueDate": "2026-13-31T00:00:00Z"}, "tcb_info_malformed"),
        ({"tcbEvaluationDataNumber": "20"}, "tcb_info_malformed"),
        ({"tcbEvaluationDataNumber": True}, "tcb_info_malformed"),
        ({"tcbLevels": []}, "tcb_info_malformed"),
        ({"tcbLevels": [{}]}, "tcb_info_malformed"),
        ({"tcbLevels": {}}, "tcb_info_malformed"),
        ({"tdxModule": None}, "tcb_info_malformed"),
        ({"tdxModuleIdentities": []}, "tdx_module_unknown"),
        ({"tdxModuleIdentities": None}, "tcb_info_malformed"),
        ({"nextUpdate": "2026-05-31T00:00:00Z"}, "tcb_info_expired"),
        ({"issueDate": "2026-06-02T00:00:00Z"}, "tcb_info_not_yet_valid"),
    ],
)
def test_tcb_info_is_read_strictly(
    world: World, policy: TdxPolicy, change: dict[str, Any], expected: str
) -> None:
    assert code(world, policy) is None
    assert code(world, policy, levels={**tcb_info(), **change}) == expected


@pytest.mark.parametrize("svn", [True, -1, 256, "5", 5.0, None])
def test_a_component_is_a_byte(world: World, policy: TdxPolicy, svn: object) -> None:
    level = platform_level("UpToDate", 5, 4)
    level["tcb"]["sgxtcbcomponents"] = [{"svn": svn}] + [{"svn": 5}] * 15
    assert code(world, policy, levels={**tcb_info(), "tcbLevels": [level]}) == "tcb_info_malformed"


def test_a_module_named_twice_is_refused(world: World, policy: TdxPolicy) -> None:
    modules = tcb_info()["tdxModuleIdentities"]
    twice = {**tcb_info(), "tdxModuleIdentities": [*modules, {**modules[0], "id": "tdx_01"}]}
    assert code(world, policy, levels=twice) == "tcb_info_malformed"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"id": "QE"}, "qe_identity_invalid"),
        ({"version": 1}, "qe_identity_invalid"),
        ({"isvprodid": 1}, "qe_identity_mismatch"),
        ({"mrsigner": "00" * 32}, "qe_identity_mismatch"),
        ({"miscselect": "00000001"}, "qe_identity_mismatch"),
        ({"attributes": "13" + "00" * 15}, "qe_identity_mismatch"),
        ({"attributesMask": "00"}, "qe_identity_malformed"),
        ({"tcbLevels": [svn_level("UpToDate", 9)]}, "tcb_not_supported"),
        ({"tcbLevels": [svn_level("OutOfDate", 1)]}, "tcb_status_not_accepted"),
        ({"tcbLevels": [svn_level("ConfigurationNeeded", 1)]}, "tcb_status_not_accepted"),
        ({"nextUpdate": "2026-05-31T00:00:00Z"}, "qe_identity_expired"),
    ],
)
def test_qe_identity_is_read_strictly(
    world: World, policy: TdxPolicy, change: dict[str, Any], expected: str
) -> None:
    assert code(world, policy, enclave={**qe_identity(), **change}) == expected


def test_what_the_policy_may_ask_of_the_state(world: World, policy: TdxPolicy) -> None:
    older = Td(svn=bytes((3, 1, 0)) + bytes(13))  # platform level of 2025-02-01, OutOfDate
    accepting = replace(policy, accepted_tcb_statuses=frozenset({S.UP_TO_DATE, S.OUT_OF_DATE}))
    assert code(world, policy, older) == "tcb_status_not_accepted"
    assert code(world, accepting, older) is None
    assert (
        code(world, replace(accepting, allowed_advisories=frozenset({"x"})), older) == "advisory_not_allowed"
    )
    assert code(world, replace(accepting, allowed_advisories=frozenset({"INTEL-SA-2"})), older) is None
    late = replace(accepting, min_tcb_date=datetime(2025, 2, 2, tzinfo=UTC))
    assert code(world, late, older) == "tcb_below_minimum"
    assert code(world, replace(accepting, min_tcb_date=datetime(2025, 2, 1, tzinfo=UTC)), older) is None
    days = (AT - datetime(2025, 2, 1, tzinfo=UTC)).days
    for allowed, expected in ((days, None), (days - 1, "tcb_status_not_accepted")):
        grace = replace(policy, grace_statuses=frozenset({S.OUT_OF_DATE}), grace=timedelta(days=allowed))
        assert code(world, grace, older) == expected
    assert code(world, replace(policy, min_tcb_evaluation_data_number=20)) is None
    assert code(world, replace(policy, min_tcb_evaluation_data_number=21)) == "tcb_eval_number_too_low"


def test_revoked_is_accepted_by_no_policy(world: World, policy: TdxPolicy) -> None:
    everything = replace(
        policy,
        accepted_tcb_statuses=frozenset(S),
        grace_statuses=frozenset(S),
        grace=timedelta(days=3650),
    )
    levels = {**tcb_info(), "tcbLevels": [platform_level("Revoked", 1, 0)]}
    assert code(world, everything) is None
    assert code(world, everything, levels=levels) == "tcb_status_not_accepted"


@pytest.mark.parametrize(
    ("td", "changed", "expected"),
    [
        (Td(attributes=1 | 1 << 28), {}, "td_debug"),
        (Td(attributes=1 | 1 << 28), {"allow_debug": True}, None),
        (Td(attributes=0), {}, "td_attributes"),
        (Td(attributes=0), {"require_sept_ve_disable": False}, None),
        (Td(attributes=1 << 28 | 1 << 63), {}, "td_attributes"),
        (
            Td(attributes=1 << 28 | 1 << 63),
            {"td_attributes": frozenset({"sept_ve_disable", "perfmon"})},
            None,
        ),
        (Td(attributes=1 << 28 | 2), {"td_attributes": frozenset({"sept_ve_disable"})}, "td_attributes"),
        (Td(xfam=0x1), {}, "td_xfam"),
        (Td(xfam=0x3 | 1 << 20), {}, "td_xfam"),
        (Td(), {"min_tee_tcb_svn": bytes((3, 1, 4)) + bytes(13)}, None),
        (Td(), {"min_tee_tcb_svn": bytes((0, 0, 5)) + bytes(13)}, "td_tcb_svn"),
        (Td(), {"fmspc": frozenset({bytes(6)})}, "fmspc_not_allowed"),
        (Td(), {"fmspc": frozenset({FMSPC})}, None),
        (Td(), {"ppid": frozenset({bytes(16)})}, "ppid_not_allowed"),
        (Td(), {"ppid": frozenset({PPID})}, None),
        (Td(), {"forbid_platform": frozenset({"smt"})}, "platform_configuration"),
        (Td(), {"pins": {"rtmr2": frozenset({bytes(48)})}}, "td_rtmr"),
        (Td(), {"pins": {"mrseam": frozenset({bytes(48), bytes([9] * 48)})}}, None),
        (Td(seam_attributes=b"\1" + bytes(7)), {}, "tdx_module_mismatch"),
        (Td(svn=bytes((3, 7, 4)) + bytes(13)), {}, "tdx_module_unknown"),
    ],
)
def test_what_the_policy_may_ask_of_a_td(
    world: World, policy: TdxPolicy, td: Td, changed: dict[str, Any], expected: str | None
) -> None:
    assert code(world, replace(policy, **changed), td) == expected


def test_a_platform_that_tells_its_configuration_is_held_to_it() -> None:
    world = World(extension=sgx_extension(configuration={1: True, 2: False, 3: True}))
    policy = TdxPolicy(simulated_root=world.root_sha256)
    found = verify(world.quote(), world.collateral(), policy, AT)
    assert found.platform.configuration == {"dynamic_platform", "smt"}
    assert code(world, replace(policy, forbid_platform=frozenset({"cached_keys"}))) is None
    assert code(world, replace(policy, forbid_platform=frozenset({"smt"}))) == "platform_configuration"


def test_dates_count_at_both_ends(world: World, policy: TdxPolicy) -> None:
    second = timedelta(seconds=1)
    for at, expected in (
        (AT + timedelta(days=20), None),
        (AT + timedelta(days=20) + second, "crl_expired"),
        (AT - timedelta(days=1), None),
        (AT - timedelta(days=1) - second, "crl_not_yet_valid"),
        (START - second, "cert_not_yet_valid"),
        (END + second, "cert_expired"),
    ):
        assert code(world, policy, at=at) == expected, at


def test_what_is_cached_is_the_signatures_alone(world: World, policy: TdxPolicy) -> None:
    quote, collateral = world.quote(), world.collateral()
    cache = CollateralCache.of(authenticate(collateral, policy.trusted_roots))
    cache = cache.adding_chain(
        parse_quote(quote).pck_chain, Trust(policy.trusted_roots).pck_chain(parse_quote(quote).pck_chain)
    )
    assert appraise(quote, collateral, policy, AT, cache).rows == appraise(quote, collateral, policy, AT).rows
    for at in (START - timedelta(days=1), AT + timedelta(days=30), END + timedelta(days=1)):
        cached, plain = (appraise(quote, collateral, policy, at, each) for each in (cache, CollateralCache()))
        assert cached.error is not None
        assert plain.error is not None
        assert cached.error.code == plain.error.code
    # Other bytes are not known, and neither is anything under a root that is not trusted.
    forged = replace(collateral, tcb_info_signature=bytes(64))
    found = appraise(quote, forged, policy, AT, cache)
    assert found.error is not None
    assert found.error.code == "tcb_info_signature"
    found = appraise(quote, collateral, TdxPolicy(), AT, cache)
    assert found.error is not None
    assert found.error.code == "chain_untrusted"
    revoked = replace(collateral, pck_crl=revocations(world.ca, world.pck.certificate.serial_number))
    cache = cache.adding(authenticate(revoked, policy.trusted_roots))
    found = appraise(quote, revoked, policy, AT, cache)
    assert found.error is not None
    assert found.error.code == "cert_revoked"


def test_rows_after_a_failure_are_evaluated_where_they_can_be(world: World, policy: TdxPolicy) -> None:
    rows = appraise(world.quote(), world.collateral(), TdxPolicy(), AT).rows
    found = {row.id: row.code for row in rows}
    assert found["cpu.chain"] == "chain_untrusted"
    assert found["cpu.signature"] is None
    assert found["cpu.debug"] is None
    assert found["cpu.tcb"] == found["cpu.revocation"] == NOT_EVALUATED
    assert {row.code for row in appraise(b"", None, policy, AT).rows} == {"quote_malformed", NOT_EVALUATED}


def test_the_policy_table_is_closed() -> None:
    text = """
    [cpu]
    accept = ["tdx"]
    [cpu.tdx]
    mrtd = ["{}"]
    accepted_tcb_statuses = ["UpToDate", "SWHardeningNeeded"]
    allowed_advisories = ["INTEL-SA-00615"]
    min_tcb_evaluation_data_number = 18
    min_tcb_date = "2024-03-13"
    min_tee_tcb_svn = "{}"
    td_attributes_allowed = ["sept_ve_disable"]
    xfam_fixed0 = "0x6dbe7"
    fmspc = ["50806f000000"]
    forbid_platform = ["smt"]
    [cpu.tdx.grace]
    statuses = ["OutOfDate"]
    days = 30
    [simulated]
    intel_root_sha256 = "{}"
    """.format("ab" * 48, "03" * 16, "cd" * 32)
    policy = AttestationPolicy.from_table(tomllib.loads(text))
    assert policy.tdx.grace == timedelta(days=30)
    assert policy.tdx.accepted_tcb_statuses == {S.UP_TO_DATE, S.SW_HARDENING_NEEDED}
    assert policy.names_simulated_root
    assert "cd" * 32 in policy.tdx.trusted_roots
    assert AttestationPolicy.production().tdx == TdxPolicy()
    for wrong in (
        "unknown = 1",
        'accepted_tcb_statuses = ["Revoked"]',
        'accepted_tcb_statuses = ["Fine"]',
        'mrtd = ["ab"]',
        "mrtd = []",
        'min_tcb_date = "2024-02-31"',
        'xfam_fixed1 = "3"',
        'td_attributes_allowed = ["debug"]',
        'grace = {statuses = ["Revoked"], days = 1}',
        "grace = {days = 1, more = 2}",
    ):
        with pytest.raises(PolicyMalformed):
            AttestationPolicy.from_table(tomllib.loads(f"[cpu.tdx]\n{wrong}"))


def test_an_answer_of_intels_service_is_split_without_a_byte_changed() -> None:
    raw = b'{"id" : "TDX",  "x":[1, 2]}'
    body = b'{"tcbInfo": ' + raw + b' ,"signature":"' + b"ab" * 64 + b'"}'
    assert split_served(body, "tcbInfo") == (raw, b"\xab" * 64)
    for wrong in (b"", b"{}", body[:-1], body.replace(b"ab", b"a", 1), b"[" * 5000, b'{"tcbInfo":1}'):
        with pytest.raises(CollateralInvalid):
            split_served(wrong, "tcbInfo")


def test_collateral_is_complete_and_nothing_else(world: World) -> None:
    pieces = {name: getattr(world.collateral(), name) for name in TdxCollateral.__dataclass_fields__}
    assert TdxCollateral.from_members(pieces) == TdxCollateral(**pieces)
    for name in pieces:
        with pytest.raises(AttestationError) as missing:
            TdxCollateral.from_members({key: value for key, value in pieces.items() if key != name})
        assert (missing.value.code, missing.value.expected) == ("collateral_missing", name)
    with pytest.raises(AttestationError) as unknown:
        TdxCollateral.from_members({**pieces, "more": b""})
    assert unknown.value.code == "collateral_unknown"


def test_the_revocation_list_that_counts_is_that_of_the_pcks_own_ca(world: World, policy: TdxPolicy) -> None:
    """Platforms with one socket are certified by the Processor CA; the chain beside the list may be another's."""
    processor = World(root=world.root)
    processor.ca = issue("Intel SGX PCK Processor CA", world.root, ca=True)
    processor.pck = issue(
        "Intel SGX PCK Certificate", processor.ca, ca=False, extensions=(processor.extension,)
    )
    quote = processor.quote()
    verify(quote, processor.collateral(), policy, AT)
    platforms = (world.ca.pem + world.root.pem).encode()
    verify(quote, processor.collateral(pck_crl_issuer_chain=platforms), policy, AT)
    found = appraise(quote, processor.collateral(pck_crl=revocations(world.ca)), policy, AT)
    assert found.error is not None
    assert found.error.code == "crl_issuer_mismatch"
    # What is cached for one CA is not taken for the other.
    cache = CollateralCache.of(authenticate(world.collateral(), policy.trusted_roots))
    found = appraise(quote, world.collateral(), policy, AT, cache)
    assert found.error is not None
    assert found.error.code == "crl_issuer_mismatch"


@pytest.mark.parametrize("role", ["pck", "ca", "signer"])
def test_a_key_of_another_curve_is_called_that(world: World, policy: TdxPolicy, role: str) -> None:
    """Rightly certified by Intel's format, and still no key that anything below it can be checked by."""
    other = World(root=world.root)
    key: Any = ec.generate_private_key(ec.SECP384R1())
    if role == "signer":
        other.signer = Authority(
            other.signer.key, issue("Intel SGX TCB Signing", other.root, ca=False, key=key).certificate
        )
    if role == "ca":
        other.ca = issue("Intel SGX PCK Platform CA", other.root, ca=True, key=key)
        other.pck = issue("Intel SGX PCK Certificate", other.ca, ca=False, extensions=(other.extension,))
    if role == "pck":
        certificate = issue(
            "Intel SGX PCK Certificate", other.ca, ca=False, extensions=(other.extension,), key=key
        ).certificate
        other.pck = Authority(other.pck.key, certificate)
    found = appraise(other.quote(), other.collateral(), policy, AT)
    assert found.error is not None
    assert found.error.code == "cert_key_type"
    assert appraise(world.quote(), world.collateral(), policy, AT).error is None  # control


def test_levels_count_from_the_highest_down_in_whatever_order_they_are_written(
    world: World, policy: TdxPolicy
) -> None:
    levels = tcb_info()
    levels["tcbLevels"] = levels["tcbLevels"][::-1]
    assert levels["tcbLevels"][0]["tcbStatus"] == "OutOfDate"  # which the platform reaches, too
    assert appraise(world.quote(), world.collateral(levels), policy, AT).error is None


@pytest.mark.parametrize("length", [0, 1, 64, 0xFFFF])
def test_authentication_data_of_any_length(policy: TdxPolicy, world: World, length: int) -> None:
    other = World(root=world.root)
    other.qe_data = bytes(length)
    found = appraise(other.quote(), other.collateral(), policy, AT)
    assert found.error is None, found.error


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (("key_cert_sign", "crl_sign"), None),
        (("crl_sign",), "chain_untrusted"),
        (("digital_signature",), "chain_untrusted"),
        (("key_cert_sign",), "crl_signature"),
    ],
)
def test_an_authority_does_what_its_certificate_permits(
    world: World, policy: TdxPolicy, usage: tuple[str, ...], expected: str | None
) -> None:
    other = World(root=world.root)
    other.ca = issue("Intel SGX PCK Platform CA", other.root, ca=True, usage=usage)
    other.pck = issue("Intel SGX PCK Certificate", other.ca, ca=False, extensions=(other.extension,))
    error = appraise(other.quote(), other.collateral(), policy, AT).error
    assert (None if error is None else error.code) == expected
