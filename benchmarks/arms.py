"""Bringing the two arms up and reaching them over HTTP."""

import base64
import json
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.load import LoadError
from benchmarks.plain_vs_sealed import Arm, ArmName
from client_sdk.client import PrivateClient
from client_sdk.demo.processes import cloister, listening
from client_sdk.errors import ClientError
from client_sdk.policy import Policy

TIMEOUT_S = 300.0


@contextmanager
def plain_node(model: Path, runtime: Mapping[str, Any]) -> Iterator[str]:
    """A plain server of ``model`` with the engine settings of a sealed node's ``runtime``; gives its base URL.

    Raises ClientError where it does not come up, and LoadError where ``model`` is not the sealed node's.
    """
    engine = json.dumps(runtime["engine"])
    command = [sys.executable, "-m", "benchmarks.plain_node", "--model", str(model), "--engine", engine]
    with listening("the plain node", command) as node:
        expected, found = runtime["model"]["digest"], node.event["model_digest"]
        if expected != found:
            raise LoadError("arms_differ", f"the sealed node runs model {expected[:16]}…, not {found[:16]}…")
        yield f"http://127.0.0.1:{node.port}"


@contextmanager
def sealed_node(state: Path, model: Path) -> Iterator[str]:
    """A sealed node and a relay, each a process, from what ``cloister demo`` left in ``state``; the relay's URL.

    Raises ClientError where the demo's files are missing or either does not come up.
    """
    image, staple = state / "image", state / "staple.json"
    if not (image / "image.json").is_file() or not staple.is_file():
        raise ClientError(
            "no_demo_state", f"{state} holds no image and staple", "run 'cloister demo', or give --relay"
        )
    serve = cloister("serve", "--image", str(image), "--model", str(model), "--staple", str(staple))
    with listening("the node", [*serve, "--state", str(state / "platform"), "--port", "0"]) as node:
        target = f"node=http://127.0.0.1:{node.port}"
        with listening("the relay", cloister("relay", "--target", target, "--port", "0", "--json")) as relay:
            yield f"http://127.0.0.1:{relay.port}/node"


@asynccontextmanager
async def plain_arm(url: str) -> AsyncIterator[Arm]:
    """The plain arm at ``url``. Raises LoadError where it does not answer."""
    async with httpx2.AsyncClient(base_url=url, timeout=TIMEOUT_S, trust_env=False) as client:
        yield await _arm("plain", client)


@asynccontextmanager
async def sealed_arm(relay: str, policy: Policy) -> AsyncIterator[tuple[Arm, dict[str, Any]]]:
    """The sealed arm behind ``relay``, verified before anything is sent, and what its evidence says it runs.

    Raises ClientError where the node is refused or not reached.
    """
    private = PrivateClient(relay, policy, timeout=TIMEOUT_S)
    try:
        verification = private.verify()
        node = verification.require()
        transport = private.async_http_transport()
        async with httpx2.AsyncClient(transport=transport, base_url="https://cloister.internal") as client:
            facts = {
                "policy": verification.policy_name,
                "evidence_sha256": verification.bundle_digest.hex(),
                "simulated": verification.simulated,
                "release": f"{node.release.name} {node.release.version}",
                "runtime": runtime_of(private.evidence or b""),
            }
            yield await _arm("sealed", client), facts
    finally:
        await private.aclose()


def runtime_of(evidence: bytes) -> dict[str, Any]:
    """The runtime manifest inside an evidence bundle that was verified already."""
    manifest = json.loads(base64.b64decode(json.loads(evidence)["runtime"]))
    return dict(manifest)


async def _arm(name: ArmName, client: httpx2.AsyncClient) -> Arm:
    try:
        reply = await client.get("/v1/models")
        return Arm(name, client, str(reply.json()["data"][0]["id"]))
    except httpx2.HTTPError as error:
        raise LoadError("transport", f"the {name} arm: {type(error).__name__}") from error
    except (ValueError, LookupError, TypeError) as error:
        raise LoadError("malformed", f"the {name} arm lists no model") from error
