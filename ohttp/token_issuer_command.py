"""The issuer's commands: ``cloister tokens issuer | account | policy``."""

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from .current_file import CurrentFile
from .errors import TokenError
from .quiet_server import listen, refusal, serve
from .token_accounts import MAX_FILE, Account, Accounts, IssuedCounts, digest_of, new_secret
from .token_issuer import TokenIssuer
from .token_issuer_keys import AHEAD, EPOCH_S, IssuerKeys
from .token_policy import TokenPolicy

EXIT_USAGE, EXIT_NOT_AVAILABLE = 1, 2
DAY_S = 86_400
PATHS = ("/v1/chat/completions", "/v1/completions")

StateOption = Annotated[Path, typer.Option(help="The folder with the issuer's keys, accounts and counts.")]
DaysOption = Annotated[
    float,
    typer.Option(min=0.001, max=400, help="How long each key signs, in days. Fixed at the first start."),
]


def register_issuer(app: typer.Typer) -> None:
    """Add the issuer's commands to the group ``tokens``."""
    app.command("issuer")(issuer)
    app.command("account")(account)
    app.command("policy")(policy)


def issuer(
    state: StateOption,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: a free one.")] = 8092,
    epoch_days: DaysOption = EPOCH_S / DAY_S,
    as_json: Annotated[bool, typer.Option("--json", help="Say what happens as one JSON line each.")] = False,
) -> None:
    """Run an issuer of blind tokens: it knows who asks, and cannot tell what for.

    It keeps a number for each account and key, and no log; Ctrl-C ends it and shows its counts. Put it behind a
    server that speaks TLS: accounts send their secret.
    """
    try:
        import uvicorn  # noqa: F401  (asked for before anything listens)
    except ImportError:
        _fail("the issuer needs a web server: pip install cloister[relay]", EXIT_NOT_AVAILABLE)
    if not (state / "accounts.json").is_file():
        _fail(f"no accounts yet; make one: cloister tokens account NAME --state {state}")
    try:
        keys = _keys(state, epoch_days)
        counts = IssuedCounts(state / "issued.sqlite")
        book = CurrentFile(state / "accounts.json", Accounts.parse, most=MAX_FILE)
        book.current()
        application = TokenIssuer(keys, book.current, counts)
        _ = keys.signing()
        listener = listen(host, port)
    except TokenError as error:
        _fail(f"{error.code}: {error.detail}", EXIT_NOT_AVAILABLE if error.code == "no_libcrypto" else 1)
    except OSError as error:
        _fail(f"{error.filename or f'{host} port {port}'}: {refusal(error)}")
    with listener:
        at = listener.getsockname()[1]
        said = json.dumps({"event": "listening", "port": at}) if as_json else f"issuer on http://{host}:{at}"
        serve(application, listener, lambda: typer.echo(said))
    counts.close()
    done = application.counts()
    typer.echo(json.dumps({"event": "stopped", "counts": done}) if as_json else f"stopped; {done}")


def account(
    name: Annotated[str, typer.Argument(help="The account's name; it never leaves this folder.")],
    state: StateOption,
    tokens: Annotated[int, typer.Option(min=0, help="Tokens under each key; 0 shuts the account out.")] = 100,
) -> None:
    """Make an account, or change how many tokens it may have. A new one's secret is printed once, here."""
    path = state / "accounts.json"
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        accounts = Accounts.parse(path.read_bytes()) if path.exists() else Accounts({})
        known = accounts.by_name.get(name)
        secret = None if known else new_secret()
        digest = known.secret_sha256 if known else digest_of(secret or "")
        changed = Accounts({**accounts.by_name, name: Account(name, digest, tokens)})
        _replace(path, Accounts.parse(changed.encode()).encode())
    except TokenError as error:
        _fail(f"{error.code}: {error.detail}")
    except OSError as error:
        _fail(f"{path}: {error.strerror or error}")
    if secret is not None:
        typer.echo(secret)


def policy(
    state: StateOption,
    issuer: Annotated[str, typer.Option(help="The issuer's host name.")],
    origin: Annotated[str, typer.Option(help="The name of the nodes that take the tokens.")],
    epoch_days: DaysOption = EPOCH_S / DAY_S,
) -> None:
    """Print what a node's configuration says about these tokens, as JSON: for `cloister serve --tokens`."""
    try:
        table = TokenPolicy(issuer, origin, PATHS, _keys(state, epoch_days).accepted()).manifest()
    except TokenError as error:
        _fail(f"{error.code}: {error.detail}")
    except OSError as error:
        _fail(f"{state}: {error.strerror or error}")
    typer.echo(json.dumps(table, indent=1))


def _keys(state: Path, epoch_days: float) -> IssuerKeys:
    """The keys; the length of an epoch is the one they were made with."""
    path = state / "epoch.json"
    epoch_s = round(epoch_days * DAY_S)
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.exists():
        try:
            kept = json.loads(path.read_bytes())["epoch_s"]
        except (ValueError, LookupError, TypeError):
            kept = None
        if kept != epoch_s and (type(kept) is not int or epoch_s != EPOCH_S):
            raise TokenError("configuration", f"{path} names another length of an epoch")
        epoch_s = kept
    else:
        _replace(path, json.dumps({"epoch_s": epoch_s}).encode())
    return IssuerKeys(state / "keys", time.time, epoch_s=epoch_s, ahead=AHEAD)


def _replace(path: Path, data: bytes) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)
    os.replace(name, path)


def _fail(message: str, code: int = EXIT_USAGE) -> NoReturn:
    typer.echo(f"cloister tokens: {message}", err=True)
    raise typer.Exit(code)
