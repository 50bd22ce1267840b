"""Somebody wants what another client's lease holds: its keys and values, or only to know what was asked.

How much is computed for a prompt tells whether it was found in a lease, without the noise of a clock; the exhaustive
test looks at the clock, too. Controls: the lease itself, brought by its holder; a node that knows leases by what their
holders chose; a lease whose pages are not cleared.
"""

import asyncio
import hashlib
import json
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lease_pages import table_of
from sealed_node import MODEL_NAME, ROOM, chat, write_tiny_model
from step_rows import planned_rows
from timing_statistics import equivalence_bounds, ks_p_value

from enclave_runtime.api import inner_app
from enclave_runtime.completions import EngineCompletions
from enclave_runtime.engine.engine import Engine
from enclave_runtime.engine.engine_config import EngineConfig
from enclave_runtime.engine.model import load_model
from enclave_runtime.engine.request import GenerationRequest
from enclave_runtime.lease_settings import LeaseSettings
from enclave_runtime.leases import HALF, Leases, decoded, encoded
from enclave_runtime.metrics import Metrics
from enclave_runtime.metrics_schema import DEFAULT
from enclave_runtime.standing_thread import StandingThread

SECRET = bytes(range(HALF))
QUESTION = "my diagnosis is " + "x" * 150
SAMPLES = 260
DELTA_S = 0.001
"""Two means within this are equal, decided beforehand."""


@dataclass
class Node:
    """An engine behind the API, without the encryption, which is not what is attacked here."""

    engine: Engine
    desk: Leases
    completions: EngineCompletions
    app: Any
    rows: list[int]

    async def ask(self, content: str, **options: Any) -> tuple[int, list[int], dict[str, Any]]:
        """Status, the positions that were computed, and the answer."""
        self.rows.clear()
        status, body = await self.post("/v1/chat/completions", chat(content, **options))
        return status, [sum(self.rows)], body

    async def post(self, path: str, document: Any) -> tuple[int, dict[str, Any]]:
        said = Said()
        await self.app(scope(path), Reader(document).receive, said.send)
        return said.status, json.loads(said.body)

    async def hold(self, secret: bytes = SECRET, **options: Any) -> "Held":
        """Open the stream of a lease, and read what it begins with."""
        reader, said = Reader({"secret": encoded(secret), **options}), Said()
        task = asyncio.create_task(self.app(scope("/v1/lease"), reader.receive, said.send))
        await asyncio.wait_for(said.begun.wait(), 20)
        assert said.status == 200
        told = json.loads(said.body.removeprefix(b"data: "))
        ticket = decoded(told["ticket"], HALF)
        assert ticket is not None
        return Held(ticket, encoded(ticket + secret), reader, said, task)


class Reader:
    """A client's side of ASGI: sends its body, and stays until it leaves."""

    def __init__(self, document: Any) -> None:
        self._body: bytes | None = json.dumps(document).encode()
        self.left = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        body, self._body = self._body, None
        if body is not None:
            return {"type": "http.request", "body": body, "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}


class Said:
    """What the application sent."""

    def __init__(self) -> None:
        self.status, self.body, self.begun, self.over = 0, b"", asyncio.Event(), False

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            return
        self.body += message.get("body", b"")
        self.over = not message.get("more_body", False)
        self.begun.set()


@dataclass
class Held:
    """A lease that is held."""

    ticket: bytes
    credential: str
    reader: Reader
    said: Said
    stream: "asyncio.Task[None]"

    async def leave(self) -> None:
        self.reader.left.set()
        await asyncio.wait_for(self.stream, 20)


def scope(path: str) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "https",
        "headers": [(b"content-type", b"application/json")],
        "client": None,
        "server": None,
    }


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    config = EngineConfig(max_batch=2, max_queue=4, max_context=ROOM, step_budget=256)
    engine = Engine(load_model(write_tiny_model(tmp_path / "tiny")), config, leases=2, lease_tokens=192)
    engine.start()
    desk = Leases(engine, LeaseSettings(count=2, tokens=192, seconds=30))
    thread = StandingThread("prompts")
    completions = EngineCompletions(engine, MODEL_NAME, thread, None, desk)
    metrics = Metrics(DEFAULT, completions.queue_depth)
    rows = planned_rows(engine, least=2)
    yield Node(engine, desk, completions, inner_app(completions, None, metrics, lambda: 0.0), rows)  # type: ignore[arg-type]
    engine.stop()
    thread.stop()


def played(attack: Callable[[], Awaitable[Any]]) -> Any:
    async def whole() -> Any:
        return await asyncio.wait_for(attack(), 60)

    return asyncio.run(whole())


def used(node: Node) -> int:
    return node.engine.pool.total_pages - node.engine.pool.free_pages


async def next_step(node: Node) -> None:
    """What was asked of the engine's thread before is done now."""
    await asyncio.wrap_future(node.engine.between_steps(lambda: None))


