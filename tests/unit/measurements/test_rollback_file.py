"""What was seen of a log is remembered: in a file by whatever name, and from however many processes and threads."""

import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from release_world import World

from measurements.errors import Code, TransparencyError
from measurements.rollback import FileMemory, Sighting, VolatileMemory

FIRST = Sighting("log.example", "prod", 1, b"\x01" * 32, 1, 10, b"\x02" * 32, b"note")


def test_all_names_of_a_file_are_one_memory(tmp_path: Path) -> None:
    target, link = tmp_path / "kept" / "memory.json", tmp_path / "memory.json"
    target.parent.mkdir()
    link.symlink_to(target)
    FileMemory(link).advance(FIRST)
    assert link.is_symlink()
    assert target.read_bytes() == link.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "kept",
        "memory.json",
    ]  # one lock, beside the file


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    memory, processes, rounds = tmp_path / "memory.json", 4, 25
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from measurements.rollback import FileMemory, Sighting\n"
        "for i in range(int(sys.argv[3])):\n"
        "    log = f'log{sys.argv[2]}-{i}.example'\n"
        "    FileMemory(Path(sys.argv[1])).advance(\n"
        "        Sighting(log, 'prod', 1, bytes(32), 1, 10, bytes(32), b'note'))\n"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", program, str(memory), str(number), str(rounds)])
        for number in range(processes)
    ]
    assert [process.wait(60) for process in running] == [0] * processes
    assert memory.read_text().count('"log"') == processes * rounds


def test_a_status_from_the_first_day_of_the_calendar_is_refused_like_any_other() -> None:
    world = World()
    release = world.release()
    dawn = datetime(1, 1, 1, tzinfo=UTC)
    status = world.status([release], issued_at=dawn, expires_at=dawn + timedelta(days=2))
    result = world.check(world.staple(release, status))
    assert result.error is not None
    assert result.error.code == "STATUS_STALE"


class SlowRead(dict[tuple[str, str], Sighting]):
    """Gives another thread every chance between what was read and what is written."""

    def get(self, key: Any, default: Any = None) -> Any:
        found = super().get(key, default)
        time.sleep(0.001)
        return found


def test_threads_that_share_a_memory_never_take_it_back() -> None:
    """Of 32 threads with views of different ages, whatever order they come in, the newest stays."""
    memory = VolatileMemory()
    memory._seen = SlowRead()
    start = threading.Barrier(32)
    raised: list[BaseException] = []

    def show(sequence: int) -> None:
        start.wait(timeout=60)
        try:
            memory.advance(
                replace(FIRST, status_sequence=sequence, status=bytes([sequence]) * 32, size=sequence)
            )
        except TransparencyError as error:
            if error.code is not Code.ROLLBACK:
                raised.append(error)
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=show, args=(sequence,)) for sequence in range(1, 33)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert raised == []
    (seen,) = memory.sightings()
    assert (seen.status_sequence, seen.size) == (32, 32)
