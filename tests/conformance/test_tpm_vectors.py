"""Every TPM case of the vectors: quotes, event logs, CCELs, Azure's and Google's vTPMs, and PCR 11 of images."""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from attestation.errors import AttestationError, BindingMismatch
from attestation.policy_table import PolicyTable
from attestation.tpm.ak import spki_sha256
from attestation.tpm.ak_certificate import AkChain
from attestation.tpm.boot_state import check_replay
from attestation.tpm.eventlog import parse_ccel, parse_event_log, rtmrs
from attestation.tpm.evidence import Quote, TpmEvidence
from attestation.tpm.gcp import GCP_ROOTS_SHA256, GcpPolicy, read_instance
from attestation.tpm.pcr import read_values
from attestation.tpm.policy import TpmPolicy
from attestation.tpm.uki import pcr11
from attestation.tpm.verify import TpmCollateral, appraise

AT = datetime(2025, 6, 1, tzinfo=UTC)


def cases(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "cases.json").read_text())
    assert found
    return found


def complaint(
    case: Mapping[str, Any], expect: Mapping[str, Any], error: AttestationError | None
) -> str | None:
    """What is wrong with a verdict, if anything; codes are compared as they are."""
    if expect.get("either_verdict_conforms"):
        return None
    if expect["verdict"] == "accept":
        return None if error is None else f"{case['id']}: refused, {error}"
    if error is None:
        return f"{case['id']}: accepted, expected {expect['code']}"
    return None if error.code in expect["code"].split("|") else f"{case['id']}: {expect['code']} is {error}"


def tpm_policy(case: Mapping[str, Any], **changes: Any) -> TpmPolicy:
    """The manifests' defaults, and what the case asks for."""
    given = dict(case.get("policy") or {})
    required = {bank: frozenset(pcrs) for bank, pcrs in given.pop("required_pcrs", {}).items()}
    values: dict[str, Any] = {
        "required_pcrs": required,
        "require_restricted_ak": given.pop("require_restricted_ak", False),
        "replay_eventlog": given.pop("replay_eventlog", False),
        "secure_boot": given.pop("secure_boot", False),
        **changes,
    }
    if "banks" in given:
        values["banks"] = frozenset(given.pop("banks"))
    if "pcr" in given:
        values["pins"] = {
            int(index): frozenset(map(bytes.fromhex, accepted))
            for index, accepted in given.pop("pcr").items()
        }
    for name in ("max_reset_age", "max_reset_age_s"):
        if name in given:
            values["max_reset_age_s"] = given.pop(name)
    if "uki" in given:
        values["uki"] = TpmPolicy.from_table(PolicyTable({"uki": given.pop("uki")}, "")).uki
    assert not given, f"{case['id']}: this policy is not understood: {given}"
    return TpmPolicy(**values)


def quote_verdict(vectors: Path, case: Mapping[str, Any], **changes: Any) -> AttestationError | None:
    ak = load_pem_public_key(case["ak_pem"].encode())
    evidence = TpmEvidence(
        Quote(
            base64.b64decode(case["message_b64"]),
            base64.b64decode(case["signature_tpmt_b64"]),
            read_values(case["pcrs"]),
        ),
        base64.b64decode(case["ak_pub_b64"]),
    )
    collateral = TpmCollateral(eventlog=(vectors / "tpm" / case["eventlog"]).read_bytes())
    pins = frozenset({spki_sha256(ak)})  # type: ignore[arg-type]
    policy = tpm_policy(case, pinned_spki=pins, **changes)
    nonce = bytes.fromhex(case["nonce_hex"])
    return appraise(evidence.encode(), collateral, policy, GcpPolicy(), nonce, AT).error


def test_every_quote_has_its_verdict_and_its_code(vectors: Path) -> None:
    found = [
        complaint(case, case["expect"], quote_verdict(vectors, case))
        for case in cases(vectors / "tpm" / "quotes")
    ]
    assert [text for text in found if text] == []


def test_every_good_quote_is_explained_by_its_log(vectors: Path) -> None:
    for case in cases(vectors / "tpm" / "quotes"):
        if case["expect"]["verdict"] == "accept":
            assert quote_verdict(vectors, case, replay_eventlog=True) is None, case["id"]
            on = quote_verdict(vectors, case, replay_eventlog=True, secure_boot=True)
            log = parse_event_log((vectors / "tpm" / case["eventlog"]).read_bytes())
            if on is None:
                assert log.secure_boot(), case["id"]
            else:
                assert on.code == "secure_boot", case["id"]  # off by its log, or PCR 7 is not quoted


