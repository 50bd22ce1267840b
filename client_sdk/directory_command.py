"""``cloister directory``: the list of nodes that clients draw from."""

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from measurements.command_line import QuorumOption, WitnessOption, guarded, http_witnesses, utc_now
from measurements.durable import replace_file
from measurements.logged_list import VerifiedList
from measurements.publish import ReleaseLog
from measurements.publish_list import publish_list
from measurements.signing_key import SigningKey
from measurements.statement import instant_text

from .client import PrivateClient
from .directory import MAX_DIRECTORY, Directory, ListedNode
from .errors import ClientError
from .fleet import Fleet
from .render import printable
from .verify_command import MemoryOption, PolicyOption, read_policy

SightingsOption = Annotated[
    Path | None,
    typer.Option("--sightings", help="File that counts which nodes served, so that steering shows."),
]
_Relay = Annotated[str | None, typer.Option("--relay", help="The relay's own URL, without a node's name.")]


def register(app: typer.Typer) -> None:
    """Add ``cloister directory``."""
    group = typer.Typer(
        name="directory", help="The list of nodes that clients draw from.", no_args_is_help=True
    )
    group.command(name="make", help=_MAKE)(make)
    group.command(name="publish", help=_PUBLISH)(publish)
    group.command(name="check", help=_CHECK)(check)
    app.add_typer(group)


_MAKE = """Verify these nodes, through a relay, and list them with the keys that they show.

Then put the list into the log (`cloister directory publish`). Make it anew whenever a node restarts or changes its
keys, which each does twice a day.
"""

_PUBLISH = """Put a list of nodes into the log, and write it down again with the log's proof.

It is signed by the release signers. Serve what is written at the relay (`cloister relay --directory directory.json`),
and at mirrors of other people's if you like; it may be replaced while the relay runs. Publish again within a day,
whether or not the nodes have changed: clients ask for cosignatures of the last day. The same nodes are not logged again
before half of their list's life is over.
"""

_CHECK = """Fetch the list of nodes as a client does, check it by log and mirrors, and show what was counted.

Exit status 3: the list is malformed, not proved to be in the log, older than one that --memory knows, too short or too
long, or differs from a mirror's.
"""


def make(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="The nodes' names at the relay.")],
    relay: _Relay = None,
    policy: PolicyOption = None,
    memory: MemoryOption = None,
    channel: Annotated[
        str | None,
        typer.Option(help="The channel of releases that these nodes run; by default the policy's."),
    ] = None,
    leave_out: Annotated[
        bool, typer.Option("--leave-out", help="List the others where a node is down or does not verify.")
    ] = False,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")] = Path("nodes.json"),
) -> int:
    """See ``cloister directory make --help``."""
    if relay is None:
        raise ClientError("usage", "--relay is missing", "give the relay's own URL")
    judged_by = read_policy(policy)
    log = judged_by.transparency
    notes = Console(stderr=True)
    listed = []
    for name in track(names, "verifying", console=notes, transient=True, disable=not notes.is_terminal):
        try:
            with PrivateClient(f"{relay.rstrip('/')}/{name}", judged_by, memory=memory) as client:
                listed.append(ListedNode(name, client.verify().require().cpu.claims.ohttp_keys))
        except ClientError as error:
            if not leave_out:
                raise replace(error, detail=f"{name}: {error.detail}") from error
            left_out = printable(f"{name} is left out: {error.code}: {error.detail}")
            notes.print(left_out, style="yellow", highlight=False, markup=False)
    if not listed:
        raise ClientError("no_nodes", "no node is left to list", "see what `cloister verify` says of one")
    directory = Directory.build(channel or (log.channel if log else "prod"), listed)
    output.write_bytes(directory.raw)
    said = f"{output}: {len(listed)} nodes, sha256 {directory.digest.hex()}"
    notes.print(said, highlight=False, markup=False, soft_wrap=True)
    following = f"next: cloister directory publish {output} --log … --signer …"
    notes.print(following, style="dim", highlight=False, markup=False, soft_wrap=True)
    return 0