def test_control_with_the_lease_it_is_not(node: Node) -> None:
    async def attack() -> None:
        held = await node.hold()
        first = await node.ask(QUESTION, lease=held.credential)
        again = await node.ask(QUESTION, lease=held.credential)
        assert (first[0], again[0]) == (200, 200)
        assert again[1][0] <= first[1][0] - 128
        await held.leave()

    played(attack)


def test_without_the_lease_everything_is_computed_again(node: Node) -> None:
    async def attack() -> None:
        held, mine = await node.hold(), await node.hold(b"m" * HALF)
        first = await node.ask(QUESTION, seed=1, lease=held.credential)
        for options in ({}, {"lease": mine.credential}):
            found = await node.ask(QUESTION, seed=1, **options)
            assert found[:2] == first[:2]
            assert found[2]["choices"] == first[2]["choices"]

    played(attack)


@pytest.mark.parametrize(
    "credential",
    [
        "guessed",
        "its secret without its ticket",
        "its ticket without its secret",
        "halves swapped",
        "its salt",
        "ended",
    ],
)
def test_guessed_borrowed_and_ended_credentials_are_worth_nothing(node: Node, credential: str) -> None:
    """They are not refused either: whoever tries learns nothing from the answer."""

    async def attack() -> None:
        held = await node.hold()
        full = await node.ask(QUESTION, seed=1, lease=held.credential)
        salt = node.desk._salt(held.ticket, SECRET)
        tried = {
            "guessed": bytes(2 * HALF),
            "its secret without its ticket": bytes(HALF) + SECRET,
            "its ticket without its secret": held.ticket + bytes(HALF),
            "halves swapped": SECRET + held.ticket,
            "its salt": salt + salt,
            "ended": held.ticket + SECRET,
        }[credential]
        if credential == "ended":
            await held.leave()
        found = await node.ask(QUESTION, seed=1, lease=encoded(tried))
        assert found[:2] == full[:2]
        assert found[2]["choices"] == full[2]["choices"]
        assert set(found[2]) == set(full[2])

    played(attack)


def test_a_credential_of_another_boot_is_worth_nothing(node: Node) -> None:
    async def attack() -> None:
        held = await node.hold()
        other = Leases(node.engine, node.desk.settings)
        assert other.find(held.credential) is None
        assert other._salt(held.ticket, SECRET) != node.desk._salt(held.ticket, SECRET)
        assert node.desk.find(held.credential) is not None
        await held.leave()
        assert node.desk.find(held.credential) is None

    played(attack)


