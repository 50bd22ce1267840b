"""What the gateway adds to an application: ``python -m benchmarks.ohttp_gateway [--json]``.

One ASGI application that echoes 1 KB is served by the same server (uvicorn with h11, a process each, loopback): bare,
and behind the gateway with X25519, with X-Wing, and without padding, since a profile's cells are time spent on
purpose. Beside each stands the floor under it, which does the same exchange by the bare operations of cryptography
(ohttp_floor.py); and the bare application again, for the noise. Requests are sealed beforehand, one connection
an arm is kept open, and the arms take turns within one run. Counted are the time until the whole answer is there and
the processor time that the server's thread took, by round; a ratio is the median of the rounds' own ratios, with
the middle half of them beside it.
"""

import argparse
import base64
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ohttp import kem
from ohttp.asgi import App
from ohttp.bhttp import Request, decode_response, encode_request
from ohttp.chunked import REQUEST_MEDIA_TYPE, RESPONSE_MEDIA_TYPE, ChunkedClient
from ohttp.gateway import Gateway
from ohttp.http_date import format_http_date
from ohttp.keyconfig import GatewayKey, KeyConfig, KeyRing, encode_key_configs, parse_key_configs
from ohttp.padding import CellProfile
from ohttp.replay import ReplayWindow

from .environment import cpu_name, installed
from .ohttp_floor import BODY, Floor
from .statistics import median, quantile

ROUNDS, CALLS = 60, 20
GOAL = 2.0
TURN_S = 600
ARMS: dict[str, tuple[str, int]] = {
    "bare": ("bare", 0),
    "bare again": ("bare", 0),
    "X25519 floor": ("floor", kem.X25519),
    "X25519": ("gateway", kem.X25519),
    "X-Wing floor": ("floor", kem.MLKEM768_X25519),
    "X-Wing": ("gateway", kem.MLKEM768_X25519),
}
_EVIDENCE = bytes(32)


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """The application: what comes goes back."""
    body = await _body(receive)
    headers = [(b"content-type", b"application/octet-stream"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def _body(receive: Any) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body


def gateway_app(kem_id: int) -> App:
    """The application behind the gateway, with one key of this mechanism."""
    ring = KeyRing([GatewayKey.generate(1, kem_id)])
    return Gateway(
        echo,
        keyring=lambda: ring,
        is_live=lambda digest: digest == _EVIDENCE,
        replay=ReplayWindow(),
        profile=CellProfile("off"),
        now=time.time,
    )


def floor_app(kem_id: int) -> App:
    """The floor under ``gateway_app``: the same messages of ASGI, and nothing run in between but cryptography."""
    floor = Floor(kem_id)
    keys = encode_key_configs([floor.config])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        answer = keys if scope["method"] == "GET" else floor.echo(await _body(receive))
        headers = [
            (b"content-type", RESPONSE_MEDIA_TYPE.encode()),
            (b"cache-control", b"no-store"),
            (b"content-length", b"%d" % len(answer)),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer, "more_body": False})

    return app


def serve(kind: str, kem_id: int) -> None:
    """Serve the application as ``kind`` says, under a key of this mechanism where it has one; say the port."""
    import uvicorn

    app: App = echo
    if kind != "bare":
        app = {"gateway": gateway_app, "floor": floor_app}[kind](kem_id)
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    print(listener.getsockname()[1], flush=True)
    config = uvicorn.Config(app, http="h11", ws="none", lifespan="off", log_config=None, access_log=False)
    config.timeout_keep_alive = TURN_S  # an arm waits for its turn
    uvicorn.Server(config).run(sockets=[listener])


@dataclass
class Arm:
    """A server and a connection to it; times by round, in seconds a request."""

    name: str
    process: "subprocess.Popen[str]"
    connection: socket.socket
    bodies: Iterator[bytes]
    head: bytes
    elapsed: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    def round(self, calls: int) -> None:
        """Send ``calls`` requests, one after the other."""
        first, *bodies = [next(self.bodies) for _ in range(calls + 1)]
        exchange(self.connection, self.head % len(first) + first)  # its turn has begun: caches are warm
        used, start = _processor_time(self.process.pid), time.perf_counter()
        for body in bodies:
            answer = exchange(self.connection, self.head % len(body) + body)
            if not answer.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"{self.name}: {answer[:40]!r}")
        self.elapsed.append((time.perf_counter() - start) / calls)
        self.processor.append((_processor_time(self.process.pid) - used) / calls)


def exchange(connection: socket.socket, request: bytes) -> bytes:
    """The whole answer, head and body. Raises RuntimeError for one that does not state its length."""
    connection.sendall(request)
    answer = connection.recv(65536)
    while b"\r\n\r\n" not in answer:
        answer += _more(connection)
    head = answer.partition(b"\r\n\r\n")[0].lower()
    _, found, declared = head.partition(b"content-length: ")
    if not found:
        raise RuntimeError("an answer that is known whole states its length")
    whole = len(head) + 4 + int(declared.partition(b"\r\n")[0])
    while len(answer) < whole:
        answer += _more(connection)
    return answer


def _more(connection: socket.socket) -> bytes:
    part = connection.recv(65536)
    if not part:
        raise ConnectionError("the server closed the connection")
    return part


