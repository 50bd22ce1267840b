"""What QEMU is asked for: the image's own files and line, and no device that an image does not need."""

from pathlib import Path

import pytest

from images import hypervisor
from images.errors import MachineError
from images.hypervisor import Machine

NETWORK = {"address": "10.0.2.15", "port": 80, "metrics_port": 9464}


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "cmdline").write_text("quiet")
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    return tmp_path


def words(image: Path, **chosen: object) -> str:
    machine = Machine("tcg", 512, 1, 8080, image / "host", image / "serial", **chosen)  # type: ignore[arg-type]
    return " ".join(hypervisor.command(image, NETWORK, machine))


def test_a_machine_has_its_two_disks_read_only_and_a_network_that_reaches_nothing(image: Path) -> None:
    line = words(image)
    assert line.count("readonly=on") == line.count("virtio-blk-pci") == 2
    assert "restrict=on,hostfwd=tcp:127.0.0.1:8080-10.0.2.15:80" in line
    assert "-nodefaults" in line
    assert "-append quiet" in line
    for device in ("tpm-crb", "virtconsole", "vga", "usb", "-bios", "org.cloister.platform"):
        assert device not in line


def test_metrics_are_forwarded_where_they_are_asked_for(image: Path) -> None:
    assert "9464" not in words(image)
    assert ",hostfwd=tcp:127.0.0.1:9000-10.0.2.15:9464 " in words(image, metrics_port=9000)


def test_a_unified_image_brings_its_own_line(image: Path) -> None:
    line = words(image, unified=True, tpm=image / "tpm", flash=(image / "code", image / "vars"))
    assert "-append" not in line
    assert "-initrd" not in line
    assert "tpm-crb,tpmdev=tpm" in line


def test_a_comma_in_a_path_is_no_option(image: Path) -> None:
    folder = image / "a,readonly=off"
    folder.mkdir()
    (folder / "cmdline").write_text("quiet")
    assert "a,,readonly=off" in words(folder)


def test_without_qemu_it_says_which_package_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(MachineError) as caught:
        hypervisor.qemu()
    assert caught.value.code == "qemu_missing"
    assert "qemu-system-x86" in caught.value.detail
