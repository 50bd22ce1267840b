"""What a client has seen of a log, so that nobody can show it an older world later."""

import json
import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

from . import strict_base64
from .checkpoint import SignedCheckpoint
from .durable import locked, replace_file
from .errors import Code, TransparencyError

_MAX_FILE: Final = 4 * 1024 * 1024
_STAGE: Final = "log.rollback"


@dataclass(frozen=True, slots=True)
class Sighting:
    """One verified view of a log and a channel.

    ``status`` is the status's leaf hash, ``checkpoint`` the note, ``signers`` the leaf hash of the set of signers,
    ``node_list`` that of the list of nodes; 0 and empty for what this view did not show.
    """

    log: str
    channel: str
    status_sequence: int
    status: bytes
    min_release_sequence: int
    size: int
    root: bytes
    checkpoint: bytes
    signers_sequence: int = 0
    signers: bytes = b""
    list_sequence: int = 0
    node_list: bytes = b""


class RollbackMemory(Protocol):
    """Remembers the newest sighting per log and channel."""

    def check(self, sighting: Sighting) -> None:
        """Raise TransparencyError (ROLLBACK, SPLIT_VIEW) where ``sighting`` contradicts what is
        remembered.
        """
        ...

    def advance(self, sighting: Sighting) -> None:
        """``check`` and remember, as one step. Raises TransparencyError."""
        ...


def check_views(memory: RollbackMemory, sighting: Sighting, views: Iterable[SignedCheckpoint]) -> None:
    """Judge every other tree that was shown beside the newest one of ``sighting``, each by its size and root.

    An old proof may rest on an old tree, and it is there that a fork shows to whoever saw the log at that size. Raises
    TransparencyError.
    """
    others = {view.checkpoint.size: view for view in views if view.checkpoint.size != sighting.size}
    for size, view in others.items():
        memory.check(replace(sighting, size=size, root=view.checkpoint.root, checkpoint=view.raw))


def judge(seen: Mapping[tuple[str, str], Sighting], new: Sighting) -> Sighting:
    """What to remember for the sighting's log and channel.

    Raises TransparencyError: ROLLBACK for less than was seen, SPLIT_VIEW for a fork.
    """
    for old in seen.values():
        if (old.log, old.size) == (new.log, new.size) and old.root != new.root:
            raise TransparencyError(
                Code.SPLIT_VIEW,
                f"two roots of {new.log} at size {new.size}",
                stage=_STAGE,
                expected=old.root.hex(),
                found=new.root.hex(),
                evidence=(old.checkpoint, new.checkpoint),
            )
    return _newest(seen.get((new.log, new.channel)), new)


def _newest(old: Sighting | None, new: Sighting) -> Sighting:
    if old is None:
        return new
    # What a view does not show (a node no list, a list no status) stays as it was remembered.
    status, signers, listed = (new if shown else old for shown in (new.status, new.signers, new.node_list))
    for what, before, now in (
        ("status sequence", old.status_sequence, status.status_sequence),
        ("minimum release sequence", old.min_release_sequence, status.min_release_sequence),
        ("signer set", old.signers_sequence, signers.signers_sequence),
        ("list of nodes", old.list_sequence, listed.list_sequence),
    ):
        if now < before:
            raise TransparencyError(Code.ROLLBACK, what, stage=_STAGE, expected=f"≥ {before}", found=now)
    for what, number, leaves in (
        ("statuses", status.status_sequence, (old.status_sequence, old.status, status.status)),
        ("signer sets", signers.signers_sequence, (old.signers_sequence, old.signers, signers.signers)),
        ("lists of nodes", listed.list_sequence, (old.list_sequence, old.node_list, listed.node_list)),
    ):
        if leaves[0] == number and leaves[1] and leaves[1] != leaves[2]:
            raise _two(what, number, old, new, leaves[1:])
    # An older but witnessed and fresh checkpoint is a slow node, not a fork: the larger one stays remembered.
    newest = new if new.size >= old.size else old
    return Sighting(
        new.log,
        new.channel,
        status.status_sequence,
        status.status,
        status.min_release_sequence,
        newest.size,
        newest.root,
        newest.checkpoint,
        signers.signers_sequence,
        signers.signers,
        listed.list_sequence,
        listed.node_list,
    )


def _two(
    what: str, number: int, old: Sighting, new: Sighting, leaves: tuple[bytes, bytes]
) -> TransparencyError:
    return TransparencyError(
        Code.SPLIT_VIEW,
        f"two {what} with sequence {number}",
        stage=_STAGE,
        expected=leaves[0].hex(),
        found=leaves[1].hex(),
        evidence=(old.checkpoint, new.checkpoint),
    )


