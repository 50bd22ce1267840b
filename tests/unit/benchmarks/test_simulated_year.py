"""The simulated year, condensed: what each party sees of every event, on injected time."""

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.simulated_year import LEAST_DAYS, Seen, Year

EXPECTED = [
    ("first release", "operator", "release N, status N"),
    ("first release", "client", "accepted"),
    ("first release", "client that asks for a soak of a day", "TIME_INVALID"),
    ("first release", "traveller", "accepted"),
    ("first release", "monitor", "exit 0"),
    ("a day later", "client that asks for a soak of a day", "accepted"),
    ("a day later", "monitor", "exit 0"),
    ("a release is revoked", "operator", "status N without it"),
    ("a release is revoked", "client that sees a fresh node first", "accepted"),
    ("a release is revoked", "the same client at a node with the old staple", "ROLLBACK"),
    ("a release is revoked", "new client at a node with the old staple", "accepted"),
    ("a release is revoked", "monitor", "exit 0"),
    ("two days after", "new client at a node with the old staple", "WITNESS_STALE"),
    ("two days after", "client that bears old cosignatures", "STATUS_STALE"),
    ("a witness is away for a week", "operator", "release N, status N"),
    ("a witness is away for a week", "witness 3", "N entries behind"),
    ("a witness is away for a week", "client", "accepted"),
    ("a witness is away for a week", "monitor", "exit 0"),
    ("a second witness is away", "operator", "WITNESS_QUORUM"),
    ("a second witness is away", "everybody else", "nothing new was published"),
    ("a second witness is away", "client, with yesterday's staple", "accepted"),
    ("both are back", "operator", "release N, status N"),
    ("both are back", "witness 3", "N entries behind"),
    ("both are back", "client", "accepted"),
    ("both are back", "monitor", "exit 0"),
    ("power fails while publishing", "operator", "the log's machine is dark; a witness has cosigned already"),
    ("power is back", "operator", "release N, status N"),
    ("power is back", "witnesses", "0 forks seen"),
    ("power is back", "client", "accepted"),
    ("power is back", "monitor", "exit 0"),
    ("the log's disk is replaced by a copy of last week", "operator", "LOG_CORRUPT"),
    ("the log's disk is replaced by a copy of last week", "monitor", "exit 3 CHECKPOINT_STALE LOG_BEHIND"),
    ("the newer disk is found", "operator", "release N, status N"),
    ("the newer disk is found", "client", "accepted"),
    ("the newer disk is found", "monitor", "exit 0"),
    ("the release signer's key is rotated", "operator", "release N, status N"),
    ("the release signer's key is rotated", "client with the old policy", "IDENTITY_MISMATCH"),
    ("the release signer's key is rotated", "client with both keys", "accepted"),
    ("the release signer's key is rotated", "client with the new policy", "accepted"),
    ("the release signer's key is rotated", "monitor", "exit 0"),
    ("the release signer's key is rotated", "monitor that starts today", "exit 0"),
    ("somebody logs a release with the old signer's key", "client", "IDENTITY_MISMATCH"),
    ("somebody logs a release with the old signer's key", "monitor", "exit 2 UNKNOWN_SIGNER"),
    ("somebody logs a release with the old signer's key", "monitor, a second time", "exit 0"),
    ("the day goes on", "operator", "release N, status N"),
    ("the day goes on", "client", "accepted"),
    ("the day goes on", "monitor", "exit 2 SEQUENCE_GAP"),
    ("the log signs a second history for one victim", "victim, without a cosignature", "WITNESS_QUORUM"),
    (
        "the log signs a second history for one victim",
        "the log's own program, asked to have it cosigned",
        "LOG_CORRUPT",
    ),
    (
        "the log signs a second history for one victim",
        "honest witnesses",
        "status [422], proof kept by 3 of 3",
    ),
    ("the log signs a second history for one victim", "monitor that is shown both", "exit 2 SPLIT_VIEW"),
    ("two witnesses collude", "victim that asks only that node", "accepted"),
    ("two witnesses collude", "the victim at any other node", "ROLLBACK"),
    ("two witnesses collude", "monitor, shown what the victim holds", "exit 2 SPLIT_VIEW"),
    ("two witnesses collude", "client that remembers the public history", "SPLIT_VIEW"),
    ("nobody publishes for a day", "client", "WITNESS_STALE"),
    ("nobody publishes for a day", "monitor", "exit 3 CHECKPOINT_STALE"),
    ("only the witnesses look again", "monitor", "exit 0"),
    ("nobody publishes for three days", "client", "WITNESS_STALE"),
    ("nobody publishes for three days", "monitor", "exit 3 CHECKPOINT_STALE STATUS_STALE"),
    ("they are back", "operator", "release N, status N"),
    ("they are back", "client", "accepted"),
    ("they are back", "monitor", "exit 0"),
    ("clocks", "client whose clock is two hours slow", "WITNESS_STALE"),
    ("clocks", "client whose clock is days fast", "WITNESS_STALE"),
    ("the last day", "operator", "release N, status N"),
    ("the last day", "client", "accepted"),
    ("the last day", "traveller, last here on the first day", "accepted"),
    ("the last day", "the traveller at a node that never changed", "WITNESS_STALE"),
    ("the last day", "monitor", "exit 0"),
    ("the last day", "monitor that starts today", "exit 2 SEQUENCE_GAP UNKNOWN_SIGNER"),
]


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory where there is one: thousands of small files are made durable."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else None) as folder:
        yield Path(folder)


def outcomes(table: list[Seen]) -> list[tuple[str, str, str]]:
    """Without the numbers that depend on how long the year is."""
    found = []
    for one in table:
        counted = one.party == "operator" or "behind" in one.saw
        found.append((one.event, one.party, re.sub("[0-9]+", "N", one.saw) if counted else one.saw))
    return found


def test_a_condensed_year(memory: Path) -> None:
    year = Year(memory, LEAST_DAYS)
    assert outcomes(year.run(lambda _: None)) == EXPECTED
    assert year.log.tiles.checkpoint().checkpoint.size > 130


@pytest.mark.exhaustive
def test_a_whole_year(memory: Path) -> None:
    year = Year(memory, 365)
    assert outcomes(year.run(lambda _: None)) == EXPECTED
    assert year.log.tiles.checkpoint().checkpoint.size > 700
