"""``cloister verify``: check a node, or a stored evidence bundle, and say what was checked."""

import json
import sys
from datetime import UTC, datetime
from importlib.metadata import version as distribution_version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from attestation.bundle import MAX_BUNDLE
from attestation.ear_draft import as_ietf_draft
from measurements.rollback import FileMemory, VolatileMemory

from .client import PrivateClient
from .errors import ClientError
from .policy import Policy
from .render import show_verification
from .verify import Verification, verify_bundle
from .verify_cpu import (
    CpuVerification,
    parse_cpu_nonce,
    read_cpu_evidence,
    read_cpu_policy,
    show_cpu_verification,
    verify_cpu_evidence,
)
from .verify_gpu import (
    GpuVerification,
    parse_nonce,
    read_evidence,
    read_gpu_policy,
    show_gpu_verification,
    verify_evidence,
    verify_local,
)

PolicyOption = Annotated[
    Path | None,
    typer.Option(
        "--policy",
        help="Policy file (TOML). Default: strict production, with vendors' roots alone; it names no log, so it"
        " refuses every node.",
    ),
]
RelayOption = Annotated[
    str | None,
    typer.Option("--relay", help="The relay's URL for the node, such as https://relay.example/node."),
]
MemoryOption = Annotated[
    Path | None,
    typer.Option("--memory", help="File that remembers the newest log state seen, against roll-back."),
]


def register(app: typer.Typer) -> None:
    """Add ``cloister verify``."""
    app.command(name="verify", help=_HELP)(verify)


_HELP = """Verify a node and print every check.

The evidence is fetched through the relay (--relay), or read from a file that holds a bundle as a node serves it;
with a file, --at judges it at a stated time. --gpu-evidence judges GPUs by themselves, from a file as NVIDIA's tools
write it; --local-gpu looks at this machine's own. --cpu-evidence judges stored evidence of a CPU or a TPM by itself,
with the collateral in a folder (`cloister collateral fetch` makes one). Exit status 0: verified. 3: refused, with the
first failing check named. 2: this machine cannot give evidence. 1: no evidence could be read.
"""