class VolatileMemory:
    """Remembers for as long as the process lives; for any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[tuple[str, str], Sighting] = {}

    def check(self, sighting: Sighting) -> None:
        """See RollbackMemory."""
        with self._lock:
            judge(self._seen, sighting)

    def advance(self, sighting: Sighting) -> None:
        """See RollbackMemory."""
        key = (sighting.log, sighting.channel)
        # Between the judging and the writing nobody else may write: an older view would take a newer one's place.
        with self._lock:
            self._seen[key] = judge(self._seen, sighting)

    def sightings(self) -> tuple[Sighting, ...]:
        """Everything remembered."""
        with self._lock:
            return tuple(self._seen.values())


class FileMemory:
    """Remembers in a JSON file, replaced atomically under a lock beside it.

    A file that cannot be read is an error (MEMORY_UNREADABLE), never an empty memory. A link is followed, so that
    all of a file's names share one memory and one lock.
    """

    def __init__(self, path: Path) -> None:
        self._path = Path(os.path.realpath(path))

    def check(self, sighting: Sighting) -> None:
        """See RollbackMemory."""
        judge(self._load(), sighting)

    def advance(self, sighting: Sighting) -> None:
        """See RollbackMemory."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with locked(self._path):
                seen = self._load()
                key = (sighting.log, sighting.channel)
                merged = judge(seen, sighting)
                if merged != seen.get(key):
                    self._store({**seen, key: merged})
        except OSError as error:
            raise self._unreadable(error.strerror) from error

    def sightings(self) -> tuple[Sighting, ...]:
        """Everything remembered. Raises TransparencyError (MEMORY_UNREADABLE)."""
        return tuple(self._load().values())

    def _load(self) -> dict[tuple[str, str], Sighting]:
        try:
            with self._path.open("rb") as file:
                data = file.read(_MAX_FILE + 1)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise self._unreadable(error.strerror) from error
        try:
            if len(data) > _MAX_FILE:
                raise ValueError("too large")
            document = json.loads(data)
            if set(document) != {"v", "seen"} or document["v"] != 1:
                raise ValueError("unknown version")
            sightings = [_from_json(item) for item in document["seen"]]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise self._unreadable("not a memory file") from error
        return {(sighting.log, sighting.channel): sighting for sighting in sightings}

    def _store(self, seen: dict[tuple[str, str], Sighting]) -> None:
        document = {"v": 1, "seen": [_to_json(seen[key]) for key in sorted(seen)]}
        try:
            replace_file(self._path, json.dumps(document, indent=1).encode(), 0o600)
        except OSError as error:
            raise self._unreadable(error.strerror) from error

    def _unreadable(self, why: str | None) -> TransparencyError:
        return TransparencyError(Code.MEMORY_UNREADABLE, f"{self._path}: {why}", stage=_STAGE)


def _to_json(sighting: Sighting) -> dict[str, object]:
    return {
        "log": sighting.log,
        "channel": sighting.channel,
        "status_sequence": sighting.status_sequence,
        "status": sighting.status.hex(),
        "min_release_sequence": sighting.min_release_sequence,
        "size": sighting.size,
        "root": sighting.root.hex(),
        "checkpoint": strict_base64.encode(sighting.checkpoint),
        "signers_sequence": sighting.signers_sequence,
        "signers": sighting.signers.hex(),
        "list_sequence": sighting.list_sequence,
        "node_list": sighting.node_list.hex(),
    }


def _from_json(item: Any) -> Sighting:
    # Absent in files of before there were sets, or lists.
    sets, lists = item.get("signers_sequence", 0), item.get("list_sequence", 0)
    numbers = (item["status_sequence"], item["min_release_sequence"], item["size"], sets, lists)
    if not all(type(number) is int for number in numbers) or not isinstance(item["log"], str):
        raise ValueError("not a sighting")
    if len(bytes.fromhex(item["root"])) != 32 or not isinstance(item["channel"], str):
        raise ValueError("not a sighting")
    return Sighting(
        log=item["log"],
        channel=item["channel"],
        status_sequence=item["status_sequence"],
        status=bytes.fromhex(item["status"]),
        min_release_sequence=item["min_release_sequence"],
        size=item["size"],
        root=bytes.fromhex(item["root"]),
        checkpoint=strict_base64.decode(item["checkpoint"]),
        signers_sequence=sets,
        signers=bytes.fromhex(item.get("signers", "")),
        list_sequence=lists,
        node_list=bytes.fromhex(item.get("node_list", "")),
    )
