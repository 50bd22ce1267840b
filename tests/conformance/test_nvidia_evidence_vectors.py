"""NVIDIA device evidence, real and synthetic, with the verdict and the reason that a correct verifier gives."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.errors import AttestationError
from attestation.nvidia.device import LS10
from attestation.nvidia.evidence import GpuEvidence, encode_evidence_list, parse_evidence_list
from attestation.nvidia.measurements import compare
from attestation.nvidia.opaque import (
    Mode,
    OpaqueType,
    parse_opaque,
    read_gpu_fields,
    read_switch_bios_version,
)
from attestation.nvidia.policy import GpuPolicy
from attestation.nvidia.rim import NVIDIA_RIM_ROOT_SHA256, check_rim, verify_rim
from attestation.nvidia.rim_id import RimKind, RimRequest, collateral_name, gpu_rims, switch_rim
from attestation.nvidia.spdm import parse_report
from attestation.nvidia.verified import gpu_claims, switch_claims
from attestation.nvidia.verify import appraise_gpu_section, verify_gpu, verify_gpus, verify_switch
from attestation.results import Outcome

AT = datetime(2026, 11, 21, 12, tzinfo=UTC)
EVIDENCE_ONLY = GpuPolicy(modes=frozenset(Mode), rim="off", revocation="off")
SAME_MEANING = {"CHAIN_INCOMPLETE": "CHAIN_LENGTH"}
POLICY_KEYS = {
    "allowed_architectures": "architectures",
    "allowed_drivers": "drivers",
    "allowed_fwids": "fwids",
    "allowed_modes": "modes",
    "allowed_pairs": "pairs",
    "allowed_vbios": "vbios",
    "gpu_count": "count",
}


@pytest.fixture(scope="module")
def nvidia(vectors: Path) -> Path:
    return vectors / "nvidia"


def verify(
    evidence: GpuEvidence,
    nonce: bytes,
    policy: GpuPolicy,
    at: datetime,
    collateral: dict[str, bytes] | None = None,
) -> str:
    """The error's code, or "" where the evidence is accepted."""
    judge = verify_switch if evidence.arch == LS10 else verify_gpu
    try:
        if policy.count is not None:  # which speaks of a list of devices, here of one
            verify_gpus(encode_evidence_list([evidence]), nonce, policy, at, collateral)
        judge(evidence, nonce, policy, at, collateral)
    except AttestationError as error:
        return error.code
    return ""


def disagreement(case: dict[str, Any], reason: str, code: str) -> str | None:
    """What is wrong with this verdict, or None."""
    if case["expect"] == "accept":
        return f"{case['id']}: refused with {code}" if code else None
    if case["expect"] == "either":
        return None
    for stated, ours in SAME_MEANING.items():
        reason = reason.replace(stated, ours)
    if not code:
        return f"{case['id']}: accepted, though {reason}"
    named = [
        word
        for word in re.findall(r"[A-Z0-9]{3,}(?:_[A-Z0-9]*)*", reason)
        if "_" in word or word == "REVOKED"
    ]
    if not named:
        return None
    # A reason that ends in "_" names a family of codes.
    if any(code.upper().startswith(word) if word.endswith("_") else code.upper() == word for word in named):
        return None
    return f"{case['id']}: refused with {code}, not for {reason}"


def requests(evidence: GpuEvidence) -> tuple[RimRequest, ...]:
    """The manifests that this evidence calls for; none where its report cannot be read."""
    try:
        opaque = parse_report(evidence.evidence).opaque
        if evidence.arch == LS10:
            return (switch_rim(read_switch_bios_version(opaque)),)
        return gpu_rims(evidence.arch, opaque, read_gpu_fields(opaque))
    except AttestationError:
        return ()


