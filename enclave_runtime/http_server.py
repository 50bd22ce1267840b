"""The node's HTTP server: uvicorn over h11, without logs, without signals of its own, and without patience."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS = 3072
"""Connections at a time; beyond them an empty 503. Fewer than the descriptors a node may hold."""

HEAD_TIMEOUT_S = 10.0
"""How long a connection may take to bring the head of its next request."""

KEEP_ALIVE_S = 5
STOP_GRACE_S = 5
MAX_HEAD = 16 * 1024


class Server(uvicorn.Server):
    """uvicorn's server, stopped by :meth:`stop` alone and telling when it listens."""

    when_listening: Callable[[], None] | None = None

    def stop(self) -> None:
        """Finish what is at hand, for a few seconds at most, then end."""
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the event loop: uvicorn's own handlers would end the process by the signal."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so."""
        await super().startup(sockets=sockets)
        if self.when_listening is not None:
            self.when_listening()


def server_config(app: Callable[..., Any]) -> uvicorn.Config:
    """The settings under which ``app`` (ASGI 3) is served, loaded."""
    config = uvicorn.Config(
        app,
        loop="none",
        http=PromptProtocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        backlog=1024,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=STOP_GRACE_S,
        h11_max_incomplete_event_size=MAX_HEAD,
    )
    config.load()
    return config


class PromptProtocol(H11Protocol):
    """A connection that is closed when the head of a request is not there in time.

    Between requests uvicorn closes a connection that is silent; this closes one that speaks without saying
    anything.
    """

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The time runs from the first moment."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """It runs on until a whole head has come."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing to wait for any more."""
        self._forget_deadline()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._forget_deadline()
        elif self._deadline is None and not self.transport.is_closing():
            self._deadline = self.loop.call_later(HEAD_TIMEOUT_S, self.transport.close)

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
