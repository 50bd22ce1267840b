"""``cloister tokens``: the wallet's commands, beside the issuer's."""

import json
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from ohttp.errors import TokenError
from ohttp.token_issuer_command import register_issuer
from ohttp.token_wallet import Wallet

from .client import PrivateClient
from .errors import ClientError
from .token_purchase import TokenPurchase
from .verify_command import MemoryOption, PolicyOption, RelayOption, read_policy

WalletOption = Annotated[
    Path | None, typer.Option("--wallet", help="The file of blind tokens, for nodes that ask for them.")
]

_SAVED_EVERY = 16


def register(app: typer.Typer) -> None:
    """Add ``cloister tokens`` and its commands."""
    tokens = typer.Typer(
        name="tokens", help="Blind tokens: pay, or prove a right, without being known.", no_args_is_help=True
    )
    tokens.command("get", help=_GET)(get)
    tokens.command("count", help=_COUNT)(count)
    register_issuer(tokens)
    app.add_typer(tokens)


_GET = """Get blind tokens for a node and put them into a wallet.

The node is verified first; it names the issuer, and the keys that everybody's tokens are signed under. Get many at a
time and well before they are used: whoever gets one and spends it at once is known by the time. The account's secret
is the first line of --secret-file.
"""

_COUNT = "Say how many tokens a wallet holds that have not run out."


def get(
    issuer: Annotated[str, typer.Option(help="The issuer's URL.")],
    secret_file: Annotated[Path, typer.Option(help="The file with the account's secret.")],
    wallet: Annotated[Path, typer.Option(help="The wallet's file; it is made where it is not there.")],
    relay: RelayOption = None,
    policy: PolicyOption = None,
    memory: MemoryOption = None,
    number: Annotated[int, typer.Option("--count", "-n", min=1, help="How many tokens.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> int:
    """See ``cloister tokens get --help``."""
    if relay is None:
        raise ClientError("usage", "--relay is missing", "give the relay's URL for the node")
    secret = (secret_file.read_text().splitlines() or [""])[0].strip()
    with PrivateClient(relay, read_policy(policy), memory=memory) as client:
        asked = client.node().tokens
    if asked is None:
        raise ClientError("no_tokens", "this node asks for no tokens")
    kept = Wallet(wallet)
    waiting = []
    done = 0
    console = Console(stderr=True)
    try:
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bars:
            task = bars.add_task("tokens", total=number)
            try:
                for stored in TokenPurchase(issuer, asked, secret).tokens(number):
                    waiting.append(stored)
                    done += 1
                    bars.update(task, completed=done)
                    if len(waiting) == _SAVED_EVERY:
                        kept.add(waiting)
                        waiting = []
            finally:
                kept.add(waiting)
        held = kept.count(asked, time.time())
    except TokenError as error:
        raise ClientError(error.code, error.detail) from None
    if as_json:
        typer.echo(json.dumps({"got": done, "held": held, "issuer": asked.issuer, "origin": asked.origin}))
    else:
        typer.echo(f"{done} tokens of {asked.issuer} for {asked.origin}; the wallet holds {held}")
    return 0


def count(
    wallet: Annotated[Path, typer.Argument(help="The wallet's file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> int:
    """See ``cloister tokens count --help``."""
    try:
        held = Wallet(wallet).count(None, time.time())
    except TokenError as error:
        raise ClientError(error.code, error.detail) from None
    typer.echo(json.dumps({"held": held}) if as_json else f"{held} tokens")
    return 0