def verify(
    bundle: Annotated[
        Path | None, typer.Argument(help="A stored evidence bundle, instead of --relay.")
    ] = None,
    relay: RelayOption = None,
    policy: PolicyOption = None,
    at: Annotated[
        str | None, typer.Option(help="Judge at this time (2026-11-21T12:00:00Z) instead of now.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Send a challenge that the evidence must answer.")
    ] = False,
    save: Annotated[
        Path | None, typer.Option(help="Also write the evidence bundle, as served, to this file.")
    ] = None,
    memory: MemoryOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    gpu_evidence: Annotated[
        list[Path] | None,
        typer.Option(
            help="A file of GPU evidence as NVIDIA's tools write it (JSON list); once more for NVSwitches."
        ),
    ] = None,
    nonce: Annotated[
        str | None,
        typer.Option(help="The nonce (hex) that stored evidence must answer; a CPU's report data."),
    ] = None,
    rim_dir: Annotated[
        Path | None, typer.Option(help="A folder of NVIDIA's reference manifests and OCSP responses.")
    ] = None,
    claim_rules: Annotated[
        Path | None, typer.Option(help="A policy file of NVIDIA's tools, run over the GPUs' claims.")
    ] = None,
    local_gpu: Annotated[
        bool, typer.Option("--local-gpu", help="Look at this machine's GPUs, and say what is missing.")
    ] = False,
    cpu_evidence: Annotated[
        Path | None,
        typer.Option(help="A file of CPU evidence: SEV-SNP report, TDX quote, TPM or Azure evidence."),
    ] = None,
    collateral: Annotated[
        Path | None, typer.Option(help="A folder of collateral for --cpu-evidence, one file for each piece.")
    ] = None,
    tee: Annotated[
        str | None, typer.Option(help="The kind of --cpu-evidence, where its content shall not tell.")
    ] = None,
    ear: Annotated[
        bool, typer.Option("--ear", help="Print the result of --cpu-evidence as an EAT attestation result.")
    ] = False,
    ear_draft: Annotated[
        bool, typer.Option("--ear-draft", help="The same, in the names of the IETF's draft of 2026.")
    ] = False,
) -> int:
    """See ``cloister verify --help``."""
    if cpu_evidence is not None:
        if bundle is not None or relay is not None or gpu_evidence is not None or local_gpu:
            raise ClientError(
                "usage", "give one of a bundle file, --relay, --gpu-evidence and --cpu-evidence"
            )
        evidence, pieces = read_cpu_evidence(cpu_evidence, collateral)
        cpu = verify_cpu_evidence(
            evidence,
            pieces,
            read_cpu_policy(policy),
            parse_time(at),
            tee=tee,
            nonce=parse_cpu_nonce(nonce),
        )
        return _show_cpu(cpu, as_json=as_json, ear=ear or ear_draft, draft=ear_draft)
    if collateral is not None or tee is not None or ear or ear_draft:
        raise ClientError("usage", "--collateral, --tee, --ear and --ear-draft belong to --cpu-evidence")
    if gpu_evidence or local_gpu:
        if bundle is not None or relay is not None or (gpu_evidence and local_gpu):
            raise ClientError("usage", "give one of a bundle file, --relay, --gpu-evidence and --local-gpu")
        asked = read_gpu_policy(policy, claim_rules)
        if local_gpu:
            gpus = verify_local(asked, lambda: datetime.now(UTC), rim_dir=rim_dir)
        else:
            gpus = verify_evidence(
                read_evidence(gpu_evidence or []),
                parse_nonce(nonce),
                asked,
                parse_time(at),
                rim_dir=rim_dir,
            )
        return _show_gpus(gpus, as_json=as_json)
    if nonce is not None or rim_dir is not None or claim_rules is not None:
        raise ClientError(
            "usage",
            "--nonce, --rim-dir and --claim-rules belong to --gpu-evidence, --nonce to --cpu-evidence too",
            "a live node answers a challenge with --fresh",
        )
    judged_by = read_policy(policy)
    if (bundle is None) == (relay is None):
        raise ClientError("usage", "give either a bundle file or --relay", "see 'cloister verify --help'")
    if bundle is not None:
        if fresh:
            raise ClientError("usage", "--fresh needs a live node", "use it with --relay")
        if save is not None:
            raise ClientError("usage", "--save keeps what a relay gave", "use it with --relay")
        result = _verify_file(bundle, judged_by, parse_time(at), memory)
    else:
        if at is not None:
            raise ClientError(
                "usage", "--at judges a stored bundle", "store one with --save, then verify the file"
            )
        with PrivateClient(str(relay), judged_by, memory=memory) as client:
            result = client.verify(fresh=fresh)
            if save is not None and client.evidence is not None:
                save.write_bytes(client.evidence)
    if as_json:
        json.dump(result.to_json(), sys.stdout, indent=2)
        print()
    else:
        show_verification(Console(), result)
    return 0 if result.error is None else 3


def _show_cpu(result: CpuVerification, *, as_json: bool, ear: bool, draft: bool) -> int:
    if ear or as_json:
        build = f"cloister {distribution_version('cloister')}"
        told = result.to_ear(build) if ear else result.to_json()
        json.dump(as_ietf_draft(told) if draft else told, sys.stdout, indent=2)
        print()
    else:
        show_cpu_verification(Console(), result)
    return result.status


def _show_gpus(result: GpuVerification, *, as_json: bool) -> int:
    if as_json:
        json.dump(result.to_json(), sys.stdout, indent=2)
        print()
    else:
        show_gpu_verification(Console(), result)
    return result.status


def read_policy(path: Path | None) -> Policy:
    """The policy named on the command line, or strict production. Raises PolicyError."""
    return Policy.production() if path is None else Policy.load(path)


def parse_time(text: str | None) -> datetime:
    """A time of the form 2026-11-21T12:00:00Z, or now. Raises ClientError."""
    if text is None:
        return datetime.now(UTC)
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError as error:
        raise ClientError("usage", f"not a time: {text!r}", "write it as 2026-11-21T12:00:00Z") from error


def _verify_file(path: Path, policy: Policy, at: datetime, memory: Path | None) -> Verification:
    with path.open("rb") as file:
        data = file.read(MAX_BUNDLE + 1)
    remembered = FileMemory(memory) if memory else VolatileMemory()
    return verify_bundle(data, policy, at=at, memory=remembered, challenge=None)
