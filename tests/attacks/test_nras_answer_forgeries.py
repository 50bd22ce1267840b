"""Answers of the attestation service that someone bent: each attempt is made for real and must fail.

Beside each stands the control: what the attempt leaves whole, or the one thing that differs, does pass.
"""

import base64
import hashlib
import hmac
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestation.errors import AttestationError
from attestation.nvidia.nras import NrasPolicy, check_same_devices, verify_answer
from attestation.simulated.nras import (
    SimulatedService,
    encode_answer,
    good_gpu,
    overall_claims,
    standing_claims,
)

AT = datetime(2026, 11, 21, 12, tzinfo=UTC)
NONCE, OTHER_NONCE = bytes(range(32)), bytes(32)
SERVICE = SimulatedService.create(AT)
KEYS = SERVICE.key_set()
POLICY = NrasPolicy(authorities=frozenset({SERVICE.authority_sha256}))
EIGHT = [good_gpu(str(47100 + place)) for place in range(8)]
ONE = EIGHT[:1]


def judge(
    answer: bytes, *, keys: bytes = KEYS, nonce: bytes = NONCE, count: int = 1, policy: NrasPolicy = POLICY
) -> None:
    verify_answer(answer, keys, nonce=nonce, count=count, at=AT, policy=policy)


def refused(code: str, answer: bytes, **given: Any) -> AttestationError:
    with pytest.raises(AttestationError) as caught:
        judge(answer, **given)
    assert caught.value.code == code
    return caught.value


def parts(answer: bytes) -> tuple[str, dict[str, str]]:
    (_, overall), devices = json.loads(answer)
    return overall, devices


def answer_with(tokens: dict[str, str], **changed: Any) -> bytes:
    return encode_answer(SERVICE.signer.sign(overall_claims(tokens, NONCE, AT, **changed)), tokens)


def test_answer_to_another_question() -> None:
    answer = SERVICE.answer(ONE, OTHER_NONCE, AT)
    judge(answer, nonce=OTHER_NONCE)  # control: it is a good answer to whoever asked
    refused("nonce_mismatch", answer)


def test_device_token_that_answers_another_question() -> None:
    ours = {"GPU-0": SERVICE.signer.sign({**standing_claims(NONCE, AT), **ONE[0]})}
    theirs = {"GPU-0": SERVICE.signer.sign({**standing_claims(OTHER_NONCE, AT), **ONE[0]})}
    judge(answer_with(ours))  # control
    assert refused("nonce_mismatch", answer_with(theirs)).gpu == 0  # type: ignore[attr-defined]


def test_device_token_of_another_answer() -> None:
    overall, _ = parts(SERVICE.answer(ONE, NONCE, AT))
    _, theirs = parts(SERVICE.answer([good_gpu("999")], NONCE, AT))
    # Control: the other device's token is genuine, and fresh, under its own overall token.
    judge(SERVICE.answer([good_gpu("999")], NONCE, AT))
    refused("submod_digest", encode_answer(overall, theirs))


def test_seven_of_eight_gpus() -> None:
    judge(SERVICE.answer(EIGHT, NONCE, AT), count=8)  # control
    seven = SERVICE.answer(EIGHT[:7], NONCE, AT)
    judge(seven, count=7)  # control: of seven GPUs it is a good answer
    refused("policy_gpu_count", seven, count=8)
    overall, devices = parts(SERVICE.answer(EIGHT, NONCE, AT))
    devices.pop("GPU-7")
    refused("submod_set", encode_answer(overall, devices), count=7)
    refused("submod_set", encode_answer(overall, devices), count=8)


def test_no_gpu_at_all() -> None:
    refused("policy_gpu_count", SERVICE.answer([], NONCE, AT), count=0)
    refused("policy_gpu_count", SERVICE.answer([], NONCE, AT), count=1)


def test_same_gpu_under_two_names() -> None:
    judge(SERVICE.answer(EIGHT[:2], NONCE, AT), count=2)  # control
    refused("duplicate_gpu", SERVICE.answer([EIGHT[0], EIGHT[0]], NONCE, AT), count=2)
    _, devices = parts(SERVICE.answer(ONE, NONCE, AT))
    twice = {"GPU-0": devices["GPU-0"], "GPU-1": devices["GPU-0"]}
    refused("duplicate_gpu", answer_with(twice), count=2)