def _processor_time(pid: int) -> float:
    """Seconds of processor time of the process's main thread."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


@contextmanager
def arm(name: str, kind: str, kem_id: int = 0) -> Iterator[Arm]:
    """Start the server of an arm and connect to it. ``kind``: ``bare``, ``gateway`` or ``floor``."""
    command = [sys.executable, "-m", "benchmarks.ohttp_gateway", "--serve", kind, "--kem", str(kem_id)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            connection = socket.create_connection(("127.0.0.1", port))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with connection:
                path, media_type, bodies = "/", "application/octet-stream", plain_bodies()
                if kind != "bare":
                    path, media_type, bodies = (
                        "/ohttp",
                        REQUEST_MEDIA_TYPE,
                        sealed_bodies(_config(connection)),
                    )
                head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: {media_type}\r\ncontent-length: "
                yield Arm(name, process, connection, bodies, head.encode() + b"%d\r\n\r\n")
        finally:
            process.terminate()


def _config(connection: socket.socket) -> KeyConfig:
    answer = exchange(connection, b"GET /.well-known/ohttp-gateway HTTP/1.1\r\nhost: x\r\n\r\n")
    return parse_key_configs(answer.partition(b"\r\n\r\n")[2])[0]


def plain_bodies() -> Iterator[bytes]:
    """1 KB, again and again."""
    body = os.urandom(BODY)
    while True:
        yield body


def sealed_bodies(config: KeyConfig) -> Iterator[bytes]:
    """1 KB in a fresh encapsulation each time."""
    body = os.urandom(BODY)
    while True:
        yield ChunkedClient(config).seal_request(encode_request(_request(body)))


def _request(body: bytes) -> Request:
    digest = b"sha-256=:" + base64.b64encode(_EVIDENCE) + b":"
    headers = (
        (b"content-type", b"application/octet-stream"),
        (b"date", format_http_date(time.time())),
        (b"request-id", os.urandom(16).hex().encode()),
        (b"attestation-digest", digest),
    )
    return Request(b"POST", b"https", b"echo.example", b"/", headers, body)


def check(one: Arm) -> None:
    """That an answer of the arm opens and holds what was sent: what is measured is the whole way."""
    answer = exchange(one.connection, b"GET /.well-known/ohttp-gateway HTTP/1.1\r\nhost: x\r\n\r\n")
    client = ChunkedClient(parse_key_configs(answer.partition(b"\r\n\r\n")[2])[0])
    body = os.urandom(BODY)
    sealed = client.seal_request(encode_request(_request(body)))
    chunks = exchange(one.connection, one.head % len(sealed) + sealed).partition(b"\r\n\r\n")[2]
    opened = client.receive(chunks) + client.finish()
    if decode_response(b"".join(opened)).body != body:
        raise RuntimeError(f"{one.name}: the answer is not the echo")


def report(arms: Sequence[Arm]) -> dict[str, Any]:
    """Lower quartiles in µs, and ratios to the first arm with their quartiles, as JSON types."""
    bare = arms[0]

    def ratios(name: str, of: Callable[[Arm], list[float]], one: Arm) -> dict[str, Any]:
        found = [a / b for a, b in zip(of(one), of(bare), strict=True)]
        middle = [round(quantile(found, share), 3) for share in (0.25, 0.75)]
        return {f"{name}_ratio": round(median(found), 3), f"{name}_ratio_middle_half": middle}

    return {
        "cpu": cpu_name(),
        "python": sys.version.split()[0],
        "packages": {name: installed(name) for name in ("cryptography", "uvicorn", "h11")},
        "load_average": os.getloadavg()[0],
        "goal": GOAL,
        "arms": {
            one.name: {
                "elapsed_us": round(quantile(one.elapsed, 0.25) * 1e6, 1),
                "processor_us": round(quantile(one.processor, 0.25) * 1e6, 1),
                **ratios("elapsed", lambda a: a.elapsed, one),
                **ratios("processor", lambda a: a.processor, one),
            }
            for one in arms
        },
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What the gateway adds to an application that echoes 1 KB.")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds of all arms")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--kem", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        serve(options.serve, options.kem)
        return
    with ExitStack() as opened:
        arms = [opened.enter_context(arm(name, *what)) for name, what in ARMS.items()]
        for one in arms[2:]:
            check(one)
        for one in arms:
            one.round(CALLS)
            one.elapsed.clear()
            one.processor.clear()
        for _ in range(options.rounds):
            for one in arms:
                one.round(CALLS)
        found = report(arms)
    if options.json:
        print(json.dumps(found))
        return
    print(f"{found['cpu']}; Python {found['python']}; {found['packages']}")
    print(f"{'':12} {'elapsed':>12} {'/ bare':>18} {'processor':>12} {'/ bare':>18}   (goal: at most {GOAL})")
    for name, row in found["arms"].items():
        line = f"{name:12}"
        for what in ("elapsed", "processor"):
            low, high = row[f"{what}_ratio_middle_half"]
            line += f" {row[f'{what}_us']:9.1f} µs {row[f'{what}_ratio']:5.2f} ({low:.2f}, {high:.2f})"
        print(line)


if __name__ == "__main__":
    main()
