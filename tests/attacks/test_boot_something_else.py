"""A host tries to boot a sealed image with something of its own; each attempt stands beside one that must work."""

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from machine_probe import REACHED, adapt_policy, console_of, copy_with_other_volume, flipped, with_hashes
from vm_world import VmRelease

from images import vm_manifest, volume
from images.hypervisor import Machine
from measurements.vm_image import read_vm_image

TAKEN = "this machine is mine"
TAKE_OVER = f"rdinit=/python/bin/python3 -- -ISBc \"print('{TAKEN}')\""

SHELLS = ("rdinit=/bin/sh", "init=/bin/bash rdinit=/bin/busybox", "single", "rd.break=pre-mount")
DISK = "if=none,id=x,driver=null-co,size=1M,read-zeroes=on"
DEVICES = {
    "disk": ("-drive", DISK, "-device", "virtio-blk-pci,drive=x,serial=x"),
    "console": (
        *("-device", "virtio-serial-pci,id=more", "-chardev", "null,id=c"),
        *("-device", "virtconsole,chardev=c,bus=more.0"),
    ),
    "smbios-credential": ("-smbios", "type=11,value=io.systemd.credential:passwd.hashed-password.root="),
    "smbios-cmdline": ("-smbios", "type=11,value=io.systemd.stub.kernel-cmdline-extra=rdinit=/bin/sh"),
    "fw_cfg": ("-fw_cfg", "name=opt/org.cloister/policy,string={}"),
    "keyboard": ("-device", "usb-ehci", "-device", "usb-kbd"),
}


@pytest.fixture(scope="module")
def image(vm_release: VmRelease) -> Path:
    return vm_release.image


def other_line(line: str) -> Callable[[Machine, Path], Machine]:
    return lambda machine, _: replace(machine, append=line)


@pytest.mark.exhaustive
def test_the_image_as_it_is_boots(image: Path) -> None:
    assert REACHED in console_of(image)


def place_of(image: Path, volume_file: str, content: bytes) -> int:
    """Where these bytes lie in a volume, as they do in one piece."""
    data = (image / volume_file).read_bytes()
    at = data.index(content)
    assert data.count(content) == 1
    return at


def test_flip_one_bit_of_the_root_volume(image: Path) -> None:
    at = place_of(image, "root.img", b'"""PID 1 of a virtual machine')
    with flipped(image / "root.img", at + 10):
        console = console_of(image)
    assert REACHED not in console
    assert "stage 1: OSError" in console or "verity" in console or console.strip() == ""


@pytest.mark.exhaustive
def test_put_code_into_the_root_volume_and_name_its_hash_in_the_policy(image: Path, tmp_path: Path) -> None:
    """With the measured policy the code never runs; with a policy of the host's it does, under another digest."""
    changed = tmp_path / "root.img"
    shutil.copyfile(image / "root.img", changed)
    original = (Path(vm_manifest.__file__).parent / "guest" / "init.py").read_bytes()
    at = place_of(image, "root.img", original[:200])
    evil = f"print({TAKEN!r}, flush=True)\nimport time; time.sleep(9)\n".encode().ljust(len(original), b"#")
    with changed.open("r+b") as file:
        file.seek(at)
        file.write(evil)
    attacked = copy_with_other_volume(image, tmp_path / "attacked", "root", changed)
    assert TAKEN not in console_of(attacked)
    adapt_policy(attacked, "root")
    assert TAKEN in console_of(attacked, patience_s=60)
    assert (attacked / "initrd").read_bytes() != (image / "initrd").read_bytes()


@pytest.mark.exhaustive
def test_swap_the_model_volume_for_another_valid_one(image: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "model.safetensors").write_bytes(b"another model" * 40_000)
    made = volume.write(
        volume.model_tree(tmp_path / "tiny"),
        tmp_path / "model.img",
        name="model",
        mount="/models/0",
        identity=vm_manifest.read(image).policy["volumes"][1]["identity"],
        progress=lambda *_: None,
    )
    attacked = copy_with_other_volume(image, tmp_path / "attacked", "model", tmp_path / "model.img")
    assert REACHED not in console_of(attacked)
    assert made.verity.root.hex() != vm_manifest.read(image).policy["volumes"][1]["root_hash"]


