"""A host hands a running machine what is no fresh staple of its release, in every form that its port allows.

PID 1's code stands between a port and the node's own, as in a machine. The port is a named pipe: as with a virtio
port, hosts come and go, and reading gives nothing while there is none.
"""

import asyncio
import contextlib
import os
import threading
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from private_world import GPU, publish

from enclave_runtime import staple_intake
from enclave_runtime.staple_feed import StapleFeed, StapleRefused, framed
from images import recipe
from images.guest import init
from measurements.publish import ReleaseDraft, ReleaseLog
from measurements.signing_key import SigningKey
from measurements.staple import Staple
from measurements.statement import Subject

DIGEST = bytes(range(48))
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Staples:
    """Three of one release, each newer than the one before, and one of another log's."""

    old: bytes
    current: bytes
    fresh: bytes
    foreign: bytes


@pytest.fixture(scope="module")
def staples(tmp_path_factory: pytest.TempPathFactory) -> Staples:
    folder = tmp_path_factory.mktemp("log")
    made = [publish(folder, DIGEST)[0].read_bytes()]
    signer = SigningKey.load(folder / "signer.key")
    measurements = ({"tee": "sev-snp", "launchDigest": DIGEST.hex()}, GPU)
    draft = ReleaseDraft("test/node", "1", "prod", (Subject("image", DIGEST.hex()[:64]),), measurements)
    for hours in (20, 40):
        later = datetime.now(UTC) + timedelta(hours=hours)
        log = ReleaseLog.open(folder / "log", lambda later=later: later)
        made.append(log.publish(draft, [signer]).staple.encode())
    return Staples(*made, publish(tmp_path_factory.mktemp("other"), DIGEST)[0].read_bytes())


@dataclass
class Carried:
    """In the place of a node's identity: the staple that it carries, and all that it ever took."""

    staple: Staple
    taken: list[bytes] = field(default_factory=list)

    async def adopt_staple(self, staple: Staple) -> None:
        self.staple = staple
        self.taken.append(staple.encode())


@dataclass
class Machine:
    """A port and the pipe behind PID 1, both to be opened by somebody."""

    port: Path
    pipe: int
    carrier: threading.Thread

    @contextlib.contextmanager
    def host(self) -> Iterator[int]:
        """A host that comes, and goes."""
        opened = os.open(self.port, os.O_WRONLY)
        try:
            yield opened
        finally:
            os.close(opened)

    def send(self, data: bytes) -> None:
        with self.host() as opened:
            while data:
                data = data[os.write(opened, data) :]


@contextlib.contextmanager
def machine(
    folder: Path, limits: dict[str, float], program: Callable[..., None] = init.hand_over
) -> Iterator[Machine]:
    path = folder / "port"
    os.mkfifo(path)
    port = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(port, True)
    pipe, feed = os.pipe()
    carrier = threading.Thread(target=program, args=(port, feed, limits), daemon=True)
    carrier.start()
    made = Machine(path, pipe, carrier)
    try:
        yield made
    finally:
        deadline = time.monotonic() + PATIENCE_S
        while carrier.is_alive() and time.monotonic() < deadline:
            made.send(b"\xff" * 8)
            carrier.join(0.1)
        for descriptor in (port, pipe, feed):
            os.close(descriptor)


def policy_limits() -> dict[str, float]:
    """The recipe's own, with a shorter pause."""
    return {"bytes": recipe.load("cpu-dev").guest["staple_bytes"], "pause_s": 0.01}


def carry_all(port: int, feed: int, _: dict[str, float]) -> None:
    """The control: bytes as they come, whoever sends them."""
    while True:
        data = os.read(port, 65536)
        if data.endswith(b"\xff" * 8):
            return
        os.write(feed, data)
        if not data:
            time.sleep(0.01)


def of_a_node(pipe: int, carried: Carried, meanwhile: Callable[[], Awaitable[None]]) -> None:
    """The node's own code takes staples from the pipe until ``meanwhile`` ends."""

    async def live() -> None:
        staple_intake.take_staples(asyncio.get_running_loop(), pipe, carried)  # type: ignore[arg-type]
        await meanwhile()

    asyncio.run(live())


def sends(
    made: Machine, attempts: list[bytes], carried: Carried, until: int
) -> Callable[[], Awaitable[None]]:
    async def run() -> None:
        sender = threading.Thread(target=lambda: [made.send(data) for data in attempts], daemon=True)
        sender.start()
        deadline = time.monotonic() + PATIENCE_S
        while len(carried.taken) < until:
            assert time.monotonic() < deadline, "the node took nothing"
            await asyncio.sleep(0.01)
        while sender.is_alive():
            await asyncio.sleep(0.01)

    return run


