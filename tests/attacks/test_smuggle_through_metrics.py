"""Attempts to learn of a request, or to carry it out of a node, by its metrics."""

import asyncio
import json
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sealed_node import running, write_tiny_model

from enclave_runtime import node
from enclave_runtime.api import inner_app
from enclave_runtime.completions import EngineCompletions
from enclave_runtime.config import NodeConfig
from enclave_runtime.egress import EgressServer
from enclave_runtime.engine.engine import Engine
from enclave_runtime.engine.engine_config import EngineConfig
from enclave_runtime.engine.model import load_model
from enclave_runtime.errors import ConfigurationError
from enclave_runtime.exit_codes import ExitCode
from enclave_runtime.metrics import Metrics
from enclave_runtime.metrics_frame import FrameReader, FrameRefused, encode_frame
from enclave_runtime.metrics_schema import DEFAULT
from enclave_runtime.node_launch import node_config
from enclave_runtime.openmetrics import render
from enclave_runtime.standing_thread import StandingThread

GOOD = (20, 0, 0, 0, 0, 3000, 4, 0)
TOKENS_AT = 5


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


# Priming a counter.


class Exact(Metrics):
    """The defence removed: counts are added up as they are, and cut down to steps when shown."""

    def _rounded(self, count: int, step: int) -> int:
        return count

    def values(self) -> tuple[int, ...]:
        steps = [series.metric.step or 1 for series in self.schema.series]
        return tuple(value - value % step for value, step in zip(super().values(), steps, strict=True))


@pytest.mark.parametrize(("kind", "share"), [(Metrics, 0.15), (Exact, 1.0)])
def test_priming_a_counter_to_read_one_answer_off_it(kind: type[Metrics], share: float) -> None:
    """Somebody generates 959 tokens, then watches whether a stranger's answer has 40 tokens or 41."""
    chance = random.Random(2)

    def shown(stranger: int) -> bool:
        metrics = kind(DEFAULT, lambda: 0, chance.randrange)
        metrics.tokens_generated(959)
        before = metrics.values()
        metrics.tokens_generated(stranger)
        return metrics.values() != before

    told_apart = sum(shown(41) - shown(40) for _ in range(300)) / 300
    assert abs(told_apart) <= share
    if kind is Exact:
        assert told_apart == 1.0, "control"


# Two prompts of one shape.


class Talkative(Metrics):
    """The defence removed: what is counted depends on what was said."""

    said = 0

    def tokens_generated(self, count: int) -> None:
        super().tokens_generated(count * 1000 * self.said)


def stream_of(model: Path, prompt: str, kind: type[Metrics] = Metrics, tokens: int = 24) -> list[bytes]:
    """The frames and the text that a node's metrics are while it answers ``prompt`` twice."""
    engine = Engine(
        load_model(model), EngineConfig(max_batch=2, max_queue=2, max_context=256, step_budget=80)
    )
    engine.start()
    thread = StandingThread("prompts")
    try:
        completions = EngineCompletions(engine, "tiny", thread)
        metrics = kind(DEFAULT, completions.queue_depth, random.Random(5).randrange)
        metrics.said = len(set(prompt))  # type: ignore[attr-defined]
        return asyncio.run(_frames(completions, metrics, prompt, tokens))
    finally:
        engine.stop()
        thread.stop()


async def _frames(completions: EngineCompletions, metrics: Metrics, prompt: str, tokens: int) -> list[bytes]:
    app = inner_app(completions, None, metrics, lambda: 0.0)  # type: ignore[arg-type]
    frames = []
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app), base_url="https://cloister.internal"
    ) as client:
        for number in range(2):
            asked = {
                "model": "tiny",
                "prompt": prompt,
                "max_tokens": tokens,
                "seed": number,
                "ignore_eos": True,
            }
            assert (await client.post("/v1/completions", json=asked)).status_code == 200
            values = metrics.values()
            frames += [encode_frame(DEFAULT, number, values), render(DEFAULT, values)]
    return frames


def test_two_prompts_of_one_shape_give_the_same_stream_of_metrics(model: Path) -> None:
    one, other = "My diagnosis is 12345678.", "The weather is very nice."
    assert len(one) == len(other)
    assert stream_of(model, one) == stream_of(model, other)


def test_control_a_count_that_depends_on_the_words_tells_them_apart(model: Path) -> None:
    one, other = "My diagnosis is 12345678.", "aaaaaaaaaaaaaaaaaaaaaaaaa"
    assert stream_of(model, one, Talkative) != stream_of(model, other, Talkative)


# A node that was taken over, and speaks to the process that shows its metrics.


def smuggled(frame: bytes, *, after: float = 10.0) -> tuple[int, ...]:
    """What is shown after one good frame and this one."""
    reader = FrameReader(DEFAULT, 0.0)
    reader.take(encode_frame(DEFAULT, 0, GOOD), 10.0)
    with pytest.raises(FrameRefused):
        reader.take(frame, 10.0 + after)
    return reader.values


def changed(place: int, value: int, number: int = 1) -> bytes:
    return encode_frame(DEFAULT, number, [*GOOD[:place], value, *GOOD[place + 1 :]])


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"my prompt",
        encode_frame(DEFAULT, 1, GOOD) + b"prompt",
        encode_frame(DEFAULT, 1, GOOD)[:-1],
        changed(0, 21),
        changed(0, 0),
        changed(0, 20 * 10**9),
        changed(0, int.from_bytes(b"a prompt", "big")),
        changed(TOKENS_AT, 3001),
        changed(TOKENS_AT, 2000),
        changed(6, 5),
        changed(6, 1 << 40),
        changed(0, 40, number=0),
    ],
)
def test_what_a_node_that_was_taken_over_adds_is_dropped(frame: bytes) -> None:
    assert smuggled(frame) == GOOD


