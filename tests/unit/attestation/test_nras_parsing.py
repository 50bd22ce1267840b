"""Answers, key sets and policy files that are not what they should be never leave the error family."""

import contextlib
import json
import random
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.nvidia.claim_rules import MAX_RULES, ClaimRules
from attestation.nvidia.errors import ClaimError, GpuAttestationError, GpuPolicyError
from attestation.nvidia.nras import MAX_ANSWER, NrasPolicy, verify_answer
from attestation.nvidia.nras_keys import ServiceKeys
from attestation.simulated.nras import SimulatedService, good_gpu

AT = datetime(2026, 11, 21, 12, tzinfo=UTC)
NONCE = bytes(range(32))
SERVICE = SimulatedService.create(AT)
KEYS = SERVICE.key_set()
ANSWER = SERVICE.answer([good_gpu("1"), good_gpu("2")], NONCE, AT)
POLICY = NrasPolicy(authorities=frozenset({SERVICE.authority_sha256}))


def accepted(answer: bytes, keys: bytes = KEYS) -> bool:
    """Whether it is accepted; anything but the error family gets out of here."""
    begin = time.process_time()
    try:
        verify_answer(answer, keys, nonce=NONCE, count=2, at=AT, policy=POLICY)
    except GpuAttestationError as error:
        return not (error.code and str(error))
    finally:
        assert time.process_time() - begin < 1  # the bar is 100 ms; a loaded machine takes longer
    return True


def test_the_untouched_answer_is_accepted() -> None:
    assert accepted(ANSWER)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400), st.binary(max_size=400))
def test_random_bytes(answer: bytes, keys: bytes) -> None:
    assert not accepted(answer)
    assert not accepted(ANSWER, keys)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(JSON_VALUES, JSON_VALUES)
def test_random_json(one: Any, two: Any) -> None:
    assert not accepted(json.dumps(one).encode())
    assert not accepted(json.dumps([["JWT", one], two]).encode())
    assert not accepted(json.dumps([["JWT", "a.b.c"], {"GPU-0": one}]).encode())
    assert not accepted(ANSWER, json.dumps({"keys": [one, two]}).encode())
    key = {**SERVICE.signer.web_key(), "x5c": [one, two]}
    assert not accepted(ANSWER, json.dumps({"keys": [key]}).encode())


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(["overall", "device"]), st.dictionaries(st.text(max_size=8), JSON_VALUES), JSON_VALUES)
def test_random_claims_under_a_genuine_signature(where: str, more: dict[str, Any], value: Any) -> None:
    names = [*good_gpu("1"), "iss", "exp", "nbf", "iat", "eat_nonce", "submods", "sub", "x-nvidia-ver"]
    name = names[len(repr(value)) % len(names)]
    if where == "overall":
        accepted(SERVICE.answer([good_gpu("1"), good_gpu("2")], NONCE, AT, **{name: value}))
    else:
        accepted(SERVICE.answer([good_gpu("1"), {**good_gpu("2"), **more, name: value}], NONCE, AT))


def test_truncation_at_every_length() -> None:
    assert not any(accepted(ANSWER[:length]) for length in range(len(ANSWER)))
    assert not any(accepted(ANSWER, KEYS[:length]) for length in range(len(KEYS)))


def single_byte_changes(data: bytes, chosen: range | list[int]) -> list[bytes]:
    return [data[:place] + bytes([data[place] ^ 0x01]) + data[place + 1 :] for place in chosen]


# A space between JSON tokens may become another character that ends the document; none may be accepted wrongly.
def test_single_byte_changes() -> None:
    chosen = random.Random(4).sample(range(len(ANSWER)), 300)
    assert not any(accepted(changed) for changed in single_byte_changes(ANSWER, chosen))


@pytest.mark.exhaustive
def test_every_single_byte_change() -> None:
    assert not any(accepted(changed) for changed in single_byte_changes(ANSWER, range(len(ANSWER))))
    for changed in single_byte_changes(KEYS, range(len(KEYS))):
        accepted(
            ANSWER, changed
        )  # the second certificate's own signature and serial number prove nothing here


def test_sizes_and_depths_are_limited() -> None:
    assert not accepted(b" " * (MAX_ANSWER + 1))
    assert not accepted(b"[" * 100_000)
    assert not accepted(ANSWER, b'{"keys":' + b"[" * 100_000)
    many = {f"GPU-{place}": "a.b.c" for place in range(33)}
    assert not accepted(json.dumps([["JWT", "a.b.c"], many]).encode())
    assert not accepted(ANSWER, json.dumps({"keys": [{}] * 257}).encode())


def test_a_key_set_is_read_once_for_each_key() -> None:
    keys = ServiceKeys.parse(KEYS, POLICY.authorities)
    assert keys.find("sim-key-1") is keys.find("sim-key-1")


def rules(**changed: Any) -> bytes:
    body = {"type": "JWT", "overall-claims": {}, "detached-claims": {"measres": "success"}}
    return json.dumps({"version": "4.0", "authorization-rules": {**body, **changed}}).encode()


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), JSON_VALUES)
def test_random_policy_files(data: bytes, value: Any) -> None:
    for text in (data, json.dumps(value).encode(), rules(type=value), rules(**{"detached-claims": value})):
        with contextlib.suppress(GpuPolicyError):
            ClaimRules.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        rules(type="EAT"),
        rules(**{"detached-claims": {}}),
        rules(**{"detached-claims": []}),
        rules(more={}),
        rules().replace(b'"4.0"', b'"1.0"'),
        rules().replace(b'"4.0"', b"4.0"),
        b" " * (MAX_RULES + 1),
        rules(**{"detached-claims": {"a": {"b": {"c": {"d": {"e": {"f": {"g": {"h": {"i": 1}}}}}}}}}}),
    ],
)
def test_policy_files_that_are_refused(text: bytes) -> None:
    with pytest.raises(GpuPolicyError):
        ClaimRules.parse(text)


@pytest.mark.parametrize(
    ("rule", "claim", "code"),
    [
        (True, True, ""),
        (True, 1, "claim_type"),
        (1, True, "claim_type"),
        (1, 1.0, "claim_type"),
        ([1, 2], [1, 2], ""),
        ([1, 2], [2, 1], "claim_mismatch"),
        ([True], [1], "claim_mismatch"),
        ([{"a": 1}], [{"a": 1, "b": 2}], "claim_mismatch"),
        ({"a": {"b": 1}}, {"a": {"b": 1, "c": 2}}, ""),
        ({"a": {"b": 1}}, {"a": {"c": 2}}, "claim_missing"),
        ({"a": 1}, "a", "claim_type"),
        ("x", {"a": 1}, "claim_type"),
        (None, None, ""),
        (None, "x", "claim_type"),
    ],
)
def test_rules_compare_type_and_value(rule: Any, claim: Any, code: str) -> None:
    asked = ClaimRules(device={"claim": rule})
    if not code:
        asked.check_device({"claim": claim, "another": 1})
        return
    with pytest.raises(ClaimError) as caught:
        asked.check_device({"claim": claim}, 3)
    assert (caught.value.code, caught.value.gpu) == (code, 3)
