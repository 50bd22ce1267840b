"""``cloister directory``: the list of nodes that clients draw from."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from .client import PrivateClient
from .directory import Directory, ListedNode
from .errors import ClientError
from .fleet import Fleet
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
    group.command(name="check", help=_CHECK)(check)
    app.add_typer(group)


_MAKE = """Verify these nodes, through a relay, and list them with the keys that they show.

Serve the file at the relay (`cloister relay --directory`), and the same bytes at mirrors of other people's. Make it
anew whenever a node restarts or changes its keys.
"""

_CHECK = """Fetch the list of nodes as a client does, compare it with the policy's mirrors, and show what was counted.

Exit status 3: the list is malformed, too short or too long, or differs from a mirror's.
"""


def make(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="The nodes' names at the relay.")],
    relay: _Relay = None,
    policy: PolicyOption = None,
    memory: MemoryOption = None,
    channel: Annotated[str, typer.Option(help="The channel of releases that these nodes run.")] = "prod",
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")] = Path(
        "directory.json"
    ),
) -> int:
    """See ``cloister directory make --help``."""
    if relay is None:
        raise ClientError("usage", "--relay is missing", "give the relay's own URL")
    judged_by = read_policy(policy)
    notes = Console(stderr=True)
    listed = []
    for name in track(names, "verifying", console=notes, transient=True, disable=not notes.is_terminal):
        with PrivateClient(f"{relay.rstrip('/')}/{name}", judged_by, memory=memory) as client:
            listed.append(ListedNode(name, client.verify().require().cpu.claims.ohttp_keys))
    directory = Directory.build(channel, listed)
    output.write_bytes(directory.raw)
    notes.print(f"{output}: {len(listed)} nodes, sha256 {directory.digest.hex()}", highlight=False)
    return 0


def check(
    relay: _Relay = None,
    policy: PolicyOption = None,
    sightings: SightingsOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> int:
    """See ``cloister directory check --help``."""
    if relay is None:
        raise ClientError("usage", "--relay is missing", "give the relay's own URL")
    fleet = Fleet(relay, read_policy(policy), sightings=sightings)
    directory = fleet.directory()
    counts, steering = fleet.counts(directory.channel), fleet.suspected(directory.channel)
    if as_json:
        told = {
            "channel": directory.channel,
            "sha256": directory.digest.hex(),
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
    for one in steering:
        console.print(str(one), style="yellow", highlight=False, markup=False)
    return 0
