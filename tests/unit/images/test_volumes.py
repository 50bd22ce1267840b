"""File systems and hash trees: read back by other code than wrote them, and by Debian's tools where they are."""

import hashlib
import shutil
import stat
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from images import cpio, erofs, verity, volume
from images.errors import ImageError, VolumeError
from images.tree import Tree

NAMES = st.text("abcdefXYZ019._-", min_size=1, max_size=40).filter(lambda name: name not in (".", ".."))
FILES = st.dictionaries(
    st.lists(NAMES, min_size=1, max_size=3).map("/".join), st.binary(max_size=9000), min_size=1, max_size=30
)


def read_back(image: bytes) -> dict[str, tuple[int, bytes]]:
    """Every path of a volume with its mode and content, by the format's own description."""
    magic, _, _, bits, _, root = struct.unpack_from("<IIIBBH", image, 1024)
    assert (magic, bits) == (0xE0F5E1E2, 12)
    found: dict[str, tuple[int, bytes]] = {}

    def visit(slot: int, path: str) -> None:
        layout, _, mode, _, size, block = struct.unpack_from("<HHHHQI", image, slot * 32)
        assert layout == 1
        content = image[block * 4096 : block * 4096 + size]
        if not stat.S_ISDIR(mode):
            found[path] = (mode, content)
            return
        names: list[bytes] = []
        for start in range(0, size, 4096):
            part = content[start : start + 4096]
            count = struct.unpack_from("<H", part, 8)[0] // 12
            entries = [struct.unpack_from("<QHBB", part, at * 12) for at in range(count)]
            ends = [entry[1] for entry in entries[1:]] + [len(part)]
            for (child, offset, _, _), end in zip(entries, ends, strict=True):
                name = part[offset:end].rstrip(b"\0")
                names.append(name)
                if name not in (b".", b".."):
                    visit(child, f"{path}/{name.decode()}".lstrip("/"))
        assert names == sorted(names)

    visit(root, "")
    return found


def tree_of(files: dict[str, bytes]) -> Tree | None:
    tree = Tree()
    try:
        for path, data in files.items():
            tree.add_file(path, data, "test", executable=len(data) % 2 == 1)
    except ImageError:
        return None  # A file where another path wants a folder.
    return tree


@given(FILES)
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]
) -> None:
    tree = tree_of(files)
    if tree is None:
        return
    path = tmp_path_factory.mktemp("erofs") / "image"
    assert erofs.write(tree, path) == path.stat().st_size
    found = read_back(path.read_bytes())
    assert {name: data for name, (_, data) in found.items()} == files
    assert all(mode == stat.S_IFREG | (0o755 if len(data) % 2 else 0o644) for mode, data in found.values())


def test_folders_of_many_blocks_links_and_sparse_files(tmp_path: Path) -> None:
    tree = Tree()
    for number in range(700):
        tree.add_file(f"many/a-rather-long-name-{number:05}", b"x" * number, "test")
    tree.add_link("link", "many/a-rather-long-name-00001", "test")
    tree.add_folder("proc", "test")
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.truncate(5_000_000)
        file.seek(3_000_000)
        file.write(b"island")
    tree.add_file("sparse", sparse, "test")
    image = tmp_path / "image"
    erofs.write(tree, image, label="test")
    found = read_back(image.read_bytes())
    assert found["link"] == (stat.S_IFLNK | 0o777, b"many/a-rather-long-name-00001")
    assert found["sparse"][1] == sparse.read_bytes()
    assert len(found) == 702
    if shutil.which("fsck.erofs"):
        subprocess.run(["fsck.erofs", image], check=True, capture_output=True)


def plain_root(data: bytes, salt: bytes) -> bytes:
    level = [hashlib.sha256(salt + data[at : at + 4096]).digest() for at in range(0, len(data), 4096)]
    while len(level) > 1:
        joined = [b"".join(level[at : at + 128]).ljust(4096, b"\0") for at in range(0, len(level), 128)]
        level = [hashlib.sha256(salt + block).digest() for block in joined]
    return level[0]


