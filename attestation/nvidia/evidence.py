"""GPU evidence on the wire: the JSON list that NVIDIA's own tools exchange.

Each entry is ``{"arch", "nonce", "evidence", "certificate"}`` with the report and the PEM chain in base64
and the nonce in hexadecimal; newer tools add ``version``, ``driver_version`` and ``vbios_version``.
Everything here is transport: what it says counts only where the signed report says the same.
"""

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from attestation.errors import EvidenceMalformed
from attestation.nvidia.chain import MAX_CHAIN
from attestation.nvidia.errors import EvidenceListError
from attestation.nvidia.spdm import MAX_REPORT, NONCE_BYTES
from attestation.strict_json import base64_bytes

MAX_SECTION = 1024 * 1024
"""The longest GPU section accepted, in bytes (eight GPUs take about 100 kB)."""

MAX_DEVICES = 32

_REQUIRED = frozenset({"arch", "evidence", "certificate"})
_KNOWN = _REQUIRED | {"nonce", "version", "driver_version", "vbios_version"}
_ARCHITECTURE = re.compile(r"[A-Z0-9_]{1,32}")
_VERSION_TEXT = re.compile(r"[0-9A-Za-z.]{1,32}")


@dataclass(frozen=True, slots=True)
class GpuEvidence:
    """One entry of the list.

    ``arch`` is the claimed architecture ("HOPPER", "BLACKWELL", "LS10"), ``nonce`` 32 bytes or None where
    the entry states none, ``evidence`` the report, ``certificate`` the PEM chain, leaf first;
    ``driver_version`` and ``vbios_version`` are what the sender claims, or None.
    """

    arch: str
    nonce: bytes | None
    evidence: bytes
    certificate: bytes
    driver_version: str | None = None
    vbios_version: str | None = None


def parse_evidence_list(section: bytes) -> tuple[GpuEvidence, ...]:
    """Parse a GPU section; an empty section is a node without GPUs.

    Raises `EvidenceListError` (``evidence_format``) for anything but the wire form: unknown or repeated
    members, bad base64, too many devices, or a section that is too long.
    """
    if not section:
        return ()
    if len(section) > MAX_SECTION:
        raise _bad("section too long", f"at most {MAX_SECTION} bytes", f"{len(section)} bytes")
    try:
        document = json.loads(
            section.decode("utf-8"), object_pairs_hook=_members, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError) as error:
        raise _bad("not JSON") from error
    if not isinstance(document, list):
        raise _bad("not a list")
    if len(document) > MAX_DEVICES:
        raise _bad("too many devices", f"at most {MAX_DEVICES}", len(document))
    return tuple(_entry(entry, index) for index, entry in enumerate(document))


def encode_evidence_list(entries: Sequence[GpuEvidence]) -> bytes:
    """Encode entries as a GPU section, members in the order of NVIDIA's tools, no spaces."""
    return json.dumps([_encoded(entry) for entry in entries], separators=(",", ":")).encode("ascii")


def _encoded(entry: GpuEvidence) -> dict[str, str]:
    members = {"arch": entry.arch}
    if entry.nonce is not None:
        members["nonce"] = entry.nonce.hex()
    members["evidence"] = base64.b64encode(entry.evidence).decode("ascii")
    members["certificate"] = base64.b64encode(entry.certificate).decode("ascii")
    if entry.driver_version is not None:
        members["driver_version"] = entry.driver_version
    if entry.vbios_version is not None:
        members["vbios_version"] = entry.vbios_version
    return members


def _entry(value: object, index: int) -> GpuEvidence:
    if not isinstance(value, dict):
        raise _bad("entry is not an object", gpu=index)
    if not _REQUIRED <= value.keys() <= _KNOWN:
        raise _bad("members of an entry", sorted(_KNOWN), sorted(value)[:16], gpu=index)
    for name, member in value.items():
        if not isinstance(member, str):
            raise _bad(f"{name} is not a string", gpu=index)
    if not _ARCHITECTURE.fullmatch(value["arch"]):
        raise _bad("arch", gpu=index)
    if value.get("version", "1.0") != "1.0":
        raise _bad("version", "1.0", value["version"][:32], gpu=index)
    return GpuEvidence(
        arch=value["arch"],
        nonce=_nonce(value.get("nonce"), index),
        evidence=_bytes("evidence", value["evidence"], MAX_REPORT, index),
        certificate=_bytes("certificate", value["certificate"], MAX_CHAIN, index),
        driver_version=_version("driver_version", value.get("driver_version"), index),
        vbios_version=_version("vbios_version", value.get("vbios_version"), index),
    )


def _nonce(text: str | None, index: int) -> bytes | None:
    if text is None:
        return None
    if not re.fullmatch(f"[0-9a-fA-F]{{{2 * NONCE_BYTES}}}", text):
        raise _bad("nonce", f"{NONCE_BYTES} bytes in hexadecimal", gpu=index)
    return bytes.fromhex(text)


def _version(name: str, text: str | None, index: int) -> str | None:
    if text is not None and not _VERSION_TEXT.fullmatch(text):
        raise _bad(name, gpu=index)
    return text


def _bytes(name: str, text: str, limit: int, index: int) -> bytes:
    try:
        return base64_bytes(text, limit=limit, code="evidence_format", where=name)
    except EvidenceMalformed as error:
        raise _bad(error.detail, error.expected, gpu=index) from None


def _members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member occurs twice")
    return members


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _bad(
    detail: str, expected: object = None, found: object = None, gpu: int | None = None
) -> EvidenceListError:
    error = EvidenceListError(
        code="evidence_format", stage="gpu.count", detail=detail, expected=expected, found=found
    )
    error.gpu = gpu
    return error
