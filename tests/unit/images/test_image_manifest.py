"""image.json: one canonical form, and a verification that names the first difference."""

import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from images.errors import ImageMismatch, ManifestError
from images.manifest import ImageFile, ImageManifest, read, scan, verify

FILES = (
    ImageFile("app/start.py", False, 3, "ab" * 32),
    ImageFile("lib/ld.so", True, 2**40, "cd" * 32),
    ImageFile("site/é.py", False, 0, "ef" * 32),
)
MANIFEST = ImageManifest("3.11.7", FILES)


def test_round_trip() -> None:
    encoded = MANIFEST.encode()
    assert ImageManifest.parse(encoded) == MANIFEST
    assert MANIFEST.size == 2**40 + 3
    assert list(json.loads(encoded)) == ["files", "kind", "python", "v"]


def changed(**members: object) -> bytes:
    document = json.loads(MANIFEST.encode())
    document.update(members)
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def changed_file(**members: object) -> bytes:
    document = json.loads(MANIFEST.encode())
    document["files"][0].update(members)
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "manifest_malformed"),
        (b"[]", "manifest_malformed"),
        (b"[" * 100_000, "manifest_malformed"),
        (MANIFEST.encode() + b"\n", "manifest_not_canonical"),
        (MANIFEST.encode().replace(b'"v":1', b'"v":1.0'), "manifest_malformed"),
        (MANIFEST.encode().replace(b'"v":1', b'"v":1,"v":1'), "manifest_malformed"),
        (changed(v=2), "manifest_version"),
        (changed(v=True), "manifest_version"),
        (changed(kind="vm"), "manifest_kind"),
        (changed(extra=1), "manifest_malformed"),
        (changed(python="3.11; rm"), "manifest_malformed"),
        (changed(files=[]), "manifest_malformed"),
        (changed_file(path="/etc/passwd"), "manifest_path"),
        (changed_file(path="app/../../x"), "manifest_path"),
        (changed_file(path="app//x"), "manifest_path"),
        (changed_file(path="zz"), "manifest_order"),
        (changed_file(path="lib/ld.so"), "manifest_order"),
        (changed_file(exec=1), "manifest_malformed"),
        (changed_file(size=-1), "manifest_malformed"),
        (changed_file(size=True), "manifest_malformed"),
        (changed_file(size=2**60), "manifest_malformed"),
        (changed_file(sha256="AB" * 32), "manifest_malformed"),
    ],
)
def test_anything_but_the_canonical_form_is_refused(data: bytes, code: str) -> None:
    with pytest.raises(ManifestError) as caught:
        ImageManifest.parse(data)
    assert caught.value.code == code


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ManifestError):
        ImageManifest.parse(data)


def test_every_truncation_and_every_changed_byte_is_refused_or_another_manifest() -> None:
    data = MANIFEST.encode()
    for end in range(len(data)):
        with pytest.raises(ManifestError):
            ImageManifest.parse(data[:end])
    for position in range(len(data)):
        for bit in (1, 0x20, 0x80):
            altered = bytearray(data)
            altered[position] ^= bit
            with contextlib.suppress(ManifestError):
                assert ImageManifest.parse(bytes(altered)) != MANIFEST


@pytest.fixture
def image(tmp_path: Path) -> Path:
    root = tmp_path / "image" / "root"
    (root / "app").mkdir(parents=True)
    (root / "app" / "start.py").write_bytes(b"run()")
    (root / "lib.so").write_bytes(bytes(3_000_000))
    (root / "lib.so").chmod(0o755)
    (root / "app" / "start.py").chmod(0o644)
    (root.parent / "image.json").write_bytes(ImageManifest("3.11.7", scan(root)).encode())
    return root.parent


def test_an_untouched_image_verifies(image: Path) -> None:
    hashed: list[int] = []
    assert verify(image, hashed.append) == read(image)
    assert sum(hashed) == 3_000_005


def flip_a_bit(root: Path) -> None:
    data = bytearray((root / "lib.so").read_bytes())
    data[2_000_000] ^= 1
    (root / "lib.so").write_bytes(data)


@pytest.mark.parametrize(
    ("tamper", "code", "path"),
    [
        (flip_a_bit, "file_changed", "lib.so"),
        (lambda root: (root / "app/start.py").unlink(), "file_missing", "app/start.py"),
        (lambda root: (root / "app/json.py").touch(), "file_added", "app/json.py"),
        (lambda root: (root / "app/start.py").chmod(0o755), "file_mode", "app/start.py"),
        (lambda root: (root / "app/link").symlink_to("start.py"), "file_kind", "app/link"),
        (lambda root: (root / "away").symlink_to("/usr"), "file_kind", "away"),
        (lambda root: os.mkfifo(root / "pipe"), "file_kind", "pipe"),
    ],
)
def test_a_touched_image_is_refused_with_its_path(
    image: Path, tamper: Callable[[Path], None], code: str, path: str
) -> None:
    tamper(image / "root")
    with pytest.raises(ImageMismatch) as caught:
        verify(image)
    assert (caught.value.code, caught.value.path) == (code, path)


def test_the_first_difference_in_order_is_named(image: Path) -> None:
    flip_a_bit(image / "root")
    (image / "root" / "app" / "zz").touch()
    with pytest.raises(ImageMismatch) as caught:
        verify(image)
    assert caught.value.path == "app/zz"


def test_a_folder_without_a_manifest_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(ManifestError) as caught:
        verify(tmp_path)
    assert caught.value.code == "manifest_missing"


def test_an_oversized_manifest_is_not_read(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("images.manifest.MAX_MANIFEST", 100)
    with pytest.raises(ManifestError) as caught:
        read(image)
    assert caught.value.code == "manifest_too_large"


def test_digest_moves_with_every_field() -> None:
    other = [
        replace(MANIFEST, python="3.11.8"),
        replace(MANIFEST, files=FILES[1:]),
        replace(MANIFEST, files=(replace(FILES[0], executable=True), *FILES[1:])),
    ]
    assert len({m.digest() for m in [MANIFEST, *other]}) == 4