def test_a_staple_that_is_old_or_anothers_or_none_changes_nothing(tmp_path: Path, staples: Staples) -> None:
    """What comes last is the only good one, and the only one that is taken."""
    carried = Carried(Staple.parse(staples.current))
    bad = [staples.old, staples.foreign, b"{}", b"", os.urandom(3000), staples.fresh[:-1]]
    with machine(tmp_path, policy_limits()) as made:
        attempts = [framed(file) for file in (*bad, staples.fresh)]
        of_a_node(made.pipe, carried, sends(made, attempts, carried, until=1))
    assert carried.taken == [staples.fresh]


def test_control_a_node_that_does_not_look_goes_back_in_time(
    tmp_path: Path, staples: Staples, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staple_intake, "successor", lambda _, file: Staple.parse(file))
    carried = Carried(Staple.parse(staples.current))
    with machine(tmp_path, policy_limits()) as made:
        of_a_node(made.pipe, carried, sends(made, [framed(staples.old)], carried, until=1))
    assert carried.taken == [staples.old]


def test_a_host_that_hangs_up_in_the_middle_spoils_nothing_of_the_next(
    tmp_path: Path, staples: Staples, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone: list[OSError] = []  # how often PID 1 saw that there is no host
    read_exactly = init.read_exactly

    def seen(port: int, size: int) -> bytes:
        try:
            return read_exactly(port, size)
        except OSError as error:
            alone.append(error)
            raise

    monkeypatch.setattr(init, "read_exactly", seen)
    carried = Carried(Staple.parse(staples.current))
    whole = framed(staples.fresh)
    with machine(tmp_path, policy_limits()) as made:
        for cut in (1, 3, 4, 5, len(whole) // 2, len(whole) - 1):
            made.send(whole[:cut])
            before, deadline = len(alone), time.monotonic() + PATIENCE_S
            while len(alone) < before + 2:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        of_a_node(made.pipe, carried, sends(made, [whole], carried, until=1))
    assert carried.taken == [staples.fresh]


def test_control_bytes_as_they_come_are_out_of_step_for_good(tmp_path: Path, staples: Staples) -> None:
    whole = framed(staples.fresh)
    feed, got = StapleFeed(), []
    with machine(tmp_path, policy_limits(), carry_all) as made:
        made.send(whole[: len(whole) // 2])
        time.sleep(0.2)
        made.send(whole)
        deadline = time.monotonic() + PATIENCE_S
        read = 0
        while read < len(whole) + len(whole) // 2:
            assert time.monotonic() < deadline
            data = os.read(made.pipe, 65536)
            read += len(data)
            with contextlib.suppress(StapleRefused):
                got += list(feed.feed(data))
    assert staples.fresh not in got


def test_a_length_beyond_the_limit_takes_no_memory_and_ends_it(tmp_path: Path, staples: Staples) -> None:
    peak = peak_of(tmp_path, staples, policy_limits())
    assert peak < 4 << 20


def test_control_without_the_limit_the_host_says_how_much_is_held(tmp_path: Path, staples: Staples) -> None:
    peak = peak_of(tmp_path, staples, {**policy_limits(), "bytes": 32 << 20})
    assert peak > 16 << 20


def peak_of(folder: Path, staples: Staples, limits: dict[str, float]) -> int:
    """Bytes that PID 1 holds at most when a host announces 16 MiB and sends 1000 bytes of it."""
    tracemalloc.start()
    try:
        with machine(folder, limits) as made:
            with made.host() as host:
                os.write(host, (16 << 20).to_bytes(4, "big") + b"x" * 1000)
                deadline = time.monotonic() + PATIENCE_S
                while made.carrier.is_alive() and tracemalloc.get_traced_memory()[1] < 16 << 20:
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
            os.set_blocking(made.pipe, False)
            with pytest.raises(BlockingIOError):
                os.read(made.pipe, 1)
            return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_flood_reaches_the_node_one_at_a_time_with_pauses(tmp_path: Path) -> None:
    count, seconds = flooded(tmp_path, {"bytes": 100, "pause_s": 0.2}, frames=2000)
    assert 1 <= count <= 1 + seconds / 0.2


def test_control_without_a_pause_all_of_a_flood_reaches_the_node(tmp_path: Path) -> None:
    count, _ = flooded(tmp_path, {"bytes": 100, "pause_s": 0.0}, frames=2000)
    assert count == 2000


def flooded(folder: Path, limits: dict[str, float], frames: int) -> tuple[int, float]:
    """How many of ``frames`` got through until as many had, or some had and a second was over; in how long."""
    began = time.monotonic()
    feed, count = StapleFeed(), 0
    with machine(folder, limits) as made:
        sender = threading.Thread(target=made.send, args=(framed(b"no staple") * frames,), daemon=True)
        sender.start()
        os.set_blocking(made.pipe, False)
        patience = began + (PATIENCE_S if not limits["pause_s"] else 1.0)
        while count < frames and (time.monotonic() < patience or not count):
            with contextlib.suppress(BlockingIOError):
                count += len(list(feed.feed(os.read(made.pipe, 65536))))
        seconds = time.monotonic() - began
        limits["pause_s"] = 0.0  # and now to its end
        sender.join(PATIENCE_S)
    return count, seconds
