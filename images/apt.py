"""Asking apt: which packages a closure from nothing takes, and where this machine's mirrors are.

apt runs with an empty record of installed packages and an empty folder of downloads, because it leaves out of its
answer whatever it believes to be there already. Its package lists are the machine's own.
"""

import re
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from images.errors import InputUnavailable
from images.lock import LockedDeb

_PRINTED = re.compile(r"'(?P<uri>[^']+)' (?P<file>\S+) (?P<size>\d+)")


def resolve(closure: Sequence[str], exact: Iterable[str]) -> tuple[LockedDeb, ...]:
    """The packages that ``closure`` needs from an empty system, and those of ``exact`` without what they need.

    A metapackage of ``exact`` stands for the one package of its own kind that it depends on. Raises
    InputUnavailable.
    """
    uris: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch, "status").touch()
        Path(scratch, "archives", "partial").mkdir(parents=True)
        isolated = (
            f"Dir::State::status={scratch}/status",
            f"Dir::Cache::archives={scratch}/archives",
            "Debug::NoLocking=1",
            "APT::Install-Recommends=0",
        )
        options = [part for option in isolated for part in ("-o", option)]
        for line in _run("apt-get", "-qq", *options, "install", "--print-uris", *closure).splitlines():
            if found := _PRINTED.match(line):
                uris[found["file"].split("_", 1)[0]] = found["uri"]
    for name in exact:
        real = _real_name(name)
        uris[real] = _uri(real, ["-o", f"Dir::Cache::archives={scratch}"])
    records = _records(uris)
    return tuple(_locked(name, uris[name], records.get(name, ())) for name in sorted(uris))


def of_suite(suite: str, names: Sequence[str]) -> tuple[LockedDeb, ...]:
    """Packages by themselves from another suite of this machine's mirror of Debian, with lists of its own.

    Raises InputUnavailable.
    """
    mirror = mirrors().get("debian")
    if mirror is None:
        raise InputUnavailable("mirror_unknown", "this machine's apt knows no mirror of Debian")
    with tempfile.TemporaryDirectory() as scratch:
        for folder in ("lists/partial", "archives/partial"):
            Path(scratch, folder).mkdir(parents=True)
        Path(scratch, "sources.list").write_text(f"deb {mirror} {suite} main\n", encoding="ascii")
        isolated = (
            f"Dir::Etc::sourcelist={scratch}/sources.list",
            "Dir::Etc::sourceparts=/dev/null",
            f"Dir::State::lists={scratch}/lists",
            f"Dir::Cache={scratch}",
            "Debug::NoLocking=1",
            "APT::Sandbox::User=",
        )
        options = [part for option in isolated for part in ("-o", option)]
        _run("apt-get", "-qq", *options, "update")
        uris = {name: _uri(name, options) for name in names}
        records = _records(uris, options)
    return tuple(_locked(name, uris[name], records.get(name, ())) for name in sorted(uris))


def mirrors() -> dict[str, str]:
    """Archive name (the last part of a source's address, such as ``debian``) to address, of this machine's apt."""
    try:
        targets = _run("apt-get", "indextargets", "--format", "$(REPO_URI)")
    except InputUnavailable:
        return {}
    found: dict[str, str] = {}
    for line in targets.split():
        address = line.rstrip("/")
        found.setdefault(address.rsplit("/", 1)[-1], address)
    return found


def _uri(name: str, options: Sequence[str]) -> str:
    if not (found := _PRINTED.match(_run("apt-get", "-qq", *options, "download", "--print-uris", name))):
        raise InputUnavailable("package_unknown", f"apt knows no package {name}")
    return found["uri"]


def _records(names: Iterable[str], options: Sequence[str] = ()) -> dict[str, list[dict[str, str]]]:
    """What apt knows of each package, in every version it has."""
    found: dict[str, list[dict[str, str]]] = {}
    for record in _run("apt-cache", *options, "show", *sorted(names)).split("\n\n"):
        fields = dict(line.split(": ", 1) for line in record.splitlines() if ": " in line and line[:1] != " ")
        if "Package" in fields:
            found.setdefault(fields["Package"], []).append(fields)
    return found


def _locked(name: str, uri: str, records: Iterable[Mapping[str, str]]) -> LockedDeb:
    before, _, below = unquote(urlsplit(uri).path).partition("/pool/")
    for fields in records:
        if fields.get("Filename") == f"pool/{below}":
            return LockedDeb(
                name,
                fields["Version"],
                before.rsplit("/", 1)[-1],
                fields["Filename"],
                int(fields["Size"]),
                fields["SHA256"],
            )
    raise InputUnavailable("package_unknown", f"apt has no record of {name} as it would fetch it")


def _real_name(name: str) -> str:
    kind = name.split("-", 2)[:2]
    for line in _run("apt-cache", "show", "--no-all-versions", name).splitlines():
        if line.startswith("Depends: "):
            for wanted in line.removeprefix("Depends: ").split(","):
                other = wanted.strip().split(" ")[0]
                if other.split("-", 2)[:2] == kind and other != name:
                    return other
    return name


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise InputUnavailable("apt_missing", f"{command[0]}: {error.strerror}") from error
    if done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines()
        raise InputUnavailable("apt_refused", words[-1] if words else f"{command[0]} failed")
    return done.stdout