@pytest.mark.parametrize(
    ("form", "code"),
    [
        (lambda digest: ["DIGEST", ["SHA-256", digest]], ""),
        (lambda digest: ["DIGEST", ["SHA256", digest]], ""),
        (lambda digest: ["DIGEST", ["SHA-256", digest.upper()]], ""),
        (lambda digest: ["DIGEST", ["SHA-384", digest]], "submod_digest"),
        (lambda digest: ["DIGEST", ["SHA-256", digest, digest]], "submod_digest"),
        (lambda digest: ["JWT", ["SHA-256", digest]], "submod_digest"),
        (lambda digest: ["DIGEST", ["SHA-256", digest[:32]]], "submod_digest"),
        (lambda digest: ["DIGEST", {"SHA-256": digest}], "submod_digest"),
        (lambda digest: digest, "submod_digest"),
        (lambda _: None, "submod_digest"),
    ],
)
def test_forms_of_a_digest(form: Any, code: str) -> None:
    _, tokens = parts(SERVICE.answer(ONE, NONCE, AT))
    digest = hashlib.sha256(tokens["GPU-0"].encode()).hexdigest()
    answer = answer_with(tokens, submods={"GPU-0": form(digest)})
    if code:
        refused(code, answer)
    else:
        judge(answer)


def test_device_that_the_service_did_not_list() -> None:
    overall, devices = parts(SERVICE.answer(ONE, NONCE, AT))
    _, more = parts(SERVICE.answer(EIGHT[:2], NONCE, AT))
    refused("submod_set", encode_answer(overall, devices | {"GPU-1": more["GPU-1"]}), count=2)


def test_staging_service() -> None:
    staging = "https://nras.attestation-stg.nvidia.com"
    answer = SERVICE.answer([{**ONE[0], "iss": staging}], NONCE, AT, iss=staging)
    judge(answer, policy=replace(POLICY, issuer=staging))  # control: who trusts staging may have it
    refused("token_issuer", answer)
    refused("token_issuer", SERVICE.answer([{**ONE[0], "iss": staging}], NONCE, AT))


@pytest.mark.parametrize("claim", ["exp", "iat", "iss", "eat_nonce", "sub", "x-nvidia-ver", "submods"])
def test_claim_left_out_of_the_overall_token(claim: str) -> None:
    refused(
        {"iss": "token_issuer", "sub": "token_subject"}.get(claim, "claim_missing"),
        SERVICE.answer(ONE, NONCE, AT, **{claim: None}),
    )


@pytest.mark.parametrize("claim", ["exp", "iat", "iss", "eat_nonce", "ueid"])
def test_claim_left_out_of_a_device_token(claim: str) -> None:
    claims = {**standing_claims(NONCE, AT), **ONE[0]}
    del claims[claim]
    code = "token_issuer" if claim == "iss" else "claim_missing"
    refused(code, answer_with({"GPU-0": SERVICE.signer.sign(claims)}))


def seconds(at: datetime) -> int:
    return int(at.timestamp())


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"exp": seconds(AT - timedelta(seconds=60))}, "token_expired"),
        ({"nbf": seconds(AT + timedelta(seconds=61))}, "token_not_yet"),
        ({"iat": seconds(AT + timedelta(seconds=61))}, "token_not_yet"),
        ({"exp": seconds(AT + timedelta(days=2))}, "token_lifetime"),
        ({"exp": 2**63}, "claim_type"),
        ({"exp": str(seconds(AT + timedelta(hours=1)))}, "claim_type"),
        ({"exp": True}, "claim_type"),
        ({"exp": 1e300}, "claim_type"),
        ({"nbf": [0]}, "claim_type"),
        ({"iat": seconds(AT - timedelta(hours=13)), "nbf": 0}, "key_expired"),
    ],
)
def test_tokens_out_of_their_time(changed: dict[str, Any], code: str) -> None:
    refused(code, SERVICE.answer(ONE, NONCE, AT, **changed))
    refused(code, SERVICE.answer([{**ONE[0], **changed}], NONCE, AT))


def test_clocks_that_differ_a_little() -> None:
    for changed in (
        {"exp": seconds(AT - timedelta(seconds=59))},
        {"nbf": seconds(AT + timedelta(seconds=60))},
    ):
        judge(SERVICE.answer(ONE, NONCE, AT, **changed))


def test_key_chain_of_ones_own_with_the_genuine_names() -> None:
    own = SimulatedService.create(AT)
    answer = own.answer(ONE, NONCE, AT)
    assert own.authority.subject == SERVICE.authority.subject
    trusting = replace(POLICY, authorities=frozenset({own.authority_sha256}))
    judge(answer, keys=own.key_set(), policy=trusting)  # control: all but the pin is right
    refused("key_untrusted", answer, keys=own.key_set())


def test_ones_own_key_with_the_genuine_authority_behind_it() -> None:
    own = SimulatedService.create(AT)
    key = own.signer.web_key()
    key["x5c"][1] = SERVICE.signer.web_key()["x5c"][1]
    refused("key_untrusted", own.answer(ONE, NONCE, AT), keys=json.dumps({"keys": [key]}).encode())


