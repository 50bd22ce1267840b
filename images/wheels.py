"""Wheels: which a node takes, from the distributions that are installed and tested here, and how pip fetches them."""

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import Distribution
from pathlib import Path
from zipfile import BadZipFile, ZipFile, ZipInfo

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from images import closure, mirror
from images.errors import InputChanged, InputError, InputUnavailable
from images.lock import LockedWheel
from images.manifest import hash_file

MAX_UNPACKED = 8 << 30

# What Debian's interpreter and C library can load, the newest first.
_TARGET = (
    *("--python-version", "3.11", "--implementation", "cp"),
    *("--platform", "manylinux_2_36_x86_64", "--platform", "manylinux_2_35_x86_64"),
    *("--platform", "manylinux_2_34_x86_64", "--platform", "manylinux_2_31_x86_64"),
    *("--platform", "manylinux_2_28_x86_64", "--platform", "manylinux_2_27_x86_64"),
    *("--platform", "manylinux_2_17_x86_64", "--platform", "manylinux2014_x86_64"),
    *("--platform", "manylinux_2_12_x86_64", "--platform", "manylinux2010_x86_64"),
    *("--platform", "manylinux_2_5_x86_64", "--platform", "manylinux1_x86_64"),
)

_OTHER_HASH = re.compile(
    r"^ +(?P<what>[^ ]+) from (?P<address>[^ ]+) .*\n +Expected sha256 (?P<expected>[0-9a-f]{64})\n"
    r" +Got +(?P<got>[0-9a-f]{64})",
    re.MULTILINE,
)
_NOT_THERE = re.compile(r"No matching distribution found for (?P<what>[^ \n]+)")
_UNREACHABLE = re.compile(r"connection broken by '(?P<why>[A-Za-z]+)")


def resolve(project: str, extra: str) -> tuple[LockedWheel, ...]:
    """The wheels of what ``project`` requires with ``extra``, each in the version installed here.

    Raises ClosureError, InputUnavailable.
    """
    return _locked(closure.resolve(closure.requirements_of(project, extra)))


def locked(names: Sequence[str]) -> tuple[LockedWheel, ...]:
    """The wheels of these distributions and of what they require, each in the version installed here.

    Raises ClosureError, InputUnavailable.
    """
    return _locked(closure.resolve(names))


def _locked(installed: Sequence[Distribution]) -> tuple[LockedWheel, ...]:
    wanted = [f"{dist.metadata['Name']}=={dist.version}" for dist in installed]
    with tempfile.TemporaryDirectory() as scratch:
        download(wanted, Path(scratch))
        found = []
        for path in Path(scratch).glob("*.whl"):
            name, version = parse_wheel_filename(path.name)[:2]
            digest, size = hash_file(path)
            found.append(LockedWheel(str(name), str(version), path.name, size, digest))
    missing = {str(canonicalize_name(dist.metadata["Name"])) for dist in installed} - {w.name for w in found}
    if missing:
        raise InputUnavailable("wheel_missing", f"no wheel was found for {', '.join(sorted(missing))}")
    return tuple(sorted(found, key=lambda wheel: wheel.name))


def download(requirements: Iterable[str], folder: Path, *, hashes: bool = False) -> None:
    """Fetch the wheels of exact requirements with pip, from the indexes it is configured for.

    With ``hashes`` each requirement has to carry one. Raises InputUnavailable, InputChanged.
    """
    listed = folder / "requirements.txt"
    listed.write_text("".join(f"{line}\n" for line in requirements))
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", *_TARGET, *(["--require-hashes"] if hashes else [])]
    done = subprocess.run(
        [*command, "--dest", str(folder), "--requirement", str(listed)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise _failure(done.stderr)


def fetch(absent: Sequence[LockedWheel], folder: Path) -> None:
    """Fetch locked wheels into ``folder``, under the names of their files. Raises InputUnavailable, InputChanged."""
    download(map(requirement, absent), folder, hashes=True)
    for wheel in absent:
        if not (folder / wheel.file).is_file():
            detail = "the index that pip uses has another file instead"
            raise InputUnavailable("input_withdrawn", detail, path=wheel.file, advice=mirror.WHEEL_WITHDRAWN)


def _failure(said: str) -> InputError | InputUnavailable:
    """What pip complained about, as one of our own errors."""
    if found := _OTHER_HASH.search(said):
        return InputChanged(
            "input_changed",
            f"the index that pip uses has other bytes than are locked for {found['what']}",
            path=found["address"].rsplit("/", 1)[-1],
            expected=found["expected"],
            found=found["got"],
            advice=mirror.OTHER_BYTES,
        )
    if found := _UNREACHABLE.search(said):
        detail = f"the index that pip uses gives no answer ({found['why']})"
        return InputUnavailable("index_unreachable", detail, advice=mirror.INDEX_UNREACHABLE)
    if found := _NOT_THERE.search(said):
        detail = f"the index that pip uses does not have {found['what']}"
        return InputUnavailable("input_withdrawn", detail, advice=mirror.WHEEL_WITHDRAWN)
    errors = [line for line in said.splitlines() if line.startswith("ERROR")]
    words = errors[-1].removeprefix("ERROR: ") if errors else "pip could not fetch the wheels"
    return InputUnavailable("wheel_unavailable", words, advice=mirror.INDEX_UNREACHABLE)


def requirement(wheel: LockedWheel) -> str:
    """The requirement that only this very wheel meets."""
    return f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}"


def unpack(
    path: Path, name: str, wanted: "Sequence[str] | None" = None
) -> Iterator[tuple[str, ZipInfo, ZipFile]]:
    """The files of a wheel: the path below the site folder, and how to read each. Raises InputError."""
    try:
        parse_wheel_filename(name)
        with ZipFile(path) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
            if sum(info.file_size for info in infos) > MAX_UNPACKED:
                raise InputError("wheel_too_large", f"more than {MAX_UNPACKED} bytes unpacked", path=name)
            for info in infos:
                place = _place(info.filename)
                if place is not None and (wanted is None or place in wanted):
                    yield place, info, archive
    except (BadZipFile, InvalidWheelFilename, NotImplementedError, ValueError) as error:
        raise InputError("wheel_malformed", "not a wheel that can be read", path=name) from error


def _place(name: str) -> str | None:
    """Where a wheel's file lies below the site folder; None for scripts and headers (PEP 427)."""
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in name or "\0" in name:
        raise InputError("wheel_malformed", "a path is not a plain relative path", path=name)
    if len(parts) > 2 and parts[0].endswith(".data"):
        return "/".join(parts[2:]) if parts[1] in ("purelib", "platlib") else None
    return name
