"""The manifest of a virtual-machine image: every artifact, every file inside, and how it is launched.

``image.json`` is canonical JSON (RFC 8785) with ``"kind": "vm"``. It is what a release names, what
``cloister image verify`` compares, and what predictions are made from.
"""

import hashlib
import json
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rfc8785

from images.errors import ManifestError
from images.manifest import MAX_MANIFEST
from images.tree import Tree

VERSION = 1
KIND = "vm"
ARTIFACTS = (
    "vmlinuz",
    "initrd",
    "cmdline",
    "policy.json",
    "image.efi",
    "root.img",
    "model.img",
    "sbom.cdx.json",
)
"""Files of every image; firmware files stand beside them."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_ARTIFACT = re.compile(r"(firmware/)?[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MEMBERS = {"v", "kind", "recipe", "lock", "kernel", "cmdline", "artifacts", "platforms", "policy", "files"}


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file of the image folder: size in bytes, SHA-256 in hex."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class InnerFile:
    """A path of a volume: ``root:…``, ``initrd:…`` or ``model:…``; ``mode`` in full, ``package`` its origin."""

    path: str
    mode: int
    size: int
    sha256: str
    package: str


@dataclass(frozen=True, slots=True)
class VmManifest:
    """All that a virtual-machine image consists of. ``files`` is sorted by the bytes of ``path``."""

    recipe: str
    lock: str
    kernel: Mapping[str, str]
    cmdline: str
    artifacts: Mapping[str, Artifact]
    platforms: Mapping[str, Any]
    policy: Mapping[str, Any]
    files: tuple[InnerFile, ...]

    def encode(self) -> bytes:
        """The canonical bytes of ``image.json``."""
        return rfc8785.dumps(
            {
                "v": VERSION,
                "kind": KIND,
                "recipe": self.recipe,
                "lock": self.lock,
                "kernel": dict(self.kernel),
                "cmdline": self.cmdline,
                "artifacts": {n: {"size": a.size, "sha256": a.sha256} for n, a in self.artifacts.items()},
                "platforms": dict(self.platforms),
                "policy": dict(self.policy),
                "files": [[f.path, f"{f.mode:o}", f.size, f.sha256, f.package] for f in self.files],
            }
        )

    def digest(self) -> str:
        """SHA-256 of ``image.json`` in hex."""
        return hashlib.sha256(self.encode()).hexdigest()

    @classmethod
    def parse(cls, data: bytes) -> "VmManifest":
        """Read ``image.json``; raises :class:`ManifestError` for anything but its one canonical form."""
        if len(data) > MAX_MANIFEST:
            raise ManifestError("manifest_too_large", f"image.json has more than {MAX_MANIFEST} bytes")
        try:
            members = json.loads(data.decode())
        except (ValueError, RecursionError) as error:
            raise ManifestError("manifest_malformed", "image.json is not JSON") from error
        if not isinstance(members, dict) or set(members) != _MEMBERS:
            raise _malformed("an object has not exactly the known members")
        if type(members["v"]) is not int or members["v"] != VERSION:
            raise ManifestError("manifest_version", "unknown version", expected=VERSION, found=members["v"])
        if members["kind"] != KIND:
            raise ManifestError(
                "manifest_kind", "not a virtual machine", expected=KIND, found=members["kind"]
            )
        texts = [members[name] for name in ("recipe", "lock", "cmdline")]
        if not all(isinstance(text, str) for text in texts) or not _SHA256.fullmatch(members["lock"]):
            raise _malformed("recipe, lock or cmdline is malformed")
        kernel, policy, platforms = members["kernel"], members["policy"], members["platforms"]
        if not isinstance(kernel, dict) or not all(isinstance(value, str) for value in kernel.values()):
            raise _malformed("kernel is malformed")
        if (
            not isinstance(platforms, dict)
            or not isinstance(policy, dict)
            or not isinstance(members["files"], list)
        ):
            raise _malformed("platforms, policy or files is malformed")
        manifest = cls(
            members["recipe"],
            members["lock"],
            kernel,
            members["cmdline"],
            _artifacts(members["artifacts"]),
            platforms,
            policy,
            tuple(_file(entry) for entry in members["files"]),
        )
        paths = [file.path.encode() for file in manifest.files]
        if paths != sorted(set(paths)):
            raise ManifestError("manifest_order", "files are not in strictly increasing order")
        try:
            same = manifest.encode() == data
        except (rfc8785.CanonicalizationError, RecursionError, UnicodeError) as error:
            raise _malformed("it has a value that canonical JSON cannot hold") from error
        if not same:
            raise ManifestError("manifest_not_canonical", "image.json is not in canonical form")
        return manifest


def read(image_dir: Path) -> VmManifest:
    """The manifest of an image folder; raises :class:`ManifestError`."""
    try:
        with (image_dir / "image.json").open("rb") as source:
            return VmManifest.parse(source.read(MAX_MANIFEST + 1))
    except OSError as error:
        raise ManifestError("manifest_missing", f"no readable image.json in {image_dir}") from error
    except ManifestError:
        if _kind(image_dir) == "process":
            raise ManifestError(
                "not_a_machine", f"{image_dir} is a process image; this takes a virtual machine's"
            ) from None
        raise


def is_vm(image_dir: Path) -> bool:
    """Whether an image folder says that it is a virtual machine; nothing else about it is checked."""
    return _kind(image_dir) == KIND


def _kind(image_dir: Path) -> object:
    try:
        with (image_dir / "image.json").open("rb") as source:
            document = json.loads(source.read(MAX_MANIFEST + 1))
    except (OSError, ValueError, RecursionError):
        return None
    return document.get("kind") if isinstance(document, dict) else None


def inner_files(volume: str, tree: Tree) -> list[InnerFile]:
    """Every path of a volume's tree, folders left out."""
    return [
        InnerFile(f"{volume}:{node.path}", node.mode, node.size, node.sha256(), node.package)
        for node in tree.ordered()
        if not node.is_folder
    ]


def _artifacts(value: object) -> dict[str, Artifact]:
    if not isinstance(value, dict) or not 0 < len(value) <= 64:
        raise _malformed("artifacts is not an object of a permitted size")
    found = {}
    for name, entry in value.items():
        if not _ARTIFACT.fullmatch(name) or not isinstance(entry, dict) or set(entry) != {"size", "sha256"}:
            raise _malformed("an artifact is malformed")
        size, digest = entry["size"], entry["sha256"]
        if type(size) is not int or size < 0 or not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            raise _malformed("an artifact is malformed")
        found[name] = Artifact(size, digest)
    return found


def _file(entry: object) -> InnerFile:
    if not isinstance(entry, list) or len(entry) != 5:
        raise _malformed("a file is not [path, mode, size, sha256, package]")
    path, mode, size, digest, package = entry
    texts = all(isinstance(text, str) for text in (path, mode, digest, package))
    if not texts or type(size) is not int or size < 0 or not _SHA256.fullmatch(digest):
        raise _malformed("a file is malformed")
    if not re.fullmatch("[0-7]{1,7}", mode) or not (stat.S_ISREG(int(mode, 8)) or stat.S_ISLNK(int(mode, 8))):
        raise _malformed("a file has an impossible mode")
    return InnerFile(path, int(mode, 8), size, digest, package)


def _malformed(why: str) -> ManifestError:
    return ManifestError("manifest_malformed", why)
