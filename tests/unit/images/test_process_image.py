"""A small image built twice and started: the same bytes, and nothing from outside."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from images import process_image
from images.errors import ClosureError, ImageError, ManifestError
from images.guest import start
from images.manifest import ImageManifest, root
from images.process_image import Built, Contents

PROBE = """
    import json, ssl, ctypes, asyncio, h11, zz_room.note
    maps = [line.split(None, 5) for line in open("/proc/self/maps")]
    print(json.dumps({
        "path": sys.path,
        "modules": {n: m.__file__ for n, m in sys.modules.items() if getattr(m, "__file__", None)},
        "mapped": sorted({f[5].strip() for f in maps if len(f) == 6 and f[5].startswith("/")}),
        "arguments": sys.argv[1:],
    }))
"""


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Contents]:
    """A little of what a node has, and a first script that tells where its code came from."""
    room = tmp_path_factory.mktemp("ours") / "zz_room"
    room.mkdir()
    for name in ("__init__.py", "note.py", "commands.py"):
        (room / name).write_text(f"NAME = {name!r}\n")
    source = Path(start.__file__).read_text().partition("    from enclave_runtime import boot")[0]
    probe = tmp_path_factory.mktemp("start") / "probe.py"
    probe.write_text(source + PROBE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(room.parent)
        yield Contents(packages=("zz_room",), requirements=("h11", "cryptography"), start=probe)


@pytest.fixture(scope="module")
def small(contents: Contents, tmp_path_factory: pytest.TempPathFactory) -> Built:
    return process_image.build(tmp_path_factory.mktemp("image") / "one", contents)


def test_built_twice_in_two_folders_it_is_the_same(small: Built, contents: Contents, tmp_path: Path) -> None:
    steps: list[str] = []

    def note(step: str, done: int, total: int) -> None:
        assert 0 <= done <= total
        steps.append(step)

    old = os.umask(0o077)
    try:
        other = process_image.build(
            tmp_path / "elsewhere", contents, lambda step, done, total: steps.append(step)
        )
    finally:
        os.umask(old)
    assert other.rebuilt
    assert other.manifest.encode() == small.manifest.encode()
    assert (other.image_dir / "image.json").read_bytes() == (small.image_dir / "image.json").read_bytes()
    assert list(dict.fromkeys(steps)) == ["inputs", "files", "bytecode", "digests"]


def test_it_verifies_and_holds_what_it_should(small: Built) -> None:
    assert process_image.verify(small.image_dir) == small.manifest
    paths = {file.path for file in small.manifest.files}
    assert {"app/start.py", "app/zz_room/note.py", "site/h11/__init__.py", "python/bin/python3"} <= paths
    assert f"app/zz_room/__pycache__/note.{sys.implementation.cache_tag}.pyc" in paths
    assert not [path for path in paths if "commands" in path.rpartition("/")[2] and path.startswith("app/")]
    assert not [path for path in paths if "/test/" in path or "idlelib" in path or path.endswith(".pth")]
    assert {path.partition("/")[0] for path in paths} == {"app", "lib", "python", "site", "start.json"}


def test_started_it_takes_every_module_and_library_from_itself(small: Built, tmp_path: Path) -> None:
    command = process_image.argv(small.image_dir, ["--config", "x"])
    run = subprocess.run(command, capture_output=True, env={"LC_ALL": "C"}, cwd=tmp_path, check=True)
    told = json.loads(run.stdout)
    tree = str(root(small.image_dir))
    assert told["arguments"] == ["--config", "x"]
    assert len(told["path"]) == 4
    assert all(folder.startswith(tree) for folder in told["path"])
    assert told["modules"]["h11"].startswith(f"{tree}/site/")
    assert told["modules"]["zz_room.note"].startswith(f"{tree}/app/")
    assert [file for file in told["modules"].values() if not file.startswith(tree)] == []
    assert [file for file in told["mapped"] if not file.startswith(tree)] == []
    assert process_image.verify(small.image_dir)  # Running it wrote nothing.


def test_the_command_is_position_independent(small: Built, tmp_path: Path) -> None:
    assert str(small.image_dir) not in (root(small.image_dir) / "start.json").read_text()
    moved = tmp_path / "moved"
    shutil.copytree(small.image_dir, moved)
    run = subprocess.run(process_image.argv(moved), capture_output=True, env={}, check=True)
    assert str(small.image_dir) not in run.stdout.decode()


def test_unchanged_inputs_keep_the_image(small: Built, contents: Contents) -> None:
    again = process_image.build(small.image_dir, contents)
    assert not again.rebuilt
    assert again.manifest == small.manifest


@pytest.mark.parametrize("damage", ["image.json", "root/app/start.py"])
def test_a_damaged_folder_is_built_again(
    small: Built, contents: Contents, tmp_path: Path, damage: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(small.image_dir, copy)
    (copy / damage).unlink()
    again = process_image.build(copy, contents)
    assert again.rebuilt
    assert again.manifest == small.manifest


def test_another_input_gives_another_image(small: Built, contents: Contents, tmp_path: Path) -> None:
    changed = tmp_path / "probe.py"
    changed.write_bytes(contents.start.read_bytes() + b"\n")
    other = Contents(contents.packages, contents.requirements, changed)
    built = process_image.build(tmp_path / "image", other)
    assert built.manifest.digest() != small.manifest.digest()
    differing = set(built.manifest.files) ^ set(small.manifest.files)
    assert {file.path for file in differing} == {"app/start.py", "app/__pycache__/start.cpython-311.pyc"}


def test_a_folder_with_other_things_is_left_alone(contents: Contents, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(ImageError) as caught:
        process_image.build(tmp_path, contents)
    assert caught.value.code == "folder_in_use"
    assert (tmp_path / "thesis.txt").exists()


def test_a_failed_build_leaves_no_image(
    contents: Contents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(tree: Path, *_: object) -> ImageManifest:
        raise ClosureError("input_changed", "a file is not what its record says")

    monkeypatch.setattr(process_image, "_describe", changed)
    with pytest.raises(ClosureError):
        process_image.build(tmp_path / "image", Contents((), (), contents.start))
    with pytest.raises(ManifestError):
        process_image.argv(tmp_path / "image")


def test_a_changed_installed_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "zz_h-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: zz-h\nVersion: 1\n")
    (info / "RECORD").write_text(f"zz_h.py,sha256={'A' * 43},0\n{info.name}/METADATA,,\n")
    (tmp_path / "zz_h.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ClosureError) as caught:
        process_image.build(tmp_path / "image", Contents((), ("zz-h",)))
    assert (caught.value.code, caught.value.path) == ("input_changed", "site/zz_h.py")
