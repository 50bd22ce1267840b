"""What a monitor has seen of a log, in one file that is replaced as a whole."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from . import strict_base64
from .alerts import Alert
from .channel_watch import Channel
from .durable import make_folder, replace_file
from .errors import Code, LogError, TransparencyError
from .merkle import TreeFold

MAX_STATE: Final = 256 * 1024 * 1024
_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class MonitorState:
    """The tree so far, the note that it was signed by (b"" at the beginning), channels, and alerts raised."""

    log: str
    tree: TreeFold = field(default_factory=TreeFold)
    checkpoint: bytes = b""
    channels: dict[str, Channel] = field(default_factory=dict)
    alerts: tuple[Alert, ...] = ()
    rotated: bool = False


class StateFolder:
    """STATE/state.json and evidence files beside it; one monitor at a time. Raises LogError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / "state.json"

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the folder. Raises LogError (LOG_BUSY, LOG_UNREADABLE)."""
        lock = -1
        try:
            make_folder(self._folder)
            lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise LogError(
                Code.LOG_BUSY, f"another monitor works in {self._folder}", stage="monitor"
            ) from error
        except OSError as error:
            raise self._broken(error.strerror) from error
        try:
            yield
        finally:
            os.close(lock)

    def load(self, log: str) -> MonitorState:
        """What is remembered of the log with this vkey; a state of another log is refused."""
        try:
            with self._file.open("rb") as file:
                data = file.read(MAX_STATE + 1)
        except FileNotFoundError:
            return MonitorState(log)
        except OSError as error:
            raise self._broken(error.strerror) from error
        try:
            state = _parse(data)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, TransparencyError) as error:
            raise self._broken("not a monitor's state") from error
        if state.log != log:
            raise LogError(
                Code.LOG_UNKNOWN,
                f"{self._file} is about another log; give each log a state folder of its own",
                stage="monitor",
                expected=log,
                found=state.log,
            )
        return state

    def save(self, state: MonitorState) -> None:
        """Replace the file."""
        document = {
            "v": _VERSION,
            "log": state.log,
            "size": state.tree.size,
            "nodes": [node.hex() for node in state.tree.nodes],
            "checkpoint": strict_base64.encode(state.checkpoint),
            "channels": {name: channel.to_json() for name, channel in state.channels.items()},
            "rotated": state.rotated,
            "alerts": [alert.to_json() for alert in state.alerts],
        }
        try:
            replace_file(self._file, json.dumps(document, indent=1).encode(), 0o600)
        except OSError as error:
            raise self._broken(error.strerror) from error

    def keep(self, name: str, data: bytes) -> str:
        """Write an evidence file; returns its path."""
        path = self._folder / name
        try:
            replace_file(path, data)
        except OSError as error:
            raise self._broken(error.strerror) from error
        return str(path)

    def _broken(self, why: str | None) -> LogError:
        return LogError(Code.LOG_UNREADABLE, f"{self._file}: {why}", stage="monitor")


def _parse(data: bytes) -> MonitorState:
    if len(data) > MAX_STATE:
        raise ValueError("too large")
    value: Any = json.loads(data)
    if value["v"] != _VERSION or not isinstance(value["log"], str) or type(value["size"]) is not int:
        raise ValueError("another version")
    return MonitorState(
        value["log"],
        TreeFold(value["size"], [bytes.fromhex(node) for node in value["nodes"]]),
        strict_base64.decode(value["checkpoint"]),
        {name: Channel.from_json(one) for name, one in value["channels"].items()},
        tuple(Alert.from_json(one) for one in value["alerts"]),
        value["rotated"] is True,
    )
