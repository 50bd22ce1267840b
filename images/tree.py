"""What goes into a volume: every path with its mode, its content and where it came from.

Modes are the tree's own decision, never those of the files it is made from; owner is always root and the time
always 0. So the volume depends on nothing but the contents.
"""

import hashlib
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from images.errors import InputError

MAX_ENTRIES = 200_000


@dataclass(frozen=True, slots=True)
class Node:
    """One path of a volume. ``content`` is a file's bytes or the file that holds them; ``link`` a link's target.

    ``package`` names where it came from: a Debian package, a wheel, or one of our own rooms.
    """

    path: str
    mode: int
    package: str
    content: bytes | Path = b""
    link: str = ""

    @property
    def is_link(self) -> bool:
        """Whether this is a symbolic link."""
        return stat.S_ISLNK(self.mode)

    @property
    def is_folder(self) -> bool:
        """Whether this is a folder."""
        return stat.S_ISDIR(self.mode)

    @property
    def size(self) -> int:
        """Bytes of content."""
        if self.is_link:
            return len(self.link.encode())
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size

    def read(self) -> bytes:
        """The whole content."""
        if self.is_link:
            return self.link.encode()
        return self.content if isinstance(self.content, bytes) else self.content.read_bytes()

    def sha256(self) -> str:
        """SHA-256 of the content in hex; of a link, of its target."""
        if isinstance(self.content, Path):
            with self.content.open("rb") as source:
                return hashlib.file_digest(source, "sha256").hexdigest()
        return hashlib.sha256(self.read()).hexdigest()


@dataclass(slots=True)
class Tree:
    """A volume's paths. The same path twice is an error; folders above a path appear by themselves."""

    nodes: dict[str, Node] = field(default_factory=dict)

    def add_file(self, path: str, content: bytes | Path, package: str, *, executable: bool = False) -> None:
        """Add a regular file, mode 0644 or 0755. Raises :class:`InputError`."""
        self._add(Node(path, stat.S_IFREG | (0o755 if executable else 0o644), package, content))

    def add_link(self, path: str, target: str, package: str) -> None:
        """Add a symbolic link. Raises :class:`InputError`."""
        self._add(Node(path, stat.S_IFLNK | 0o777, package, link=target))

    def add_folder(self, path: str, package: str) -> None:
        """Add a folder that may stay empty: somewhere to mount on. Raises :class:`InputError`."""
        if path not in self.nodes:
            self._add(Node(path, stat.S_IFDIR | 0o755, package))

    def files(self) -> Iterator[Node]:
        """Regular files in the order of their paths' bytes."""
        return (node for node in self.ordered() if stat.S_ISREG(node.mode))

    def ordered(self) -> list[Node]:
        """Every node but the root, in the order of their paths' bytes."""
        return sorted(self.nodes.values(), key=lambda node: node.path.encode())

    def _add(self, node: Node) -> None:
        parts = node.path.split("/")
        if any(part in ("", ".", "..") or "\0" in part or len(part.encode()) > 255 for part in parts):
            raise InputError("tree_path", "not a plain relative path", path=node.path)
        if node.path in self.nodes:
            raise InputError("tree_twice", "two inputs want the same place", path=node.path)
        for depth in range(1, len(parts)):
            folder = "/".join(parts[:depth])
            above = self.nodes.setdefault(folder, Node(folder, stat.S_IFDIR | 0o755, ""))
            if not above.is_folder:
                raise InputError("tree_path", "lies below something that is no folder", path=node.path)
        self.nodes[node.path] = node
        if len(self.nodes) > MAX_ENTRIES:
            raise InputError("tree_too_large", f"more than {MAX_ENTRIES} paths")