@pytest.mark.parametrize("blocks", [1, 2, 127, 128, 129, 128 * 3 + 1, 128 * 128, 128 * 128 + 1])
def test_hash_trees_are_those_of_the_kernels_description(tmp_path: Path, blocks: int) -> None:
    path, salt = tmp_path / "data", b"\x01salt" * 5
    data = b"".join(
        number.to_bytes(4, "big") * 1024 if number % 3 else bytes(4096) for number in range(blocks)
    )
    path.write_bytes(data)
    made = verity.append_tree(path, salt)
    assert made.root == plain_root(data, salt)
    assert path.stat().st_size == (made.data_blocks + made.hash_blocks) * 4096
    if shutil.which("veritysetup"):
        hashes = tmp_path / "hashes"
        (tmp_path / "plain").write_bytes(data)
        words = [
            "veritysetup",
            "format",
            "--no-superblock",
            f"--salt={salt.hex()}",
            str(tmp_path / "plain"),
            hashes,
        ]
        done = subprocess.run(words, check=True, capture_output=True, text=True)
        assert made.root.hex() in done.stdout
        assert hashes.read_bytes() == path.read_bytes()[len(data) :]


@pytest.mark.parametrize("size", [0, 1, 4095, 4097])
def test_only_whole_blocks_get_a_tree(tmp_path: Path, size: int) -> None:
    (tmp_path / "data").write_bytes(bytes(size))
    with pytest.raises(VolumeError) as caught:
        verity.append_tree(tmp_path / "data", b"")
    assert caught.value.code == "verity_size"


def test_the_salt_follows_from_name_and_revision() -> None:
    assert volume.salt_of("a@1") != volume.salt_of("a@2")
    assert len(volume.salt_of("a@1")) == 32
    for odd in ("", "a", "@1", "a@", "a b@1", "a@1\n"):
        with pytest.raises(VolumeError):
            volume.salt_of(odd)


def build_sparse(folder: Path, size: int) -> int:
    """Build the volume of a sparse model; the most memory that Python held, in bytes."""
    model = folder / "model.bin"
    with model.open("wb") as file:
        file.truncate(size)
    tracemalloc.start()
    volume.write(
        volume.model_tree(model),
        folder / "model.img",
        name="model",
        mount="/m",
        identity="m@1",
        progress=lambda *_: None,
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_does_not_grow_with_a_model(tmp_path: Path) -> None:
    assert build_sparse(tmp_path, 200 << 20) < 32 << 20


def test_a_draft_is_carried_beside_the_model(tmp_path: Path) -> None:
    for name in (
        "model.gguf",
        "draft.gguf",
        "folder/model.safetensors",
        "folder/draft/model.safetensors",
        "other",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())

    def carried(model: str, draft: str) -> list[str]:
        return sorted(node.path for node in volume.model_tree(tmp_path / model, draft).files())

    assert carried("model.gguf", "") == ["model.gguf"]
    assert carried("model.gguf", "draft.gguf") == ["draft.gguf", "model.gguf"]
    assert carried("folder", "draft") == ["draft/model.safetensors", "model.safetensors"]
    assert carried("model.gguf", "folder") == [
        *("folder/draft/model.safetensors", "folder/model.safetensors", "model.gguf")
    ]
    for model, draft in (("model.gguf", "no-such"), ("folder", "other"), ("no-such", "")):
        with pytest.raises(VolumeError):
            carried(model, draft)


@pytest.mark.exhaustive
def test_a_sparse_volume_of_20_gb_builds_in_less_than_1_gb_of_memory(tmp_path: Path) -> None:
    program = (
        "import resource, sys; from pathlib import Path; from images import volume\n"
        "volume.write(volume.model_tree(Path(sys.argv[1])), Path(sys.argv[2]), name='model', mount='/m',"
        " identity='m@1', progress=lambda *_: None)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    model = tmp_path / "model.bin"
    with model.open("wb") as file:
        file.truncate(20_000_000_000)
    done = subprocess.run(
        [sys.executable, "-c", program, model, tmp_path / "model.img"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert int(done.stdout) < 1_000_000  # kilobytes
    assert (tmp_path / "model.img").stat().st_size > 20_000_000_000


def test_a_ram_disk_has_its_folders_first_and_ends_with_the_trailer() -> None:
    archive = cpio.encode(
        [cpio.CpioEntry("b/c/d", stat.S_IFREG | 0o644, b"12345"), cpio.CpioEntry("a", 0o100755)]
    )
    names = []
    at = 0
    while at < len(archive):
        fields = [int(archive[at + 6 + 8 * k : at + 14 + 8 * k], 16) for k in range(13)]
        name = archive[at + 110 : at + 110 + fields[11] - 1].decode()
        names.append(name)
        at += -(-(110 + fields[11]) // 4) * 4 + -(-fields[6] // 4) * 4
    assert names == ["a", "b", "b/c", "b/c/d", "TRAILER!!!"]
