"""Volumes of an image: a read-only file system with its hash tree behind it, in one file.

The salt follows from what the volume is called (for a model, ``NAME@REVISION``), so that two volumes of the same
bytes under different names do not have the same root, and nothing random takes part.
"""

import hashlib
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from images import erofs, verity
from images.errors import VolumeError
from images.tree import Tree
from images.verity import Verity

LABEL = b"cloister/volume-salt/v1\0"
_IDENTITY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+/-]{0,127}@[A-Za-z0-9._:+-]{1,128}")

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Volume:
    """A finished volume: its name for the host, where it is mounted, its identity, and how to open it."""

    name: str
    mount: str
    identity: str
    verity: Verity

    def policy(self) -> dict[str, str | int]:
        """What the measured policy says of it."""
        return {
            "name": self.name,
            "mount": self.mount,
            "identity": self.identity,
            "root_hash": self.verity.root.hex(),
            "salt": self.verity.salt.hex(),
            "data_blocks": self.verity.data_blocks,
            "hash_blocks": self.verity.hash_blocks,
        }


def salt_of(identity: str) -> bytes:
    """The 32-byte salt of a volume called ``identity``, NAME@REVISION. Raises VolumeError."""
    if not _IDENTITY.fullmatch(identity):
        raise VolumeError(
            "volume_identity", "a volume is called NAME@REVISION, in plain characters", found=identity
        )
    return hashlib.sha256(LABEL + identity.encode()).digest()


def write(tree: Tree, path: Path, *, name: str, mount: str, identity: str, progress: Progress) -> Volume:
    """Write the volume of ``tree`` to ``path``, in a single pass for each half. Raises VolumeError."""
    salt = salt_of(identity)
    total, done = max(1, sum(node.size for node in tree.files())), 0

    def count(step: str) -> Callable[[int], None]:
        def add(size: int) -> None:
            nonlocal done
            done += size
            progress(step, min(done, total), total)

        return add

    size = erofs.write(tree, path, label=name[:16], progress=count(f"{name} volume"))
    total, done = size, 0
    hashed = verity.append_tree(path, salt, count(f"{name} hashes"))
    return Volume(name, mount, identity, hashed)


def model_tree(model: Path, draft: str = "") -> Tree:
    """The tree of a model: one file, or a folder of files. A draft model lies beside a file, inside a folder.

    Raises VolumeError for links and special files, and where there is no such model or draft.
    """
    tree = Tree()
    if model.is_dir():
        _add_folder(tree, model, "")
        if draft and not any(path == draft or path.startswith(f"{draft}/") for path in tree.nodes):
            raise VolumeError("model_file", "the configuration names a draft that is not there", path=draft)
        return tree
    for path in (model, *([model.parent / draft] if draft else [])):
        if path.is_dir():
            _add_folder(tree, path, f"{path.name}/")
        elif path.is_file():
            tree.add_file(path.name, path.resolve(), "model")
        else:
            raise VolumeError("model_file", "no model there", path=str(path))
    return tree


def _add_folder(tree: Tree, model: Path, below: str) -> None:
    found = False
    for folder, folders, names in os.walk(model):
        folders.sort()
        for name in names:
            path = Path(folder, name)
            if not stat.S_ISREG(path.lstat().st_mode):
                raise VolumeError("model_file", "a model has only regular files", path=str(path))
            tree.add_file(below + path.relative_to(model).as_posix(), path, "model")
            found = True
    if not found:
        raise VolumeError("model_file", "no model there", path=str(model))
