"""What an operator can do to a sealed node: drain it, stop it, give it a fresh staple, read its metrics."""

import concurrent.futures
import http.client
import json
import os
import signal
import time
from pathlib import Path

import pytest
from private_world import publish
from sealed_node import chat, running, write_tiny_model

from attestation.bundle import EvidenceBundle
from enclave_runtime.staple_feed import framed
from measurements.staple import Staple


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


def test_draining_finishes_what_was_accepted_and_accepts_nothing_more(tmp_path: Path, model: Path) -> None:
    """Every other signal means nothing. A fresh staple goes into the bundle while answers are made."""
    staple, _ = publish(tmp_path, bytes(48))
    with running(tmp_path, model, staple=staple) as node:
        for number in (signal.SIGHUP, signal.SIGUSR2, signal.SIGQUIT, signal.SIGALRM):
            node.process.send_signal(number)
        before = node.bundle()
        renewed = Staple.parse(staple.read_bytes())
        for garbage in (b"{}", renewed.encode()[:-1], os.urandom(100)):
            os.write(node.staples, framed(garbage))
        assert node.bundle() == before
        os.write(node.staples, framed(renewed.encode()))
        _until(lambda: node.bundle() != before)
        after = EvidenceBundle.parse(node.bundle())
        assert after.ohttp_keys == EvidenceBundle.parse(before).ohttp_keys
        assert node.ask("/v1/models", bundle=before)[0] == 200, "what was verified before stays live"

        bundle = node.bundle()
        asked = chat("Hello", max_tokens=200, ignore_eos=True, temperature=0)
        with concurrent.futures.ThreadPoolExecutor(8) as clients:
            answers = [
                clients.submit(node.ask, "/v1/chat/completions", asked, bundle=bundle) for _ in range(8)
            ]
            time.sleep(0.6)
            node.process.send_signal(signal.SIGUSR1)
            done = [answer.result() for answer in answers]
        codes = {status for status, _ in done}
        assert codes <= {200, 503}
        for status, body in done:
            if status == 200:
                assert json.loads(body)["usage"]["completion_tokens"] == 200
            else:
                assert json.loads(body)["error"]["code"] == "stopping"
        assert 200 in codes
        assert node.process.wait(30) == 0
        with pytest.raises((OSError, http.client.HTTPException)):
            node.plain("GET", "/health")


def _until(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