def manifests(folder: Path, case: dict[str, Any], evidence: GpuEvidence) -> dict[str, bytes]:
    """The case's manifests as collateral, under the ids that the evidence calls for."""
    pieces = {}
    for request in requests(evidence):
        name = case.get("driver_rim" if request.kind is RimKind.DRIVER else "vbios_rim")
        if name:
            pieces[collateral_name(request.id)] = (folder / name).read_bytes()
    return pieces


def real_evidence(nvidia: Path, case: dict[str, Any]) -> GpuEvidence:
    name, _, index = case["report"].partition("#")
    if index:
        return parse_evidence_list((nvidia / name).read_bytes())[int(index)]
    report = bytes.fromhex((nvidia / name).read_text().strip())
    return GpuEvidence(case["arch"], None, report, (nvidia / case["chain"]).read_bytes())


def vbios_alone(evidence: GpuEvidence, data: bytes, at: datetime) -> str:
    """The error's code where only the VBIOS manifest is at hand, or ""."""
    try:
        rim = verify_rim(data, roots={NVIDIA_RIM_ROOT_SHA256}, at=at)
        check_rim(rim, requests(evidence)[-1])
        measurements = parse_report(evidence.evidence).measurements
        compare(measurements, [rim], leave_out_nvdec=True, reject_uncovered=False)
    except AttestationError as error:
        return error.code
    return ""


def test_real_evidence(nvidia: Path) -> None:
    cases = json.loads((nvidia / "real_cases.json").read_text())["cases"]
    assert cases
    wrong = []
    for case in cases:
        policy = replace(EVIDENCE_ONLY, require_fwid=case.get("policy", {}).get("require_fwid", True))
        if case["stage"] == "full":
            policy = replace(policy, rim="required")
        at = datetime.fromisoformat(case["at"])
        evidence = real_evidence(nvidia, case)
        code = verify(evidence, bytes.fromhex(case["nonce"]), policy, at, manifests(nvidia, case, evidence))
        if not code and case["stage"] == "vbios_only":
            code = vbios_alone(evidence, (nvidia / case["vbios_rim"]).read_bytes(), at)
        wrong.append(disagreement(case, case["reason"], code))
    assert [text for text in wrong if text] == []


def full_case(nvidia: Path) -> dict[str, Any]:
    """A real GPU that is accepted with all its manifests."""
    return next(
        case
        for case in json.loads((nvidia / "real_cases.json").read_text())["cases"]
        if (case["stage"], case["expect"], case["arch"]) == ("full", "accept", "HOPPER")
    )


def synthetic_pin(nvidia: Path, name: str) -> str:
    root = x509.load_pem_x509_certificate((nvidia / "synthetic" / name).read_bytes())
    return hashlib.sha256(root.public_bytes(Encoding.DER)).hexdigest()


def synthetic_case(
    nvidia: Path, case: dict[str, Any]
) -> tuple[GpuEvidence, GpuPolicy, datetime, dict[str, bytes]]:
    policy = GpuPolicy.from_table(
        {POLICY_KEYS.get(key, key): value for key, value in case["policy"].items()},
        simulated_root=synthetic_pin(nvidia, "test_device_root.pem"),
        simulated_rim_root=synthetic_pin(nvidia, "test_rim_root.pem"),
    )
    report, chain = base64.b64decode(case["evidence"]), base64.b64decode(case["certificate"])
    evidence = GpuEvidence(case["arch"], None, report, chain)
    pieces = manifests(nvidia / "synthetic", case, evidence)
    for subject, name in case["ocsp"].items():
        path = nvidia / "synthetic" / name
        if path.exists():
            pieces[f"ocsp/{subject}"] = path.read_bytes()
    return evidence, policy, datetime.fromisoformat(case["at"]), pieces


def good_synthetic_case(nvidia: Path) -> dict[str, Any]:
    """A GPU that is accepted with nothing waived, and with good answers about every certificate."""
    return next(
        case
        for case in json.loads((nvidia / "synthetic" / "cases.json").read_text())["cases"]
        if case["expect"] == "accept" and case["arch"] == "HOPPER" and not case["policy"]
    )


