"""The ``cloister`` command. Each room brings its own subcommands through the entry-point group ``cloister.commands``.

Exit codes: 0 verified or done, 1 usage or I/O, 2 not available here, 3 verification refused.
"""

import sys
from enum import IntEnum
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated

import typer
from rich.console import Console

from . import chat_command, directory_command, proxy_command, tokens_command, verify_command
from .demo import command as demo_command
from .errors import ClientError, DirectoryRefused, VerificationRefused
from .render import printable

# The order in which a newcomer meets them, not the alphabet's.
_ROOMS = ("enclave_runtime", "ohttp", "measurements", "images", "benchmarks")


class ExitCode(IntEnum):
    """What the exit status of ``cloister`` means."""

    OK = 0
    USAGE_OR_IO = 1
    NOT_AVAILABLE = 2
    REFUSED = 3


def build_app() -> typer.Typer:
    """The whole command line, with every installed room's commands."""
    app = typer.Typer(
        name="cloister",
        help="Private LLM inference that its users can check for themselves.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
        rich_markup_mode="markdown",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for own in (demo_command, verify_command, chat_command, proxy_command, directory_command, tokens_command):
        own.register(app)
    for room in sorted(entry_points(group="cloister.commands"), key=_place):
        room.load()(app)
    return app


def main() -> None:
    """Run the command line; every failure ends in one sentence on standard error and a meaningful status."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit status."""
    errors = Console(stderr=True, soft_wrap=True)
    try:
        status = build_app()(arguments, prog_name="cloister", standalone_mode=False)
    except (VerificationRefused, DirectoryRefused) as error:
        errors.print(f"[bold red]refused[/] {error.code}", highlight=False)
        errors.print(printable(error.detail.removeprefix(f"{error.code}: ")), style="red", markup=False)
        if isinstance(error, DirectoryRefused) and error.expected is not None:
            compared = f"expected {error.expected}, found {error.found}"
            errors.print(printable(compared), style="red", markup=False)
        if error.hint:
            errors.print(printable(error.hint), style="dim", markup=False)
        return ExitCode.REFUSED
    except ClientError as error:
        errors.print(printable(f"error {error}"), style="red", markup=False)
        return ExitCode.USAGE_OR_IO
    except ModuleNotFoundError as error:
        errors.print(
            f"not installed: {error.name}; pip install 'cloister[runtime]'", style="red", markup=False
        )
        return ExitCode.NOT_AVAILABLE
    except OSError as error:
        from measurements.command_line import of_the_system

        errors.print(printable(f"error {of_the_system(error)}"), style="red", markup=False)
        return ExitCode.USAGE_OR_IO
    except (KeyboardInterrupt, EOFError):
        return 130
    except Exception as error:
        # The argument parser's exceptions know how to say what was wrong; anything else is a defect and is shown.
        say = getattr(error, "format_message", None)
        if say is None:
            if type(error).__name__ == "Abort":
                return 130
            raise
        if type(error).__name__ == "NoArgsIsHelpError":  # it has shown the help already
            return ExitCode.USAGE_OR_IO
        errors.print(f"error {say()}", style="red", markup=False)
        errors.print("try 'cloister --help', or --help behind a command", style="dim", markup=False)
        return ExitCode.USAGE_OR_IO
    return status if isinstance(status, int) else ExitCode.OK


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version as installed

        print(f"cloister {installed('cloister')}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=_print_version),
    ] = False,
) -> None:
    """Options of ``cloister`` itself."""


def _place(room: EntryPoint) -> int:
    return _ROOMS.index(room.name) if room.name in _ROOMS else len(_ROOMS)