def test_ones_own_key_beside_a_genuine_certificate() -> None:
    own = SimulatedService.create(AT)
    key = {**own.signer.web_key(), "x5c": SERVICE.signer.web_key()["x5c"]}
    refused("key_untrusted", own.answer(ONE, NONCE, AT), keys=json.dumps({"keys": [key]}).encode())


def test_authority_signs_tokens_itself() -> None:
    certificate = base64.b64encode(SERVICE.authority.public_bytes(Encoding.DER)).decode()
    signer = replace(SERVICE.signer, key=SERVICE.authority_key)
    key = {**signer.web_key(), "x5c": [certificate, certificate]}
    answer = replace(SERVICE, signer=signer).answer(ONE, NONCE, AT)
    refused("key_untrusted", answer, keys=json.dumps({"keys": [key]}).encode())


def test_second_key_with_the_same_id() -> None:
    answer = SERVICE.answer(ONE, NONCE, AT)
    judge(answer, keys=SERVICE.key_set(SERVICE.issue("sim-key-2", AT)))  # control
    refused("key_duplicate", answer, keys=SERVICE.key_set(SERVICE.issue("sim-key-1", AT)))


def test_key_without_certificates_and_key_that_is_not_there() -> None:
    bare = {name: value for name, value in SERVICE.signer.web_key().items() if name != "x5c"}
    answer = SERVICE.answer(ONE, NONCE, AT)
    refused("key_untrusted", answer, keys=json.dumps({"keys": [bare]}).encode())
    assert refused("key_unknown", answer, keys=b'{"keys":[]}').retryable


def test_stolen_key_that_has_run_out() -> None:
    stolen = SERVICE.issue("old", AT - timedelta(days=3))
    service = replace(SERVICE, signer=stolen)
    keys = SERVICE.key_set(stolen)
    then = AT - timedelta(days=3)
    verify_answer(
        service.answer(ONE, NONCE, then), keys, nonce=NONCE, count=1, at=then, policy=POLICY
    )  # control: in its time it was good
    refused("key_expired", service.answer(ONE, NONCE, AT), keys=keys)
    # Dated back into the key's life, the token would have to live longer than any does.
    dated = {"iat": seconds(then), "nbf": seconds(then)}
    refused("token_lifetime", service.answer([{**ONE[0], **dated}], NONCE, AT, **dated), keys=keys)


@pytest.mark.parametrize("algorithm", ["none", "HS256", "HS384", "ES256", "RS256", "es384", None, ["ES384"]])
def test_other_algorithms(algorithm: Any) -> None:
    overall, devices = parts(SERVICE.answer(ONE, NONCE, AT))
    claims = json.loads(base64.urlsafe_b64decode(overall.split(".")[1] + "=="))
    token = SERVICE.signer.sign(claims, {"alg": algorithm})
    refused("token_algorithm", encode_answer(token, devices))
    refused("token_algorithm", encode_answer(token.rpartition(".")[0] + ".", devices))


def test_public_key_as_an_hmac_secret() -> None:
    secret = SERVICE.signer.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    overall, devices = parts(SERVICE.answer(ONE, NONCE, AT))
    head = base64.urlsafe_b64encode(b'{"kid":"sim-key-1","alg":"HS384"}').rstrip(b"=").decode()
    signed = f"{head}.{overall.split('.')[1]}"
    tag = base64.urlsafe_b64encode(hmac.digest(secret, signed.encode(), hashlib.sha384)).decode()
    refused("token_algorithm", encode_answer(f"{signed}.{tag}", devices))


@pytest.mark.parametrize("member", ["crit", "b64"])
def test_header_that_asks_for_more(member: str) -> None:
    tokens = {"GPU-0": SERVICE.signer.sign({**standing_claims(NONCE, AT), **ONE[0]}, {member: []})}
    refused("token_malformed", answer_with(tokens))


def test_key_carried_in_the_header_is_not_used() -> None:
    own = SimulatedService.create(AT)
    claims = {**standing_claims(NONCE, AT), **ONE[0]}
    token = own.signer.sign(claims, {"jwk": own.signer.web_key(), "x5c": own.signer.web_key()["x5c"]})
    refused("token_signature", answer_with({"GPU-0": token}))


def test_payload_that_says_something_twice() -> None:
    payload = json.dumps({**standing_claims(NONCE, AT), **ONE[0]})
    doubled = payload.replace('"measres": "success"', '"measres": "fail", "measres": "success"')
    assert doubled != payload
    head = base64.urlsafe_b64encode(b'{"kid":"sim-key-1","alg":"ES384"}').rstrip(b"=").decode()
    body = base64.urlsafe_b64encode(doubled.encode()).rstrip(b"=").decode()
    signature = SERVICE.signer.sign({}).rpartition(".")[2]
    refused("token_signature", answer_with({"GPU-0": f"{head}.{body}.{signature}"}))
    signed = _signed(f"{head}.{body}")
    refused("token_malformed", answer_with({"GPU-0": signed}))


