"""Debian binary packages (deb(5)): an ``ar`` archive whose last member is a compressed tar of files.

Only the files are read. Maintainer scripts are neither run nor carried.
"""

import lzma
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from images.errors import InputError

MAX_PACKAGE = 512 << 20
MAX_UNPACKED = 2 << 30
_AR_MAGIC = b"!<arch>\n"
_AR_HEADER = 60
_GZIP = 31  # zlib's window bits for a gzip header.


@dataclass(frozen=True, slots=True)
class Member:
    """One file or symbolic link of a package: ``path`` without leading slash; ``link`` is "" for a file."""

    path: str
    mode: int
    data: bytes
    link: str


def read_package(path: Path) -> Iterator[Member]:
    """The files and links of one package, in its own order. Raises :class:`InputError`."""
    try:
        if path.stat().st_size > MAX_PACKAGE:
            raise InputError("deb_too_large", f"more than {MAX_PACKAGE} bytes", path=path.name)
        yield from members(path.read_bytes())
    except OSError as error:
        raise InputError("input_unreadable", error.strerror or "cannot be read", path=path.name) from error


def members(data: bytes) -> Iterator[Member]:
    """The files and links of a package given as bytes. Raises :class:`InputError` (``deb_malformed``)."""
    try:
        with tarfile.open(fileobj=BytesIO(_data_tar(data)), mode="r:") as archive:
            for info in archive:
                name = info.name.removeprefix("./").rstrip("/")
                if not name or info.isdir():
                    continue
                if any(part in ("", ".", "..") for part in name.split("/")):
                    raise _malformed("a path is not a plain relative path")
                if info.issym():
                    yield Member(name, 0o777, b"", info.linkname)
                elif info.isfile():
                    source = archive.extractfile(info)
                    assert source is not None
                    yield Member(name, info.mode & 0o7777, source.read(), "")
                elif info.islnk():
                    source = archive.extractfile(info)
                    if source is None:
                        raise _malformed("a hard link leads nowhere")
                    yield Member(name, info.mode & 0o7777, source.read(), "")
                else:
                    raise _malformed(f"{name} is a special file")
    except (tarfile.TarError, ValueError, KeyError, EOFError, UnicodeError, OverflowError) as error:
        raise _malformed("its tar cannot be read") from error


def _data_tar(data: bytes) -> bytes:
    if data[: len(_AR_MAGIC)] != _AR_MAGIC:
        raise _malformed("not an ar archive")
    at = len(_AR_MAGIC)
    while at + _AR_HEADER <= len(data):
        header = data[at : at + _AR_HEADER]
        name, digits, end = header[:16].rstrip(b" /"), header[48:58].strip(), header[58:]
        if end != b"`\n" or not digits.isdigit():
            raise _malformed("a member's header is damaged")
        start, size = at + _AR_HEADER, int(digits)
        if size > len(data) - start:
            raise _malformed("a member is cut off")
        if name.startswith(b"data.tar"):
            return _decompress(name, data[start : start + size])
        at = start + size + size % 2
    raise _malformed("it has no data.tar")


def _decompress(name: bytes, data: bytes) -> bytes:
    try:
        if name == b"data.tar.xz":
            unpacked = lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(data, MAX_UNPACKED + 1)
        elif name == b"data.tar.gz":
            unpacked = zlib.decompressobj(_GZIP).decompress(data, MAX_UNPACKED + 1)
        elif name == b"data.tar":
            unpacked = data
        else:
            raise _malformed(f"its files are compressed in a way that is not known: {name!a}")
    except (lzma.LZMAError, zlib.error, EOFError, ValueError) as error:
        raise _malformed("its files cannot be decompressed") from error
    if len(unpacked) > MAX_UNPACKED:
        raise InputError("deb_too_large", f"more than {MAX_UNPACKED} bytes unpacked")
    return unpacked


def _malformed(why: str) -> InputError:
    return InputError("deb_malformed", f"not a Debian package: {why}")
