"""``cloister proxy``: a local endpoint for any program that speaks OpenAI's API."""

import contextlib
import socket
from typing import Annotated

import typer
from rich.console import Console

from .client import PrivateClient
from .conversations import Conversations
from .directory_command import SightingsOption
from .draw_notes import DrawNotes, FleetOption, one_of
from .fleet import Fleet
from .proxy import Exchanges, Proxy
from .render import show_verification
from .tokens_command import WalletOption
from .verify_command import MemoryOption, PolicyOption, RelayOption, read_policy


def register(app: typer.Typer) -> None:
    """Add ``cloister proxy``."""
    app.command(name="proxy", help=_HELP)(proxy)


_HELP = """Serve OpenAI's API on this machine and carry every request to a verified node.

Point a program's base URL at http://127.0.0.1:PORT/v1. The node is verified before the proxy listens and again
whenever its verification runs out; requests are refused, never sent in clear, while it does not verify. Ctrl-C ends
it.

With --fleet a node is drawn for each conversation: a request whose messages begin with those of an earlier one goes to
the same node, any other draws anew.
"""


def proxy(
    relay: RelayOption = None,
    fleet: FleetOption = None,
    policy: PolicyOption = None,
    memory: MemoryOption = None,
    sightings: SightingsOption = None,
    wallet: WalletOption = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1.")] = 8808,
) -> int:
    """See ``cloister proxy --help``."""
    notes = Console(stderr=True)
    try:
        import uvicorn
    except ModuleNotFoundError:
        notes.print("the proxy needs a web server: pip install 'cloister\\[relay]'")
        return 2
    one_of(relay, fleet, sightings)
    judged_by = read_policy(policy)
    with socket.create_server(("127.0.0.1", port)) as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        carrying: Exchanges
        if relay is not None:
            client = PrivateClient(relay, judged_by, memory=memory, wallet=wallet)
            _require_verified(client, notes)
            carrying = client
        else:
            assert fleet is not None
            nodes = Fleet(fleet, judged_by, sightings=sightings, memory=memory, wallet=wallet)
            show = DrawNotes(nodes, notes)
            # One draw before anybody asks, so that a list or a policy that will not do is said at once.
            with show.draw().client:
                pass
            carrying = Conversations(nodes, drawn=show)
        notes.print(f"listening on http://127.0.0.1:{listener.getsockname()[1]}/v1", highlight=False)
        config = uvicorn.Config(Proxy(carrying), log_level="critical", access_log=False, server_header=False)
        # Ctrl-C is how it is stopped; the server has ended in order by then.
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])
    return 0


def _require_verified(client: PrivateClient, notes: Console) -> None:
    verification = client.verify()
    show_verification(notes, verification)
    verification.require()