def test_synthetic_evidence(nvidia: Path) -> None:
    cases = json.loads((nvidia / "synthetic" / "cases.json").read_text())["cases"]
    assert cases
    wrong = []
    for case in cases:
        evidence, policy, at, pieces = synthetic_case(nvidia, case)
        code = verify(evidence, bytes.fromhex(case["nonce"]), policy, at, pieces)
        wrong.append(disagreement(case, case["why"], code))
    assert [text for text in wrong if text] == []


def test_synthetic_roots_vouch_for_nothing_real(nvidia: Path) -> None:
    """A simulated manifest does not count for a real device, nor a real one for a simulated device."""
    case = full_case(nvidia)
    evidence, at = real_evidence(nvidia, case), datetime.fromisoformat(case["at"])
    nonce = bytes.fromhex(case["nonce"])
    policy = GpuPolicy(revocation="off", simulated_rim_root=synthetic_pin(nvidia, "test_rim_root.pem"))
    pieces = manifests(nvidia, case, evidence)
    assert verify(evidence, nonce, policy, at, pieces) == ""
    _, _, _, theirs = synthetic_case(nvidia, good_synthetic_case(nvidia))
    forged = dict.fromkeys(pieces, next(data for name, data in theirs.items() if name.startswith("rim/")))
    assert verify(evidence, nonce, policy, at, forged) == "rim_chain_untrusted"


def test_every_real_list_of_gpus_has_distinct_devices(nvidia: Path) -> None:
    for path in sorted((nvidia / "evidence" / "json").glob("*gpu.json")):
        entries = parse_evidence_list(path.read_bytes())
        nonce = entries[0].nonce
        assert nonce is not None
        policy = replace(EVIDENCE_ONLY, count=len(entries))
        rows = {row.id: row for row in appraise_gpu_section(path.read_bytes(), nonce, policy, AT).rows}
        failed = {name: row.code for name, row in rows.items() if row.code}
        # These machines run in protected PCIe, whose switches are not in these lists.
        assert failed == {"gpu.topology": "topology"}, path.name
        repeated = encode_evidence_list([*entries[:-1], entries[0]])
        with pytest.raises(AttestationError) as refusal:
            verify_gpus(repeated, nonce, policy, AT)
        assert refusal.value.code == "duplicate_gpu"
        fewer = encode_evidence_list(entries[:-1])
        with pytest.raises(AttestationError) as refusal:
            verify_gpus(fewer, nonce, policy, AT)
        assert refusal.value.code == "policy_gpu_count"


def board(nvidia: Path) -> tuple[list[GpuEvidence], list[GpuEvidence], bytes]:
    folder = nvidia / "evidence" / "json"
    gpus = list(parse_evidence_list((folder / "ppcie_8gpu.json").read_bytes()))
    switches = list(parse_evidence_list((folder / "ppcie_4switch.json").read_bytes()))
    assert gpus[0].nonce is not None
    return gpus, switches, gpus[0].nonce


def topology(entries: list[GpuEvidence], nonce: bytes) -> str | None:
    section = encode_evidence_list(entries)
    rows = appraise_gpu_section(section, nonce, EVIDENCE_ONLY, AT).rows
    return {row.id: row.code for row in rows}["gpu.topology"]


def test_real_board_in_protected_pcie(nvidia: Path) -> None:
    gpus, switches, nonce = board(nvidia)
    section = encode_evidence_list([*gpus, *switches])
    appraisal = appraise_gpu_section(section, nonce, replace(EVIDENCE_ONLY, count=8), AT)
    assert appraisal.error is None
    assert (len(appraisal.gpus), len(appraisal.switches)) == (8, 4)
    assert [row.detail for row in appraisal.rows if row.id == "gpu.topology"] == [
        "8 GPUs and 4 switches of one board"
    ]


