"""A recorded arm: one folder with what was run (``arm.json``), each boot, and each request.

``requests.jsonl`` and ``boots.jsonl`` hold one JSON object a line. A boot's line is written after all of its
requests, so a run that was cut off goes on with the first boot that has no line; requests of a boot without a
line do not count. Times of requests are seconds from the beginning of their load.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.load import MAX_GAPS, Timing
from benchmarks.provenance import Provenance

SCHEMA = "cloister-bench/2"
MAX_FILE = 1 << 30
MAX_LINE = 1 << 20

_HEAD, _BOOTS, _REQUESTS = "arm.json", "boots.jsonl", "requests.jsonl"


class RecordingError(Exception):
    """A folder holds no recorded arm, or another one; ``code`` names the reason."""

    def __init__(self, code: str, detail: str) -> None:
        self.code = code
        super().__init__(f"{code}: {detail}")


@dataclass(frozen=True, slots=True)
class Load:
    """One load of one boot: its name (``closed-8``, ``open-2.5``) and its requests."""

    boot: int
    name: str
    timings: tuple[Timing, ...]


@dataclass(frozen=True, slots=True)
class Boot:
    """One boot: its number from 0, the machine it ran on, seconds by component (names of metrics.PER_BOOT)."""

    number: int
    machine: str
    components: Mapping[str, float]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Recording:
    """A recorded arm, complete boots only. ``plan`` and ``environment`` are JSON types."""

    arm: str
    plan: Mapping[str, Any]
    environment: Mapping[str, Any]
    boots: tuple[Boot, ...]
    loads: tuple[Load, ...]

    def machines(self) -> frozenset[str]:
        """The machines it ran on."""
        return frozenset(boot.machine for boot in self.boots)


class Recorder:
    """Writes an arm's folder, or goes on with one. Raises RecordingError where it holds another plan."""

    def __init__(self, folder: Path, arm: str, plan: Mapping[str, Any]) -> None:
        self.folder, self._arm, self._plan = folder, arm, dict(plan)
        folder.mkdir(parents=True, exist_ok=True)
        self._done: frozenset[int] = frozenset()
        if (folder / _HEAD).exists():
            found = read(folder)
            if (found.arm, found.plan) != (arm, self._plan):
                raise RecordingError("another_plan", f"{folder} holds {found.arm!r} with another plan")
            self._done = frozenset(boot.number for boot in found.boots)
            self._keep_complete()

    def done(self, boot: int) -> bool:
        """Whether a boot is recorded already."""
        return boot in self._done

    def write(self, environment: Mapping[str, Any], boot: Boot, loads: Sequence[Load]) -> None:
        """Record one boot with its loads, durably, its own line last."""
        head = {
            "schema": SCHEMA,
            "provenance": Provenance.MEASURED,
            "arm": self._arm,
            "plan": self._plan,
            "environment": dict(environment),
        }
        if not (self.folder / _HEAD).exists():
            (self.folder / _HEAD).write_text(json.dumps(head, indent=1) + "\n")
        _append(
            self.folder / _REQUESTS,
            (
                {"boot": boot.number, "load": load.name, **asdict(_from_zero(timing, _beginning(load)))}
                for load in loads
                for timing in load.timings
            ),
        )
        _append(self.folder / _BOOTS, [asdict(boot)])

    def _keep_complete(self) -> None:
        path = self.folder / _REQUESTS
        kept = [line for line in _lines(path) if line.get("boot") in self._done]
        whole = path.with_suffix(".tmp")
        whole.write_text("".join(json.dumps(line) + "\n" for line in kept))
        whole.replace(path)


def read(folder: Path) -> Recording:
    """Read an arm's folder. Raises RecordingError."""
    head = _json(folder / _HEAD)
    try:
        if head["schema"] != SCHEMA:
            raise RecordingError("recording_schema", f"expected {SCHEMA}, found {str(head['schema'])[:40]}")
        if head["provenance"] != Provenance.MEASURED:
            raise RecordingError("recording_provenance", "only measured numbers are compared")
        boots = tuple(_boot(line) for line in _lines(folder / _BOOTS))
        numbers = [boot.number for boot in boots]
        if len(set(numbers)) != len(numbers):
            raise RecordingError("recording_malformed", "a boot appears twice")
        loads: dict[tuple[int, str], list[Timing]] = {}
        for line in _lines(folder / _REQUESTS):
            if line["boot"] in numbers:
                loads.setdefault((line["boot"], str(line["load"])), []).append(_timing(line))
        return Recording(
            str(head["arm"]),
            dict(head["plan"]),
            dict(head["environment"]),
            boots,
            tuple(Load(boot, name, tuple(timings)) for (boot, name), timings in loads.items()),
        )
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise RecordingError("recording_malformed", f"{folder} holds no recorded arm") from error


def _boot(line: Mapping[str, Any]) -> Boot:
    components = {str(name): _number(value) for name, value in line["components"].items()}
    return Boot(_whole(line["number"]), str(line["machine"]), components, dict(line["facts"]))


def _timing(line: Mapping[str, Any]) -> Timing:
    gaps = line["gaps"]
    if type(gaps) is not list or len(gaps) > MAX_GAPS:
        raise ValueError
    return Timing(
        slot=_whole(line["slot"]),
        prompt=str(line["prompt"]),
        **{name: _number(line[name]) for name in ("intended", "sent", "first", "last", "ended")},
        prompt_tokens=_whole(line["prompt_tokens"]),
        tokens=_whole(line["tokens"]),
        gaps=tuple(_number(gap) for gap in gaps),
        answer=str(line["answer"]),
    )


def _from_zero(timing: Timing, zero: float) -> Timing:
    moved = {name: getattr(timing, name) - zero for name in ("intended", "sent", "first", "last", "ended")}
    return replace(timing, **moved)


def _beginning(load: Load) -> float:
    return min(timing.intended for timing in load.timings)


def _append(path: Path, entries: "Sequence[Mapping[str, Any]] | Iterator[Mapping[str, Any]]") -> None:
    with path.open("a") as target:
        for entry in entries:
            target.write(json.dumps(entry) + "\n")
        target.flush()
        os.fsync(target.fileno())


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Whole lines of a JSONL file; a last line without its end was cut off and is left out."""
    if not path.exists():
        return
    if path.stat().st_size > MAX_FILE:
        raise RecordingError("recording_too_large", f"{path} has more than {MAX_FILE} bytes")
    with path.open("rb") as source:
        while line := source.readline(MAX_LINE + 1):
            if len(line) > MAX_LINE:
                raise RecordingError(
                    "recording_malformed", f"{path} has a line of more than {MAX_LINE} bytes"
                )
            if not line.endswith(b"\n"):
                return
            yield _object(line, path)


def _json(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as source:
            data = source.read(MAX_LINE + 1)
    except OSError as error:
        raise RecordingError("recording_unreadable", f"{path}: {error.strerror}") from error
    if len(data) > MAX_LINE:
        raise RecordingError("recording_too_large", f"{path} has more than {MAX_LINE} bytes")
    return _object(data, path)


def _object(data: bytes, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RecordingError("recording_malformed", f"{path} is not JSON") from error
    if not isinstance(value, dict):
        raise RecordingError("recording_malformed", f"{path} holds no object")
    return value


def _number(value: object) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):  # type: ignore[arg-type]
        raise ValueError
    return float(value)  # type: ignore[arg-type]


def _whole(value: object) -> int:
    if type(value) is not int:
        raise ValueError
    return value
