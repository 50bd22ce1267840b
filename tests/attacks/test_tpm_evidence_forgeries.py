"""A TPM's word, bent: each attempt is made for real and must fail.

Beside each stands the control: the same bytes, judged without the one defence, or honest bytes, do pass.
"""

import base64
import hashlib
import json
import struct
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from software_tpm import AK_ATTRIBUTES, IPL, SEPARATOR, SoftwareTpm, variable

from attestation.errors import AttestationError
from attestation.results import Appraisal, Outcome
from attestation.tpm.ak import parse_public_area, spki_sha256
from attestation.tpm.azure import HclKind, check_binding, parse_hcl_report, read_runtime_claims
from attestation.tpm.eventlog import parse_event_log
from attestation.tpm.evidence import Quote, TpmEvidence
from attestation.tpm.gcp import GcpPolicy
from attestation.tpm.policy import TpmPolicy, UkiPolicy
from attestation.tpm.uki import pcr11
from attestation.tpm.verify import TpmCollateral, VerifiedQuote, appraise

AT = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
NONCE = bytes(range(32))


def policy_for(tpm: SoftwareTpm, **changes: Any) -> TpmPolicy:
    """The production policy, with this TPM's key pinned."""
    return replace(TpmPolicy(), pinned_spki=frozenset({spki_sha256(tpm.key.public_key())}), **changes)


def judged(
    tpm: SoftwareTpm,
    policy: TpmPolicy,
    *,
    evidence: TpmEvidence | None = None,
    eventlog: bytes | None = None,
    nonce: bytes = NONCE,
) -> Appraisal[VerifiedQuote]:
    collateral = TpmCollateral(eventlog=tpm.event_log() if eventlog is None else eventlog)
    evidence = tpm.evidence(NONCE) if evidence is None else evidence
    return appraise(evidence.encode(), collateral, policy, GcpPolicy(), nonce, AT)


def refused(appraisal: Appraisal[Any], row: str, code: str) -> None:
    assert appraisal.error is not None
    assert appraisal.value is None
    assert appraisal.error.code == code
    assert next(r.id for r in appraisal.rows if r.outcome is Outcome.FAIL) == row


@pytest.fixture(scope="module")
def tpm() -> SoftwareTpm:
    return SoftwareTpm().boot()


def test_honest_evidence_passes(tpm: SoftwareTpm) -> None:
    found = judged(tpm, policy_for(tpm)).require()
    assert found.secure_boot is True
    assert found.registers["pcr11"] == tpm.pcr("sha256", 11).hex()


def test_the_logs_text_changed_but_not_its_digest() -> None:
    tpm = SoftwareTpm().boot(secure_boot=False)
    refused(judged(tpm, policy_for(tpm)), "tpm.state", "secure_boot")
    off, on = (variable("SecureBoot", bytes([value])) for value in (0, 1))
    lie = tpm.event_log().replace(off, on)
    parse_event_log(lie).replay("sha256")  # control: replay alone does not see it
    assert parse_event_log(lie).secure_boot()
    refused(judged(tpm, policy_for(tpm), eventlog=lie), "tpm.eventlog", "eventlog_digest_mismatch")


def test_an_event_added_after_the_separator_says_secure_boot_is_on() -> None:
    tpm = SoftwareTpm().boot(secure_boot=False)
    tpm.measure(7, 0x80000001, variable("SecureBoot", b"\1"))
    refused(judged(tpm, policy_for(tpm)), "tpm.state", "secure_boot")
    judged(tpm, policy_for(tpm, secure_boot=False)).require()  # control: the log is genuine


