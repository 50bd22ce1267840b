"""A sealed node whose model two processes share answers what one process answers, and both are behind a seal."""

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sealed_node import Node, chat, children, running, write_tiny_model

from attestation.bundle import EvidenceBundle
from enclave_runtime.config import NodeConfig

pytest.importorskip("torch")

QUESTIONS = [
    chat("hello", temperature=0.0, max_tokens=24),
    chat("another question, longer than the first " * 3, temperature=0.0, max_tokens=24),
    chat("drawn", seed=3, max_tokens=24),
]
PATIENCE_S = 60.0


def with_ranks(count: int) -> Any:
    def change(config: NodeConfig) -> NodeConfig:
        return replace(config, decoder={"kernels": "torch", "ranks": count})

    return change


def answers(node: Node) -> list[Any]:
    told = [node.ask("/v1/chat/completions", question) for question in QUESTIONS]
    assert [status for status, _ in told] == [200] * len(told)
    return [json.loads(body)["choices"] for _, body in told]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


def test_two_sealed_ranks_answer_what_one_does(tmp_path: Path, model: Path) -> None:
    with running(tmp_path, model, change=with_ranks(1)) as node:
        alone = answers(node)
        assert len(children(node)) == 1  # shows metrics
    with running(tmp_path, model, change=with_ranks(2)) as node:
        assert answers(node) == alone
        found = children(node)
        assert len(found) == 2
        for number, status in found.items():
            assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1")
            assert {status[name] for name in ("CapPrm", "CapEff", "CapBnd")} == {"0" * 16}
            for task in Path(f"/proc/{number}/task").iterdir():
                assert "Seccomp:\t2" in (task / "status").read_text()
            assert {os.readlink(f"/proc/{number}/fd/{stream}") for stream in (0, 1, 2)} == {"/dev/null"}
        manifest = json.loads(EvidenceBundle.parse(node.bundle()).runtime)
        assert manifest["decoder"]["ranks"] == 2
        assert manifest["kernels"]["path"] == "float32 on 2 ranks"
        node.process.terminate()
        assert node.process.wait(PATIENCE_S) == 0
        ended(found)


def test_a_rank_that_is_lost_ends_the_answers_and_nobody_stays_behind(tmp_path: Path, model: Path) -> None:
    with running(tmp_path, model, change=with_ranks(2)) as node:
        found = children(node)
        rank = max(found, key=lambda number: len(list(Path(f"/proc/{number}/task").iterdir())))
        os.kill(rank, signal.SIGKILL)
        status, _ = node.ask("/v1/chat/completions", QUESTIONS[0])
        assert status >= 500
        node.process.terminate()
        node.process.wait(PATIENCE_S)
        ended(found)


def ended(processes: dict[int, dict[str, str]]) -> None:
    """Every one of ``processes`` ends before long."""
    until = time.monotonic() + PATIENCE_S
    while left := [number for number in processes if Path(f"/proc/{number}/exe").exists()]:
        assert time.monotonic() < until, left
        time.sleep(0.05)
