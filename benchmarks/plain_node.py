"""The plain arm: the node's own engine and inner application behind plain HTTP, without any protection.

``python -m benchmarks.plain_node --model PATH`` serves the API that a sealed node serves inside the
encryption, with no evidence, no OHTTP, no cells and no seal, so that what those cost can be measured; with
``--seal`` the node's seal alone is added. It listens on the loopback interface alone and prints
``{"event":"listening","port":N}``. The load reaches either arm over HTTP.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from enclave_runtime import seal, wiped_memory
from enclave_runtime.boot import DEVICES_AND_FACTS, code_paths
from enclave_runtime.boot_clock import BootClock

if TYPE_CHECKING:
    import uvicorn


#: A simulated machine may lack the right to lock its memory, and its nodes tolerate that.
_TOLERATED = (seal.Piece.MEMORY_LOCKED,)


class NoEvidence:
    """A plain server has nothing to show for itself."""

    def current(self) -> bytes:
        """No bundle."""
        return b""

    async def fresh(self, nonce: bytes) -> bytes | None:
        """No bundle."""
        return None


def main(arguments: list[str] | None = None) -> int:
    """Serve until stopped. Returns 1 where the model cannot be loaded or the port is taken."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plain_node", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="a .gguf file or a model folder")
    parser.add_argument("--name", help="the name that requests give; default: the model's own")
    parser.add_argument("--engine", type=json.loads, default={}, help="engine settings as a JSON object")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--seal", action="store_true", help="put the node's seal in force before listening")
    options = parser.parse_args(arguments)
    confined = _confined(options) if options.seal else None
    from enclave_runtime.engine.engine import Engine
    from enclave_runtime.engine.engine_config import EngineConfig
    from enclave_runtime.engine.errors import EngineError
    from enclave_runtime.engine.model import load_model

    clock = BootClock()
    try:
        model = load_model(options.model.resolve())
        engine = Engine(model, EngineConfig(**options.engine))
        listener = socket.create_server(("127.0.0.1", options.port))
        # asyncio does this for sockets it makes itself; without it small answers wait for an acknowledgement.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except (EngineError, OSError, TypeError) as error:
        print(f"plain_node: {error}", file=sys.stderr)
        return 1
    clock.mark("load")
    engine.start()
    try:
        engine.warm_up()
        clock.mark("warm_up")
        asyncio.run(_serve(engine, options.name or model.name, listener, confined, clock))
    finally:
        engine.stop()
    return 0


def _confined(options: argparse.Namespace) -> seal.SealReport:
    """The seal's first step, before torch is there: its threads must be born confined, as a node's are."""
    wiped_memory.start_again(os.environ)
    read = (*code_paths(), options.model.resolve(), *map(Path, DEVICES_AND_FACTS))
    return seal.confine(read=read, bind_ports=(options.port,), tolerate=_TOLERATED)


async def _serve(
    engine: Any, name: str, listener: socket.socket, confined: seal.SealReport | None, clock: BootClock
) -> None:
    from enclave_runtime.api import inner_app
    from enclave_runtime.completions import EngineCompletions
    from enclave_runtime.http_server import Server, server_config
    from enclave_runtime.metrics import Metrics
    from enclave_runtime.metrics_schema import DEFAULT
    from enclave_runtime.standing_thread import StandingThread

    tokenising = StandingThread("tokenising")
    completions = EngineCompletions(engine, name, tokenising)
    counted = Metrics(DEFAULT, completions.queue_depth)
    server = Server(server_config(inner_app(completions, NoEvidence(), counted, time.time)))
    listening = asyncio.Event()
    server.when_listening = listening.set
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.stop)
    serving = loop.create_task(server.serve([listener]))
    try:
        await listening.wait()
        port = listener.getsockname()[1]
        said: dict[str, Any] = {"event": "listening", "port": port, "model": name}
        said["model_digest"] = engine.model.model_digest.hex()
        announcement = os.dup(sys.stdout.fileno())
        if confined is not None:
            await _rehearse(server.config, name)
            said["seal"] = seal.seal(
                confined, keep_streams={announcement, listener.fileno()}, tolerate=_TOLERATED
            ).as_json()
            clock.mark("seal")
        said["seconds"] = clock.seconds
        os.write(announcement, json.dumps(said).encode() + b"\n")
        os.close(announcement)
        await serving
    finally:
        serving.cancel()
        tokenising.stop()


async def _rehearse(config: "uvicorn.Config", model: str) -> None:
    """Ask one request of every kind over socket pairs, so that what Python imports late is there before the seal."""
    chat = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    await _ask(config, b"GET /v1/models", b"")
    await _ask(config, b"GET /nowhere", b"")
    for stream in (False, True):
        await _ask(config, b"POST /v1/chat/completions", json.dumps(chat | {"stream": stream}).encode())


async def _ask(config: "uvicorn.Config", line: bytes, body: bytes) -> None:
    from uvicorn.server import ServerState

    from enclave_runtime.http_server import PromptProtocol

    ours, theirs = socket.socketpair()
    loop = asyncio.get_running_loop()
    await loop.connect_accepted_socket(lambda: PromptProtocol(config, ServerState(), {}), theirs)
    reader, writer = await asyncio.open_connection(sock=ours)
    length = str(len(body)).encode()
    head = (
        b" HTTP/1.1\r\nhost: node\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: "
    )
    writer.write(line + head + length + b"\r\n\r\n" + body)
    await reader.read()
    writer.close()


if __name__ == "__main__":
    sys.exit(main())
