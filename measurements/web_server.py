"""Running a small web application until a signal ends it. The web server is an extra, imported only here."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import uvicorn

Announce = Callable[[int], None]
"""Called once with the port, when requests are answered."""


def serve_until_stopped(application: Any, host: str, port: int, announce: Announce) -> None:
    """Serve an ASGI application on ``host`` and ``port`` (0: a free one) until SIGINT or SIGTERM.

    Keeps no access log. Raises OSError where it cannot listen, ModuleNotFoundError without a web server.
    """
    import uvicorn

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family, backlog=512) as listener:
        config = uvicorn.Config(
            application,
            http="h11",
            ws="none",
            lifespan="off",
            log_level="critical",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=512,
            h11_max_incomplete_event_size=16 * 1024,
            timeout_keep_alive=15,
            timeout_graceful_shutdown=5,
        )

        class Server(uvicorn.Server):
            @contextlib.contextmanager
            def capture_signals(self) -> Any:
                """Leave signals to ``_run``: raised again as uvicorn does, they would end the program early."""
                yield

        asyncio.run(_run(Server(config), listener, announce))


async def _run(server: "uvicorn.Server", listener: socket.socket, announce: Announce) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, server.handle_exit, number, None)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    if server.started:
        announce(listener.getsockname()[1])
    await serving
