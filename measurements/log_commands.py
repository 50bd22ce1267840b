"""``cloister log``: make a log, serve it, witness others."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

import typer

from . import compare_command, monitor_command
from .command_line import (
    OK,
    USAGE_OR_IO,
    JsonOption,
    QuorumOption,
    WitnessOption,
    failed,
    guarded,
    http_witnesses,
    print_json,
    print_witnesses,
    utc_now,
    witnessed,
)
from .cosignature import COSIGNATURE_KINDS
from .durable import make_folder
from .note import COSIGNATURE_ED25519, COSIGNATURE_MLDSA44, VerifierKey
from .publish import ReleaseLog, create_log
from .signing_key import SigningKey
from .tlog_policy import TlogPolicy

_HOST: Final = "127.0.0.1"

_Host = Annotated[str, typer.Option(help="Address to listen on.")]
_Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: a free one.")]


def register(app: typer.Typer) -> None:
    """Add ``cloister log`` and its commands."""
    log = typer.Typer(
        name="log", help="Make, serve, witness and watch transparency logs.", no_args_is_help=True
    )
    log.command("init", help=_INIT)(init)
    log.command("recosign", help=_RECOSIGN)(recosign)
    log.command("serve", help=_SERVE)(serve)
    log.command("keygen", help="Make a key for a witness; its public half is printed.")(keygen)
    log.command("witness", help=_WITNESS)(witness)
    monitor_command.register(log)
    compare_command.register(log)
    app.add_typer(log)


_INIT = """Make a log in a folder, with a key of its own.

LOG/public is the log (c2sp.org/tlog-tiles) for any static web server; LOG/keys and LOG/witness hold the
secret keys, readable by their owner alone. A witness with a key of its own is made beside the log, which proves
nothing to others: name independent ones with --witness. What is printed goes into clients' policies.
"""

_RECOSIGN = """Have the witnesses look at the log again: the same tree with fresh cosignatures.

Clients and monitors call a checkpoint stale after a day.
"""

_SERVE = """Serve a log to the public: checkpoint, tiles and entry bundles, and nothing else of the folder.

Any static web server can do the same with LOG/public. Ctrl-C ends it.
"""

_WITNESS = """Run a witness (c2sp.org/tlog-witness) for the logs named.

It cosigns a checkpoint only if the log grew out of the last one that it cosigned, which it remembers in
STATE/witness.db; keep that file as long as the key. Forks that it is shown are kept there as evidence. Ctrl-C ends
it.
"""


def init(
    folder: Annotated[Path, typer.Argument(help="The log's new folder.")],
    origin: Annotated[str, typer.Option(help="The log's name for ever.")] = "log.cloister.example/releases",
    witness_name: Annotated[
        str, typer.Option(help="The name of the witness beside the log; empty: none.")
    ] = "witness.cloister.example",
    witness: WitnessOption = [],  # noqa: B006
    quorum: QuorumOption = None,
    as_json: JsonOption = False,
) -> int:
    """See ``cloister log init --help``."""

    def work() -> int:
        log = create_log(
            folder,
            origin=origin,
            witness=witness_name or None,
            now=utc_now,
            witnesses=http_witnesses(witness),
            quorum=quorum,
        )
        keys = {"log": str(log.tiles.key), "witnesses": [str(key) for key in log.tiles.witnesses]}
        if as_json:
            print_json({**keys, "folder": str(folder)})
        else:
            print(f"log      {keys['log']}")
            for key in log.tiles.witnesses:
                print(f"witness  {key}")
        return OK

    return guarded(work)


def recosign(
    log: Annotated[Path, typer.Option("--log", help="The log's folder, made by log init.")],
    witness: WitnessOption = [],  # noqa: B006
    quorum: QuorumOption = None,
    as_json: JsonOption = False,
) -> int:
    """See ``cloister log recosign --help``."""

    def work() -> int:
        tiles = ReleaseLog.open(log, utc_now, witnesses=http_witnesses(witness), quorum=quorum).tiles
        with tiles.exclusive():
            size = tiles.recosign().checkpoint.size
        if as_json:
            print_json({"tree_size": size, "witnesses": witnessed(tiles)})
        else:
            print(f"size     {size:,}")
            print_witnesses(tiles)
        return OK

    return guarded(work)


def serve(
    log: Annotated[Path, typer.Option("--log", help="The log's folder, made by log init.")],
    host: _Host = _HOST,
    port: _Port = 8090,
    as_json: JsonOption = False,
) -> int:
    """See ``cloister log serve --help``."""

    def work() -> int:
        from .log_server import log_application
        from .web_server import serve_until_stopped

        public = log / "public"
        if not (public / "checkpoint").is_file():
            return failed(f"{public} holds no log; cloister log init makes one", USAGE_OR_IO)
        serve_until_stopped(log_application(public), host, port, _announce("log", host, as_json))
        return OK

    return guarded(work)


def keygen(
    path: Annotated[Path, typer.Argument(help="The new key file.")],
    name: Annotated[str, typer.Option(help="The witness's name, best its submission prefix without scheme.")],
    ml_dsa: Annotated[
        bool,
        typer.Option("--ml-dsa", help="An ML-DSA-44 key, under a name of its own beside an Ed25519 one."),
    ] = False,
) -> int:
    """See ``cloister log keygen --help``."""

    def work() -> int:
        key = SigningKey.generate(name, COSIGNATURE_MLDSA44 if ml_dsa else COSIGNATURE_ED25519)
        key.save(path)
        print(key.public)
        return OK

    return guarded(work)


def witness(
    key: Annotated[list[Path], typer.Option(help="Key file made by log keygen; repeatable.")],
    state: Annotated[Path, typer.Option(help="Folder for witness.db.")],
    log: Annotated[list[str], typer.Option("--log", help="vkey of a log to witness; repeatable.")] = [],  # noqa: B006
    policy: Annotated[
        Path | None, typer.Option(help="A c2sp.org/tlog-policy file whose logs to witness.")
    ] = None,
    host: _Host = _HOST,
    port: _Port = 8091,
    as_json: JsonOption = False,
) -> int:
    """See ``cloister log witness --help``."""

    def work() -> int:
        from .web_server import serve_until_stopped
        from .witness import Witness
        from .witness_database import WitnessDatabase
        from .witness_server import witness_application

        logs = [VerifierKey.parse(vkey) for vkey in log]
        if policy is not None:
            logs += TlogPolicy.parse(policy.read_bytes()).logs
        if not logs:
            return failed("name the logs to witness with --log VKEY or --policy FILE", USAGE_OR_IO)
        keys = [SigningKey.load(path) for path in key]
        if any(one.public.algorithm not in COSIGNATURE_KINDS for one in keys):
            return failed("a witness needs keys made by cloister log keygen", USAGE_OR_IO)
        make_folder(state, 0o700)
        store = WitnessDatabase(state / "witness.db")
        answering = Witness(keys[0], logs, store, lambda: int(utc_now().timestamp()), further_keys=keys[1:])
        for one in () if as_json else answering.keys:
            print(f"witness  {one}")
        serve_until_stopped(witness_application(answering), host, port, _announce("witness", host, as_json))
        return OK

    return guarded(work)


def _announce(what: str, host: str, as_json: bool) -> Callable[[int], None]:
    def announce(port: int) -> None:
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        said = json.dumps({"event": "listening", "port": port}) if as_json else f"{what} on {url}"
        print(said, flush=True)

    return announce