def test_firmwares_separator_goes_by_another_name() -> None:
    """A type is not measured: the log calls firmware's events something else, and the system's firmware's."""
    tpm = SoftwareTpm().boot(secure_boot=False)
    tpm.measure(7, 0x80000001, variable("SecureBoot", b"\1"))
    tpm.measure(7, SEPARATOR, bytes(4))
    lie = SoftwareTpm(tpm.key, events=[replace(event) for event in tpm.events])
    true_word = next(event for event in lie.events if event.type == 0x80000001)
    separator = next(event for event in lie.events if (event.register, event.type) == (7, SEPARATOR))
    true_word.type = separator.type = IPL
    log = parse_event_log(lie.event_log())
    assert log.secure_boot()  # control: it reads as Secure Boot on, and replays
    assert log.replay("sha256")[7] == tpm.pcr("sha256", 7)
    found = judged(tpm, policy_for(tpm), eventlog=lie.event_log())
    refused(found, "tpm.eventlog", "eventlog_digest_mismatch")


def test_a_second_separator_hides_where_firmware_ended() -> None:
    tpm = SoftwareTpm().boot()
    tpm.measure(7, SEPARATOR, bytes(4))
    refused(judged(tpm, policy_for(tpm)), "tpm.state", "eventlog_malformed")
    judged(tpm, policy_for(tpm, secure_boot=False)).require()  # control


def test_all_events_of_one_register_left_out_of_the_log(tpm: SoftwareTpm) -> None:
    silent = SoftwareTpm(events=[event for event in tpm.events if event.register != 4])
    log = parse_event_log(silent.event_log())
    assert 4 not in log.replay("sha256")  # control: of PCR 4 there is nothing to compare
    found = judged(tpm, policy_for(tpm), eventlog=silent.event_log())
    refused(found, "tpm.eventlog", "eventlog_replay_mismatch")


def test_an_event_marked_as_no_action_is_not_counted(tpm: SoftwareTpm) -> None:
    log = bytearray(tpm.event_log())
    position = log.index(struct.pack("<II", 4, 0x80000003))
    log[position + 4 : position + 8] = struct.pack("<I", 3)
    judged(tpm, policy_for(tpm)).require()  # control
    refused(judged(tpm, policy_for(tpm), eventlog=bytes(log)), "tpm.eventlog", "eventlog_replay_mismatch")


def test_values_of_other_pcrs_than_the_quoted_ones(tpm: SoftwareTpm) -> None:
    """The quote covers PCR 16, which any program may reset and extend; its value is shown as PCR 4's."""
    forged = SoftwareTpm(tpm.key, later=[(16, b"anything")]).boot()
    message = forged.attest(NONCE, [("sha256", (16,))])
    only_four = policy_for(
        tpm, required_pcrs={"sha256": frozenset({4})}, replay_eventlog=False, secure_boot=False
    )
    lie = TpmEvidence(
        Quote(message, forged.sign(message), {"sha256": {4: forged.pcr("sha256", 16)}}), forged.public
    )
    refused(judged(tpm, only_four, evidence=lie), "tpm.pcrs", "pcr_selection_mismatch")
    honest = tpm.evidence(NONCE, {"sha256": (4,)})
    judged(tpm, only_four, evidence=honest).require()  # control


def test_banks_swapped_in_the_selection(tpm: SoftwareTpm) -> None:
    both = {"sha256": (0, 7), "sha384": (0, 7)}
    policy = policy_for(
        tpm, required_pcrs={"sha256": frozenset({0, 7})}, replay_eventlog=False, secure_boot=False
    )
    for selection in (both, dict(reversed(both.items()))):
        judged(tpm, policy, evidence=tpm.evidence(NONCE, selection)).require()  # control: order is the TPM's
    quote = tpm.quote(NONCE, both)
    swapped = {
        "sha256": {0: quote.pcrs["sha256"][7], 7: quote.pcrs["sha256"][0]},
        "sha384": quote.pcrs["sha384"],
    }
    found = judged(tpm, policy, evidence=TpmEvidence(replace(quote, pcrs=swapped), tpm.public))
    refused(found, "tpm.pcrs", "pcr_digest_mismatch")


