"""The node's HTTP server: uvicorn over h11, without logs, without signals of its own, and without patience."""

import contextlib
import math
import socket
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ohttp.impatience import Impatience

MAX_CONNECTIONS = 3072
"""Connections at a time; beyond them an empty 503. Fewer than the descriptors a node may hold."""

KEEP_ALIVE_S = 5
STOP_GRACE_S = 5
MAX_HEAD = 16 * 1024


class Server(uvicorn.Server):
    """uvicorn's server, stopped by :meth:`stop` alone and telling when it listens."""

    when_listening: Callable[[], None] | None = None

    def stop(self) -> None:
        """Finish what is at hand, for a few seconds at most, then end; at once where it was draining already."""
        self.force_exit = self.should_exit
        self.should_exit = True

    def drain(self, patience_s: float) -> None:
        """Take no connection any more, finish every answer that was begun, then end."""
        self.config.timeout_graceful_shutdown = math.ceil(patience_s)
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


class PromptProtocol(Impatience, H11Protocol):
    """A connection that ends when a head, a body or a reader takes too long."""
