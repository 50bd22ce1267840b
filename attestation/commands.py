"""``cloister collateral fetch``: what it takes to judge a machine's CPU evidence, fetched ahead of time."""

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from .collateral_fetch.amd_kds import AMD_KDS, PRODUCTS, fetch_snp
from .collateral_fetch.intel_pcs import INTEL_PCS, ROOT_CA_CRL, fetch_tdx
from .collateral_fetch.network import HttpsNetwork, KeptAnswers
from .collateral_folder import write_collateral
from .errors import AttestationError, EvidenceMalformed
from .evidence_kind import AZURE_SNP, AZURE_TDX, SEV_SNP, TDX, recognise
from .nvidia.commands import HELP as FETCH_GPU
from .nvidia.commands import fetch_gpu
from .simulated.platform_command import HELP as PLATFORM
from .simulated.platform_command import platform
from .tpm.azure import parse_hcl_report
from .tpm.evidence import AzureEvidence

MAX_EVIDENCE: Final = 1024 * 1024
_OK, _FAILED = 0, 1


def register(app: typer.Typer) -> None:
    """Add this room's commands to the command line."""
    group = typer.Typer(name="collateral", help="Collateral of CPU and GPU evidence.", no_args_is_help=True)
    group.callback()(_group)
    group.command("fetch", help=_FETCH)(fetch)
    group.command("fetch-gpu", help=FETCH_GPU)(fetch_gpu)
    app.add_typer(group)
    app.command("platform", help=PLATFORM)(platform)


_FETCH = """Fetch the collateral of stored CPU evidence into a folder.

SEV-SNP: the VCEK, its chain and the revocation list, from AMD's service. TDX: TCB Info, QE Identity, revocation
lists and chains, from Intel's, or from a cache that speaks its interface (--intel). A node staples what this
fetches, and `cloister verify --cpu-evidence` reads it; neither asks a service while it verifies.
"""


def _group() -> None:
    """Collateral of CPU and GPU evidence."""


def fetch(
    evidence: Annotated[Path, typer.Argument(help="An SEV-SNP report, a TDX quote, or evidence of Azure's.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write to.")],
    vek: Annotated[
        Path | None, typer.Option(help="The VLEK or VCEK, where it is at hand (a VLEK must be).")
    ] = None,
    product: Annotated[str, typer.Option(help=f"One of {', '.join(PRODUCTS)}, for old reports.")] = "",
    amd: Annotated[str, typer.Option(help="Address of AMD's service, or of a cache of it.")] = AMD_KDS,
    intel: Annotated[str, typer.Option(help="Address of Intel's service, or of a cache.")] = INTEL_PCS,
    intel_root_crl: Annotated[
        str, typer.Option(help="Address of the revocation list of Intel's root.")
    ] = ROOT_CA_CRL,
    kept: Annotated[
        Path | None, typer.Option(help="A folder that keeps certificates which never change.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> int:
    """See ``cloister collateral fetch --help``."""
    if product and product not in PRODUCTS:
        return _failed(f"--product is one of {', '.join(PRODUCTS)}")
    plain = frozenset(address for address in (amd, intel, intel_root_crl) if address.startswith("http://"))
    network = HttpsNetwork(time.sleep, plain=plain)
    try:
        kind, hardware = hardware_of(evidence.read_bytes())
        if kind == SEV_SNP:
            pieces = fetch_snp(
                hardware,
                network,
                vek=None if vek is None else vek.read_bytes(),
                product=PRODUCTS.get(product),
                base=amd.rstrip("/"),
                kept=None if kept is None else KeptAnswers(kept),
            )
        else:
            pieces = fetch_tdx(hardware, network, base=intel.rstrip("/"), root_ca_crl=intel_root_crl)
        write_collateral(out, pieces)
    except AttestationError as error:
        return _failed(str(error))
    except OSError as error:
        return _failed(f"{error.filename}: {error.strerror}")
    _say(kind, out, pieces, as_json)
    return _OK


def hardware_of(data: bytes) -> tuple[str, bytes]:
    """The kind of hardware, ``sev-snp`` or ``tdx``, and its own report inside any CPU evidence.

    Raises EvidenceMalformed: ``evidence_unknown`` where no hardware is in it.
    """
    if len(data) > MAX_EVIDENCE:
        raise EvidenceMalformed(code="evidence_too_large", expected=MAX_EVIDENCE, found=len(data))
    kind = recognise(data)
    if kind == AZURE_SNP:
        return SEV_SNP, parse_hcl_report(AzureEvidence.parse(data, tdx=False).hcl_report).hardware
    if kind == AZURE_TDX:
        quote = AzureEvidence.parse(data, tdx=True).td_quote
        return TDX, quote or b""
    if kind not in (SEV_SNP, TDX):
        raise EvidenceMalformed(code="evidence_unknown", found=kind, detail="no evidence of hardware in it")
    return kind, data


def _say(kind: str, out: Path, pieces: dict[str, bytes], as_json: bool) -> None:
    if as_json:
        sizes: dict[str, Any] = {name: len(data) for name, data in pieces.items()}
        print(json.dumps({"kind": kind, "folder": str(out), "pieces": sizes}, indent=2))
        return
    for name, data in pieces.items():
        print(f"{name:<26} {len(data):>8} bytes")


def _failed(message: str) -> int:
    print(f"error {message}", file=sys.stderr)
    return _FAILED
