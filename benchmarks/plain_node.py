"""The plain arm: the node's own engine and inner application behind plain HTTP, without any protection.

``python -m benchmarks.plain_node --model PATH`` serves the API that a sealed node serves inside the
encryption, with no evidence, no OHTTP, no cells and no seal, so that what those cost can be measured. It
listens on the loopback interface alone and prints ``{"event":"listening","port":N}``. This is the one
program of this room that imports the node; the load reaches either arm over HTTP alone.
"""

import argparse
import asyncio
import json
import socket
import sys
import time
from pathlib import Path

import uvicorn

from enclave_runtime.api import inner_app
from enclave_runtime.completions import EngineCompletions
from enclave_runtime.engine.engine import Engine, EngineConfig
from enclave_runtime.engine.errors import EngineError
from enclave_runtime.engine.model import load_model
from enclave_runtime.metrics import Metrics
from enclave_runtime.standing_thread import StandingThread


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
    options = parser.parse_args(arguments)
    try:
        model = load_model(options.model)
        engine = Engine(model, EngineConfig(**options.engine))
        listener = socket.create_server(("127.0.0.1", options.port))
        # asyncio does this for sockets it makes itself; without it small answers wait for an acknowledgement.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except (EngineError, OSError, TypeError) as error:
        print(f"plain_node: {error}", file=sys.stderr)
        return 1
    engine.start()
    try:
        engine.warm_up()
        asyncio.run(_serve(engine, options.name or model.name, listener))
    finally:
        engine.stop()
    return 0


async def _serve(engine: Engine, name: str, listener: socket.socket) -> None:
    tokenising = StandingThread("tokenising")
    completions = EngineCompletions(engine, name, tokenising)
    counted = Metrics(time.monotonic, completions.queue_depth)
    app = inner_app(completions, NoEvidence(), counted, time.time)
    server = uvicorn.Server(
        uvicorn.Config(app, loop="none", http="h11", ws="none", log_level="error", lifespan="off")
    )
    port = listener.getsockname()[1]
    digest = engine.model.model_digest.hex()
    print(json.dumps({"event": "listening", "port": port, "model": name, "model_digest": digest}), flush=True)
    try:
        await server.serve(sockets=[listener])
    finally:
        tokenising.stop()


if __name__ == "__main__":
    sys.exit(main())