def _signed(text: str) -> str:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

    r, s = decode_dss_signature(SERVICE.signer.key.sign(text.encode(), ec.ECDSA(hashes.SHA384())))
    raw = r.to_bytes(48, "big") + s.to_bytes(48, "big")
    return f"{text}.{base64.urlsafe_b64encode(raw).rstrip(b'=').decode()}"


BAD_CLAIMS: list[tuple[dict[str, Any], str]] = [
    ({"measres": "fail"}, "claim_mismatch"),
    ({"measres": True}, "claim_type"),
    ({"measres": None}, "claim_mismatch"),
    ({"secboot": "true"}, "claim_type"),
    ({"secboot": 1}, "claim_type"),
    ({"dbgstat": "enabled"}, "claim_mismatch"),
    ({"x-nvidia-gpu-arch-check": False}, "claim_mismatch"),
    ({"x-nvidia-gpu-vbios-rim-measurements-available": False}, "claim_mismatch"),
    ({"x-nvidia-gpu-driver-rim-schema-validated": False}, "claim_mismatch"),
    ({"x-nvidia-mismatch-measurement-records": [{"index": 9}]}, "claim_mismatch"),
    ({"x-nvidia-error-details": {"code": 4010}}, "claim_mismatch"),
    ({"x-nvidia-gpu-driver-rim-cert-chain": {"x-nvidia-cert-status": "valid"}}, "claim_missing"),
    (
        {
            "x-nvidia-gpu-vbios-rim-cert-chain": {
                "x-nvidia-cert-status": "valid",
                "x-nvidia-cert-ocsp-status": "good",
                "x-nvidia-cert-revocation-reason": "key_compromise",
            }
        },
        "claim_mismatch",
    ),
]


@pytest.mark.parametrize(("changed", "code"), BAD_CLAIMS)
def test_overall_result_that_glosses_over_one_device(changed: dict[str, Any], code: str) -> None:
    devices = [EIGHT[0], {**EIGHT[1], **changed}]
    error = refused(code, SERVICE.answer(devices, NONCE, AT), count=2)
    assert error.gpu == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "claim", [name for name in ONE[0] if name.startswith("x-nvidia-gpu") or name == "secboot"]
)
def test_claim_about_a_device_that_is_not_made(claim: str) -> None:
    device = {name: value for name, value in ONE[0].items() if name != claim}
    answer = SERVICE.answer([device], NONCE, AT)
    if claim.endswith(("-version", "schema-validated")):
        judge(answer)  # what no default rule asks for
    else:
        refused("claim_missing", answer)


@pytest.mark.parametrize(
    ("result", "code"), [(False, "overall_false"), ("true", "claim_type"), (1, "claim_type")]
)
def test_overall_result_that_is_not_true(result: Any, code: str) -> None:
    refused(code, SERVICE.answer(ONE, NONCE, AT, **{"x-nvidia-overall-att-result": result}))


def test_good_answer_about_another_machine() -> None:
    answer = verify_answer(
        SERVICE.answer(EIGHT[:2], NONCE, AT), KEYS, nonce=NONCE, count=2, at=AT, policy=POLICY
    )
    ours = [(str(47100 + place), "590.12", "96.00.a5.00.01") for place in range(2)]
    check_same_devices(answer, ours)  # control
    for others in (ours[:1], [ours[0], ("1", *ours[1][1:])], [ours[0], (ours[1][0], "590.11", ours[1][2])]):
        with pytest.raises(AttestationError, match="claim_mismatch"):
            check_same_devices(answer, others)


def test_outer_token_of_nvidias_tools_lends_no_trust() -> None:
    inner = json.loads(SERVICE.answer(ONE, NONCE, AT))
    wrapped = json.dumps([["JWT", "anything.at.all"], {"REMOTE_GPU_CLAIMS": inner}]).encode()
    judge(wrapped)  # the outer token is not read, as it proves nothing
    own = json.loads(SimulatedService.create(AT).answer(ONE, NONCE, AT))
    refused("token_signature", json.dumps([["JWT", inner[0][1]], {"REMOTE_GPU_CLAIMS": own}]).encode())
    both = {"REMOTE_GPU_CLAIMS": inner, "LOCAL_GPU_CLAIMS": inner}
    refused("token_malformed", json.dumps([["JWT", "a.b.c"], both]).encode())
