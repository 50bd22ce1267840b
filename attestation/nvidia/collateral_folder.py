"""Collateral from a plain folder, as people keep it: manifests (``.xml``, ``.swidtag``), responses (``.der``).

A manifest's file is best named for its RIM id; one under another name is found by the version that it states,
unverified, which is good enough to pick a file: what is in it is verified like any other.
A response's file has the SHA-256 of the certificate it is about as its name.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from attestation.errors import AttestationError
from attestation.nvidia.collateral_fetch import needed_rims
from attestation.nvidia.errors import CollateralFault
from attestation.nvidia.evidence import GpuEvidence
from attestation.nvidia.policy import GpuPolicy
from attestation.nvidia.rim import check_rim, verify_rim
from attestation.nvidia.rim_id import RimRequest, collateral_name

MAX_FILE: Final = 256 * 1024
MAX_FILES: Final = 512

_STATED_VERSION: Final = re.compile(rb'colloquialVersion="([0-9A-Za-z.]{1,32})"')
_RESPONSE: Final = re.compile(r"[0-9a-f]{64}")


def read_collateral(
    folder: Path, entries: Sequence[GpuEvidence], policy: GpuPolicy, at: datetime
) -> dict[str, bytes]:
    """What the folder holds for these devices, under the names that a bundle gives it.

    Among several issues of one manifest, one that is in force at ``at`` goes first. Raises `CollateralFault`
    (``folder_unusable``).
    """
    manifests: dict[str, bytes] = {}
    pieces: dict[str, bytes] = {}
    try:
        for path in sorted(folder.iterdir())[:MAX_FILES]:
            if path.suffix in (".xml", ".swidtag") and path.is_file():
                manifests[path.stem] = _read(path)
            elif path.suffix == ".der" and _RESPONSE.fullmatch(path.stem) and path.is_file():
                pieces[f"ocsp/{path.stem}"] = _read(path)
    except OSError as error:
        raise _fault(f"{folder}: {error.strerror}") from None
    for entry in entries:
        try:
            requests = needed_rims(entry)
        except AttestationError:
            continue  # the appraisal says what is wrong with this device's evidence
        for request in requests:
            found = _candidates(manifests, request)
            if found:
                in_force = [data for data in found if _is_in_force(data, request, policy, at)]
                pieces.setdefault(collateral_name(request.id), (in_force or found)[0])
    return pieces


def write_collateral(folder: Path, pieces: Mapping[str, bytes]) -> None:
    """Write pieces by the names that `read_collateral` finds them by. Raises `CollateralFault`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in pieces.items():
            kind, _, identity = name.partition("/")
            path = folder / (f"{identity}.xml" if kind == "rim" else f"{identity}.der")
            fresh = path.with_suffix(".new")
            fresh.write_bytes(data)
            fresh.replace(path)
    except OSError as error:
        raise _fault(f"{folder}: {error.strerror}") from None


def _candidates(manifests: dict[str, bytes], request: RimRequest) -> list[bytes]:
    named = [data for name, data in manifests.items() if name.upper() == request.id.upper()]
    stated = [data for data in manifests.values() if _stated_version(data) == request.version.upper()]
    return named or stated


def _stated_version(data: bytes) -> str | None:
    found = _STATED_VERSION.search(data)
    return None if found is None else found[1].decode("ascii").upper()


def _is_in_force(data: bytes, request: RimRequest, policy: GpuPolicy, at: datetime) -> bool:
    roots = policy.rim_roots(simulated=False) | policy.rim_roots(simulated=True)
    try:
        check_rim(verify_rim(data, roots=roots, at=at), request)
    except AttestationError:
        return False
    return True


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(MAX_FILE + 1)
    if len(data) > MAX_FILE:
        raise _fault(f"{path.name} has more than {MAX_FILE} bytes")
    return data


def _fault(detail: str) -> CollateralFault:
    return CollateralFault(code="folder_unusable", stage="collateral", detail=detail)
