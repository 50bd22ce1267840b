"""The arms: ways to a model that are measured against each other, each booted anew for every boot.

``plain``: the node's engine and API over plain HTTP on the loopback interface, no protection at all. ``sealed``:
the same, behind the seal. ``sealed+ohttp``: a whole node, its evidence verified, reached through a relay, answers
unpaced. ``sealed+ohttp+paced``: the same with the node's default cells. Any other name is an arm that runs
elsewhere and is reached at ``--target``: a relay's URL (with a policy), or ``openai:URL`` for any server that speaks
OpenAI's API.
"""

import base64
import json
import statistics as medians
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from benchmarks import metrics
from benchmarks.load import LoadError
from benchmarks.local_release import Released, release
from client_sdk.client import PrivateClient
from client_sdk.demo.processes import cloister, listening
from client_sdk.policy import Policy
from ohttp.chunked import ChunkedClient
from ohttp.keyconfig import parse_key_configs, preferred

TIMEOUT_S = 600.0
SEALINGS = 25
REQUEST_BYTES = 2048

PLAIN, SEALED, UNPACED, PACED = LOCAL = ("plain", "sealed", "sealed+ohttp", "sealed+ohttp+paced")
_PLAIN_FACTS: tuple[str, ...] = ("model_digest", "seal")
_PADDING: Mapping[str, dict[str, str]] = {UNPACED: {"name": "off"}, PACED: {}}


@dataclass(frozen=True, slots=True)
class Booted:
    """A booted arm: how to reach it, the model's name there, seconds by component, and facts for the record."""

    client: httpx2.AsyncClient
    model: str
    components: Mapping[str, float]
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Arm:
    """An arm by name; ``boot`` brings it up and takes it down again."""

    name: str
    boot: Callable[[], AbstractAsyncContextManager[Booted]]


def local_arm(name: str, state: Path, model: Path, engine: Mapping[str, int]) -> Arm:
    """One of :data:`LOCAL`, started on this machine. Raises ValueError for another name."""
    if name in (PLAIN, SEALED):
        return Arm(name, lambda: _plain(model, engine, sealed=name == SEALED))
    if name not in _PADDING:
        raise ValueError(f"the arms that can be started here are {', '.join(LOCAL)}; others need --target")
    return Arm(name, lambda: _node(state, model, engine, _PADDING[name]))


def remote_arm(name: str, target: str, policy: Policy | None) -> Arm:
    """An arm that runs already, at a relay's URL or ``openai:URL``. Raises ValueError where a policy is missing."""
    if target.startswith("openai:"):
        return Arm(name, lambda: _openai(target.removeprefix("openai:")))
    if policy is None:
        raise ValueError("a node behind a relay is verified first: give its --policy")
    return Arm(name, lambda: _verified(target, policy))


@asynccontextmanager
async def _plain(model: Path, engine: Mapping[str, int], *, sealed: bool) -> AsyncIterator[Booted]:
    command = [
        sys.executable,
        "-m",
        "benchmarks.plain_node",
        "--model",
        str(model),
        "--engine",
        json.dumps(engine),
    ]
    began = time.monotonic()
    with listening("the plain node", [*command, *(["--seal"] if sealed else [])]) as node:
        booted = time.monotonic() - began
        async with _openai(f"http://127.0.0.1:{node.port}") as reached:
            facts: dict[str, Any] = {name: node.event[name] for name in _PLAIN_FACTS if name in node.event}
            components = {metrics.BOOT.name: booted, **_steps(node.event)}
            yield Booted(reached.client, reached.model, components, facts)


@asynccontextmanager
async def _openai(url: str) -> AsyncIterator[Booted]:
    async with httpx2.AsyncClient(base_url=url, timeout=TIMEOUT_S, trust_env=False) as client:
        yield Booted(client, await _model_of(client), {}, {})


@asynccontextmanager
async def _node(
    state: Path, model: Path, engine: Mapping[str, int], padding: Mapping[str, str]
) -> AsyncIterator[Booted]:
    released = release(state, model, engine, padding)
    began = time.monotonic()
    with _serving(released, model) as (relay, steps):
        booted = time.monotonic() - began
        async with _verified(relay, released.policy) as reached:
            components = {metrics.BOOT.name: booted, **steps, **reached.components}
            yield Booted(reached.client, reached.model, components, reached.facts)


@contextmanager
def _serving(released: Released, model: Path) -> Iterator[tuple[str, dict[str, float]]]:
    """The node and a relay before it, each a process; the relay's URL, and the seconds of the node's boot."""
    serve = cloister("serve", "--image", str(released.image), "--model", str(model), *released.options)
    with listening("the node", [*serve, "--staple", str(released.staple), "--port", "0"]) as node:
        target = f"node=http://127.0.0.1:{node.port}"
        with listening("the relay", cloister("relay", "--target", target, "--port", "0", "--json")) as relay:
            yield f"http://127.0.0.1:{relay.port}/node", _steps(node.event)


@asynccontextmanager
async def _verified(relay: str, policy: Policy) -> AsyncIterator[Booted]:
    """A node behind ``relay``, verified before anything is sent. Raises ClientError where it is refused."""
    private = PrivateClient(relay, policy, timeout=TIMEOUT_S)
    try:
        began = time.monotonic()
        verification = private.verify()
        node = verification.require()
        attested = time.monotonic() - began
        evidence = json.loads(private.evidence or b"{}")
        facts = {
            "policy": verification.policy_name,
            "evidence_sha256": verification.bundle_digest.hex(),
            "simulated": verification.simulated,
            "release": f"{node.release.name} {node.release.version}",
            "runtime": json.loads(base64.b64decode(evidence["runtime"])),
        }
        sealing = _sealing_time(base64.b64decode(evidence["ohttp_keys"]))
        components = {metrics.ATTEST.name: attested, metrics.ENCAPSULATE.name: sealing}
        transport = private.async_http_transport()
        async with httpx2.AsyncClient(transport=transport, base_url="https://cloister.internal") as client:
            yield Booted(client, await _model_of(client), components, facts)
    finally:
        await private.aclose()


def _steps(event: Mapping[str, Any]) -> dict[str, float]:
    """What a server says of the steps of its boot, those that are known here."""
    known = {metric.name for metric in metrics.PER_BOOT}
    return {name: float(took) for name, took in event.get("seconds", {}).items() if name in known}


def _sealing_time(key_configs: bytes) -> float:
    """Median seconds to seal one request of :data:`REQUEST_BYTES` to a node's preferred key."""
    config = preferred(parse_key_configs(key_configs))
    took = []
    for _ in range(SEALINGS):
        began = time.perf_counter()
        ChunkedClient(config).seal_request(bytes(REQUEST_BYTES))
        took.append(time.perf_counter() - began)
    return medians.median(took)


async def _model_of(client: httpx2.AsyncClient) -> str:
    try:
        reply = await client.get("/v1/models")
        return str(reply.json()["data"][0]["id"])
    except httpx2.HTTPError as error:
        raise LoadError("transport", f"the arm's list of models: {type(error).__name__}") from error
    except (ValueError, LookupError, TypeError) as error:
        raise LoadError("malformed", "the arm lists no model") from error
