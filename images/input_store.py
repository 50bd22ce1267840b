"""The inputs of images by content: fetched once, hashed always, kept under their SHA-256.

A fetched file counts only after it has the size and the digest that its lock says. All that a recipe needs can be
packed into one tar archive and unpacked from it, so that an image can be built again when nobody serves its inputs
any more.
"""

import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from images import mirror, wheels
from images.errors import InputChanged, InputError, InputUnavailable
from images.lock import Lock, LockedDeb, LockedWheel
from images.manifest import hash_file

_CHUNK = 1 << 20

Progress = Callable[[str, int, int], None]
Locked = LockedDeb | LockedWheel


@dataclass(frozen=True, slots=True)
class InputStore:
    """A folder of files named by their SHA-256. ``mirrors`` maps archive names to addresses, for packages."""

    folder: Path
    mirrors: Mapping[str, str]

    def path(self, entry: Locked) -> Path:
        """Where the input lies, whether it does or not."""
        return self.folder / entry.sha256

    def fetch(self, lock: Lock, progress: Progress) -> None:
        """Make sure of every input. Raises InputUnavailable naming the first that cannot be had, InputChanged."""
        self.folder.mkdir(parents=True, exist_ok=True)
        entries: list[Locked] = [*lock.debs, *lock.wheels]
        total, done = sum(entry.size for entry in entries), 0
        missing: list[Locked] = []
        for entry in entries:
            if self._holds(entry):
                done += entry.size
                progress("inputs", done, total)
            else:
                missing.append(entry)
        debs = [entry for entry in missing if isinstance(entry, LockedDeb)]
        for entry in self._fetch_debs(debs):
            done += entry.size
            progress("inputs", done, total)
        if absent := [entry for entry in missing if isinstance(entry, LockedWheel)]:
            self._fetch_wheels(absent)
            progress("inputs", total, total)

    def fetch_one(self, deb: LockedDeb) -> None:
        """Make sure of one package. Raises InputUnavailable, InputChanged."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self._holds(deb):
            self._fetch_deb(deb)

    def take(self, entry: Locked, path: Path) -> None:
        """Keep a copy of a file that is here already. Raises InputChanged where it is not what ``entry`` says."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
            copy = Path(scratch, "copy")
            shutil.copyfile(path, copy)
            self._admit(entry, copy, str(path))

    def pack(self, locks: Sequence[Lock], archive: Path) -> None:
        """Write every input of ``locks`` into one tar, the same bytes for the same locks."""
        with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
            entries: dict[str, Locked] = {}
            for lock in locks:
                self._pack_member(tar, f"locks/{lock.recipe}.json", lock.encode())
                named: list[Locked] = [*lock.debs, *lock.wheels]
                entries |= {entry.sha256: entry for entry in named}
            for digest in sorted(entries):
                self._pack_member(tar, f"sha256/{digest}", self.path(entries[digest]))

    def unpack(self, lock: Lock, archive: Path) -> None:
        """Take from a tar of :meth:`pack` what ``lock`` names and is missing. Raises InputError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        entries: list[Locked] = [*lock.debs, *lock.wheels]
        wanted = {f"sha256/{entry.sha256}": entry for entry in entries}
        try:
            with tarfile.open(archive, "r:") as tar:
                for info in tar:
                    entry = wanted.get(info.name)
                    if entry is None or not info.isfile() or info.size != entry.size or self._holds(entry):
                        continue
                    source = tar.extractfile(info)
                    assert source is not None
                    with tempfile.NamedTemporaryFile(dir=self.folder, delete=False) as target:
                        while chunk := source.read(_CHUNK):
                            target.write(chunk)
                    self._admit(entry, Path(target.name), archive.name)
        except (tarfile.TarError, OSError, EOFError) as error:
            raise InputError("archive_unreadable", "not an archive of inputs", path=archive.name) from error

    def _holds(self, entry: Locked) -> bool:
        path = self.path(entry)
        # Files here were admitted by their digest; the size tells one that a full disk cut off.
        return path.is_file() and path.stat().st_size == entry.size and hash_file(path)[0] == entry.sha256

    def _fetch_debs(self, debs: Sequence[LockedDeb]) -> Iterator[LockedDeb]:
        """Each once it is there; those that mirrors no longer have are told together, at the end."""
        gone: list[LockedDeb] = []
        with ThreadPoolExecutor(4) as pool:
            fetches = {pool.submit(self._fetch_deb, deb): deb for deb in debs}
            for fetch, deb in fetches.items():
                try:
                    yield fetch.result()
                except InputUnavailable as error:
                    if error.code != "input_withdrawn":
                        pool.shutdown(cancel_futures=True)
                        raise
                    gone.append(deb)
        if gone:
            raise mirror.withdrawn(gone, self.mirrors[gone[0].archive])

    def _fetch_deb(self, deb: LockedDeb) -> LockedDeb:
        source = self.mirrors.get(deb.archive)
        if source is None:
            raise InputUnavailable(
                "mirror_unknown",
                f"no mirror of the archive {deb.archive!r} is known, and {deb.name} {deb.version} is not kept here",
                advice=mirror.UNREACHABLE,
            )
        with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
            target = Path(scratch, "package")
            mirror.download(source, deb, target)
            self._admit(deb, target, mirror.plain(source))
        return deb

    def _fetch_wheels(self, absent: Sequence[LockedWheel]) -> None:
        with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
            wheels.fetch(absent, Path(scratch))
            for wheel in absent:
                self._admit(wheel, Path(scratch, wheel.file), "the index")

    def _admit(self, entry: Locked, path: Path, source: str) -> None:
        digest, size = hash_file(path)
        if (digest, size) != (entry.sha256, entry.size):
            path.unlink()
            raise InputChanged(
                "input_changed",
                f"{source} has other bytes than are locked for {entry.name} {entry.version}",
                path=entry.path if isinstance(entry, LockedDeb) else entry.file,
                expected=entry.sha256,
                found=digest,
                advice=mirror.OTHER_BYTES,
            )
        path.chmod(0o644)
        os.replace(path, self.path(entry))

    @staticmethod
    def _pack_member(tar: tarfile.TarFile, name: str, content: bytes | Path) -> None:
        info = tarfile.TarInfo(name)
        if isinstance(content, bytes):
            info.size = len(content)
            tar.addfile(info, BytesIO(content))
            return
        info.size = content.stat().st_size
        with content.open("rb") as source:
            tar.addfile(info, source)


def mirrors_from(base: str | None, found: Mapping[str, str], archives: Sequence[str]) -> dict[str, str]:
    """The address of each archive: below ``base`` where one is given, else as the machine's apt has it."""
    return {name: f"{base.rstrip('/')}/{name}" for name in archives} if base else dict(found)
