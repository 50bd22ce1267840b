"""One arm of the comparison of defences: an engine in a process of its own, with some of a node's defences in force.

``python -m benchmarks.defence_arm ARM MODEL``. It says ``ready`` on standard output, then answers one fixed request for
each line on standard input, and says how many seconds that took (for the arms of the cells: to the first text, and to
the end). Started by ``benchmarks.defences``.
"""

import asyncio
import base64
import hashlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from enclave_runtime import boot, egress, seal, wiped_memory
from enclave_runtime.metrics_schema import DEFAULT

if TYPE_CHECKING:
    from enclave_runtime.engine.engine import Engine

ARMS: Final = ("bare", "pages", "memory", "sealed", "egress", "open", "paced")
"""Each of the first five has what the one before it has, and one defence more; so have the last two."""

FRAMES_PER_S: Final = 100
"""How often numbers go to the second process: a thousand times as often as a node does it."""

_PROMPT = "Explain in simple words why the sky is blue, and why it is red in the evening. " * 2
_TOKENS = 32
_TOLERATED = (seal.Piece.MEMORY_LOCKED,)

Request = Callable[[], tuple[float, ...]]


def main(arguments: list[str]) -> int:
    """Serve one arm until standard input ends."""
    arm, model = ARMS.index(arguments[0]), Path(arguments[1]).resolve()
    cells = arm >= ARMS.index("open")
    if ARMS.index("memory") <= arm and not cells:
        wiped_memory.start_again(os.environ)
    asked, told = os.dup(0), os.dup(1)
    sealed = ARMS.index("sealed") <= arm and not cells
    confined = None
    if sealed:
        read = (*boot.code_paths(), model, *map(Path, boot.DEVICES_AND_FACTS))
        confined = seal.confine(
            read=read, bind_ports=(0,), keep_descriptors={asked, told}, tolerate=_TOLERATED
        )
    shown = None
    if confined is not None and ARMS[arm] == "egress":
        listener = boot.bind("127.0.0.1", 0)
        shown = egress.start(DEFAULT, listener, confined, tolerate=_TOLERATED, close=(asked, told))
    engine = _engine(model, zeroed=arm >= ARMS.index("pages"))
    request = _through_the_gateway(engine, paced=ARMS[arm] == "paced") if cells else _alone(engine)
    if shown is not None:
        threading.Thread(target=_keep_showing, args=(shown,), daemon=True).start()
    request()
    if confined is not None:
        kept = {asked, told, *([] if shown is None else [shown.pipe])}
        seal.seal(confined, keep_streams=kept, tolerate=_TOLERATED)
    os.write(told, b"ready\n")
    while os.read(asked, 1):
        os.write(told, (json.dumps(request()) + "\n").encode())
    os._exit(0)  # an engine's thread in the middle of a step is of no interest any more


def _keep_showing(shown: egress.Egress) -> None:
    number = 0
    while True:
        number += 1
        shown.send((20 * number, 0, 0, 0, 0, 1000 * number, 4))
        time.sleep(1 / FRAMES_PER_S)


def _engine(model: Path, *, zeroed: bool) -> "Engine":
    from enclave_runtime.engine.engine import Engine
    from enclave_runtime.engine.engine_config import EngineConfig
    from enclave_runtime.engine.model import load_model

    engine = Engine(load_model(model), EngineConfig(max_batch=2, max_queue=4, max_context=1024))
    if not zeroed:
        engine.pool.zero = lambda pages: None  # type: ignore[method-assign]
    engine.start()
    engine.warm_up()
    return engine


def _alone(engine: "Engine") -> Request:
    from enclave_runtime.engine.request import GenerationRequest

    tokens = engine.model.tokenizer.encode(_PROMPT)
    asked = GenerationRequest(tokens, _TOKENS, temperature=0.0, ignore_eos=True)

    def request() -> tuple[float]:
        begun = time.perf_counter()
        engine.submit(asked).collect()
        return (time.perf_counter() - begun,)

    return request


def _through_the_gateway(engine: "Engine", *, paced: bool) -> Request:
    from enclave_runtime.api import inner_app
    from enclave_runtime.completions import EngineCompletions
    from enclave_runtime.metrics import Metrics
    from enclave_runtime.standing_thread import StandingThread
    from ohttp.bhttp import Content, ResponseDecoder, encode_request
    from ohttp.bhttp import Request as InnerRequest
    from ohttp.chunked import REQUEST_MEDIA_TYPE, ChunkedClient
    from ohttp.gateway import Gateway
    from ohttp.http_date import format_http_date
    from ohttp.keyconfig import GatewayKey, KeyRing
    from ohttp.padding import CellProfile
    from ohttp.replay import ReplayWindow

    key = GatewayKey.generate(1, 0x0020)
    digest = hashlib.sha256(b"evidence").digest()
    completions = EngineCompletions(engine, "model", StandingThread("prompts"))
    counted = Metrics(DEFAULT, completions.queue_depth)
    gateway = Gateway(
        inner_app(completions, None, counted, time.time),  # type: ignore[arg-type]
        keyring=lambda: KeyRing([key]),
        is_live=digest.__eq__,
        replay=ReplayWindow(),
        profile=CellProfile() if paced else CellProfile("off"),
        now=time.time,
    )
    body = {"model": "model", "messages": [{"role": "user", "content": _PROMPT}], "max_tokens": _TOKENS}
    body |= {"stream": True, "temperature": 0, "ignore_eos": True}

    async def exchange() -> tuple[float, float]:
        headers = (
            (b"content-type", b"application/json"),
            (b"date", format_http_date(time.time())),
            (b"request-id", os.urandom(16).hex().encode()),
            (b"attestation-digest", b"sha-256=:" + base64.b64encode(digest) + b":"),
        )
        path = b"/v1/chat/completions"
        inner = InnerRequest(b"POST", b"https", b"node", path, headers, json.dumps(body).encode())
        client, decoder = ChunkedClient(key.config), ResponseDecoder()
        waiting: list[Any] = [{"type": "http.request", "body": client.seal_request(encode_request(inner))}]
        first, begun = 0.0, time.perf_counter()

        async def receive() -> Any:
            return waiting.pop() if waiting else await asyncio.get_running_loop().create_future()

        async def send(message: Any) -> None:
            nonlocal first
            for chunk in client.receive(message.get("body", b"")) if message.get("body") else ():
                texts = [e.data for e in decoder.feed(chunk) if isinstance(e, Content)]
                if not first and any(b'"content":"' in t and b'"content":""' not in t for t in texts):
                    first = time.perf_counter() - begun

        media_type = (b"content-type", REQUEST_MEDIA_TYPE.encode())
        scope = {"type": "http", "method": "POST", "path": "/ohttp", "headers": [media_type]}
        await gateway(scope, receive, send)
        return first, time.perf_counter() - begun

    return lambda: asyncio.run(exchange())


if __name__ == "__main__":
    with socket.socket():  # the module is there before anything is sealed
        pass
    sys.exit(main(sys.argv[1:]))