def test_real_board_with_a_device_left_out(nvidia: Path) -> None:
    gpus, switches, nonce = board(nvidia)
    for place in range(len(gpus)):
        assert topology([*gpus[:place], *gpus[place + 1 :], *switches], nonce) == "topology"
    for place in range(len(switches)):
        assert topology([*gpus, *switches[:place], *switches[place + 1 :]], nonce) == "topology"
    assert topology(gpus, nonce) == "topology"


def test_real_board_with_a_switch_of_another(nvidia: Path) -> None:
    gpus, switches, nonce = board(nvidia)
    folder = nvidia / "evidence" / "json"
    other = parse_evidence_list((folder / "switch_ls10.json").read_bytes())[0]
    for place in range(len(switches)):
        swapped = [*switches[:place], other, *switches[place + 1 :]]
        section = encode_evidence_list([*gpus, *swapped])
        rows = {row.id: row.code for row in appraise_gpu_section(section, nonce, EVIDENCE_ONLY, AT).rows}
        # It answered another nonce, too; its place on the board alone already refuses it.
        assert rows["gpu.nonce"] == "nonce_mismatch"
        assert rows["gpu.topology"] == "topology"


def test_switches_without_gpus(nvidia: Path) -> None:
    _, switches, nonce = board(nvidia)
    appraisal = appraise_gpu_section(encode_evidence_list(switches), nonce, EVIDENCE_ONLY, AT)
    assert appraisal.error is not None
    assert appraisal.error.code == "policy_gpu_count"


def test_claims_are_those_of_nvidia(nvidia: Path) -> None:
    """Every claim of NVIDIA's own verdict on the same machine, but for token fields and renewed signers."""
    case = full_case(nvidia)
    evidence, at = real_evidence(nvidia, case), datetime.fromisoformat(case["at"])
    policy = GpuPolicy(revocation="off")
    gpu = verify_gpu(evidence, bytes.fromhex(case["nonce"]), policy, at, manifests(nvidia, case, evidence))
    ours = gpu_claims(gpu)
    theirs = json.loads((nvidia / "nras" / "hopper_v3_2025-06-11_decoded.json").read_text())["GPU-0"]
    token_fields = {"iss", "exp", "iat", "nbf", "jti", "x-nvidia-attestation-warning"}
    for name, value in theirs.items():
        if name in token_fields:
            continue
        if not name.endswith("cert-chain"):
            # The stored report is of another board of the same kind.
            assert name == "ueid" or ours[name] == value, name
            continue
        claimed = ours[name]
        assert isinstance(claimed, dict)
        assert claimed["x-nvidia-cert-status"] == value["x-nvidia-cert-status"]
        assert claimed["x-nvidia-cert-ocsp-status"] is None  # not asked for, so not claimed
    assert gpu_claims(verify_gpu(evidence, gpu.report.nonce, EVIDENCE_ONLY, AT))["measres"] == "not-run"


def test_a_report_without_a_firmware_id_matched_none(nvidia: Path) -> None:
    """A policy may let it pass; what was not compared is told by nobody as a match."""
    count = 0
    for case in json.loads((nvidia / "real_cases.json").read_text())["cases"]:
        lenient = case.get("policy", {}).get("require_fwid") is False
        if not lenient or (case["stage"], case["expect"]) != ("evidence", "accept"):
            continue
        policy, evidence = replace(EVIDENCE_ONLY, require_fwid=False), real_evidence(nvidia, case)
        gpu = verify_gpu(evidence, bytes.fromhex(case["nonce"]), policy, datetime.fromisoformat(case["at"]))
        assert gpu_claims(gpu)["x-nvidia-gpu-attestation-report-cert-chain-fwid-match"] is False
        assert "the report names no firmware id" in gpu.warnings
        section = encode_evidence_list([evidence])
        rows = appraise_gpu_section(section, gpu.report.nonce, policy, AT).rows
        assert [row.outcome for row in rows if row.id == "gpu.fwid"] == [Outcome.NOT_REQUIRED]
        count += 1
    assert count


