"""``cloister collateral fetch-gpu``: NVIDIA's manifests and revocation for the GPUs of stored evidence."""

import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer

from attestation.errors import AttestationError
from attestation.nvidia.collateral_cache import CollateralCache
from attestation.nvidia.collateral_fetch import CollateralFetcher, HttpsNetwork
from attestation.nvidia.collateral_folder import write_collateral
from attestation.nvidia.evidence import MAX_SECTION
from attestation.nvidia.policy import GpuPolicy

HELP: Final = """Fetch what it takes to judge stored GPU evidence into a folder.

The manifests that the reports call for and an OCSP response for every certificate on the way, from NVIDIA's
services, each checked before it is kept. `cloister verify --gpu-evidence` reads the folder with --rim-dir. Earlier
issues stay in its subfolder .cache. Exit status 0: all of it. 1: something is missing, and is named.
"""


def fetch_gpu(
    evidence: Annotated[Path, typer.Argument(help="GPU evidence as NVIDIA's tools write it (JSON list).")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write to.")],
) -> int:
    """See ``cloister collateral fetch-gpu --help``."""
    cache = CollateralCache(out / ".cache")
    fetcher = CollateralFetcher(
        HttpsNetwork(), cache, GpuPolicy.production(), now=lambda: datetime.now(UTC), entropy=os.urandom
    )
    try:
        with evidence.open("rb") as file:
            refreshed = fetcher.refresh(file.read(MAX_SECTION + 1))
        pieces = cache.staple(refreshed.names)
        write_collateral(out, pieces)
    except AttestationError as error:
        print(f"error {error}", file=sys.stderr)
        return 1
    for name, data in pieces.items():
        print(f"{name:<72} {len(data):>7} bytes")
    for failure in refreshed.failures:
        print(f"error {failure}", file=sys.stderr)
    return 1 if refreshed.failures else 0
