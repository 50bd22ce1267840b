"""The same prompts and times from the same seed, inside their buckets; traces read or refused by line."""

import contextlib
import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.workload import PROFILES, Prompt, TraceError, parse_trace, poisson, prompts, read_trace


@pytest.mark.parametrize("profile", PROFILES)
def test_prompts_are_repeatable_different_and_of_the_profiles_length(profile: str) -> None:
    found = prompts(profile, 40, max_tokens=9, seed=3)
    assert found == prompts(profile, 40, max_tokens=9, seed=3)
    assert len({prompt.text for prompt in found}) == 40
    assert len({prompt.seed for prompt in found}) == 40
    least, most = PROFILES[profile].words
    assert all(least <= len(prompt.text.split()) <= most + 15 for prompt in found)
    assert found != prompts(profile, 40, max_tokens=9, seed=4)


def test_the_buckets_do_not_overlap() -> None:
    ranges = [bucket.tokens for bucket in PROFILES.values()]
    assert all(high < low for (_, high), (low, _) in itertools.pairwise(ranges))
    with pytest.raises(ValueError, match="profile"):
        prompts("huge", 1, max_tokens=1)


def test_a_schedule_has_the_rate_it_was_asked_for() -> None:
    times = poisson(4000, 2.5, seed=1)
    assert times == poisson(4000, 2.5, seed=1)
    assert times[0] == 0.0
    assert list(times) == sorted(times)
    assert 4000 / times[-1] == pytest.approx(2.5, rel=0.05)
    with pytest.raises(ValueError, match="positive"):
        poisson(3, 0.0)


def line(**changes: object) -> str:
    return json.dumps({"at_s": 0.5, "prompt": "hello", "max_tokens": 3} | changes)


def test_a_trace_is_read(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(line(at_s=0) + "\n" + line() + "\n")
    assert read_trace(path) == ((Prompt("hello", 3, 1), Prompt("hello", 3, 2)), (0.0, 0.5))


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "trace_empty"),
        ("{", "trace_malformed"),
        ("[]", "trace_malformed"),
        (line(max_tokens=0), "trace_malformed"),
        (line(max_tokens=True), "trace_malformed"),
        (line(prompt=""), "trace_malformed"),
        (line(at_s=-1), "trace_malformed"),
        (line(at_s="1"), "trace_malformed"),
        (line(at_s=float("nan")), "trace_malformed"),
        (line(at_s=2) + "\n" + line(at_s=1), "trace_order"),
    ],
)
def test_a_bad_trace_is_refused(text: str, code: str) -> None:
    with pytest.raises(TraceError) as refused:
        parse_trace(text.encode())
    assert refused.value.code == code


@given(st.binary(max_size=200))
def test_random_bytes_never_leave_the_error_family(data: bytes) -> None:
    with contextlib.suppress(TraceError):
        parse_trace(data)


def test_every_truncation_and_every_changed_byte_is_read_or_refused() -> None:
    whole = (line() + "\n" + line(at_s=1)).encode()
    for cut in range(len(whole)):
        for data in (whole[:cut], whole[:cut] + bytes([whole[cut] ^ 0x41]) + whole[cut + 1 :]):
            with contextlib.suppress(TraceError):
                parse_trace(data)
