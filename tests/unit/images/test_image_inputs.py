"""Inputs from outside: packages, programs, locks, recipes and manifests, whole and damaged."""

import hashlib
import json
import socket
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.utils import canonicalize_name
from stand_in_driver import package as debian_package

from images import closure, deb, elf, lock, mirror, recipe, wheels
from images.errors import ImageError, InputChanged, InputError, InputUnavailable, RecipeError
from images.input_store import InputStore, mirrors_from
from images.lock import Lock, LockedDeb
from images.vm_manifest import Artifact, InnerFile, VmManifest


def package(files: dict[str, bytes]) -> bytes:
    """A Debian package of these files, and a link."""
    return debian_package(files, {"lib/link.so": "real.so"})


PACKAGE = package({"usr/bin/x": b"program", "usr/share/doc/y": b""})
PROGRAM = Path("/proc/self/exe").read_bytes()[:20_000] if Path("/proc/self/exe").exists() else b""
LOCK = lock.read(recipe.lock_path(recipe.load("cpu-dev")))
MANIFEST = VmManifest(
    "cpu-dev",
    "0" * 64,
    {"release": "6"},
    "quiet",
    {"initrd": Artifact(3, "1" * 64)},
    {"vcpus": [1]},
    {"v": 1, "volumes": []},
    (InnerFile("root:a", 0o100644, 1, "2" * 64, "x 1"),),
)
TINY_LOCK = Lock("cpu-dev", LOCK.debs[:2], LOCK.wheels[:2])
PARSERS: dict[str, tuple[bytes, Callable[[bytes], object]]] = {
    "deb": (PACKAGE, lambda data: list(deb.members(data))),
    "elf": (PROGRAM, elf.needed),
    "module": (PROGRAM, elf.module_information),
    "interpreter": (PROGRAM, elf.interpreter),
    "lock": (TINY_LOCK.encode(), Lock.parse),
    "recipe": (
        (recipe.FOLDER / "cpu-dev.toml").read_bytes(),
        lambda data: recipe.Recipe.parse(data.decode("utf-8", "replace")),
    ),
    "manifest": (MANIFEST.encode(), VmManifest.parse),
}


def stays_in_the_family(parse: Callable[[bytes], object], data: bytes) -> None:
    try:
        parse(data)
    except ImageError:
        return


@pytest.mark.parametrize("name", PARSERS)
def test_no_damage_leaves_the_family_of_errors(name: str) -> None:
    good, parse = PARSERS[name]
    if name != "module":
        parse(good)
    step = max(1, len(good) // 400)
    for at in range(0, len(good), step):
        stays_in_the_family(parse, good[:at])
        stays_in_the_family(parse, good[:at] + bytes([good[at] ^ 0x5A]) + good[at + 1 :])


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["deb", "lock", "manifest"])
def test_no_single_byte_and_no_truncation_leaves_the_family(name: str) -> None:
    good, parse = PARSERS[name]
    for at in range(len(good)):
        stays_in_the_family(parse, good[:at])
        for bit in range(8):
            stays_in_the_family(parse, good[:at] + bytes([good[at] ^ 1 << bit]) + good[at + 1 :])


@pytest.mark.parametrize("name", PARSERS)
@given(data=st.binary(max_size=300))
def test_random_bytes_stay_in_the_family(name: str, data: bytes) -> None:
    stays_in_the_family(PARSERS[name][1], data)


def test_a_package_gives_files_and_links() -> None:
    found = {member.path: member for member in deb.members(PACKAGE)}
    assert found["usr/bin/x"].data == b"program"
    assert found["lib/link.so"].link == "real.so"


@pytest.mark.parametrize("path", ["../../etc/passwd", "usr/../../x"])
def test_a_package_with_a_path_that_leads_out_is_refused(path: str) -> None:
    with pytest.raises(InputError):
        list(deb.members(package({path: b"x"})))


def test_programs_name_their_loader_and_libraries() -> None:
    assert elf.interpreter(PROGRAM) == "/lib64/ld-linux-x86-64.so.2"
    assert not elf.is_elf(b"#!/bin/sh")


def test_a_lock_survives_its_own_encoding_and_tells_what_changed() -> None:
    assert Lock.parse(LOCK.encode()) == LOCK
    newer = replace(LOCK.debs[0], version="9", sha256="f" * 64)
    after = replace(LOCK, debs=(newer, *LOCK.debs[2:]))
    assert set(lock.changes(LOCK, after)) == {
        f"~ {newer.name} {LOCK.debs[0].version} -> 9",
        f"- {LOCK.debs[1].name} {LOCK.debs[1].version}",
    }
    assert lock.changes(LOCK, LOCK) == []


def test_every_recipe_reads_and_the_unknown_one_is_said() -> None:
    for name in recipe.names():
        assert recipe.load(name).name == name
    with pytest.raises(RecipeError) as caught:
        recipe.load("nothing")
    assert caught.value.code == "recipe_unknown"


def entry(data: bytes) -> LockedDeb:
    return LockedDeb(
        "thing", "1.0", "debian", "pool/t/thing.deb", len(data), hashlib.sha256(data).hexdigest()
    )


def test_a_package_comes_from_a_mirror_and_is_kept_by_its_digest(tmp_path: Path) -> None:
    data = b"a package"
    (tmp_path / "mirror/debian/pool/t").mkdir(parents=True)
    (tmp_path / "mirror/debian/pool/t/thing.deb").write_bytes(data)
    mirrors = mirrors_from(f"file://{tmp_path}/mirror", {}, ["debian"])
    store = InputStore(tmp_path / "store", mirrors)
    locked = Lock("cpu-dev", (entry(data),), ())
    store.fetch(locked, lambda *_: None)
    assert store.path(locked.debs[0]).read_bytes() == data
    offline = InputStore(tmp_path / "store", {})
    offline.fetch(locked, lambda *_: None)
    offline.pack([locked], tmp_path / "a.tar")
    offline.pack([locked], tmp_path / "b.tar")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    fresh = InputStore(tmp_path / "fresh", {})
    fresh.unpack(locked, tmp_path / "a.tar")
    fresh.fetch(locked, lambda *_: None)
    assert fresh.path(locked.debs[0]).read_bytes() == data


