"""Everything between a user and a sealed node, for end-to-end tests: log, witness, policy, node, relay.

All of it is the real thing but for the model (tiny, random weights) and the pace of the cells.
"""

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import uvicorn
from sealed_node import Node, running, tiny_config, volumes

from attestation.simulated.launch import measure_launch
from attestation.simulated.platform import Platform
from client_sdk.client import PrivateClient
from client_sdk.policy import Policy
from enclave_runtime.config import NodeConfig
from measurements.policy import policy_table
from measurements.publish import ReleaseDraft, ReleaseLog, create_log
from measurements.release_signature import ReleaseSignature
from measurements.signing_key import SigningKey
from measurements.statement import Subject
from ohttp.relay import Relay

GPU = {
    "tee": "nvidia-gpu",
    "arch": "HOPPER",
    "ccMode": "on",
    "driver": ["590.12"],
    "vbios": ["96.00.A5.00.01"],
}
POLICY_HEAD = 'version = 1\nname = "tests"\n[gpu]\ncount = 1\n'


def now() -> datetime:
    """The wall clock: processes of these tests have to agree on the time."""
    return datetime.now(UTC)


@dataclass
class World:
    """A running node behind a relay, and what a client needs to trust it."""

    folder: Path
    node: Node
    relay_url: str
    policy_file: Path

    @property
    def policy(self) -> Policy:
        """The policy that trusts this world's log and its simulated platform."""
        return Policy.load(self.policy_file)

    def client(self, relay: str | None = None, **options: Any) -> PrivateClient:
        """A client of the node, through the relay."""
        return PrivateClient(relay or f"{self.relay_url}/node", self.policy, timeout=30, **options)


@contextlib.contextmanager
def private_world(
    folder: Path,
    model: Path,
    *,
    released: bytes | None = None,
    signature: ReleaseSignature | None = None,
    tokens: dict[str, Any] | None = None,
    change: Callable[[NodeConfig], NodeConfig] = lambda config: config,
) -> Iterator[World]:
    """Publish, boot and relay. ``released``: the launch digest to publish, else the one the node will have.
    ``tokens``: which blind tokens it asks for. ``change`` makes another configuration of the usual one."""
    platform = Platform.open(folder / "state", now, 1)
    config = change(tiny_config(platform, tokens=tokens))
    digest = released or measure_launch(config.encode(), volumes(folder, model))
    staple, transparency = publish(folder, digest, signature)
    policy_file = folder / "policy.toml"
    policy_file.write_text("\n".join((POLICY_HEAD, platform.policy_table(), transparency)))
    with (
        running(folder, model, staple=staple, tokens=tokens, change=change) as node,
        relay({"node": f"http://127.0.0.1:{node.port}"}) as url,
    ):
        yield World(folder, node, url, policy_file)


def publish(folder: Path, digest: bytes, signature: ReleaseSignature | None = None) -> tuple[Path, str]:
    """Log a release of a node with this launch digest; the staple's file and the [transparency] table."""
    log_folder = folder / "log"
    if not log_folder.exists():
        create_log(log_folder, origin="log.test/releases", witness="witness.test", now=now)
        SigningKey.generate("signer.test").save(folder / "signer.key")
    signer = SigningKey.load(folder / "signer.key")
    log = ReleaseLog.open(log_folder, now)
    measurements = ({"tee": "sev-snp", "launchDigest": digest.hex()}, GPU)
    draft = ReleaseDraft("test/node", "1", "prod", (Subject("image", digest.hex()[:64]),), measurements)
    published = log.publish(draft, [signer], signature=signature)
    staple = folder / "staple.json"
    staple.write_bytes(published.staple.encode())
    table = policy_table(
        log=log.tiles.key, witnesses=log.tiles.witnesses, signers=[signer.public], channel="prod"
    )
    return staple, table + (signature.policy_lines() if signature else "")


@contextlib.contextmanager
def relay(targets: dict[str, str], directory: Callable[[], bytes] | None = None) -> Iterator[str]:
    """A relay on a free port, in a thread; its URL."""
    client = httpx2.AsyncClient(timeout=30, trust_env=False)
    with serving(Relay(targets, client, directory=directory)) as url:
        yield url


@contextlib.contextmanager
def serving(app: Any) -> Iterator[str]:
    """Any ASGI app on a free port, in a thread; its URL."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            app, log_level="critical", access_log=False, lifespan="off", server_header=False
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)


def cloister(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the command line in a process of its own."""

    command = [sys.executable, "-m", "client_sdk", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