def test_more_frames_than_the_rate_allows_are_dropped() -> None:
    assert smuggled(encode_frame(DEFAULT, 1, GOOD), after=1.0) == GOOD


def test_control_without_the_second_look_the_number_would_be_shown() -> None:
    letters = int.from_bytes(b"prompt", "big")
    assert str(letters).encode() in render(DEFAULT, (letters, *GOOD[1:]))


@given(st.binary(max_size=100), st.floats(0, 100))
def test_no_bytes_make_the_reader_show_what_the_schema_does_not_allow(data: bytes, after: float) -> None:
    reader = FrameReader(DEFAULT, 0.0)
    try:
        reader.take(data, after)
    except FrameRefused:
        assert reader.values == (0,) * len(DEFAULT.series)
    for series, value in zip(DEFAULT.series, reader.values, strict=True):
        assert value in series.metric.buckets or value % max(series.metric.step, 1) == 0


@given(st.integers(0, 59), st.integers(0, 255))
def test_every_changed_byte_of_a_frame_stays_in_the_family(place: int, byte: int) -> None:
    frame = bytearray(encode_frame(DEFAULT, 1, GOOD))
    frame[place] = byte
    reader = FrameReader(DEFAULT, 0.0)
    for data in (bytes(frame), bytes(frame[:place])):
        try:
            reader.take(data, 100.0)
        except FrameRefused:
            continue


@pytest.fixture
def shown() -> Iterator[tuple[int, int]]:
    """The process that shows metrics, here in a thread: the pipe to it, and its port."""
    frames, pipe = os.pipe()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        server = EgressServer(DEFAULT, frames, listener, time.monotonic)
        thread = threading.Thread(target=server.serve, daemon=True)
        thread.start()
        yield pipe, listener.getsockname()[1]
        os.close(pipe)
        thread.join(10)
        assert not thread.is_alive()
    os.close(frames)


def asked(port: int, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(4096), b""))


def test_the_other_process_shows_only_what_passed(shown: tuple[int, int]) -> None:
    pipe, port = shown
    os.write(pipe, changed(0, 40))
    for attempt in (b"x" * 60, changed(0, 61, number=2), changed(TOKENS_AT, 10**9, number=3)):
        os.write(pipe, attempt)
        time.sleep(0.05)
    answer = asked(port, b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")
    assert answer.partition(b"\r\n\r\n")[2] == render(DEFAULT, (40, *GOOD[1:]))


@pytest.mark.parametrize(
    "request_",
    [
        b"POST /metrics HTTP/1.1\r\n\r\n",
        b"GET /metrics?name=x HTTP/1.1\r\n\r\n",
        b"GET /debug HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"DRAIN /\r\n\r\n",
        b"\x16\x03\x01\r\n\r\n",
        b"a" * 3000,
    ],
)
def test_every_other_verb_is_unknown(shown: tuple[int, int], request_: bytes) -> None:
    assert asked(shown[1], request_).startswith(b"HTTP/1.1 404 ")


# Policies.

TABLE = DEFAULT.table()


@pytest.mark.parametrize(
    "metrics",
    [
        {},
        {"interval_s": 10, "metrics": "*"},
        {"interval_s": 10, "metrics": [{**TABLE["metrics"][0], "name": "*"}]},
        {"interval_s": 10, "metrics": [{**TABLE["metrics"][0], "label_values": ["*"]}]},
        {"interval_s": 10, "metrics": [{**TABLE["metrics"][1], "step": 1}]},
        "\x00",
    ],
)
def test_a_policy_that_was_deleted_corrupted_or_opened_wide_starts_no_node(metrics: Any) -> None:
    good = json.loads(node_config({}, model_name="m", gpu_count=0).encode())
    NodeConfig.parse(json.dumps(good).encode())  # control
    with pytest.raises(ConfigurationError):
        NodeConfig.parse(json.dumps({**good, "metrics": metrics}).encode())
    del good["metrics"]
    with pytest.raises(ConfigurationError):
        NodeConfig.parse(json.dumps(good).encode())


@pytest.mark.parametrize("name", ["gpu_policy", "padding", "engine", "tokens", "admission", "tolerate", "v"])
@pytest.mark.parametrize("value", ["*", ["*"], {"*": "*"}, None])
def test_every_other_policy_deleted_or_opened_wide_starts_no_node(name: str, value: Any, model: Path) -> None:
    good = json.loads(node_config({}, model_name="m", gpu_count=0).encode())
    with pytest.raises(ConfigurationError):
        NodeConfig.parse(json.dumps({k: v for k, v in good.items() if k != name}).encode())
    try:
        config = NodeConfig.parse(json.dumps({**good, name: value}).encode())
    except ConfigurationError:
        return
    # Tables that other rooms read are refused by those rooms, before anything is loaded.
    readers = {"gpu_policy": node._policy, "padding": node._padding, "engine": node._engine_config}
    with pytest.raises(ConfigurationError):
        readers.get(name, node._tokens)(config)


# Without the second process.


def test_a_node_whose_metrics_nobody_takes_ends(tmp_path: Path, model: Path) -> None:
    quick = {**TABLE, "interval_s": 1}

    with running(tmp_path, model, change=lambda config: replace(config, metrics=quick)) as served:
        assert b"# EOF" in served.metrics()
        pid = served.process.pid
        (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        os.kill(int(child), signal.SIGKILL)
        assert served.process.wait(20) == ExitCode.EGRESS
