"""The third-party files that a node needs, from the metadata of what is installed.

Requirements are followed from ``Requires-Dist`` with their markers evaluated for this interpreter; the files
of each distribution are those its ``RECORD`` lists. An editable install is a folder outside, not a list of
files, and is refused as an input.
"""

import base64
import binascii
import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path, PurePosixPath

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from images.errors import ClosureError
from images.pruning import LEFT_OUT_DISTRIBUTIONS, keeps_ours, keeps_site


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file to carry: where it lies now, its path in the image, and the SHA-256 it must have, if known."""

    source: Path
    target: str
    sha256: str | None = None


def requirements_of(project: str, extra: str) -> tuple[str, ...]:
    """What an installed project requires by itself and with one extra, its own name aside.

    Raises :class:`ClosureError` if it is not installed or does not offer the extra.
    """
    names: list[str] = []
    pending, seen = ["", extra], set[str]()
    installed = _installed(project)
    if canonicalize_name(extra) not in {
        canonicalize_name(e) for e in installed.metadata.get_all("Provides-Extra", [])
    }:
        raise ClosureError("extra_unknown", f"{project} offers no extra of this name", found=extra)
    while pending:
        current = pending.pop()
        seen.add(current)
        for requirement in _requires(installed, current):
            if canonicalize_name(requirement.name) == canonicalize_name(project):
                pending.extend(requirement.extras - seen)
            else:
                names.append(str(requirement).split(";")[0].strip())
    return tuple(dict.fromkeys(names))


def resolve(
    roots: Iterable[str], left_out: Mapping[str, str] = LEFT_OUT_DISTRIBUTIONS
) -> tuple[Distribution, ...]:
    """The installed distributions that ``roots`` (requirement strings) need, sorted by name.

    Distributions named in ``left_out`` are not followed. Raises :class:`ClosureError` if one is missing or
    its installed version is not one that was asked for.
    """
    found: dict[str, Distribution] = {}
    pending = [(_requirement(root), "") for root in roots]
    seen: set[tuple[str, str]] = set()
    while pending:
        requirement, wanted_by = pending.pop()
        name = str(canonicalize_name(requirement.name))
        if name in left_out:
            continue
        installed = _installed(requirement.name, wanted_by)
        if not requirement.specifier.contains(installed.version, prereleases=True):
            raise ClosureError(
                "requirement_unmet",
                f"{name} does not have a version that {wanted_by or 'the image'} works with",
                expected=str(requirement.specifier),
                found=installed.version,
            )
        found[name] = installed
        for extra in ("", *sorted(requirement.extras)):
            if (name, extra) not in seen:
                seen.add((name, extra))
                pending.extend((needed, name) for needed in _requires(installed, extra))
    return tuple(found[name] for name in sorted(found))


def distribution_files(installed: Distribution) -> tuple[SourceFile, ...]:
    """The files of one distribution that a node needs, below ``site/``.

    Raises :class:`ClosureError` if the distribution keeps no record of its files, is an editable install, or
    lost a file it lists.
    """
    name = installed.metadata["Name"]
    recorded = installed.files  # Read and parsed anew at each access.
    if recorded is None:
        raise ClosureError("no_record", f"{name} keeps no record of its files; install it with pip or uv")
    if any(file.name.endswith(".pth") and file.name.startswith("__editable__") for file in recorded):
        raise ClosureError("editable", f"{name} is an editable install: its files are not in its record")
    site = Path(str(installed.locate_file("")))
    files: list[SourceFile] = []
    for file in recorded:
        path = PurePosixPath(file)
        if path.is_absolute() or ".." in path.parts or path.suffix == ".pth" or not keeps_site(str(path)):
            continue
        files.append(SourceFile(site / path, f"site/{path}", _recorded_sha256(file.hash)))
    return tuple(files)


def package_files(packages: Iterable[str]) -> tuple[SourceFile, ...]:
    """Every source file of our own packages, below ``app/``, found where Python would import them from."""
    files: list[SourceFile] = []
    for package in packages:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise ClosureError("package_missing", f"the package {package} cannot be found")
        folder = Path(next(iter(spec.submodule_search_locations)))
        for path in sorted(folder.rglob("*")):
            relative = path.relative_to(folder).as_posix()
            if path.is_file() and keeps_ours(relative):
                files.append(SourceFile(path, f"app/{package}/{relative}"))
    return tuple(files)


def _requirement(text: str) -> Requirement:
    try:
        return Requirement(text)
    except InvalidRequirement as error:
        raise ClosureError("requirement_malformed", "a requirement cannot be read", found=text) from error


def _requires(installed: Distribution, extra: str) -> list[Requirement]:
    needed = [_requirement(text) for text in installed.requires or ()]
    # With an extra, only what the extra adds: the unconditional requirements come with extra "".
    return [
        requirement
        for requirement in needed
        if (requirement.marker is None and not extra)
        or (requirement.marker is not None and requirement.marker.evaluate({"extra": extra}))
    ]


def _installed(name: str, wanted_by: str = "") -> Distribution:
    try:
        return distribution(name)
    except PackageNotFoundError as error:
        needed = f", which {wanted_by} needs," if wanted_by else ""
        raise ClosureError("not_installed", f"{name}{needed} is not installed") from error


def _recorded_sha256(recorded: object) -> str | None:
    if getattr(recorded, "mode", None) != "sha256":
        return None
    value = str(getattr(recorded, "value", ""))
    try:
        return base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)).hex()
    except binascii.Error:
        return None
