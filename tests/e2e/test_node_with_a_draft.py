"""A sealed node with a draft model answers what one without answers, and says in its manifest that it has one."""

import json
from dataclasses import replace
from pathlib import Path

from sealed_node import chat, running, write_tiny_model

from attestation.bundle import EvidenceBundle
from enclave_runtime.config import NodeConfig
from enclave_runtime.engine.model import stored_digest


def test_a_sealed_node_answers_the_same_with_a_draft(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "tiny")
    draft = write_tiny_model(model / "draft")
    table = {"name": "draft", "digest": stored_digest(draft).hex(), "guesses": 4}

    def drafted(config: NodeConfig) -> NodeConfig:
        return replace(config, draft=table, decoder={"weights": "int8"})

    questions = [chat("hello", seed=3, max_tokens=40), chat("again", temperature=0.0, max_tokens=40)]
    answers = []
    for change in (lambda config: replace(config, decoder={"weights": "int8"}), drafted):
        with running(tmp_path, model, change=change) as node:
            told = [json.loads(node.ask("/v1/chat/completions", question)[1]) for question in questions]
            answers.append([answer["choices"] for answer in told])
            manifest = json.loads(EvidenceBundle.parse(node.bundle()).runtime)
    assert answers[0] == answers[1]
    assert manifest["draft"] == table
    assert manifest["decoder"] == {"activations": 16, "kernels": "auto", "weights": "int8", "ranks": 1}
