"""What the gateway adds to an application: ``python -m benchmarks.ohttp_gateway [--json]``.

One ASGI application that echoes 1 KB is served twice by the same server (uvicorn with h11, a process each, loopback):
bare, and behind the gateway with X25519, with X-Wing, and without padding, since a profile's cells are time spent on
purpose. A third arm is the bare application again: the noise floor. Requests are sealed beforehand, one connection
an arm is kept open, and the arms take turns within one run. Counted are the time until the whole answer is there and
the processor time that the server's thread took, by round; a ratio is the median of the rounds' own ratios.
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
from ohttp.bhttp import Request, decode_response, encode_request
from ohttp.chunked import REQUEST_MEDIA_TYPE, ChunkedClient
from ohttp.http_date import format_http_date
from ohttp.keyconfig import KeyConfig, parse_key_configs

from .environment import cpu_name, installed
from .statistics import median, quantile

BODY = 1024
ROUNDS, CALLS = 60, 20
GOAL = 2.0
TURN_S = 600
_EVIDENCE = bytes(32)


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """The application: what comes goes back."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    headers = [(b"content-type", b"application/octet-stream"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def serve(kem_id: int | None) -> None:
    """Serve the application, behind a gateway where ``kem_id`` names its key's mechanism; say the port."""
    import uvicorn

    from ohttp.gateway import Gateway
    from ohttp.keyconfig import GatewayKey, KeyRing
    from ohttp.padding import CellProfile
    from ohttp.replay import ReplayWindow

    app: Any = echo
    if kem_id is not None:
        ring = KeyRing([GatewayKey.generate(1, kem_id)])
        app = Gateway(
            echo,
            keyring=lambda: ring,
            is_live=lambda digest: digest == _EVIDENCE,
            replay=ReplayWindow(),
            profile=CellProfile("off"),
            now=time.time,
        )
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
def arm(name: str, kem_id: int | None) -> Iterator[Arm]:
    """Start the server of an arm and connect to it."""
    command = [sys.executable, "-m", "benchmarks.ohttp_gateway", "--serve", str(kem_id or 0)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            connection = socket.create_connection(("127.0.0.1", port))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with connection:
                path, kind, bodies = "/", "application/octet-stream", plain_bodies()
                if kem_id is not None:
                    path, kind, bodies = "/ohttp", REQUEST_MEDIA_TYPE, sealed_bodies(_config(connection))
                head = (
                    f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: {kind}\r\ncontent-length: %d\r\n\r\n"
                )
                yield Arm(name, process, connection, bodies, head.encode())
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
    """Lower quartiles in µs, and ratios to the first arm, as JSON types."""
    bare = arms[0]

    def ratio(of: Callable[[Arm], list[float]], one: Arm) -> float:
        return round(median([a / b for a, b in zip(of(one), of(bare), strict=True)]), 3)

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
                "elapsed_ratio": ratio(lambda a: a.elapsed, one),
                "processor_ratio": ratio(lambda a: a.processor, one),
            }
            for one in arms
        },
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What the gateway adds to an application that echoes 1 KB.")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds of all arms")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        serve(options.serve or None)
        return
    with ExitStack() as opened:
        kinds = {"bare": None, "bare again": None, "X25519": kem.X25519, "X-Wing": kem.MLKEM768_X25519}
        arms = [opened.enter_context(arm(name, kem_id)) for name, kem_id in kinds.items()]
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
    print(f"{'':12} {'elapsed':>12} {'/ bare':>7} {'processor':>12} {'/ bare':>7}   (goal: at most {GOAL})")
    for name, row in found["arms"].items():
        print(
            f"{name:12} {row['elapsed_us']:9.1f} µs {row['elapsed_ratio']:7.2f}"
            f" {row['processor_us']:9.1f} µs {row['processor_ratio']:7.2f}"
        )


if __name__ == "__main__":
    main()
