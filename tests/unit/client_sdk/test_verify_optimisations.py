"""What a client is told of leases, drafts and optimisations: in closed words, and never less than the manifest says."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client_sdk.verify_optimisations import CHECKS, Optimisations, appraise_optimisations
from client_sdk.verify_rows import Recorder
from enclave_runtime.admission import AdmissionLimits
from enclave_runtime.decoder_choice import DecoderChoice
from enclave_runtime.draft_choice import DraftChoice
from enclave_runtime.engine.engine_config import EngineConfig
from enclave_runtime.lease_settings import LeaseSettings
from enclave_runtime.manifest import runtime_manifest
from enclave_runtime.metrics_schema import DEFAULT
from enclave_runtime.seal import SealReport
from ohttp.padding import CellProfile


def manifest(**said: Any) -> dict[str, Any]:
    """What a node of this version writes."""
    settings: dict[str, Any] = {
        "engine": EngineConfig(),
        "decoder": DecoderChoice(),
        "draft": None,
        "leases": None,
        "public_prefix": "",
        **said,
    }
    made = runtime_manifest(
        model_name="m",
        model_digest=bytes(32),
        tokenizer_digest=bytes(32),
        padding=CellProfile(),
        confined=SealReport(()),
        tokens=None,
        metrics=DEFAULT,
        admission=AdmissionLimits(),
        kernels={},
        **settings,
    )
    read: dict[str, Any] = json.loads(made)
    return read


def told(document: dict[str, Any]) -> tuple[dict[str, tuple[str, str]], Optimisations | None]:
    recorder = Recorder()
    found = appraise_optimisations(recorder, document)
    assert tuple(row.id for row in recorder.rows) == CHECKS
    return {row.id: (row.outcome, row.code or row.detail) for row in recorder.rows}, found


def test_a_node_that_keeps_nothing_and_guesses_nothing() -> None:
    rows, found = told(manifest())
    assert rows == {
        "runtime.leases": ("pass", "none: nothing of a request is kept once it has ended"),
        "runtime.draft": ("pass", "none"),
        "runtime.serving": (
            "pass",
            "batches of up to 8, no memory between requests, no guessing ahead, no public prefix, weights as stored",
        ),
    }
    assert found is not None
    assert found.to_json() == {
        "leases": None,
        "draft": None,
        "optimisations": [
            "batches of up to 8",
            "no memory between requests",
            "no guessing ahead",
            "no public prefix",
            "weights as stored",
        ],
    }


def test_a_node_that_offers_all_there_is() -> None:
    rows, found = told(
        manifest(
            leases=LeaseSettings(4, 2048, 600, "sealed"),
            draft=DraftChoice("small.gguf", "ab" * 32, 3),
            public_prefix="be kind",
            decoder=DecoderChoice(weights="int8", activations=8),
        )
    )
    assert rows["runtime.leases"][1].startswith(
        "offered: 4 at a time, of 2,048 tokens, for 600 s at most, encrypted"
    )
    assert "only for a client that holds a lease" in rows["runtime.leases"][1]
    assert rows["runtime.draft"][1].startswith("small.gguf, digest abababababababab…, 3 tokens ahead")
    words = rows["runtime.serving"][1]
    for said in ("memory by lease", "guesses by a draft model", "a public prefix, sha256 ", "8 bits"):
        assert said in words
    assert found is not None
    assert found.to_json()["leases"] == {"count": 4, "tokens": 2048, "seconds": 600, "store": "sealed"}
    assert found.to_json()["draft"] == {"name": "small.gguf", "digest": "ab" * 32, "guesses": 3}


def test_prompt_lookup_is_named() -> None:
    rows, _ = told(manifest(engine=replace(EngineConfig(), speculate=4)))
    assert "guesses from the prompt, 4 ahead" in rows["runtime.serving"][1]


def test_a_manifest_that_does_not_say_is_said_not_to() -> None:
    rows, found = told({})
    assert {outcome for outcome, _ in rows.values()} == {"not required"}
    assert found == Optimisations(None, None, ())


def test_settings_of_a_later_version_are_counted_not_quoted() -> None:
    document = manifest()
    document["engine"]["\x1b[2Jverified"] = 1
    rows, _ = told(document)
    assert rows["runtime.serving"][1].endswith("1 settings that this version does not know")


LEASES = {"count": 4, "tokens": 64, "seconds": 9, "store": "pool"}
DRAFT = {"name": "d", "digest": "ab" * 32, "guesses": 1}


@pytest.mark.parametrize(
    ("check", "member", "value"),
    [
        ("runtime.leases", "leases", []),
        ("runtime.leases", "leases", "none"),
        ("runtime.leases", "leases", {**LEASES, "count": "many"}),
        ("runtime.leases", "leases", {**LEASES, "count": True}),
        ("runtime.leases", "leases", {**LEASES, "seconds": 0}),
        ("runtime.leases", "leases", {**LEASES, "store": "disk"}),
        ("runtime.leases", "leases", {**LEASES, "store": ["pool"]}),
        ("runtime.leases", "leases", {**LEASES, "more": 1}),
        ("runtime.leases", "leases", {"count": 4}),
        ("runtime.draft", "draft", {**DRAFT, "name": "\x1b[2J"}),
        ("runtime.draft", "draft", {**DRAFT, "name": 3}),
        ("runtime.draft", "draft", {**DRAFT, "digest": "ab"}),
        ("runtime.draft", "draft", {"name": "d"}),
        ("runtime.serving", "engine", None),
        ("runtime.serving", "engine", {"max_batch": 8}),
        ("runtime.serving", "engine", {"max_batch": 8, "speculate": -1}),
        ("runtime.serving", "public_prefix", "be kind"),
        ("runtime.serving", "public_prefix", 3),
        ("runtime.serving", "decoder", {"weights": "sparse"}),
        ("runtime.serving", "decoder", {"weights": {}}),
        ("runtime.serving", "decoder", 8),
    ],
)
def test_what_cannot_be_read_is_refused(check: str, member: str, value: Any) -> None:
    rows, found = told({**manifest(), member: value})
    assert found is None
    assert rows[check] == ("fail", "runtime_malformed")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(
    member=st.sampled_from(["leases", "draft", "engine", "decoder", "public_prefix"]),
    name=st.sampled_from(["", "count", "store", "name", "digest", "max_batch", "weights"]),
    value=JSON,
)
def test_nothing_leaves_the_rows_whatever_the_manifest_says(member: str, name: str, value: Any) -> None:
    document = manifest(leases=LeaseSettings(4, 64, 9), draft=DraftChoice("d", "ab" * 32))
    if name and isinstance(document[member], dict):
        document[member][name] = value
    else:
        document[member] = value
    rows, _ = told(document)
    assert all(detail.isprintable() for _, detail in rows.values())
