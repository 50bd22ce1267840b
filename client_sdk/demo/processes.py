"""Starting the demo's programs and making sure that they stop."""

import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

from client_sdk.errors import ClientError

GRACE_S = 5.0


@dataclass(frozen=True, slots=True)
class Listening:
    """A program that said it listens: its process, its port, and everything it said in that line."""

    process: "subprocess.Popen[str]"
    port: int
    event: dict[str, Any]


def cloister(*arguments: str) -> list[str]:
    """The command line that runs ``cloister`` with this very interpreter."""
    return [sys.executable, "-m", "client_sdk", *arguments]


def run(name: str, command: Sequence[str]) -> str:
    """Run a program to its end; its standard output. Raises ClientError with its last words where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines()
        raise ClientError(
            "demo_step", f"{name} ended with status {done.returncode}: {words[-1] if words else ''}"
        )
    return done.stdout


@contextmanager
def listening(name: str, command: Sequence[str], *, patience_s: float = 120.0) -> Iterator[Listening]:
    """A program that prints one JSON line ``{"event": "listening", "port": N}`` once it serves; stopped on leaving.

    Raises ClientError where it ends, or is silent for ``patience_s`` seconds, before that.
    """
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    said: queue.Queue[str | None] = queue.Queue()
    words: list[str] = []
    readers = (
        threading.Thread(target=_pump, args=(process.stdout, said), daemon=True),
        threading.Thread(target=_gather, args=(process.stderr, words), daemon=True),
    )
    for reader in readers:
        reader.start()
    try:
        yield _await_event(name, process, said, words, time.monotonic() + patience_s)
    finally:
        process.terminate()
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_event(
    name: str,
    process: "subprocess.Popen[str]",
    said: "queue.Queue[str | None]",
    words: list[str],
    deadline: float,
) -> Listening:
    while True:
        try:
            line = said.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise ClientError("demo_step", f"{name} did not come up in time") from None
        if line is None:
            status = process.wait()
            raise ClientError("demo_step", f"{name} ended with status {status}: {' '.join(words[-3:])}")
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and event.get("event") == "listening":
            return Listening(process, int(event["port"]), event)


def _pump(stream: IO[str], said: "queue.Queue[str | None]") -> None:
    for line in stream:
        said.put(line)
    said.put(None)


def _gather(stream: IO[str], words: list[str]) -> None:
    for line in stream:
        words.append(line.strip())
        del words[:-20]