def test_only_the_sha1_bank_is_quoted() -> None:
    tpm = SoftwareTpm(banks=("sha1", "sha256")).boot()
    evidence = tpm.evidence(NONCE, {"sha1": range(14)})
    sha1_taken = policy_for(tpm, banks=frozenset({"sha1"}), required_pcrs={"sha1": frozenset({0, 7})})
    judged(tpm, sha1_taken, evidence=evidence).require()  # control: no policy file can say so
    refused(judged(tpm, policy_for(tpm), evidence=evidence), "tpm.pcrs", "pcr_bank")


def test_a_log_of_the_sha1_bank_alone(tpm: SoftwareTpm) -> None:
    old = SoftwareTpm(events=tpm.events, banks=("sha1",)).event_log()
    assert parse_event_log(old).banks == ("sha1",)  # control: it is a log
    found = judged(tpm, policy_for(tpm), eventlog=old)
    refused(found, "tpm.eventlog", "eventlog_replay_mismatch")


def test_a_key_that_signs_whatever_it_is_given(tpm: SoftwareTpm) -> None:
    """An unrestricted key of the same TPM signs a quote that a program wrote."""
    loose = SoftwareTpm(attributes=[name for name in AK_ATTRIBUTES if name != "restricted"]).boot()
    refused(judged(loose, policy_for(loose)), "tpm.attributes", "ak_attributes")
    judged(loose, policy_for(loose, require_restricted_ak=False)).require()  # control
    for missing in ("fixedTPM", "fixedParent", "sign"):
        other = SoftwareTpm(attributes=[name for name in AK_ATTRIBUTES if name != missing]).boot()
        refused(judged(other, policy_for(other)), "tpm.attributes", "ak_attributes")


def test_a_public_area_that_lies_about_its_attributes(tpm: SoftwareTpm) -> None:
    """The same unrestricted key, shown with an area that calls it restricted: only its name tells."""
    loose = SoftwareTpm(attributes=[name for name in AK_ATTRIBUTES if name != "restricted"]).boot()
    lying = SoftwareTpm(loose.key).boot()
    judged(lying, policy_for(loose)).require()  # control: a pin of the key alone has nothing to go by
    by_name = TpmPolicy(pinned_names=frozenset({parse_public_area(loose.public).name}))
    refused(judged(lying, by_name), "tpm.key", "ak_untrusted")
    refused(judged(loose, by_name), "tpm.attributes", "ak_attributes")
    judged(lying, TpmPolicy(pinned_names=frozenset({parse_public_area(lying.public).name}))).require()


def test_a_key_that_nobody_vouches_for(tpm: SoftwareTpm) -> None:
    stranger = SoftwareTpm().boot()
    refused(judged(stranger, policy_for(tpm)), "tpm.key", "ak_untrusted")
    judged(stranger, policy_for(stranger)).require()  # control


def test_a_quote_replayed_for_another_challenge(tpm: SoftwareTpm) -> None:
    old = tpm.evidence(NONCE)
    judged(tpm, policy_for(tpm), evidence=old).require()  # control
    for nonce in (bytes(32), NONCE[:-1], NONCE + b"\0", b""):
        refused(judged(tpm, policy_for(tpm), evidence=old, nonce=nonce), "tpm.nonce", "nonce_mismatch")


def test_a_quote_for_an_empty_challenge(tpm: SoftwareTpm) -> None:
    refused(
        judged(tpm, policy_for(tpm), evidence=tpm.evidence(b""), nonce=b""), "tpm.nonce", "nonce_mismatch"
    )


def test_a_signed_text_that_no_tpm_made(tpm: SoftwareTpm) -> None:
    message = tpm.attest(NONCE, [("sha256", range(14))], magic=b"\xfeTCG")
    values = {"sha256": {index: tpm.pcr("sha256", index) for index in range(14)}}
    lie = TpmEvidence(Quote(message, tpm.sign(message), values), tpm.public)
    refused(judged(tpm, policy_for(tpm), evidence=lie), "tpm.quote", "attest_malformed")


