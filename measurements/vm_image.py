"""What the simulated platform measures when it launches a virtual-machine image, from its ``image.json`` alone.

The command line and, as volumes of one file each, the kernel and the initial RAM disk: the same three that SEV-SNP's
hash table and a TPM's registers cover. Root and model volumes are bound by the policy inside the RAM disk.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .errors import Code, ImageError, TransparencyError
from .process_image import MAX_MANIFEST, MeasuredFile, launch_digest
from .statement import parse_canonical

KIND: Final = "vm"
LAUNCHED: Final[Mapping[str, str]] = {"kernel": "vmlinuz", "initrd": "initrd"}
"""Volume name to the image's file."""

_SHA256: Final = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True, slots=True)
class VmImage:
    """A description: artifacts by name, the kernel's command line, and root hashes of volumes by name."""

    artifacts: Mapping[str, MeasuredFile]
    cmdline: str
    volumes: Mapping[str, bytes]
    platforms: Mapping[str, Any]
    inner_files: int
    sha256: bytes

    def launch_digest(self) -> bytes:
        """The 48-byte digest that the simulated platform reports. Raises ImageError."""
        volumes = {}
        for name, file in LAUNCHED.items():
            if file not in self.artifacts:
                raise _malformed(f"image.json lists no {file}")
            volumes[name] = [self.artifacts[file]]
        return launch_digest(self.cmdline.encode(), volumes)


def parse_vm_image(data: bytes) -> VmImage | None:
    """Read ``image.json``; None where it describes no virtual machine. Raises ImageError (IMAGE_MALFORMED)."""
    try:
        value = parse_canonical(data, limit=MAX_MANIFEST)
    except TransparencyError as error:
        raise _malformed(f"image.json: {error.detail}") from error
    if not isinstance(value, dict) or value.get("kind") != KIND:
        return None
    if type(value.get("v")) is not int or value["v"] != 1:
        raise _malformed("image.json is not of a known version")
    artifacts, cmdline, policy, files = (value.get(n) for n in ("artifacts", "cmdline", "policy", "files"))
    platforms = value.get("platforms")
    if not isinstance(artifacts, dict) or not isinstance(cmdline, str) or not isinstance(files, list):
        raise _malformed("image.json lacks artifacts, files or a command line")
    if not isinstance(platforms, dict):
        raise _malformed("image.json does not say how it is launched")
    measured = {name: _artifact(name, entry) for name, entry in artifacts.items()}
    listed = policy.get("volumes") if isinstance(policy, dict) else None
    if not isinstance(listed, list):
        raise _malformed("image.json has no policy with volumes")
    return VmImage(
        measured, cmdline, dict(map(_volume, listed)), platforms, len(files), hashlib.sha256(data).digest()
    )


def read_vm_image(image_dir: Path) -> VmImage | None:
    """Read ``IMAGE_DIR/image.json``; None where it describes no virtual machine. Raises ImageError."""
    path = image_dir / "image.json"
    try:
        with path.open("rb") as file:
            return parse_vm_image(file.read(MAX_MANIFEST + 1))
    except OSError as error:
        raise _malformed(f"{path}: {error.strerror}") from error


def _artifact(name: str, entry: Any) -> MeasuredFile:
    if not isinstance(entry, dict) or set(entry) != {"size", "sha256"}:
        raise _malformed("an artifact has size and sha256")
    size, digest = entry["size"], entry["sha256"]
    if type(size) is not int or size < 0 or not isinstance(digest, str) or not _SHA256.match(digest):
        raise _malformed("an artifact has size and sha256")
    return MeasuredFile(name, False, size, bytes.fromhex(digest))


def _volume(entry: Any) -> tuple[str, bytes]:
    name, root = (entry.get("name"), entry.get("root_hash")) if isinstance(entry, dict) else (None, None)
    if not isinstance(name, str) or not isinstance(root, str) or not _SHA256.match(root):
        raise _malformed("a volume has a name and a root hash")
    return name, bytes.fromhex(root)


def _malformed(why: str) -> ImageError:
    return ImageError(Code.IMAGE_MALFORMED, why, stage="measure")
