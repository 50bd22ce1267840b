"""A host hands its machine an ACPI table with code: it changes the initial RAM disk in memory, after it was measured.

Nothing that is measured says so: kernel, disk and command line are as released. A stock kernel runs the code; the
kernel of `cpu-sealed` carries a patch that keeps such code away from memory.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from acpi_code import table_that_replaces, where_the_disk_may_lie
from machine_probe import console_of, copy_with_other_disk, reaches_its_first_program
from vm_world import VmRelease

from images import vm_manifest
from images.hypervisor import Machine

TAKEN = "this machine is mine"
STAGE_1 = Path(vm_manifest.__file__).parent / "guest" / "stage1.py"
START = b'"""The first program of a virtual machine'
# Each stands in the place of the first line of a long text, and leaves the rest of it a text.
SPEAKS = b'print("this machine is mine",flush=1)\n"""'
DIES = b'import os;os.abort() # never come back\n"""'

pytestmark = pytest.mark.exhaustive


def place_of_stage_1(image: Path) -> int:
    """Where the first program's text lies in the initial RAM disk."""
    assert STAGE_1.read_bytes().count(START) == 1
    disk = (image / "initrd").read_bytes()
    assert disk.count(START) == 1
    return disk.index(START)


def table(image: Path, code: bytes) -> Callable[[Machine, Path], Machine]:
    """A machine that is handed a table which puts ``code`` into the first program."""
    at = place_of_stage_1(image)
    old = (image / "initrd").read_bytes()[at : at + len(code)]

    def change(machine: Machine, scratch: Path) -> Machine:
        places = [disk + at for disk in where_the_disk_may_lie(image, machine.memory)]
        (scratch / "table").write_bytes(table_that_replaces(places, old, code))
        return replace(machine, extra=("-acpitable", f"file={scratch / 'table'}"))

    return change


def test_a_stock_kernel_runs_the_code_of_a_table(vm_release: VmRelease) -> None:
    """What this shows is no defence but its lack, which docs/images.md states: and the control of the next test."""
    image = vm_release.image
    assert TAKEN not in console_of(image)
    assert TAKEN in console_of(image, table(image, SPEAKS))
    assert reaches_its_first_program(image)
    assert not reaches_its_first_program(image, table(image, DIES))


def test_a_sealed_kernel_keeps_the_code_of_a_table_away_from_memory(
    sealed_release: VmRelease, tmp_path: Path
) -> None:
    image = sealed_release.image
    at = place_of_stage_1(image)
    disk = bytearray((image / "initrd").read_bytes())
    disk[at : at + len(DIES)] = DIES
    # The control: the same change, made where it is measured, ends the machine.
    assert not reaches_its_first_program(copy_with_other_disk(image, tmp_path / "changed", bytes(disk)))
    assert reaches_its_first_program(image, table(image, DIES))