def test_a_package_that_is_no_longer_served_is_named(tmp_path: Path) -> None:
    store = InputStore(tmp_path / "store", {"debian": f"file://{tmp_path}"})
    with pytest.raises(InputUnavailable) as caught:
        store.fetch(Lock("cpu-dev", (entry(b"gone"),), ()), lambda *_: None)
    assert "thing 1.0" in caught.value.detail
    assert caught.value.code == "input_withdrawn"
    assert caught.value.path == "pool/t/thing.deb"
    assert "--mirror" in caught.value.advice
    assert "--inputs" in caught.value.advice
    assert list((tmp_path / "store").iterdir()) == []


def test_a_mirror_that_does_not_answer_is_told_from_one_that_has_no_more(tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        store = InputStore(
            tmp_path / "store", {"debian": f"http://127.0.0.1:{nobody.getsockname()[1]}/debian"}
        )
        with pytest.raises(InputUnavailable) as caught:
            store.fetch(Lock("cpu-dev", (entry(b"thing"),), ()), lambda *_: None)
    assert caught.value.code == "mirror_unreachable"
    assert "refused" in caught.value.detail


def test_all_packages_that_are_gone_are_counted(tmp_path: Path) -> None:
    debs = tuple(replace(entry(b"gone"), name=f"thing{n}") for n in range(3))
    with pytest.raises(InputUnavailable) as caught:
        InputStore(tmp_path / "store", {"debian": f"file://{tmp_path}"}).fetch(
            Lock("cpu-dev", debs, ()), lambda *_: None
        )
    assert "thing0 1.0 (and 2 more)" in caught.value.detail


def test_an_address_is_told_without_its_password() -> None:
    assert mirror.plain("https://me:secret@host:8/debian") == "https://host:8/debian"


PIP = {
    "input_changed": (
        "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE. Somebody may have tampered.\n"
        "    click==8.5.1 from https://h/packages/click-8.5.1-py3-none-any.whl (from -r r.txt (line 1)):\n"
        f"        Expected sha256 {'2' * 64}\n             Got        {'8' * 64}\n\n"
    ),
    "input_withdrawn": (
        "ERROR: Could not find a version that satisfies the requirement click==9 (from versions: 0.1)\n"
        "ERROR: No matching distribution found for click==9\n"
    ),
    "index_unreachable": (
        "WARNING: Retrying (Retry(total=4)) after connection broken by 'NewConnectionError('<x>: refused')': /simple/\n"
        "ERROR: No matching distribution found for click==9\n"
    ),
    "wheel_unavailable": "ERROR: something new\n",
}


@pytest.mark.parametrize("code", PIP)
def test_what_pip_says_becomes_an_error_with_advice(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = subprocess.CompletedProcess[str]([], 1, "", PIP[code])
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    with pytest.raises((InputUnavailable, InputChanged)) as caught:
        wheels.download(["click==9"], tmp_path)
    assert caught.value.code == code
    assert "--inputs" in caught.value.advice
    assert "something new" in caught.value.detail or code != "wheel_unavailable"


def test_a_package_with_other_bytes_is_refused_and_not_kept(tmp_path: Path) -> None:
    (tmp_path / "pool/t").mkdir(parents=True)
    (tmp_path / "pool/t/thing.deb").write_bytes(b"same size")
    store = InputStore(tmp_path / "store", {"debian": f"file://{tmp_path}"})
    with pytest.raises(InputChanged) as caught:
        store.fetch(Lock("cpu-dev", (entry(b"some size"),), ()), lambda *_: None)
    assert caught.value.code == "input_changed"
    assert list((tmp_path / "store").iterdir()) == []


def test_a_kept_input_that_was_changed_is_fetched_again(tmp_path: Path) -> None:
    (tmp_path / "pool/t").mkdir(parents=True)
    (tmp_path / "pool/t/thing.deb").write_bytes(b"the thing")
    locked = Lock("cpu-dev", (entry(b"the thing"),), ())
    store = InputStore(tmp_path / "store", {"debian": f"file://{tmp_path}"})
    store.fetch(locked, lambda *_: None)
    store.path(locked.debs[0]).write_bytes(b"THE THING")
    store.fetch(locked, lambda *_: None)
    assert store.path(locked.debs[0]).read_bytes() == b"the thing"


def test_the_manifest_has_one_form_alone() -> None:
    assert VmManifest.parse(MANIFEST.encode()) == MANIFEST
    document = json.loads(MANIFEST.encode())
    with pytest.raises(ImageError):
        VmManifest.parse(json.dumps(document, indent=1).encode())
    document["extra"] = 1
    with pytest.raises(ImageError):
        VmManifest.parse(json.dumps(document).encode())


@pytest.mark.parametrize("name", ["cpu-dev", "cpu-sealed"])
def test_a_lock_has_the_wheels_that_a_node_requires_today(name: str) -> None:
    """Whatever their versions: a requirement that came or went since would be missed by the machine alone."""
    chosen = recipe.load(name)
    wanted = closure.resolve(closure.requirements_of(chosen.python["project"], chosen.python["extra"]))
    locked = {wheel.name for wheel in lock.read(recipe.lock_path(chosen)).wheels}
    assert locked == {str(canonicalize_name(dist.metadata["Name"])) for dist in wanted}
