"""What a client is told of the code that computes, where verified claims name the manifest."""

import hashlib
import json
from types import SimpleNamespace
from typing import Any

import pytest

from client_sdk.verify_runtime import appraise_runtime
from ohttp.padding import CellProfile


class Told:
    def __init__(self) -> None:
        self.rows: dict[str, str] = {}

    def passed(self, check: str, detail: str) -> None:
        self.rows[check] = detail

    def failed(self, check: str, error: Exception) -> None:
        self.rows[check] = f"failed: {error}"

    def not_required(self, check: str, why: str) -> None:
        self.rows[check] = why

    def not_evaluated(self, check: str, why: str) -> None:
        self.rows[check] = f"not evaluated: {why}"


@pytest.mark.parametrize(
    ("kernels", "said"),
    [
        (
            {"decoder": "compiled", "path": "avx512", "digest": "ab" * 32},
            ", computed by compiled, avx512, abababababababab…",
        ),
        ({"decoder": "torch", "path": "float32", "digest": ""}, ", computed by torch, float32"),
        ({"decoder": "cuda", "path": "sm_90\x1b[2J"}, ", computed by cuda"),
        ({"decoder": 7, "path": ["x"]}, ""),
        ("cuda", ""),
        (None, ""),
    ],
)
def test_the_row_of_the_model_says_what_computes(kernels: object, said: str) -> None:
    profile = CellProfile()
    manifest = {
        "model": {"name": "m", "digest": "cd" * 32},
        "padding": dict(profile.manifest()),
        "kernels": kernels,
    }
    runtime, told = json.dumps(manifest).encode(), Told()
    claims: Any = SimpleNamespace(runtime=hashlib.sha256(runtime).digest())
    policy: Any = SimpleNamespace(padding=frozenset({profile.name}))
    found = appraise_runtime(told, runtime, claims, policy)
    assert found is not None
    assert told.rows["runtime.model"] == "m, digest cdcdcdcdcdcdcdcd…" + said
