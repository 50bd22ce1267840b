"""A log that asks several witnesses: enough of them, whatever the others do."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from log_programs import ask

from measurements.checkpoint import open_checkpoint
from measurements.cosignature import verify_cosignatures
from measurements.cosigning import Cosigner
from measurements.errors import Code, LogError, TransparencyError
from measurements.http_witness import HttpWitness, check_prefix, parse_witness
from measurements.log import TileLog
from measurements.note import COSIGNATURE_ED25519, VerifierKey
from measurements.signing_key import SigningKey
from measurements.web_client import WebClient
from measurements.witness import VolatileWitnessStore, Witness
from measurements.witness_server import witness_application

NOW = 1_780_000_000
Handler = Callable[[httpx2.Request], httpx2.Response]


def over_http(witness: Witness) -> Handler:
    """What the witness's program answers, without a socket."""
    application = witness_application(witness)

    def handle(request: httpx2.Request) -> httpx2.Response:
        answer = ask(application, request.method, request.url.path, body=request.read())
        return httpx2.Response(answer.status, headers=answer.headers, content=answer.body)

    return handle


class Fleet:
    """A log key, and witnesses at http://w0.example, http://w1.example, … that may be made to misbehave."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = folder
        self.key = SigningKey.generate("log.example/fleet")
        self.keys = [SigningKey.generate(f"w{n}.example", COSIGNATURE_ED25519) for n in range(count)]
        self.stores = [VolatileWitnessStore() for _ in range(count)]
        self.witnesses = [
            Witness(key, [self.key.public], store, lambda: NOW)
            for key, store in zip(self.keys, self.stores, strict=True)
        ]
        self.handlers: list[Handler] = [over_http(witness) for witness in self.witnesses]
        self.asked: list[str] = []
        self.client = WebClient(transport=httpx2.MockTransport(self.answer))

    def answer(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(f"{request.method} {request.url.host}")
        return self.handlers[int(request.url.host[1:].partition(".")[0])](request)

    def log(self, quorum: int | None = None, folder: str = "log") -> TileLog:
        remote: list[Cosigner] = [
            HttpWitness(key.public, f"http://w{n}.example/", self.client) for n, key in enumerate(self.keys)
        ]
        return TileLog(self.folder / folder, self.key, remote, quorum=quorum)

    def start(self, quorum: int | None = None) -> TileLog:
        log = self.log(quorum)
        log.create()
        return log


def append(log: TileLog, *entries: bytes) -> None:
    with log.exclusive():
        log.append(entries)


def cosigners(log: TileLog, among: list[SigningKey]) -> set[VerifierKey]:
    signed = log.checkpoint()
    found = verify_cosignatures(signed.note, signed.checkpoint, [key.public for key in among])
    return {one.key for one in found}


def test_all_cosign(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, 3)
    log = fleet.start()
    append(log, b"one")
    assert cosigners(log, fleet.keys) == {key.public for key in fleet.keys}
    assert [one.refusal for one in log.asked] == [None] * 3


def refuse_connection(request: httpx2.Request) -> httpx2.Response:
    raise httpx2.ConnectError("refused", request=request)


def time_out(request: httpx2.Request) -> httpx2.Response:
    raise httpx2.ReadTimeout("slow", request=request)


BROKEN: dict[str, Handler] = {
    "unreachable": refuse_connection,
    "slow": time_out,
    "error": lambda _: httpx2.Response(500, content=b"stack trace"),
    "redirect": lambda _: httpx2.Response(302, headers={"location": "http://w1.example/add-checkpoint"}),
    "empty": lambda _: httpx2.Response(200),
    "rubbish": lambda _: httpx2.Response(200, content=b"\xff\xfe rubbish"),
    "endless": lambda _: httpx2.Response(200, content=b"a" * (1 << 20)),
    "gzip bomb": lambda _: httpx2.Response(
        200, headers={"content-encoding": "gzip"}, content=__import__("gzip").compress(bytes(1 << 24))
    ),
    "not gzip": lambda _: httpx2.Response(200, headers={"content-encoding": "gzip"}, content=b"plain"),
    "conflict without a size": lambda _: httpx2.Response(409),
    "conflict with rubbish": lambda _: httpx2.Response(409, content=b"+1\n"),
    "conflict for ever": lambda _: httpx2.Response(409, content=b"0\n"),
    "conflict beyond": lambda _: httpx2.Response(409, content=b"9223372036854775807\n"),
}


@pytest.mark.parametrize("trouble", BROKEN)
def test_one_of_three_may_fail_in_any_way(tmp_path: Path, trouble: str) -> None:
    fleet = Fleet(tmp_path, 3)
    log = fleet.start(quorum=2)
    good = fleet.handlers[0]
    fleet.handlers[0] = BROKEN[trouble]
    append(log, b"one", b"two")
    assert cosigners(log, fleet.keys) == {key.public for key in fleet.keys[1:]}
    assert [one.refusal is not None for one in log.asked] == [True, False, False]
    # It comes back, two batches behind, and is brought up to date from the size that it names.
    append(log, b"three")
    fleet.handlers[0] = good
    append(log, b"four")
    assert cosigners(log, fleet.keys) == {key.public for key in fleet.keys}


@pytest.mark.parametrize("trouble", BROKEN)
def test_too_few_publish_nothing_and_lose_nothing(tmp_path: Path, trouble: str) -> None:
    fleet = Fleet(tmp_path, 3)
    log = fleet.start(quorum=2)
    good = list(fleet.handlers)
    fleet.handlers[:2] = [BROKEN[trouble]] * 2
    before = (tmp_path / "log" / "public" / "checkpoint").read_bytes()
    with pytest.raises(TransparencyError) as caught:
        append(log, b"one")
    assert caught.value.code is Code.WITNESS_QUORUM
    assert (caught.value.expected, caught.value.found) == (2, 1)
    assert "w0.example" in str(caught.value)
    assert (tmp_path / "log" / "public" / "checkpoint").read_bytes() == before
    fleet.handlers = good
    with log.exclusive():
        pass
    assert log.entries() == (b"one",)


def test_a_cosignature_of_another_key_does_not_count(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, 2)
    log = fleet.start(quorum=2)
    fleet.handlers[0] = fleet.handlers[1]
    with pytest.raises(TransparencyError) as caught:
        append(log, b"one")
    assert caught.value.code is Code.WITNESS_QUORUM


def test_a_folder_from_a_backup_signs_no_second_history(tmp_path: Path) -> None:
    """The disk is lost and an older copy comes back: one witness that answers is enough to stop it."""
    fleet = Fleet(tmp_path, 3)
    log = fleet.start(quorum=2)
    append(log, b"one")
    backup = {path: path.read_bytes() for path in (tmp_path / "log").rglob("*") if path.is_file()}
    append(log, b"two", b"three")
    lost = {path: path.read_bytes() for path in (tmp_path / "log").rglob("*") if path.is_file()}
    for path in lost:
        path.unlink()
    for path, data in backup.items():
        path.write_bytes(data)
    fleet.handlers[1] = fleet.handlers[2] = refuse_connection
    with pytest.raises(LogError) as caught:
        append(log, b"instead")
    assert caught.value.code is Code.LOG_CORRUPT
    assert "holds a checkpoint that this log has signed" in str(caught.value)
    assert all(not store.forks for store in fleet.stores)
    # A longer second history, too.
    (tmp_path / "log" / "writer" / "journal").unlink()
    with pytest.raises(LogError):
        append(log, *(b"instead %d" % n for n in range(9)))
    # What a witness merely claims stops nobody: its claim must carry the log's own signature.
    fleet.handlers[0] = lambda _: httpx2.Response(200, content=b"log.example/fleet\n99\n")
    (tmp_path / "log" / "writer" / "journal").unlink()
    with pytest.raises(TransparencyError) as refused:
        append(log, b"instead")
    assert refused.value.code is Code.WITNESS_QUORUM


def test_a_witness_that_cosigned_what_a_crash_left_unpublished(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, 3)
    log = fleet.start(quorum=3)
    fleet.handlers[2], good = refuse_connection, fleet.handlers[2]
    with pytest.raises(TransparencyError):
        append(log, b"one")
    fleet.handlers[2] = good
    append(log, b"two")
    assert log.entries() == (b"one", b"two")
    for store in fleet.stores:
        held = store.load(fleet.key.public.name)
        assert held is not None
        assert open_checkpoint(held, (fleet.key.public,)).checkpoint.size == 2


def test_witnesses_are_asked_at_once(tmp_path: Path) -> None:
    """Each answers only when all have been asked."""
    fleet = Fleet(tmp_path, 4)
    log = fleet.start()
    barrier = threading.Barrier(4, timeout=20)
    for number, handler in enumerate(list(fleet.handlers)):

        def together(request: httpx2.Request, handler: Handler = handler) -> httpx2.Response:
            barrier.wait()
            return handler(request)

        fleet.handlers[number] = together
    append(log, b"one")
    assert len(cosigners(log, fleet.keys)) == 4


def test_a_slow_drip_ends(tmp_path: Path) -> None:
    ticks = iter(range(0, 10_000, 7))

    class Drip(httpx2.SyncByteStream):
        def __iter__(self):  # type: ignore[no-untyped-def]
            while True:
                yield b"x"

    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, stream=Drip()))
    client = WebClient(transport=transport, clock=lambda: next(ticks), total_s=60)
    with pytest.raises(TransparencyError) as caught:
        client.get("http://w.example/", limit=1 << 30)
    assert "too long" in str(caught.value)


class DrippingServer:
    """Answers a byte at a time, each long before any timeout of a read; the whole would take half a minute."""

    def __init__(self, at_once: bytes) -> None:
        self._at_once = at_once
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._over = threading.Event()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._drip, args=(connection,), daemon=True).start()

    def _drip(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.sendall(self._at_once)
            for _ in range(600):
                connection.sendall(b"y")
                if self._over.wait(0.05):
                    return

    def close(self) -> None:
        self._over.set()
        self._listener.close()


@pytest.mark.parametrize(
    "at_once", [b"HTTP/1.1 200 OK\r\nx-slow: ", b"HTTP/1.1 200 OK\r\ncontent-length: 600\r\n\r\n"]
)
def test_an_answer_that_drips_is_not_waited_for(tmp_path: Path, at_once: bytes) -> None:
    """Head or body: one witness of three cannot keep the others' cosignatures from being published."""
    fleet, server = Fleet(tmp_path, 3), DrippingServer(at_once)
    try:
        with WebClient(total_s=0.5, read_s=10.0) as client:
            start = time.monotonic()
            with pytest.raises(TransparencyError) as caught:
                client.get(f"{server.url}/checkpoint", limit=1 << 20)
            assert "too long" in str(caught.value)
            slow = HttpWitness(fleet.keys[0].public, server.url, client)
            others = [
                HttpWitness(k.public, f"http://w{n}.example/", fleet.client) for n, k in enumerate(fleet.keys)
            ]
            log = TileLog(tmp_path / "log", fleet.key, [slow, *others[1:]], quorum=2)
            log.create()
            append(log, b"one")
            assert time.monotonic() - start < 20
        assert cosigners(log, fleet.keys) == {key.public for key in fleet.keys[1:]}
    finally:
        server.close()


@pytest.mark.parametrize(
    "url",
    ["", "w.example", "ftp://w.example", "http://", "http://u@w.example", "http://w.example/?q", "http://w.example/#f",
     "http://[::1", "http://w.example/\n", "file:///etc/passwd", "http://w.example:99999"],
)  # fmt: skip
def test_prefixes_that_are_none(url: str) -> None:
    with pytest.raises(TransparencyError):
        check_prefix(url)


def test_a_witness_option() -> None:
    key = SigningKey.generate("w.example/a", COSIGNATURE_ED25519).public
    assert parse_witness(f"{key}=https://w.example/a/") == (key, "https://w.example/a")
    for text in ("", str(key), f"{key}=w.example", f"{key} https://w.example", "=https://w.example"):
        with pytest.raises(TransparencyError):
            parse_witness(text)