@pytest.mark.exhaustive
def test_flip_one_bit_of_the_model_volume(image: Path) -> None:
    with flipped(image / "model.img", 1024):
        assert REACHED not in console_of(image)


@pytest.mark.exhaustive
def test_take_over_by_the_command_line_and_see_what_notices(image: Path) -> None:
    """Nothing in the machine can stop its own command line: what notices is the measurement, and SEV's firmware."""
    line = (image / "cmdline").read_text()
    assert TAKEN in console_of(image, other_line(f"{line} {TAKE_OVER}"))  # the control: it is a full takeover
    described = read_vm_image(image)
    assert described is not None
    released = described.launch_digest()
    assert replace(described, cmdline=f"{line} {TAKE_OVER}").launch_digest() != released
    if not (image / "firmware" / "OVMF.amdsev.fd").exists():
        pytest.skip("the SEV firmware's package could not be had")
    hashed = with_hashes(image, line)

    def attack(machine: Machine, scratch: Path) -> Machine:
        return replace(hashed(machine, scratch), append=f"{line} {TAKE_OVER}")

    assert TAKEN not in console_of(image, attack, patience_s=40)


def test_boot_by_hashes_right_and_with_one_letter_changed(image: Path) -> None:
    if not (image / "firmware" / "OVMF.amdsev.fd").exists():
        pytest.skip("the SEV firmware's package could not be had")
    line = (image / "cmdline").read_text()
    before = time.monotonic()
    assert REACHED in console_of(image, with_hashes(image, line))
    twice = 2 * (time.monotonic() - before)
    assert REACHED not in console_of(
        image, with_hashes(image, line.replace("quiet", "quieT")), patience_s=twice
    )


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["vmlinuz", "initrd"])
def test_flip_one_bit_of_what_is_hashed(image: Path, tmp_path: Path, name: str) -> None:
    if not (image / "firmware" / "OVMF.amdsev.fd").exists():
        pytest.skip("the SEV firmware's package could not be had")
    line = (image / "cmdline").read_text()
    attacked = tmp_path / "attacked"
    attacked.mkdir()
    for entry in image.iterdir():
        (attacked / entry.name).symlink_to(entry)
    (attacked / name).unlink()
    shutil.copyfile(image / name, attacked / name)
    # The last byte: of the kernel's signature, and of the disk's padding. By itself it stops nothing.
    with flipped(attacked / name, (image / name).stat().st_size - 1):
        before = time.monotonic()
        assert REACHED in console_of(attacked, with_hashes(attacked, line))
        twice = 2 * (time.monotonic() - before)
        released = with_hashes(image, line)
        assert REACHED not in console_of(attacked, released, patience_s=twice)


@pytest.mark.exhaustive
@pytest.mark.parametrize("words", SHELLS)
def test_look_for_a_shell_by_the_command_line(image: Path, words: str) -> None:
    line = (image / "cmdline").read_text()
    console = console_of(image, other_line(f"{line} {words}"), patience_s=90)
    assert "# " not in console
    assert "$ " not in console
    assert "login" not in console


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", DEVICES)
def test_add_a_device_or_a_table(image: Path, name: str) -> None:
    """The machine comes up as if it were not there: same stages, no more programs, nothing new said."""
    console = console_of(image, lambda machine, _: replace(machine, extra=DEVICES[name]))
    assert REACHED in console
    said = [line for line in console.splitlines() if line.strip() and not line.startswith("[")]
    assert [line for line in said if "init:" not in line and "\x1b" not in line] == []


@pytest.mark.exhaustive
def test_offer_another_disk_of_the_same_name(image: Path, tmp_path: Path) -> None:
    """Which disk the host calls `root` is its own choice; one that does not fit its hash stops the machine."""
    wrong = tmp_path / "wrong.img"
    with wrong.open("wb") as file:
        file.truncate((image / "root.img").stat().st_size)
    attacked = copy_with_other_volume(image, tmp_path / "attacked", "root", wrong)
    assert REACHED not in console_of(attacked)
