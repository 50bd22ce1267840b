"""``cloister log monitor`` and ``cloister log evidence``."""

import json
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final

import typer

from .command_line import OK, JsonOption, failed, guarded, plain, print_json, utc_now
from .errors import Code, TransparencyError
from .log_source import LogSource, WitnessSource, open_source
from .monitor import ERROR, PROVED, Monitor, Progress, Report, describe
from .monitor_state import StateFolder
from .note import VerifierKey
from .policy import TransparencyPolicy
from .views import MAX_EVIDENCE, SplitView
from .web_client import WebClient

Sleep = Callable[[float], None]

_MAX_POLICY: Final = 256 * 1024
_PLACE: Final = "URL or folder"

MONITOR: Final = """Read everything that a log publishes, and compare it with mirrors and witnesses.

Each look replays what is new, rebuilds the tiles, checks every statement, and keeps STATE/state.json; the proof of
a split view is written beside it. Exit status: 0 nothing to report, 1 could not look, 2 misbehaviour proved, 3
something is stale or missing. With --follow it looks again and again until Ctrl-C, or until a split view is proved.
"""

_Policy = Annotated[
    Path,
    typer.Option(
        help="A client's policy file with a [transparency] table: what is watched is what it trusts."
    ),
]


def register(log: typer.Typer) -> None:
    """Add the commands that watch."""
    log.command("monitor", help=MONITOR)(monitor)
    log.command("evidence", help="Check an evidence file: exit status 2 if it proves a split view.")(evidence)


def monitor(
    log: Annotated[str, typer.Option("--log", metavar="PLACE", help=f"The log: {_PLACE}.")],
    policy: _Policy,
    state: Annotated[Path, typer.Option(help="Folder for what was seen, and for evidence.")],
    witness: Annotated[
        list[str], typer.Option("--witness", metavar="URL", help="A witness's monitoring prefix; repeatable.")
    ] = [],  # noqa: B006
    mirror: Annotated[
        list[str], typer.Option(metavar="PLACE", help=f"A mirror of the log: {_PLACE}; repeatable.")
    ] = [],  # noqa: B006
    artefacts: Annotated[
        str, typer.Option(metavar="PLACE", help="Where files lie by their SHA-256, to be looked for.")
    ] = "",
    due_days: Annotated[
        int, typer.Option(min=0, help="Days after which they, and Sigstore bundles, must be there.")
    ] = 7,
    former_signer: Annotated[
        list[str], typer.Option(metavar="VKEY", help="A release signer of before a rotation; repeatable.")
    ] = [],  # noqa: B006
    follow: Annotated[bool, typer.Option("--follow/--once", help="Go on looking, or look once.")] = False,
    interval: Annotated[int, typer.Option(min=1, help="Seconds between looks.")] = 300,
    as_json: JsonOption = False,
) -> int:
    """See ``cloister log monitor --help``."""

    def work() -> int:
        trusted = load_policy(policy)
        with WebClient() as client, StateFolder(state).exclusive():
            others: list[LogSource] = [open_source(place, client) for place in mirror]
            others += [WitnessSource(url, client, trusted.log.name) for url in witness]
            watching = Monitor(
                trusted,
                StateFolder(state),
                open_source(log, client),
                others,
                artefacts=open_source(artefacts, client) if artefacts else None,
                due=timedelta(days=due_days),
                former_signers=[VerifierKey.parse(vkey) for vkey in former_signer],
            )
            return watch(lambda: _look(watching, as_json), follow=follow, interval=interval, sleep=time.sleep)

    return guarded(work, watching=True)


def watch(look: Callable[[], Report], *, follow: bool, interval: float, sleep: Sleep) -> int:
    """Look once, or until Ctrl-C or a split view: the exit status, of all looks the worst.

    Raises TransparencyError where the only look fails; while following, a look that fails is said and tried again.
    """
    statuses: list[int] = []
    with suppress(KeyboardInterrupt):
        while True:
            try:
                report = look()
                statuses.append(report.status)
                if not follow or any(
                    alert.code == "SPLIT_VIEW" for alert in (*report.alerts, *report.earlier)
                ):
                    break
            except TransparencyError as error:
                if not follow:
                    raise
                statuses.append(failed(f"{error.code}: {error}", ERROR))
            sleep(interval)
    worst = (PROVED, ERROR, *sorted({*statuses} - {PROVED, ERROR}, reverse=True), OK)
    return next(status for status in worst if status in statuses or status == OK)


def evidence(
    file: Annotated[Path, typer.Argument(help="The file that a monitor or log compare wrote.")],
    log: Annotated[str, typer.Option("--log", help="vkey of the log that is said to have signed it.")],
    as_json: JsonOption = False,
) -> int:
    """See ``cloister log evidence --help``."""

    def work() -> int:
        with file.open("rb") as opened:
            found = SplitView.parse(opened.read(MAX_EVIDENCE + 1))
        try:
            old, new = found.verify(VerifierKey.parse(log))
        except TransparencyError as error:
            return failed(f"proves nothing: {error.code}: {error}", ERROR)
        if as_json:
            print_json({"proved": True, "log": old.origin, "sizes": [old.size, new.size]})
        else:
            print(f"proved: {old.origin} signed two histories, at sizes {old.size:,} and {new.size:,}")
        return PROVED

    return guarded(work, watching=True)


def load_policy(path: Path) -> TransparencyPolicy:
    """The [transparency] table of a policy file. Raises TransparencyError, OSError."""
    with path.open("rb") as file:
        data = file.read(_MAX_POLICY)
    try:
        table = tomllib.loads(data.decode("utf-8")).get("transparency")
    except ValueError as error:
        raise _no_policy(path, "not TOML") from error
    if not isinstance(table, dict):
        raise _no_policy(path, "no [transparency] table")
    return TransparencyPolicy.from_table(table)


def _no_policy(path: Path, why: str) -> TransparencyError:
    return TransparencyError(Code.TRUST_ROOT_INVALID, f"{path}: {why}", stage="policy")


def _look(watching: Monitor, as_json: bool) -> Report:
    at = utc_now()
    with _progress(as_json) as progress:
        report = watching.look(at, progress)
    if as_json:
        # One document a line: --follow is read line by line.
        print(json.dumps(report.to_json()), flush=True)
    else:
        print("\n".join(map(plain, describe(report))), flush=True)
    return report


@contextmanager
def _progress(quiet: bool) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task("entries", total=None)

        def advance(done: int, total: int) -> None:
            if not done % 256 or done == total:
                bar.update(task, completed=done, total=total)

        yield advance
