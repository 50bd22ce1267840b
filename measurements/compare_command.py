"""``cloister log compare``: have two people been shown the same log?"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer

from .checkpoint import SignedCheckpoint
from .command_line import OK, JsonOption, guarded, plain, print_json
from .durable import replace_file
from .errors import Code, LogError, TransparencyError
from .log_source import CHECKPOINT, FolderSource, LogSource, UrlSource, WitnessSource, open_source
from .logged_list import BEGINS, LoggedList
from .monitor import ERROR, PROVED, STALE
from .monitor_command import load_policy
from .note import MAX_NOTE, VerifierKey
from .rollback import FileMemory
from .staple import Staple
from .tlog_policy import TlogPolicy
from .tlog_proof import HEADER, TlogProof
from .views import Views, distinct, join
from .web_client import WebClient

_MAX_FILE: Final = 8 * 1024 * 1024
_HELP: Final = """Compare two views of one log: logs, mirrors, witnesses, notes, staples, or clients' memories.

A and B are each a URL (of a log, a mirror or a witness), a log's folder, or a file: a checkpoint, a tlog-proof, a
node's staple, or what a client remembers. Where sizes differ, tiles join them: of A, of B, or of --tiles. Exit
status: 0 one log (one view may be older), 1 cannot be told, 2 a split view is proved, 3 one of them holds nothing of
this log.
"""


@dataclass(frozen=True, slots=True)
class _Side:
    place: str
    notes: tuple[bytes, ...]
    tiles: LogSource | None


def register(log: typer.Typer) -> None:
    """Add the command."""
    log.command("compare", help=_HELP)(compare)


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="What one was shown.")],
    b: Annotated[str, typer.Argument(metavar="B", help="What the other was shown.")],
    log: Annotated[str, typer.Option("--log", help="vkey of the log.")] = "",
    policy: Annotated[Path | None, typer.Option(help="Or a client's policy file, whose log it is.")] = None,
    tiles: Annotated[str, typer.Option(metavar="PLACE", help="Another URL or folder with tiles.")] = "",
    evidence: Annotated[Path, typer.Option(help="Where the proof of a split view is written.")] = Path(
        "split-view.json"
    ),
    as_json: JsonOption = False,
) -> int:
    """See ``cloister log compare --help``."""

    def work() -> int:
        if bool(log) == (policy is not None):
            raise LogError(
                Code.KEY_UNUSABLE, "name the log with --log VKEY or --policy FILE", stage="compare"
            )
        key = load_policy(policy).log if policy is not None else VerifierKey.parse(log)
        with WebClient() as client:
            sides = [_side(place, client, key.name) for place in (a, b)]
            further = [open_source(tiles, client)] if tiles else []
            sources = [*further, *(side.tiles for side in sides if side.tiles)]
            verdict, detail = _judge(key, sides, sources, evidence)
        if as_json:
            written = str(evidence) if verdict == Views.SPLIT else None
            print_json({"verdict": verdict, "detail": detail, "evidence": written})
        else:
            print(plain(f"{verdict}: {detail}"))
        return {"unknown": ERROR, "nothing": STALE, Views.SPLIT: PROVED}.get(verdict, OK)

    return guarded(work, watching=True)


def _judge(key: VerifierKey, sides: list[_Side], sources: list[LogSource], evidence: Path) -> tuple[str, str]:
    trust = TlogPolicy.threshold(key, (), 0)
    views = []
    for side in sides:
        opened = []
        for note in side.notes:
            try:
                opened.append(trust.open(note))
            except TransparencyError as error:
                # A client's memory may be of other logs too; a wrong signature is never passed over.
                if error.code is not Code.LOG_UNKNOWN:
                    raise
        if not opened:
            return "nothing", f"{side.place} holds no checkpoint of {key.name}"
        views.append(distinct(opened))
    # Everything against everything: two of one side may contradict each other as well.
    everything = distinct((*views[0], *views[1]))
    unknown = ""
    for place, first in enumerate(everything):
        for second in everything[place + 1 :]:
            try:
                _join(sources, first, second)
            except TransparencyError as error:
                if error.code is not Code.SPLIT_VIEW:
                    unknown = str(error)
                    continue
                replace_file(evidence, error.evidence[0])
                return Views.SPLIT, f"{error}; the proof is in {evidence}"
    first_size, second_size = (view[-1].checkpoint.size for view in views)
    if unknown:
        return "unknown", f"sizes {first_size:,} and {second_size:,} cannot be joined: {unknown}"
    if first_size == second_size:
        return Views.CONSISTENT, f"one log, both at size {first_size:,}"
    older, newer = sorted((first_size, second_size))
    late = sides[0].place if first_size < second_size else sides[1].place
    return Views.OLDER, f"one log; {late} is at size {older:,}, the other at {newer:,}"


def _join(sources: list[LogSource], first: SignedCheckpoint, second: SignedCheckpoint) -> None:
    failure: TransparencyError | None = None
    for read in [source.read for source in sources] or [_nothing]:
        try:
            join(read, first, second)
            return
        except TransparencyError as error:
            if error.code is Code.SPLIT_VIEW:
                raise
            failure = error
    if failure is not None:
        raise failure


def _nothing(resource: str) -> bytes:
    raise FileNotFoundError(resource)


def _side(place: str, client: WebClient, origin: str) -> _Side:
    if "://" in place:
        log = UrlSource(place, client)
        try:
            return _Side(place, (log.read(CHECKPOINT),), log)
        except FileNotFoundError:
            witness = WitnessSource(place, client, origin)
            try:
                return _Side(place, (witness.read(CHECKPOINT),), None)
            except FileNotFoundError:
                return _Side(place, (), None)
    path = Path(place)
    if path.is_dir():
        folder = FolderSource(path)
        try:
            return _Side(place, (folder.read(CHECKPOINT),), folder)
        except FileNotFoundError:
            return _Side(place, (), folder)
    with path.open("rb") as file:
        data = file.read(_MAX_FILE)
    return _Side(place, tuple(_notes(path, data)), None)


def _notes(path: Path, data: bytes) -> Iterator[bytes]:
    """The checkpoints in a file, whichever kind of file it is."""
    if data.startswith(HEADER.encode()):
        yield TlogProof.parse(data).checkpoint
    elif data.startswith(b'{"checkpoint"'):
        staple = Staple.parse(data)
        yield staple.checkpoint
        yield from (
            TlogProof.parse(proof).checkpoint for proof in (staple.release_proof, staple.status_proof)
        )
    elif data.startswith(BEGINS):
        document = LoggedList.parse(data)
        proofs = [document.proof, *([document.signers_proof] if document.signers_proof else [])]
        yield from (TlogProof.parse(proof).checkpoint for proof in proofs)
    elif data.lstrip().startswith(b"{"):
        yield from (sighting.checkpoint for sighting in FileMemory(path).sightings())
    else:
        yield data[: MAX_NOTE + 1]