def image_policy(tpm: SoftwareTpm, phases: str = "") -> UkiPolicy:
    digest = hashlib.sha256(b"kernel").digest()
    assert pcr11({"linux": digest}, "sha256") == tpm.pcr("sha256", 11)
    return UkiPolicy(sections={"sha256": {"linux": digest}}, phases=(phases,))


def test_a_command_line_added_to_the_image() -> None:
    tpm = SoftwareTpm().boot()
    policy = policy_for(tpm, uki=image_policy(tpm))
    judged(tpm, policy).require()  # control
    tpm.measure(12, IPL, b"init=/bin/sh")
    refused(judged(tpm, policy), "tpm.image", "pcr_value_mismatch")


def test_another_kernel_under_the_same_name(tpm: SoftwareTpm) -> None:
    policy = policy_for(tpm, uki=image_policy(tpm))
    other = SoftwareTpm(tpm.key).boot()
    other.events[-1].measured = b"other kernel"
    refused(judged(other, policy), "tpm.image", "pcr_value_mismatch")
    judged(other, policy_for(tpm)).require()  # control: nothing else is wrong with it


def test_a_quote_taken_in_an_earlier_phase() -> None:
    """Before the root file system is sealed the initrd may still do as it likes."""
    tpm = SoftwareTpm().boot()
    words = ("enter-initrd", "leave-initrd", "sysinit", "ready")
    policy = policy_for(tpm, uki=image_policy(tpm, ":".join(words)))
    for done in range(len(words) + 1):
        tpm.later = [(11, word.encode()) for word in words[:done]]
        if done < len(words):
            refused(judged(tpm, policy), "tpm.image", "pcr_value_mismatch")
        else:
            judged(tpm, policy).require()  # control, and the log still explains PCR 11


def hcl_report(ak: rsa.RSAPublicKey, bound_to: bytes | None = None, secure_boot: bool = True) -> bytes:
    """An HCL report of the SNP kind, unsigned: what is tried here is what it binds."""

    def number(value: int) -> str:
        data = value.to_bytes((value.bit_length() + 7) // 8)
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    numbers = ak.public_numbers()
    key = {
        "kid": "HCLAkPub",
        "key_ops": ["sign"],
        "kty": "RSA",
        "e": number(numbers.e),
        "n": number(numbers.n),
    }
    configuration = {"secure-boot": secure_boot, "tpm-enabled": True}
    data = json.dumps({"keys": [key], "vm-configuration": configuration, "user-data": "00" * 64}).encode()
    hardware = bytearray(1184)
    hardware[0] = 3
    hardware[0x50:0x70] = hashlib.sha256(data if bound_to is None else bound_to).digest()
    header = b"HCLA" + struct.pack("<IIII", 2, 0, 2, 0) + bytes(12)
    return (
        header + bytes(hardware) + struct.pack("<5I", len(data) + 20, 1, 2, 1, len(data)) + data + bytes(99)
    )


def test_the_paravisors_data_swapped_for_another_key() -> None:
    genuine, attacker = (rsa.generate_private_key(65537, 2048).public_key() for _ in range(2))
    honest = parse_hcl_report(hcl_report(genuine))
    check_binding(honest)  # control
    assert read_runtime_claims(honest).ak == genuine
    assert honest.kind is HclKind.SNP
    swapped = parse_hcl_report(hcl_report(attacker, bound_to=honest.variable_data))
    assert read_runtime_claims(swapped).ak == attacker  # control: it reads as well as the honest one
    with pytest.raises(AttestationError) as refusal:
        check_binding(swapped)
    assert refusal.value.code == "hcl_binding"


def test_half_of_the_report_data_bound(tpm: SoftwareTpm) -> None:
    honest = hcl_report(rsa.generate_private_key(65537, 2048).public_key())
    check_binding(parse_hcl_report(honest))  # control
    loose = bytearray(honest)
    loose[0x20 + 0x50 + 63] = 1
    with pytest.raises(AttestationError) as refusal:
        check_binding(parse_hcl_report(bytes(loose)))
    assert refusal.value.code == "hcl_binding"
