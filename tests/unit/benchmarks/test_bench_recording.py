"""Recorded arms: what was written comes back, a cut run goes on, and anything else is refused by name."""

import contextlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.load import Timing
from benchmarks.recording import Boot, Load, Recorder, RecordingError, read

PLAN = {"profile": "short", "seed": 0}
TIMING = Timing(0, "p0", 50.0, 50.1, 50.3, 50.9, 51.0, 12, 4, (0.2, 0.4), "a" * 64)


def boot(number: int) -> Boot:
    return Boot(number, "machine", {"boot": 2.5}, {"evidence_sha256": "ab"})


def load(number: int) -> Load:
    return Load(number, "closed-1", (TIMING, replace(TIMING, slot=1, intended=51.0)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    recorder = Recorder(tmp_path / "plain", "plain", PLAN)
    for number in (0, 1):
        recorder.write({"cpu": "c"}, boot(number), [load(number)])
    return tmp_path / "plain"


def test_what_was_written_comes_back_with_times_from_zero(folder: Path) -> None:
    found = read(folder)
    assert (found.arm, found.plan, found.environment) == ("plain", PLAN, {"cpu": "c"})
    assert found.boots == (boot(0), boot(1))
    assert [(load.boot, load.name, len(load.timings)) for load in found.loads] == [
        (0, "closed-1", 2),
        (1, "closed-1", 2),
    ]
    assert found.loads[0].timings[0].intended == 0.0
    assert found.loads[0].timings[0].ended == pytest.approx(1.0)
    assert found.loads[0].timings[1].intended == pytest.approx(1.0)


def test_a_run_that_was_cut_off_goes_on_after_the_last_whole_boot(folder: Path) -> None:
    with (folder / "requests.jsonl").open("a") as requests:
        requests.write(json.dumps({"boot": 2, "load": "closed-1", "slot": 0}) + '\n{"boot": 2, "lo')
    assert len(read(folder).loads) == 2  # what belongs to no whole boot does not count
    recorder = Recorder(folder, "plain", PLAN)
    assert [recorder.done(number) for number in (0, 1, 2)] == [True, True, False]
    recorder.write({}, boot(2), [load(2)])
    assert [load.boot for load in read(folder).loads] == [0, 1, 2]


@pytest.mark.parametrize(("arm", "plan"), [("sealed", PLAN), ("plain", {"profile": "long", "seed": 0})])
def test_another_arm_or_plan_is_not_mixed_in(folder: Path, arm: str, plan: dict[str, object]) -> None:
    with pytest.raises(RecordingError, match="another_plan"):
        Recorder(folder, arm, plan)


def test_numbers_that_were_not_measured_are_refused(folder: Path) -> None:
    head = json.loads((folder / "arm.json").read_text())
    for change, code in (
        ({"provenance": "modelled"}, "recording_provenance"),
        ({"schema": "x"}, "recording_schema"),
    ):
        (folder / "arm.json").write_text(json.dumps(head | change))
        with pytest.raises(RecordingError, match=code):
            read(folder)


def test_a_boot_recorded_twice_is_refused(folder: Path) -> None:
    boots = folder / "boots.jsonl"
    boots.write_text(boots.read_text() * 2)
    with pytest.raises(RecordingError, match="twice"):
        read(folder)


@pytest.mark.parametrize("name", ["arm.json", "boots.jsonl", "requests.jsonl"])
def test_truncated_and_changed_files_never_leave_the_error_family(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    step = max(1, len(whole) // 300)
    for cut in range(0, len(whole), step):
        for data in (whole[:cut], whole[:cut] + bytes([whole[cut] ^ 0x15]) + whole[cut + 1 :]):
            (folder / name).write_bytes(data)
            with contextlib.suppress(RecordingError):
                read(folder)


def test_no_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="recording_unreadable"):
        read(tmp_path / "none")