def test_synthetic_claims_satisfy_nvidias_policy(nvidia: Path) -> None:
    case = good_synthetic_case(nvidia)
    evidence, policy, at, pieces = synthetic_case(nvidia, case)
    claims = gpu_claims(verify_gpu(evidence, bytes.fromhex(case["nonce"]), policy, at, pieces))
    file = nvidia / "policies" / "remote_v4_NVGPURemotePolicyExample.json"
    rules = json.loads(file.read_text())["authorization-rules"]["detached-claims"]
    for name, expected in rules.items():
        found = claims[name]
        if isinstance(expected, dict):
            assert isinstance(found, dict)
            assert {key: found[key] for key in expected} == expected, name
        else:
            assert found == expected, name


def test_switch_claims_satisfy_nvidias_policy(nvidia: Path) -> None:
    entry = parse_evidence_list((nvidia / "evidence" / "json" / "switch_ls10.json").read_bytes())[0]
    assert entry.nonce is not None
    pieces = {
        collateral_name(requests(entry)[0].id): (nvidia / "rims/switch_9610550001_2026.xml").read_bytes()
    }
    switch = verify_switch(entry, entry.nonce, GpuPolicy(revocation="off"), AT, pieces)
    claims = switch_claims(switch)
    assert claims["x-nvidia-switch-bios-version"] == "96.10.55.00.01"
    assert claims["measres"] == "success"


def test_parse_agrees_with_nvidia(nvidia: Path) -> None:
    folder = nvidia / "evidence" / "hopper_580.159.03"
    check_parse(bytes.fromhex((folder / "report.hex").read_text()), folder / "expected_response.json")
    request = json.loads((folder / "expected_request.json").read_text())
    report = parse_report(bytes.fromhex((folder / "report.hex").read_text()))
    assert report.nonce == bytes.fromhex(request["Nonce"][2:])


def test_switch_parse_agrees_with_nvidia(nvidia: Path) -> None:
    folder = nvidia / "evidence" / "json"
    expected = json.loads((folder / "switch_expected_response.json").read_text())
    for name in ("switch_ls10.json", "ppcie_4switch.json"):
        for entry in parse_evidence_list((folder / name).read_bytes()):
            if parse_report(entry.evidence).responder_nonce.hex() == expected["Nonce"][2:]:
                check_parse(entry.evidence, folder / "switch_expected_response.json")
                return
    pytest.skip("the switch whose parse is stored is not among the stored evidence")


def check_parse(data: bytes, path: Path) -> None:
    expected = json.loads(path.read_text())
    report = parse_report(data)
    assert report.responder_nonce.hex() == expected["Nonce"][2:]
    assert report.signature.hex() == expected["Signature"][2:]
    blocks = expected["MeasurementRecord"]["MeasurementBlocks"]
    stated = [blocks[str(index + 1)]["DMTFSpecMeasurementValue"][2:] for index in range(len(blocks))]
    assert [digest.hex() for digest in report.measurements] == stated
    for name, value in expected["OpaqueData"]["OpaqueDataField"].items():
        kind = OpaqueType.__members__.get(name.removeprefix("OPAQUE_FIELD_ID_"))
        if kind is not None and isinstance(value, str):
            assert report.opaque[kind].hex() == value[2:], name


def test_fields_agree_with_another_implementation(nvidia: Path) -> None:
    folder = nvidia / "evidence" / "hopper_550.90.07"
    claims = json.loads((folder / "expected_claims_trustee.txt").read_text())
    case = {"report": "evidence/hopper_550.90.07/report.hex", "arch": "HOPPER"}
    evidence = real_evidence(nvidia, {**case, "chain": "evidence/hopper_550.90.07/chain.pem"})
    nonce = parse_report(evidence.evidence).nonce
    gpu = verify_gpu(evidence, nonce, EVIDENCE_ONLY, AT)
    assert gpu.driver_version == claims["config"]["driver_version"]
    assert gpu.vbios_version == claims["config"]["vbios_version"].upper()
    assert gpu.fwid is not None
    assert gpu.fwid.hex() == claims["config"]["fwid"]
    assert not gpu.simulated
    for index, digest in enumerate(gpu.report.measurements):
        assert claims["measurements"][str(index + 1)] == digest.hex()


