"""64 clients for a while: some leave, some are refused, steps fail; nothing is lost, every page comes back.

The engine, its admission and the API are the node's own, in this process, so that faults can be put into a step and
pages counted.
"""

import asyncio
import gc
import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sealed_node import MODEL_NAME, ROOM, chat, write_tiny_model

from enclave_runtime.admission import AdmissionLimits
from enclave_runtime.api import inner_app
from enclave_runtime.completions import EngineCompletions
from enclave_runtime.engine.engine import Engine
from enclave_runtime.engine.engine_config import EngineConfig
from enclave_runtime.engine.model import load_model
from enclave_runtime.metrics import Metrics
from enclave_runtime.metrics_schema import DEFAULT
from enclave_runtime.standing_thread import StandingThread

CLIENTS = 64
FAULTS_PER_STEP = 0.01
WARM_UP_SHARE = 0.3


@pytest.fixture
def completions(tmp_path: Path) -> Iterator[EngineCompletions]:
    config = EngineConfig(max_batch=8, max_queue=24, max_context=ROOM, step_budget=128, speculate=2)
    engine = Engine(load_model(write_tiny_model(tmp_path / "tiny")), config)
    engine.start()
    engine.warm_up()
    thread = StandingThread("prompts")
    yield EngineCompletions(engine, MODEL_NAME, thread, AdmissionLimits(request_s=60))
    engine.stop()
    thread.stop()


def failing_now_and_then(engine: Engine, chance: random.Random) -> Counter[str]:
    """Have a share of the engine's steps fail in the middle."""
    counted: Counter[str] = Counter()
    step = engine.model.decoder.step

    def failing(spans: Any, pool: Any) -> Any:
        logits = step(spans, pool)
        if chance.random() < FAULTS_PER_STEP:
            counted["faults"] += 1
            raise MemoryError
        return logits

    engine.model.decoder.step = failing  # type: ignore[method-assign]
    return counted


async def client(number: int, app: Any, until: float, ends: Counter[str]) -> None:
    chance = random.Random(number)
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="https://cloister.internal") as http:
        while time.monotonic() < until:
            tokens = chance.randrange(1, 40)
            asked = chat("x" * chance.randrange(1, 150), max_tokens=tokens, ignore_eos=True)
            asked["stream"] = chance.random() < 0.5
            work = asyncio.create_task(http.post("/v1/chat/completions", json=asked))
            if chance.random() < 0.2:
                await asyncio.sleep(chance.random() * 0.1)
                work.cancel()
            try:
                response = await asyncio.wait_for(work, 60)
            except asyncio.CancelledError:
                ends["left"] += 1
                continue
            except TimeoutError:
                ends["lost"] += 1
                continue
            ends[end_of(response, tokens)] += 1


def end_of(response: Any, tokens: int) -> str:
    """How an answer ended; ``wrong`` if in no way that it may."""
    if response.status_code == 200 and "event-stream" in response.headers["content-type"]:
        events = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
        last = json.loads(events[-1] if events[-1] != "[DONE]" else events[-2])
        if "error" in last:
            return f"stream {last['error']['code']}"
        return "answered" if last["choices"][0]["finish_reason"] == "length" else "wrong"
    body = response.json()
    if response.status_code == 200:
        return "answered" if body["usage"]["completion_tokens"] == tokens else "wrong"
    return f"{response.status_code} {body['error']['code']}"


def resident_kib() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1])


async def soak(completions: EngineCompletions, seconds: float) -> tuple[Counter[str], int]:
    """How everything ended, and by how many KiB memory grew after the warm-up."""
    app = inner_app(completions, None, Metrics(DEFAULT, completions.queue_depth), lambda: 0.0)  # type: ignore[arg-type]
    ends: Counter[str] = Counter()
    begun = time.monotonic()
    clients = [asyncio.create_task(client(number, app, begun + seconds, ends)) for number in range(CLIENTS)]
    await asyncio.sleep(seconds * WARM_UP_SHARE)
    gc.collect()
    warm = resident_kib()
    await asyncio.gather(*clients)
    gc.collect()
    return ends, resident_kib() - warm


def judge(completions: EngineCompletions, seconds: float, growth_kib: int) -> None:
    engine = completions._engine
    faults = failing_now_and_then(engine, random.Random(1))
    ends, grown = asyncio.run(soak(completions, seconds))
    allowed = {"answered", "left", "503 overloaded", "500 internal_error", "stream internal_error"}
    assert set(ends) <= allowed, ends
    assert ends["answered"] > 0
    assert ends["left"] > 0
    if faults["faults"]:
        assert ends["500 internal_error"] + ends["stream internal_error"] > 0
    deadline = time.monotonic() + 20
    while (stats := engine.stats()).running or stats.waiting:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert engine.alive
    assert stats.free_pages == stats.total_pages
    assert not bool(engine.pool.storage.any())
    assert completions._tokenising == 0
    assert grown < growth_kib, ends


def test_half_a_minute_with_64_clients(completions: EngineCompletions) -> None:
    judge(completions, 30, 48 * 1024)


@pytest.mark.exhaustive
def test_an_hour_with_64_clients(completions: EngineCompletions) -> None:
    judge(completions, 3600, 48 * 1024)
