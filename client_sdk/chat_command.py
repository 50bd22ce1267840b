"""``cloister chat``: one question, or a conversation, with a verified node."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.console import Console

from .client import PrivateClient
from .conversations import LOST
from .directory_command import SightingsOption
from .draw_notes import DrawNotes, FleetOption, one_of
from .fleet import Drawn, Fleet
from .render import show_verification
from .tokens_command import WalletOption
from .verify_command import MemoryOption, PolicyOption, RelayOption, read_policy


@dataclass(frozen=True, slots=True)
class Timing:
    """``first_token_s``: from sending to the first text. ``tokens_per_s``: from sending to the last text, since a cell
    carries many tokens and says nothing of when each was made.
    """

    first_token_s: float
    tokens: int
    tokens_per_s: float

    def __str__(self) -> str:
        return (
            f"time to first token {self.first_token_s * 1000:.0f} ms, "
            f"{self.tokens} tokens, {self.tokens_per_s:.1f} tokens/s"
        )


def register(app: typer.Typer) -> None:
    """Add ``cloister chat``."""
    app.command(name="chat", help=_HELP)(chat)


_HELP = """Ask a verified node, through a relay, and stream its answer.

The node is verified first; if it does not prove what the policy demands, nothing is sent and the exit status is 3.
Without a question, reads one line after another and keeps the conversation (on this side only).
"""


def chat(
    question: Annotated[
        str | None, typer.Argument(help="What to ask; read from the terminal where absent.")
    ] = None,
    relay: RelayOption = None,
    fleet: FleetOption = None,
    policy: PolicyOption = None,
    memory: MemoryOption = None,
    sightings: SightingsOption = None,
    wallet: WalletOption = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="The longest answer, in tokens.")] = 256,
    temperature: Annotated[float, typer.Option(min=0.0, max=2.0, help="0 takes the likeliest token.")] = 0.0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the answer alone.")] = False,
) -> int:
    """See ``cloister chat --help``."""
    notes = Console(stderr=True, quiet=quiet)
    options = {"max_tokens": max_tokens, "temperature": temperature}
    judged_by = read_policy(policy)
    one_of(relay, fleet, sightings)
    nodes: Fleet | None = None
    drawn: Drawn | None = None
    heard = False

    def echo(piece: str, *, nl: bool = True) -> None:
        nonlocal heard
        heard = True
        typer.echo(piece, nl=nl)

    if fleet is not None:
        nodes = Fleet(fleet, judged_by, sightings=sightings, memory=memory, wallet=wallet)
        drawn = DrawNotes(nodes, notes).draw()
        client = drawn.client
    else:
        assert relay is not None
        client = PrivateClient(relay, judged_by, memory=memory, wallet=wallet)
    with client:
        if relay is not None:
            verification = client.verify()
            show_verification(notes, verification)
            verification.require()
        history: list[dict[str, str]] = []
        for line in [question] if question is not None else _lines():
            history.append({"role": "user", "content": line})
            try:
                text, timing = stream_answer(client, history, options, echo)
            except LOST:
                if nodes is not None and drawn is not None:
                    nodes.count_failed(drawn, read=heard)
                raise
            history.append({"role": "assistant", "content": text})
            notes.print(f"[dim]{timing}[/]", highlight=False)
    return 0


def stream_answer(
    client: PrivateClient, messages: list[dict[str, str]], options: dict[str, Any], echo: Callable[..., Any]
) -> tuple[str, Timing]:
    """Stream one answer to ``echo`` (called with text and ``nl=False``); returns it with its timing."""
    usage: dict[str, Any] = {}
    started = time.perf_counter()
    first = last = 0.0
    pieces: list[str] = []
    for piece in client.chat(messages, usage=usage, **options):
        last = time.perf_counter()
        first = first or last
        pieces.append(piece)
        echo(piece, nl=False)
    echo("")
    tokens = int(usage.get("completion_tokens", len(pieces)))
    rate = tokens / (last - started) if last > started else 0.0
    return "".join(pieces), Timing(max(first - started, 0.0), tokens, rate)


def _lines() -> Iterator[str]:
    while True:
        try:
            line = input("› ").strip()
        except EOFError:
            return
        if line:
            yield line
