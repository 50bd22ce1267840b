"""What an image carries of a GPU's driver: what its recipe names, of one version, for its own kernel."""

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest
import stand_in_driver

from images import driver, recipe
from images.errors import InputChanged, InputError, InputUnavailable
from images.guest import init
from images.input_store import InputStore
from images.kernel import Kernel
from images.lock import Lock

RELEASE = "6.12.1-cloud-amd64"
CHOSEN = recipe.load("h100-snp")


@pytest.fixture
def store(tmp_path: Path) -> InputStore:
    return InputStore(tmp_path / "store", {})


def locked(folder: Path, store: InputStore) -> Lock:
    return Lock("h100-snp", driver.lock_folder(folder, store), ())


def test_what_the_recipe_names_is_taken_and_nothing_else(tmp_path: Path, store: InputStore) -> None:
    found = driver.read(CHOSEN, locked(stand_in_driver.write(tmp_path / "d", RELEASE), store), store)
    assert found is not None
    assert found.version == stand_in_driver.VERSION
    assert set(found.modules) == {"nvidia", "nvidia_uvm", "nvidia_modeset"}
    assert set(found.firmware) == {f"nvidia/{stand_in_driver.VERSION}/gsp_ga10x.bin"}
    assert set(found.libraries) == {
        *stand_in_driver.LIBRARIES,
        f"libnvidia-gpucomp.so.{stand_in_driver.VERSION}",
    }
    kernel = found.added_to(Kernel(RELEASE, b"", b""))
    assert [name for name, _ in kernel.load_order(CHOSEN.driver["modules"])] == CHOSEN.driver["modules"]


def test_a_recipe_without_gpus_takes_none(store: InputStore) -> None:
    assert driver.read(recipe.load("cpu-dev"), Lock("cpu-dev", (), ()), store) is None


def test_a_lock_without_a_driver_says_what_to_fetch_and_how_to_go_on(store: InputStore) -> None:
    with pytest.raises(InputUnavailable) as caught:
        driver.read(CHOSEN, Lock("h100-snp", (), ()), store)
    assert caught.value.code == "driver_missing"
    assert "gsp_ga10x.bin" in caught.value.detail
    assert "--driver FOLDER" in caught.value.advice


def test_modules_of_another_kernel_are_refused(tmp_path: Path, store: InputStore) -> None:
    found = driver.read(CHOSEN, locked(stand_in_driver.write(tmp_path / "d", RELEASE), store), store)
    assert found is not None
    with pytest.raises(InputError) as caught:
        found.added_to(Kernel("6.12.2-cloud-amd64", b"", b""))
    assert (caught.value.code, caught.value.found) == ("module_of_another_kernel", RELEASE)


def test_parts_of_two_versions_are_refused(tmp_path: Path, store: InputStore) -> None:
    folder = stand_in_driver.write(tmp_path / "d", RELEASE, version="590.13")
    chosen = replace(CHOSEN, driver={**CHOSEN.driver, "libraries": ["libcuda.so.1"]})
    with pytest.raises(InputError) as caught:
        driver.read(chosen, locked(folder, store), store)
    assert caught.value.code == "driver_versions"
    assert "libcuda.so.1 590.12" in caught.value.detail


@pytest.mark.parametrize("kind", ["modules", "firmware", "libraries"])
def test_what_is_not_there_is_named(tmp_path: Path, store: InputStore, kind: str) -> None:
    folder = stand_in_driver.write(tmp_path / "d", RELEASE)
    chosen = replace(CHOSEN, driver={**CHOSEN.driver, kind: ["nothing"]})
    with pytest.raises(InputError) as caught:
        driver.read(chosen, locked(folder, store), store)
    assert caught.value.code == "driver_lacks"
    assert "nothing" in caught.value.detail


def test_a_folder_is_locked_by_the_names_of_its_files(tmp_path: Path, store: InputStore) -> None:
    folder = stand_in_driver.write(tmp_path / "d", RELEASE)
    lock = locked(folder, store)
    assert Lock.parse(lock.encode()).debs == tuple(sorted(lock.debs, key=lambda deb: deb.name))
    assert driver.packages_of(lock) == lock.debs
    with pytest.raises(InputChanged):
        store.take(replace(lock.debs[0], sha256="0" * 64), folder / lock.debs[0].path.rpartition("/")[2])
    (folder / "whatever.deb").write_bytes(b"")
    with pytest.raises(InputError) as caught:
        locked(folder, store)
    assert caught.value.path == "whatever.deb"
    with pytest.raises(InputError):
        locked(tmp_path, store)


DEVICES = "Character devices:\n  1 mem\n195 nvidia\n195 nvidiactl\n511 nvidia-uvm\n\nBlock devices:\n  8 sd\n"


def made_by(proc: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[int, int]]:
    """The device files that PID 1 makes with this /proc, by name."""
    made: dict[str, tuple[int, int]] = {}
    owned = set()

    def mknod(path: str, mode: int, device: int) -> None:
        assert mode == stat.S_IFCHR | 0o600
        made[path] = (os.major(device), os.minor(device))

    monkeypatch.setattr(init, "PROC", str(proc))
    monkeypatch.setattr(os, "mknod", mknod)
    monkeypatch.setattr(os, "chown", lambda path, user, group: owned.add((path, user, group)))
    init.make_gpu_files(1000)
    assert owned == {(path, 1000, 1000) for path in made}
    return made


def test_device_files_are_made_for_every_gpu_that_the_driver_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "devices").write_text(DEVICES)
    for minor, place in ((0, "0000:01:00.0"), (3, "0000:02:00.0")):
        folder = tmp_path / "driver/nvidia/gpus" / place
        folder.mkdir(parents=True)
        (folder / "information").write_text(f"Model: \t\t NVIDIA H100\nDevice Minor: \t {minor}\n")
    assert made_by(tmp_path, monkeypatch) == {
        "/dev/nvidiactl": (195, 255),
        "/dev/nvidia-uvm": (511, 0),
        "/dev/nvidia0": (195, 0),
        "/dev/nvidia3": (195, 3),
    }


def test_without_a_driver_the_machine_does_not_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "devices").write_text("Character devices:\n  1 mem\n195 nvidia\n")
    with pytest.raises(OSError, match="no driver"):
        made_by(tmp_path, monkeypatch)