def publish(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The list that `cloister directory make` wrote.")
    ],
    log: Annotated[Path, typer.Option("--log", help="The log's folder, made by log init.")],
    signer: Annotated[list[Path], typer.Option("--signer", help="Key file of a release signer; repeatable.")],
    hours: Annotated[int, typer.Option(min=1, max=168, help="For how long the list counts.")] = 24,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The list with its proof, for relays to show.")
    ] = Path("directory.json"),
    witness: WitnessOption = [],  # noqa: B006
    quorum: QuorumOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> int:
    """See ``cloister directory publish --help``."""

    def work() -> int:
        with file.open("rb") as opened:
            directory = Directory.parse(opened.read(MAX_DIRECTORY + 1))
        done = publish_list(
            ReleaseLog.open(log, utc_now, witnesses=http_witnesses(witness), quorum=quorum),
            directory.nodes,
            directory.channel,
            [SigningKey.load(path) for path in signer],
            lifetime=timedelta(hours=hours),
        )
        replace_file(output, done.document.encode())
        listed = done.listed.node_list
        if as_json:
            told = {
                "file": str(output),
                "sequence": listed.sequence,
                "index": done.listed.index,
                "renewed": done.renewed,
                "expires_at": instant_text(listed.expires_at),
                "nodes": len(listed.nodes),
                "sha256": directory.digest.hex(),
            }
            print(json.dumps(told, indent=2))
            return 0
        what = "has fresh cosignatures" if done.renewed else f"is entry {done.listed.index}"
        print(f"list {listed.sequence} of {listed.channel} {what}, until {instant_text(listed.expires_at)}")
        print(f"{output}: {len(listed.nodes)} nodes, sha256 {directory.digest.hex()}")
        return 0

    return guarded(work)


def check(
    relay: _Relay = None,
    policy: PolicyOption = None,
    memory: MemoryOption = None,
    sightings: SightingsOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> int:
    """See ``cloister directory check --help``."""
    if relay is None:
        raise ClientError("usage", "--relay is missing", "give the relay's own URL")
    fleet = Fleet(relay, read_policy(policy), sightings=sightings, memory=memory)
    directory = fleet.directory()
    counts, steering = fleet.counts(directory.channel), fleet.suspected(directory.channel)
    if as_json:
        told = {
            "channel": directory.channel,
            "sha256": directory.digest.hex(),
            "log": _logged(directory.logged),
            "nodes": [
                {
                    "name": node.name,
                    "keys": node.keys.hex(),
                    "expected": round(counts[node.name].expected, 3) if node.name in counts else 0,
                    "served": counts[node.name].served if node.name in counts else 0,
                    "failed": counts[node.name].failed if node.name in counts else 0,
                }
                for node in directory.nodes
            ],
            "suspected": [{"name": one.name, "probability": one.probability} for one in steering],
        }
        print(json.dumps(told, indent=2))
        return 0
    table = Table("node", "keys", "expected", "served", "failed", box=None, pad_edge=False)
    for node in directory.nodes:
        count = counts.get(node.name)
        seen = (
            ("0", "0", "0")
            if count is None
            else (f"{count.expected:.1f}", str(count.served), str(count.failed))
        )
        table.add_row(node.name, f"{node.keys.hex()[:16]}…", *seen)
    console = Console()
    console.print(table)
    console.print(f"{len(directory.nodes)} nodes, sha256 {directory.digest.hex()}", highlight=False)
    console.print(_in_the_log(directory.logged), highlight=False, markup=False)
    for one in steering:
        console.print(str(one), style="yellow", highlight=False, markup=False)
    return 0


def _in_the_log(listed: VerifiedList | None) -> str:
    if listed is None:
        return "not compared with a log: the policy says [fleet] logged = false"
    by = f", cosigned by {', '.join(listed.cosigned_by)}" if listed.cosigned_by else ""
    return printable(
        f"list {listed.node_list.sequence} of {listed.node_list.channel}, entry {listed.index} of {listed.log}{by}, "
        f"until {instant_text(listed.node_list.expires_at)}"
    )


def _logged(listed: VerifiedList | None) -> dict[str, Any] | None:
    if listed is None:
        return None
    return {
        "origin": listed.log,
        "tree_size": listed.tree_size,
        "index": listed.index,
        "leaf_hash": listed.leaf_hash.hex(),
        "sequence": listed.node_list.sequence,
        "issued_at": instant_text(listed.node_list.issued_at),
        "expires_at": instant_text(listed.node_list.expires_at),
        "cosigned_by": list(listed.cosigned_by),
    }