def test_look_alike_of_a_public_root_is_not_pinned(nvidia: Path) -> None:
    pin = hashlib.sha256(
        x509.load_pem_x509_certificate(
            (nvidia / "roots" / "nvidia_device_identity_ca.pem").read_bytes()
        ).public_bytes(Encoding.DER)
    ).hexdigest()
    other = hashlib.sha256(
        x509.load_pem_x509_certificate(
            (nvidia / "roots" / "nvidia_device_identity_ca_L1B.pem").read_bytes()
        ).public_bytes(Encoding.DER)
    ).hexdigest()
    assert GpuPolicy.production().roots == {pin}
    assert other not in GpuPolicy.production().roots


def test_every_opaque_section_of_the_real_reports_is_read(nvidia: Path) -> None:
    for path in sorted((nvidia / "evidence").glob("*/report.hex")):
        if "trailing_byte" in path.parent.name:
            continue
        report = parse_report(bytes.fromhex(path.read_text().strip()))
        joined = b"".join(
            kind.to_bytes(2, "little") + len(data).to_bytes(2, "little") + data
            for kind, data in report.opaque.items()
        )
        assert parse_opaque(joined) == report.opaque
        assert joined in report.raw


def test_every_stored_manifest_is_judged_by_its_own_signature(nvidia: Path) -> None:
    """Within the time of its signer: genuine ones verify, and those that were tampered with do not."""
    paths = [*(nvidia / "rims").glob("*.xml"), *(nvidia / "evidence").glob("*/*rim.xml")]
    assert paths
    for path in paths:
        data, codes = path.read_bytes(), set()
        for year, month in ((2023, 9), (2024, 6), (2025, 1), (2026, 3), (2026, 11)):
            at = datetime(year, month, 1, 12, tzinfo=UTC)
            try:
                verify_rim(data, roots={NVIDIA_RIM_ROOT_SHA256}, at=at)
            except AttestationError as error:
                codes.add(error.code)
            else:
                codes.add("")
        if "tampered" in path.name or "bad_" in path.name:
            assert "rim_signature_invalid" in codes, path.name
            assert "" not in codes, path.name
        elif "debug" in path.name:
            assert codes == {"rim_chain_untrusted"}
        else:
            assert "" in codes, path.name
            assert codes <= {"", "rim_chain_expired"}, path.name


def test_manifests_that_real_devices_call_for(nvidia: Path) -> None:
    folder = nvidia / "evidence"
    hopper = GpuEvidence(
        "HOPPER", None, bytes.fromhex((folder / "hopper_550.90.07/report.hex").read_text()), b""
    )
    assert [request.id for request in requests(hopper)] == [
        "NV_GPU_DRIVER_GH100_550.90.07",
        "NV_GPU_VBIOS_1010_0200_882_96009F0001",
    ]
    report = bytes.fromhex((folder / "blackwell_575.32/report.hex").read_text())
    assert [request.id for request in requests(GpuEvidence("BLACKWELL", None, report, b""))] == [
        "NV_GPU_CC_DRIVER_GB100_575.32",
        "NV_GPU_VBIOS_G525_0220_886_970088000F",
    ]
    opaque = parse_report(report).opaque
    fields = read_gpu_fields(opaque)
    assert (fields.driver_version, fields.vbios_version) == ("575.32", "97.00.88.00.0F")
    assert fields.mode is Mode.SPT
    assert opaque[OpaqueType.SYS_ENABLE_STATUS].hex() == "0707"
    switch = parse_evidence_list((folder / "json" / "switch_ls10.json").read_bytes())[0]
    assert [request.id for request in requests(switch)] == ["NV_SWITCH_BIOS_5612_0002_890_9610550001"]
