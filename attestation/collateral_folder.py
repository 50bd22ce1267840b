"""Collateral in a folder: one file for each piece, named as a bundle names it, with any extension.

``vek.der`` and ``vek`` are the same piece, and both together are an error. Text that a piece consists of may
come with either kind of line ends. The one file ``collateral.json`` may hold all pieces of a TDX quote.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from .bundle import MAX_COLLATERAL_PIECES
from .errors import EvidenceMalformed

MAX_PIECE: Final = 4 * 1024 * 1024

_EXTENSIONS: Final[Mapping[str, str]] = {
    "vek": "der",
    "ask": "der",
    "ark": "der",
    "crl": "der",
    "root_ca_crl": "der",
    "pck_crl": "der",
    "pck_crl_issuer_chain": "pem",
    "tcb_info_issuer_chain": "pem",
    "qe_identity_issuer_chain": "pem",
    "tcb_info": "json",
    "qe_identity": "json",
}


def read_collateral(folder: Path) -> dict[str, bytes]:
    """Every piece in ``folder``, by name. Raises EvidenceMalformed (``collateral_malformed``), OSError."""
    found: dict[str, bytes] = {}
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if not entry.is_file():
            raise _malformed(f"{entry.name} is not a file")
        name = entry.name.partition(".")[0]
        if name in found:
            raise _malformed(f"two files for {name}")
        if len(found) == MAX_COLLATERAL_PIECES:
            raise _malformed(f"more than {MAX_COLLATERAL_PIECES} files")
        with entry.open("rb") as file:
            data = file.read(MAX_PIECE + 1)
        if len(data) > MAX_PIECE:
            raise _malformed(f"{entry.name} has more than {MAX_PIECE} bytes")
        found[name] = data
    return found


def write_collateral(folder: Path, pieces: Mapping[str, bytes]) -> None:
    """Write every piece into ``folder``, made where it is not there; each file is replaced whole.

    Raises OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in pieces.items():
        target = folder / f"{name}.{_EXTENSIONS.get(name, 'bin')}"
        fresh = folder / f".{target.name}.new"
        fresh.write_bytes(data)
        os.replace(fresh, target)


def _malformed(detail: str) -> EvidenceMalformed:
    return EvidenceMalformed(code="collateral_malformed", stage="collateral", detail=detail)
