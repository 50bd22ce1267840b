"""Serving an ASGI application over HTTP without a log, until a signal; needs the extra ``relay`` (uvicorn)."""

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .asgi import App
from .impatience import Impatience


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=2048)
    # Accepted connections inherit it: a cell goes out when it is due, not when the last one was acknowledged.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def refusal(error: OSError) -> str:
    """Why there is no such socket, without the address, which asyncio and socket append."""
    return str(error.strerror or error).partition(" (while attempting")[0]


def serve(app: App, listener: socket.socket, when_listening: Callable[[], object]) -> None:
    """Serve until SIGINT or SIGTERM. Raises ImportError where the web server is not installed."""
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Protocol(Impatience, H11Protocol):
        """A connection that ends when a head, a body or a reader takes too long."""

    class Server(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            """Leave signals to ``run``: raised again as uvicorn does, they would end us early."""
            yield

    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        lifespan="off",
        log_level="critical",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=5,
    )
    server = Server(config)

    async def run() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, server.handle_exit, number, None)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        if server.started:
            when_listening()
        await serving

    asyncio.run(run())
