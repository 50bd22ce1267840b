"""The GPU section as carried: strict wire form, rows of an appraisal, and hostile bytes."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import AttestationError, EvidenceMalformed
from attestation.nvidia.evidence import MAX_DEVICES, MAX_SECTION, encode_evidence_list, parse_evidence_list
from attestation.nvidia.policy import GpuPolicy
from attestation.nvidia.verify import CHECKS, GpuSectionAppraisal, appraise_gpu_section, verify_gpus
from attestation.results import Outcome
from attestation.simulated.nvidia import SimulatedDevicePki

AT = datetime(2026, 11, 21, tzinfo=UTC)
NONCE = bytes(range(32))
PKI = SimulatedDevicePki.create()
GPUS = (PKI.make_gpu(), PKI.make_gpu())
ENTRIES = tuple(gpu.evidence(NONCE) for gpu in GPUS)
SECTION = encode_evidence_list(ENTRIES)
POLICY = GpuPolicy(count=2, rim="off", revocation="off", simulated_root=PKI.root_sha256)


def codes(appraisal: GpuSectionAppraisal) -> dict[str, str]:
    assert tuple(row.id for row in appraisal.rows) == CHECKS
    return {row.id: row.code for row in appraisal.rows if row.code is not None}


def changed(**members: object) -> bytes:
    first, *rest = json.loads(SECTION)
    merged = {name: value for name, value in {**first, **members}.items() if value is not None}
    return json.dumps([merged, *rest]).encode()


def test_round_trip() -> None:
    assert parse_evidence_list(SECTION) == ENTRIES
    assert parse_evidence_list(b"") == parse_evidence_list(b"[]") == ()


def test_all_rows_pass() -> None:
    appraisal = appraise_gpu_section(SECTION, NONCE, POLICY, AT)
    assert appraisal.error is None
    assert appraisal.simulated
    assert codes(appraisal) == {}
    outcomes = {row.id: row.outcome for row in appraisal.rows}
    assert outcomes.pop("gpu.measurements") is Outcome.NOT_REQUIRED
    assert outcomes.pop("gpu.revocation") is Outcome.NOT_REQUIRED
    for asked_for_by_policy in ("gpu.topology", "gpu.nras", "gpu.claims"):
        assert outcomes.pop(asked_for_by_policy) is Outcome.NOT_REQUIRED
    assert set(outcomes.values()) == {Outcome.PASS}
    assert len({gpu.ueid for gpu in appraisal.gpus}) == 2
    assert all(gpu.simulated for gpu in appraisal.gpus)


@pytest.mark.parametrize(
    "section",
    [
        b"{}",
        b"null",
        b"[1]",
        b"[[]]",
        b"[{}]",
        b"\xff",
        b"[" * 100_000,
        b"[" + b"9" * 10_000 + b"]",
        b"[NaN]",
        b" " * (MAX_SECTION + 1),
        b"[" + b",".join([b"{}"] * (MAX_DEVICES + 1)) + b"]",
        SECTION + b"x",
        SECTION.replace(b'"arch"', b'"arch":"HOPPER","arch"', 1),
        changed(arch=None),
        changed(arch=1),
        changed(arch="hopper"),
        changed(arch="HOPPER\n"),
        changed(certificate=None),
        changed(evidence=None),
        changed(evidence=["x"]),
        changed(evidence="AA"),
        changed(evidence="AB=="),
        changed(evidence="A\nAA="),
        changed(evidence="\ud800AAA"),
        changed(evidence="A" * 20_000),
        changed(nonce="00"),
        changed(nonce=" " + "0" * 63),
        changed(version="2.0"),
        changed(driver_version="../x"),
        changed(extra="x"),
    ],
)
def test_refused_sections(section: bytes) -> None:
    with pytest.raises(EvidenceMalformed) as caught:
        parse_evidence_list(section)
    assert caught.value.code == "evidence_format"
    appraisal = appraise_gpu_section(section, NONCE, POLICY, AT)
    assert set(codes(appraisal).values()) == {"evidence_format", "not_evaluated"}
    assert appraisal.error is not None
    assert appraisal.error.code == "evidence_format"


def test_optional_members() -> None:
    assert not codes(appraise_gpu_section(changed(nonce=None), NONCE, POLICY, AT))
    assert not codes(appraise_gpu_section(changed(driver_version="590.12", version="1.0"), NONCE, POLICY, AT))
    lying = appraise_gpu_section(changed(driver_version="590.13"), NONCE, POLICY, AT)
    assert codes(lying) == {"gpu.mode": "field_invalid"}
    lying = appraise_gpu_section(changed(nonce="00" * 32), NONCE, POLICY, AT)
    assert codes(lying) == {"gpu.nonce": "nonce_mismatch"}


def test_rows_go_on_after_a_failure() -> None:
    other = SimulatedDevicePki.create().make_gpu().evidence(NONCE)
    section = encode_evidence_list([ENTRIES[0], other])
    appraisal = appraise_gpu_section(section, NONCE, POLICY, AT)
    assert appraisal.error is not None
    assert appraisal.error.code == "chain_untrusted"
    failed = codes(appraisal)
    assert failed.pop("gpu.chain") == "chain_untrusted"
    assert set(failed) == {
        "gpu.distinct",
        "gpu.signature",
        "gpu.nonce",
        "gpu.fwid",
        "gpu.mode",
        "gpu.topology",
    }
    assert set(failed.values()) == {"not_evaluated"}
    assert appraisal.gpus == ()


def test_unknown_nonce_is_a_failure() -> None:
    appraisal = appraise_gpu_section(SECTION, None, POLICY, AT)
    assert codes(appraisal) == {"gpu.nonce": "not_evaluated"}
    assert appraisal.error is not None
    assert appraisal.gpus == ()


def test_missing_collateral_is_a_failure() -> None:
    policy = GpuPolicy(simulated_root=PKI.root_sha256)
    appraisal = appraise_gpu_section(SECTION, NONCE, policy, AT)
    assert codes(appraisal) == {"gpu.measurements": "rim_not_found", "gpu.revocation": "revocation_missing"}
    assert "NV_GPU_DRIVER_GH100_590.12" in str(appraisal.error)


def test_an_answer_of_nvidias_service_that_is_not_there_is_a_failure() -> None:
    policy = GpuPolicy(simulated_root=PKI.root_sha256, rim="off", revocation="off", nras="required")
    assert codes(appraise_gpu_section(SECTION, NONCE, policy, AT)) == {"gpu.nras": "token_missing"}


def test_node_without_gpus() -> None:
    none = GpuPolicy(count=0)
    appraisal = appraise_gpu_section(b"", NONCE, none, AT)
    assert appraisal.error is None
    assert {row.outcome for row in appraisal.rows[1:]} == {Outcome.NOT_REQUIRED}
    assert verify_gpus(b"[]", NONCE, none, AT) == ()
    assert codes(appraise_gpu_section(b"", NONCE, GpuPolicy(), AT))["gpu.count"] == "policy_gpu_count"
    assert codes(appraise_gpu_section(SECTION, NONCE, none, AT))["gpu.count"] == "policy_gpu_count"


@pytest.mark.parametrize(
    ("members", "check", "code"),
    [
        ({"count": 1}, "gpu.count", "policy_gpu_count"),
        ({"count": 3}, "gpu.count", "policy_gpu_count"),
        ({"architectures": ["BLACKWELL"]}, "gpu.mode", "policy_architecture"),
        ({"modes": ["MPT"]}, "gpu.mode", "mode_not_allowed"),
        ({"min_driver": "600.0"}, "gpu.mode", "policy_driver"),
        ({"min_vbios": "FE.00.00.00.00"}, "gpu.mode", "policy_vbios"),
        ({"min_vbios": "96.FF.00.00.00"}, "gpu.mode", "policy_vbios"),
        ({"drivers": ["590.13"]}, "gpu.mode", "policy_driver"),
        ({"vbios": ["96.00.A5.00.02"]}, "gpu.mode", "policy_vbios"),
        ({"pairs": [["590.13", "96.00.A5.00.01"]]}, "gpu.mode", "policy_driver"),
        ({"pairs": [["590.12", "96.00.A5.00.02"]]}, "gpu.mode", "policy_vbios"),
        ({"fwids": ["00" * 48]}, "gpu.fwid", "policy_fwid"),
    ],
)
def test_policy_demands(members: dict[str, object], check: str, code: str) -> None:
    table = {"count": 2, "rim": "off", "revocation": "off", **members}
    policy = GpuPolicy.from_table(table, simulated_root=PKI.root_sha256)
    appraisal = appraise_gpu_section(SECTION, NONCE, policy, AT)
    assert codes(appraisal) == {check: code}


def test_blocked_device() -> None:
    ueid = verify_gpus(SECTION, NONCE, POLICY, AT)[0].ueid
    policy = GpuPolicy(rim="off", revocation="off", simulated_root=PKI.root_sha256, blocked_ueids={ueid})  # type: ignore[arg-type]
    assert codes(appraise_gpu_section(SECTION, NONCE, policy, AT)) == {"gpu.mode": "policy_ueid"}


def test_truncation_at_every_length() -> None:
    for length in range(1, len(SECTION)):
        with pytest.raises(EvidenceMalformed):
            parse_evidence_list(SECTION[:length])


def test_single_byte_changes() -> None:
    single = encode_evidence_list(ENTRIES[:1])
    policy = GpuPolicy(rim="off", revocation="off", simulated_root=PKI.root_sha256)
    assert verify_gpus(single, NONCE, policy, AT)
    for offset in range(len(single)):
        damaged = single[:offset] + bytes([single[offset] ^ 0x01]) + single[offset + 1 :]
        try:
            parse_evidence_list(damaged)
        except AttestationError:
            continue
        # Signatures are slow to check, so of those that still parse every eleventh is.
        if offset % 11 == 0:
            assert appraise_gpu_section(damaged, NONCE, policy, AT).error is not None


@given(st.binary(max_size=300))
def test_random_bytes(data: bytes) -> None:
    if data.strip() not in (b"", b"[]"):
        with pytest.raises(AttestationError):
            verify_gpus(data, NONCE, POLICY, AT)


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["arch", "evidence", "certificate", "nonce", "x"]),
            st.sampled_from([None, 1, "", "HOPPER", "BLACKWELL", "AAAA", "AB==", "00" * 32, "\ud800", []]),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_random_lists(document: list[dict[str, object]]) -> None:
    with pytest.raises(AttestationError):
        verify_gpus(json.dumps(document).encode(), NONCE, GpuPolicy(), AT)