def test_every_event_log_replays_to_the_registers_it_should(vectors: Path) -> None:
    for case in cases(vectors / "tpm" / "eventlogs"):
        data = (vectors / "tpm" / case["file"]).read_bytes()
        log = parse_ccel(data) if "expect_rtmr" in case else parse_event_log(data)
        assert len(log.events) == case["events"], case["id"]
        log.check_digests()
        if "expect_rtmr" in case:
            assert {str(n): value.hex() for n, value in rtmrs(log).items()} == case["expect_rtmr"], case["id"]
            continue
        for bank, pcrs in case["expect_replay"].items():
            assert {str(n): value.hex() for n, value in log.replay(bank).items()} == pcrs, case["id"]


def test_every_ccel_with_a_quote_has_its_verdict(vectors: Path) -> None:
    found = []
    for case in cases(vectors / "tpm" / "eventlogs"):
        if "quote" not in case:
            continue
        body = (vectors / case["quote"]).read_bytes()[48:]
        quoted = {n: body[0x148 + 48 * n : 0x178 + 48 * n] for n in range(4)}
        log = parse_ccel((vectors / "tpm" / case["file"]).read_bytes())
        error: AttestationError | None = None
        if any(quoted[n] != value for n, value in rtmrs(log).items()):
            error = BindingMismatch(code="eventlog_replay_mismatch")
        found.append(complaint(case, case["expect"], error))
    assert found
    assert [text for text in found if text] == []


def test_every_log_is_refused_against_the_registers_of_another_boot(vectors: Path) -> None:
    logs = [case for case in cases(vectors / "tpm" / "eventlogs") if "expect_replay" in case]
    parsed = {case["id"]: parse_event_log((vectors / "tpm" / case["file"]).read_bytes()) for case in logs}
    for case in logs:
        for log in parsed.values():
            bank = next(iter(case["expect_replay"]))
            values = {
                bank: {int(n): bytes.fromhex(value) for n, value in case["expect_replay"][bank].items()}
            }
            # By what it holds, not by its name: a set may hold one log under two.
            if log == parsed[case["id"]]:
                check_replay(log, values)
            else:
                with pytest.raises(BindingMismatch, match="eventlog_replay_mismatch"):
                    check_replay(log, values)


def der_of(path: Path) -> bytes:
    data = path.read_bytes()
    found = re.search(rb"-----BEGIN CERTIFICATE-----(.+?)-----END", data, re.S)
    return base64.b64decode(found[1]) if found else data


def test_googles_ak_certificates_lead_to_googles_roots(vectors: Path) -> None:
    folder = vectors / "tpm" / "gcp"
    certificates = {path.name: der_of(path) for path in folder.iterdir()}
    authorities = {name: data for name, data in certificates.items() if not name.endswith(".pem")}
    leaves = [name for name in certificates if name.endswith(".pem")]
    assert leaves
    for name in leaves:
        accepted = []
        for intermediate in authorities.values():
            for root in authorities.values():
                chain = AkChain.parse(certificates[name] + intermediate + root)
                try:
                    chain.verify(GCP_ROOTS_SHA256, AT)
                except AttestationError:
                    continue
                accepted.append(chain)
        assert len(accepted) == 1, name
        instance = read_instance(accepted[0].leaf)
        assert (instance.zone, instance.project_id) == ("us-central1-a", "google.com:wuale-gcp-testing")
        assert instance.production
        for moment, code in ((1970, "cert_not_yet_valid"), (2060, "cert_expired")):
            with pytest.raises(AttestationError) as refused:
                accepted[0].verify(GCP_ROOTS_SHA256, datetime(moment, 1, 1, tzinfo=UTC))
            assert refused.value.code == code


def test_pcr_11_of_every_image_in_every_phase(vectors: Path) -> None:
    compared = 0
    for case in json.loads((vectors / "measure" / "uki_pcr11.json").read_text()):
        for bank, expected in case["pcr11"].items():
            digests = {
                name: hashlib.new(bank, base64.b64decode(data)).digest()
                for name, data in case["sections"].items()
            }
            for step in expected:
                assert pcr11(digests, bank, step["phase"]).hex() == step["hash"], case["id"]
                compared += 1
    assert compared
