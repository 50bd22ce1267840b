"""The command ``cloister relay``."""

import json
import resource
from collections.abc import Callable, Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from .current_file import CurrentFile
from .errors import RelayError
from .quiet_server import listen, refusal, serve
from .relay import Relay

EXIT_USAGE = 1
EXIT_NOT_AVAILABLE = 2

_OPEN_FILES = 65_536
_MAX_DIRECTORY = 1024 * 1024


def register(app: typer.Typer) -> None:
    """Add this package's commands."""
    app.command("relay")(relay)


def relay(
    target: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=URL", help="A node to pass requests to, under /NAME/; repeatable."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: a free one.")] = 8081,
    directory: Annotated[
        Path | None,
        typer.Option(
            help="A list of nodes (cloister directory publish) to show at /directory; replace it at any time."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Say what happens as one JSON line each.")] = False,
) -> None:
    """Run an oblivious relay: it sees who asks, never what; the node sees what, never who.

    Run it where the node's operator has no say. It keeps no log; Ctrl-C ends it and shows its counts.
    """
    targets: dict[str, str] = {}
    for pair in target or []:
        name, equals, url = pair.partition("=")
        if not equals or name in targets:
            _fail("each --target is NAME=URL, with a name of its own")
        targets[name] = url
    if not targets:
        _fail("give at least one --target NAME=URL, for instance --target node=http://127.0.0.1:8080")
    try:
        import httpx2
        import uvicorn  # noqa: F401  (asked for before anything listens)
    except ImportError:
        _fail("the relay needs a web server: pip install cloister[relay]", EXIT_NOT_AVAILABLE)
    try:
        listener = listen(host, port)
    except OSError as error:
        _fail(
            f"cannot listen on {host} port {port}: {refusal(error)}; --host and --port choose another place"
        )
    _raise_open_files()
    with listener:
        # The read timeout outlasts a node that thinks for long before its first byte.
        client = httpx2.AsyncClient(
            timeout=httpx2.Timeout(10.0, read=300.0),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=64),
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            trust_env=False,
        )
        try:
            application = Relay(
                targets, client, directory=None if directory is None else _list_of_nodes(directory)
            )
        except RelayError as error:
            _fail(f"--target: {error.detail}")

        started = _started(as_json, host, listener.getsockname()[1], targets)
        serve(application, listener, lambda: typer.echo(started))
        counts = application.counts()
        typer.echo(
            json.dumps({"event": "stopped", "counts": counts}) if as_json else f"stopped; {_told(counts)}"
        )


def _told(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "nothing was asked"


def _started(as_json: bool, host: str, port: int, targets: dict[str, str]) -> str:
    if as_json:
        return json.dumps({"event": "listening", "port": port})
    names = ", ".join(f"/{name}/ to {url}" for name, url in targets.items())
    return f"relay on http://{host}:{port}: {names}"


def _list_of_nodes(path: Path) -> Callable[[], bytes]:
    """Reads the file whenever it has changed; OSError where it cannot be had then."""
    listed = CurrentFile(path, bytes, most=_MAX_DIRECTORY)
    try:
        listed.current()
    except OSError as error:
        _fail(f"--directory: {error}")
    return listed.current


def _raise_open_files() -> None:
    """Two descriptors a request: the soft limit of 1,024 would end at 500 of them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _fail(message: str, code: int = EXIT_USAGE) -> NoReturn:
    typer.echo(f"cloister relay: {message}", err=True)
    raise typer.Exit(code)