def test_control_a_node_that_knows_leases_by_what_clients_chose_lets_in_who_guesses_it(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The defence removed: the caller's own bytes are the salt."""
    monkeypatch.setattr(Leases, "_salt", lambda _self, _ticket, secret: secret)
    weak = hashlib.sha256(b"user-17").digest()

    async def attack() -> None:
        held = await node.hold(weak)
        first = await node.ask(QUESTION, lease=held.credential)
        found = await node.ask(QUESTION, lease=encoded(bytes(HALF) + weak))
        assert found[1][0] <= first[1][0] - 128

    played(attack)


def test_a_weak_secret_opens_nobody_elses_lease(node: Node) -> None:
    weak = hashlib.sha256(b"user-17").digest()

    async def attack() -> None:
        held = await node.hold(weak)
        first = await node.ask(QUESTION, lease=held.credential)
        mine = await node.hold(weak)
        assert mine.credential != held.credential
        assert (await node.ask(QUESTION, lease=mine.credential))[1] == first[1]
        assert (await node.ask(QUESTION, lease=encoded(bytes(HALF) + weak)))[1] == first[1]

    played(attack)


def test_bytes_moved_from_one_half_to_the_other_give_another_salt(node: Node) -> None:
    whole = bytes(range(64))
    salts = {node.desk._salt(whole[:cut], whole[cut:]) for cut in range(65)}
    assert len(salts) == 65


def test_control_without_their_lengths_the_halves_run_into_each_other() -> None:
    whole = bytes(range(64))
    assert len({hashlib.sha256(whole[:cut] + whole[cut:]).digest() for cut in range(65)}) == 1


@pytest.mark.parametrize(
    "how", ["its reader leaves", "its time is up", "drained", "stopped", "in the middle of an answer"]
)
def test_nothing_is_left_of_a_lease_however_it_ends(node: Node, how: str) -> None:
    async def attack() -> None:
        held = await node.hold(seconds=1 if how == "its time is up" else 30)
        await node.ask(QUESTION, lease=held.credential)
        if how != "its time is up":
            assert bool(node.engine.pool.storage.any())
        if how == "its reader leaves":
            await held.leave()
        elif how == "drained":
            node.completions.close()
        elif how == "stopped":
            node.engine.stop()
            return
        elif how == "in the middle of an answer":
            answer = asyncio.create_task(
                node.ask(QUESTION, lease=held.credential, max_tokens=60, ignore_eos=True)
            )
            await asyncio.sleep(0.01)
            await held.leave()
            assert (await answer)[0] == 200
        if how in ("drained", "its time is up"):
            await asyncio.wait_for(held.stream, 20)
            assert held.said.over
            assert held.said.body.endswith(b"data: [DONE]\n\n")
            assert not bool(node.engine.pool.storage.any()), "it was gone before the reader was told"
        await next_step(node)

    played(attack)
    assert used(node) == 0 or how == "stopped"
    assert not bool(node.engine.pool.storage.any())


def test_control_pages_of_a_lease_that_are_not_cleared_hold_the_victims_keys(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Forgetful:
        """A record of written pages that never records one."""

        def __getitem__(self, pages: Any) -> object:
            return np.zeros(len(pages), dtype=np.bool_)

        def __setitem__(self, _pages: object, _value: object) -> None:
            pass

    monkeypatch.setattr(node.engine.pool, "_written", Forgetful())

    async def attack() -> None:
        held = await node.hold()
        await node.ask(QUESTION, lease=held.credential)
        await held.leave()
        await next_step(node)

    played(attack)
    assert used(node) == 0
    assert bool(node.engine.pool.storage.any())


def test_taking_more_than_there_is(node: Node) -> None:
    """Leases are few: who comes too late is told so, and nobody's prompt waits for it."""

    async def attack() -> None:
        held = [await node.hold(bytes([number]) * HALF) for number in range(2)]
        status, refusal = await node.post("/v1/lease", {"secret": encoded(SECRET)})
        assert (status, refusal["error"]["code"]) == (503, "overloaded")
        for lease in held:
            assert (await node.ask("y" * 200, lease=lease.credential))[0] == 200
        assert used(node) == 2 * node.engine.pool.pages_for(192)
        await held[0].leave()
        await next_step(node)
        assert (await node.hold()).ticket

    played(attack)


def test_a_node_without_leases_has_no_way_to_ask_for_one(node: Node) -> None:
    node.completions.leases = None
    node.app = inner_app(node.completions, None, Metrics(DEFAULT, lambda: 0), lambda: 0.0)  # type: ignore[arg-type]

    async def attack() -> None:
        status, refusal = await node.post("/v1/lease", {"secret": encoded(SECRET)})
        assert (status, refusal["error"]["code"]) == (404, "not_found")
        status, _, refusal = await node.ask(QUESTION, lease="A" * 86)
        assert (status, refusal["error"]["code"]) == (400, "unsupported_parameter")

    played(attack)


def test_an_engine_that_breaks_ends_the_streams_of_its_leases(node: Node) -> None:
    """A lease whose end cannot be carried out in order: everything is cleared, and nobody waits for ever."""

    async def attack() -> None:
        held = await node.hold(seconds=1)
        await node.ask(QUESTION, lease=held.credential)
        lease = node.desk.find(held.credential)
        assert lease is not None
        table_of(lease).owner += 1
        await asyncio.wait_for(held.stream, 20)
        assert held.said.over

    played(attack)
    node.engine.stop()
    assert not bool(node.engine.pool.storage.any())


@pytest.mark.exhaustive
def test_the_clock_does_not_tell_what_somebody_elses_lease_holds(node: Node) -> None:
    """≥ 250 samples an arm in random order: a victim's lease holds the one prompt and not the other, and the attacker
    brings a lease of its own. A difference test, and an equivalence test within DELTA_S; the victim's own lease is the
    control, whose difference must be beyond doubt (p < 1e-8).
    """
    engine, chance = node.engine, random.Random(7)
    known = [chance.randrange(2, 250) for _ in range(200)]

    def new() -> list[int]:
        return [chance.randrange(2, 250) for _ in range(200)]

    def ask(tokens: list[int], lease: Any) -> float:
        begun = time.perf_counter()
        engine.submit(GenerationRequest(tokens, 1, temperature=0.0, lease=lease)).collect()
        return time.perf_counter() - begun

    victim, attacker = engine.open_lease(b"victim"), engine.open_lease(b"attacker")

    def arms(lease: Any) -> tuple[list[float], list[float]]:
        times: dict[bool, list[float]] = {True: [], False: []}
        order = [True, False] * SAMPLES
        chance.shuffle(order)
        for asked_before in order:
            ask(known, victim)  # the victim's lease holds it, whatever was measured last
            # The attacker's own lease holds something else each time.
            ask(new(), lease)
            if lease is victim:
                ask(known, victim)
            times[asked_before].append(ask(known if asked_before else new(), lease))
        return times[True], times[False]

    for _ in range(20):
        ask(known, None)
    held, fresh = arms(attacker)
    assert ks_p_value(held, fresh) > 0.001
    low, high = equivalence_bounds(held, fresh)
    assert low > -DELTA_S
    assert high < DELTA_S
    held, fresh = arms(victim)
    assert ks_p_value(held, fresh) < 1e-8
