"""The process through which metrics leave: it has the schema, a pipe from the node, and a listener. Nothing else.

The node forks it before the model's libraries are loaded, so it holds no prompt, no key and no platform. It seals
itself like the node and outlives it in no case. What comes over the pipe is looked at again
(``enclave_runtime.metrics_frame``); what it answers is made here, of the schema's words and the numbers that passed.
One request is known, ``GET /metrics``; a node without this process ends.
"""

import contextlib
import os
import selectors
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from enclave_runtime import confined_child, openmetrics, seal
from enclave_runtime.errors import NodeError
from enclave_runtime.exit_codes import ExitCode
from enclave_runtime.metrics_frame import FrameReader, FrameRefused, encode_frame, frame_length, held_back
from enclave_runtime.metrics_schema import MetricsSchema
from enclave_runtime.seal import Piece, SealReport

MAX_HEAD = 2048
MAX_READERS = 16
PATIENCE_S = 2.0
"""How long a reader may take for its request or its answer."""

_SEALED = b"sealed"


@dataclass(slots=True)
class Egress:
    """The node's end: where frames go, and where metrics can be read."""

    schema: MetricsSchema
    pipe: int
    port: int
    _number: int = field(default=0)
    _sent: tuple[int, ...] = field(default=())

    def send(self, values: tuple[int, ...]) -> None:
        """Hand over the numbers, once in an interval; a counter that rose too quickly for the schema is caught up with
        later. Raises NodeError (EGRESS) where nobody takes them any more.
        """
        held = held_back(self.schema, values, self._sent or (0,) * len(values))
        try:
            os.write(self.pipe, encode_frame(self.schema, self._number, held))
        except OSError:
            raise NodeError("egress_gone", ExitCode.EGRESS) from None
        self._number, self._sent = self._number + 1, held


def start(
    schema: MetricsSchema,
    listener: socket.socket,
    confined: SealReport,
    *,
    tolerate: tuple[Piece, ...] = (),
    close: tuple[int, ...] = (),
) -> Egress:
    """Fork the process, and wait until it is sealed. Call it while this is the only thread.

    It inherits the confinement ``confined``; the descriptors ``close`` are none of its business. ``listener`` is
    bound and becomes its own. Raises NodeError (EGRESS).
    """
    frames, pipe = os.pipe()
    told, tell = os.pipe()
    confined_child.fork(
        lambda: _be_egress(schema, frames, listener, confined, tolerate, tell), close=(pipe, told, *close)
    )
    os.close(frames)
    os.close(tell)
    port = listener.getsockname()[1]
    listener.close()
    with os.fdopen(told, "rb") as answer:
        if answer.read() != _SEALED:
            raise NodeError(
                "egress_not_sealed", ExitCode.EGRESS, "the process that shows metrics did not start"
            )
    os.set_blocking(pipe, False)
    return Egress(schema, pipe, port)


def _be_egress(
    schema: MetricsSchema,
    frames: int,
    listener: socket.socket,
    confined: SealReport,
    tolerate: tuple[Piece, ...],
    tell: int,
) -> None:
    listener.listen(MAX_READERS)
    listener.setblocking(False)
    os.set_blocking(frames, False)
    server = EgressServer(schema, frames, listener, time.monotonic)
    seal.seal(confined, keep_streams={frames, tell, listener.fileno()}, tolerate=tolerate)
    os.write(tell, _SEALED)
    os.close(tell)
    server.serve()


@dataclass(slots=True)
class _Reader:
    """One connection: what it asked so far, or what is still to be sent to it."""

    connection: socket.socket
    until: float
    asked: bytes = b""
    answer: bytes | None = None


class EgressServer:
    """Takes frames and answers readers, in one thread, until the pipe is closed at the other end."""

    def __init__(
        self, schema: MetricsSchema, frames: int, listener: socket.socket, clock: Callable[[], float]
    ) -> None:
        self._schema = schema
        self._frames = frames
        self._listener = listener
        self._clock = clock
        self._reader = FrameReader(schema, clock())
        self._selector = selectors.DefaultSelector()
        self._selector.register(frames, selectors.EVENT_READ)
        self._selector.register(listener, selectors.EVENT_READ)
        self._readers: dict[int, _Reader] = {}
        self._open = True

    def serve(self) -> None:
        """Serve until the node is gone."""
        while self._open:
            for key, _ in self._selector.select(PATIENCE_S):
                if key.fd == self._frames:
                    self._take_frames()
                elif key.fd == self._listener.fileno():
                    self._accept()
                elif (reader := self._readers.get(key.fd)) is not None:
                    self._go_on(reader)
            now = self._clock()
            for reader in [reader for reader in self._readers.values() if reader.until < now]:
                self._drop(reader)

    def _take_frames(self) -> None:
        # Frames are shorter than what a pipe takes in one piece; anything else is no frame and is dropped.
        data = os.read(self._frames, frame_length(self._schema))
        if not data:
            self._open = False
            return
        with contextlib.suppress(FrameRefused):
            self._reader.take(data, self._clock())

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self._listener.accept()
            if len(self._readers) >= MAX_READERS:
                self._drop(min(self._readers.values(), key=lambda reader: reader.until))
            connection.setblocking(False)
            self._readers[connection.fileno()] = _Reader(connection, self._clock() + PATIENCE_S)
            self._selector.register(connection, selectors.EVENT_READ)

    def _go_on(self, reader: _Reader) -> None:
        try:
            if reader.answer is None:
                received = reader.connection.recv(MAX_HEAD)
                reader.asked += received
                if b"\r\n\r\n" in reader.asked or len(reader.asked) > MAX_HEAD or not received:
                    reader.answer = self._answer(reader.asked)
                    self._selector.modify(reader.connection, selectors.EVENT_WRITE)
            else:
                sent = reader.connection.send(reader.answer)
                reader.answer = reader.answer[sent:]
                if not reader.answer:
                    self._drop(reader)
        except BlockingIOError:
            return
        except OSError:
            self._drop(reader)

    def _answer(self, asked: bytes) -> bytes:
        first = asked.partition(b"\r\n")[0]
        if first in (b"GET /metrics HTTP/1.1", b"GET /metrics HTTP/1.0") and len(asked) <= MAX_HEAD:
            body = openmetrics.render(self._schema, self._reader.values)
            return _response(b"200 OK", openmetrics.MEDIA_TYPE.encode(), body)
        return _response(b"404 Not Found", b"text/plain", b"")

    def _drop(self, reader: _Reader) -> None:
        self._readers.pop(reader.connection.fileno(), None)
        with contextlib.suppress(OSError, KeyError, ValueError):
            self._selector.unregister(reader.connection)
        reader.connection.close()


def _response(status: bytes, media_type: bytes, body: bytes) -> bytes:
    return b"".join(
        (
            *(b"HTTP/1.1 ", status, b"\r\ncontent-type: ", media_type),
            *(b"\r\ncontent-length: ", str(len(body)).encode(), b"\r\ncache-control: no-store"),
            *(b"\r\nconnection: close\r\n\r\n", body),
        )
    )
