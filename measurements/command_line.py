"""What this room's commands share: exit statuses, failures in one line, JSON, the clock and witness options."""

import errno
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer

from .cosigning import Cosigner
from .errors import Code, TransparencyError
from .http_witness import HttpWitness, parse_witness
from .log import TileLog
from .web_client import WebClient

OK, USAGE_OR_IO, NOT_AVAILABLE, REFUSED = range(4)

_REFUSALS: Final = frozenset(
    {
        Code.CHECKPOINT_SIGNATURE,
        Code.INCLUSION_INVALID,
        Code.CONSISTENCY_INVALID,
        Code.SPLIT_VIEW,
        Code.LOG_CORRUPT,
        Code.WITNESS_QUORUM,
    }
)

_WHAT_TO_DO: Final = {
    errno.EADDRINUSE: "another program listens there; name another port with --port, or 0 for a free one",
    errno.ENOSPC: "make room, then run it again",
    errno.EDQUOT: "make room, then run it again",
}

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
WitnessOption = Annotated[
    list[str],
    typer.Option(
        "--witness", metavar="VKEY=URL", help="A witness to ask over HTTP, besides the log's own; repeatable."
    ),
]
QuorumOption = Annotated[
    int | None, typer.Option(min=0, help="How many witnesses must cosign; default: all of them.")
]


def http_witnesses(named: Sequence[str]) -> list[Cosigner]:
    """The witnesses of ``--witness`` options. Raises TransparencyError, ModuleNotFoundError."""
    if not named:
        return []
    client = WebClient(total_s=20.0)
    return [HttpWitness(key, url, client) for key, url in map(parse_witness, named)]


def witnessed(log: TileLog) -> list[dict[str, Any]]:
    """What each witness did when ``log`` last published, for JSON."""
    return [
        {
            "name": one.key.name,
            "cosigned": bool(one.lines),
            "why_not": None if one.refusal is None else str(one.refusal),
        }
        for one in log.asked
    ]


def print_witnesses(log: TileLog) -> None:
    """The same for people."""
    for one in log.asked:
        print(plain(f"witness  {one.key.name}: {'cosigned' if one.refusal is None else one.refusal}"))


def waiting(for_what: str) -> AbstractContextManager[object]:
    """Something that moves on standard error while nothing else is said, on a terminal alone."""
    from rich.console import Console

    return Console(stderr=True).status(for_what)


def guarded(work: Callable[[], int], *, watching: bool = False) -> int:
    """Run a command; its failures become one line on standard error and an exit status.

    ``watching`` is for commands whose statuses 2 and 3 say what was seen: that they could not look is always 1.
    """
    try:
        return work()
    except TransparencyError as error:
        status = NOT_AVAILABLE if error.code is Code.NOT_AVAILABLE else USAGE_OR_IO
        status = REFUSED if error.code in _REFUSALS else status
        return failed(f"{error.code}: {error}", USAGE_OR_IO if watching else status)
    except ModuleNotFoundError as error:
        status = USAGE_OR_IO if watching else NOT_AVAILABLE
        return failed(f"not installed: {error.name}; pip install 'cloister[witness]'", status)
    except OSError as error:
        return failed(of_the_system(error), USAGE_OR_IO)


def of_the_system(error: OSError) -> str:
    """What the system refused, of which file, and what to do where that is known."""
    said = (error.strerror or str(error)).partition(" (while attempting")[0]
    what = f"{error.filename}: {said}" if error.filename is not None else said
    hint = _WHAT_TO_DO.get(error.errno or 0)
    return f"{what} ({hint})" if hint else what


def plain(text: str) -> str:
    """``text`` with everything escaped that a terminal would obey: a log's entries are written by others."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def failed(message: str, status: int) -> int:
    """Say what went wrong on standard error; returns ``status``."""
    print(f"error {plain(message)}", file=sys.stderr)
    return status


def print_json(value: dict[str, Any]) -> None:
    """Print one JSON document."""
    print(json.dumps(value, indent=2))


def utc_now() -> datetime:
    """The present, aware."""
    return datetime.now(UTC)
