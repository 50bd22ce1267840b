"""Starting the log's programs as a user would, and asking an ASGI application without a network."""

import asyncio
import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import typer

from measurements.commands import register

# This room's commands alone: what the whole command line loads besides is not what these tests are about.
START = """
import sys, typer
from measurements.commands import register
app = typer.Typer()
app.callback()(lambda: None)
register(app)
sys.exit(app(sys.argv[1:], standalone_mode=False) or 0)
"""


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


def cloister(*arguments: str) -> Done:
    """Run one command to its end, in this process."""
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        status = app(list(arguments), standalone_mode=False)
    return Done(int(status or 0), out.getvalue(), errors.getvalue())


@contextmanager
def running(*arguments: str) -> Iterator[str]:
    """A program that serves (with --json and --port 0), for as long as the block lasts: its base URL."""
    command = [sys.executable, "-c", START, *arguments, "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, process.stderr.read() if process.stderr else ""
            yield f"http://127.0.0.1:{json.loads(line)['port']}"
        finally:
            process.terminate()
            process.wait(20)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


def ask(
    application: Any,
    method: str,
    path: str,
    *,
    body: bytes = b"",
    headers: dict[str, str] | None = None,
    raw_path: bytes | None = None,
) -> Answer:
    """One request to an ASGI application, the body in pieces of 1,000 bytes."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": raw_path or path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(k.lower().encode(), v.encode()) for k, v in (headers or {}).items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    pieces = [body[at : at + 1000] for at in range(0, len(body), 1000)] or [b""]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        piece = pieces.pop(0) if pieces else b""
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(application(scope, receive, send))
    answered = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Answer(sent[0]["status"], answered, b"".join(message.get("body", b"") for message in sent[1:]))
