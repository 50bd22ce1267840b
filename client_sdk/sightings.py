"""Which nodes a client was served by, so that steering shows (docs/protocol.md §6).

A client draws its node at random, so over time every node serves its share. Somebody on the way can still answer for
some nodes and fail for others, until the client has landed where they want it. What chance does not explain is
reported; it is never a verdict, since nodes that were down leave the same trace.

For a node listed in draws of n₁, n₂, … nodes, the expected count is μ = Σ 1/nᵢ. The probability of a count as far
away as c is at most exp(c - μ - c ln(c/μ)) (Chernoff's bound, for independent draws of any probabilities), on either
side. With 2n such looks at n nodes, one is reported below 1 % / 2n, so that honest draws raise an alarm in at most one
of a hundred histories.
"""

import json
import math
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from measurements.durable import locked, replace_file

from .directory import MAX_NODES
from .errors import ClientError

FALSE_ALARMS: Final = 0.01
_MAX_FILE: Final = 1024 * 1024
_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Count:
    """Of one node: ``expected`` draws by now, conversations ``served``, attempts that ``failed``."""

    expected: float = 0.0
    served: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Steering:
    """A share that chance does not explain: it is as likely as ``probability``, at most."""

    name: str
    expected: float
    served: int
    probability: float

    def __str__(self) -> str:
        side = "more" if self.served > self.expected else "less"
        return (
            f"{self.name} served {self.served} conversations, {side} than the {self.expected:.0f} that chance gives it "
            f"(probability below {self.probability:.1g}): steering is suspected, unless nodes were down"
        )


def suspected(counts: Mapping[str, Count]) -> tuple[Steering, ...]:
    """The nodes whose share chance does not explain, the most striking first."""
    limit = FALSE_ALARMS / max(1, 2 * len(counts))
    found = [
        Steering(name, count.expected, count.served, probability)
        for name, count in counts.items()
        if (probability := _by_chance(count.served, count.expected)) < limit
    ]
    return tuple(sorted(found, key=lambda steering: (steering.probability, steering.name)))


def after_draw(
    counts: Mapping[str, Count], listed: Iterable[str], served_by: str | None, failed: Iterable[str] = ()
) -> dict[str, Count]:
    """``counts`` after one more conversation among the ``listed`` nodes, served by one, or by none at all.

    Nodes that are no longer listed are forgotten.
    """
    names = list(listed)
    broken = set(failed)
    share = 0.0 if served_by is None else 1 / len(names)
    after = {}
    for name in names:
        count = counts.get(name, Count())
        after[name] = Count(
            count.expected + share, count.served + (name == served_by), count.failed + (name in broken)
        )
    return after


def after_loss(counts: Mapping[str, Count], name: str, share: float) -> dict[str, Count]:
    """``counts`` where ``name`` was drawn and counted, each node with the expectation ``share``, and then answered
    nothing at all: whoever shows every node's evidence and fails their answers must not have it look like chance.
    """
    return {
        one: Count(
            max(0.0, count.expected - share),
            max(0, count.served - (one == name)),
            count.failed + (one == name),
        )
        for one, count in counts.items()
    }


class FileSightings:
    """Counts in a file of this client's, by channel. Several processes may use it at once."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def counts(self, channel: str) -> dict[str, Count]:
        """The counts of a channel's nodes. Raises ClientError (``sightings_malformed``), OSError."""
        return self._read().get(channel, {})

    def remember(
        self, channel: str, listed: Iterable[str], served_by: str | None, failed: Iterable[str] = ()
    ) -> dict[str, Count]:
        """``after_draw``, kept. Raises ClientError (``sightings_malformed``), OSError."""
        with locked(self._path):
            channels = self._read()
            after = after_draw(channels.get(channel, {}), listed, served_by, failed)
            channels[channel] = after
            replace_file(self._path, _encoded(channels), 0o600)
        return after

    def take_back(self, channel: str, name: str, share: float) -> None:
        """``after_loss``, kept. Raises ClientError (``sightings_malformed``), OSError."""
        with locked(self._path):
            channels = self._read()
            channels[channel] = after_loss(channels.get(channel, {}), name, share)
            replace_file(self._path, _encoded(channels), 0o600)

    def _read(self) -> dict[str, dict[str, Count]]:
        try:
            with self._path.open("rb") as file:
                data = file.read(_MAX_FILE + 1)
        except FileNotFoundError:
            return {}
        try:
            return _decoded(data)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
            raise ClientError(
                "sightings_malformed", f"{self._path} is no list of sightings", "remove it to count anew"
            ) from error


class VolatileSightings:
    """Counts that end with the process; for any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._channels: dict[str, dict[str, Count]] = {}

    def counts(self, channel: str) -> dict[str, Count]:
        """The counts of a channel's nodes."""
        return self._channels.get(channel, {})

    def remember(
        self, channel: str, listed: Iterable[str], served_by: str | None, failed: Iterable[str] = ()
    ) -> dict[str, Count]:
        """``after_draw``, kept."""
        with self._lock:
            after = after_draw(self.counts(channel), listed, served_by, failed)
            self._channels[channel] = after
        return after

    def take_back(self, channel: str, name: str, share: float) -> None:
        """``after_loss``, kept."""
        with self._lock:
            self._channels[channel] = after_loss(self.counts(channel), name, share)


def _by_chance(served: int, expected: float) -> float:
    if expected <= 0.0:
        return 1.0 if served == 0 else 0.0
    surplus = served * math.log(served / expected) if served else 0.0
    return math.exp(min(0.0, served - expected - surplus))


def _encoded(channels: Mapping[str, Mapping[str, Count]]) -> bytes:
    document = {
        "version": _VERSION,
        "channels": {
            channel: {name: [round(c.expected, 9), c.served, c.failed] for name, c in counts.items()}
            for channel, counts in channels.items()
        },
    }
    return json.dumps(document, indent=1).encode()


def _decoded(data: bytes) -> dict[str, dict[str, Count]]:
    if len(data) > _MAX_FILE:
        raise ValueError("too large")
    document: Any = json.loads(data.decode())
    if document["version"] != _VERSION:
        raise ValueError("another version")
    return {
        str(channel): {str(name): _count(*row) for name, row in list(counts.items())[:MAX_NODES]}
        for channel, counts in document["channels"].items()
    }


def _count(expected: float, served: int, failed: int) -> Count:
    if type(served) is not int or type(failed) is not int or min(served, failed) < 0:
        raise ValueError("a count is no whole number")
    if isinstance(expected, bool) or not isinstance(expected, (int, float)) or not 0 <= expected < 1e12:
        raise ValueError("an expectation is no number")
    return Count(float(expected), served, failed)
