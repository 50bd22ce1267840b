"""How a verification is shown to a person."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .policy import Policy
from .verify import Verification
from .verify_rows import Row

_STYLE = {"pass": "green", "fail": "bold red", "not required": "yellow"}
_MARK = {"pass": "✓ pass", "fail": "✗ fail", "not required": "– not required"}
SIMULATED_NOTICE = (
    "SIMULATED: this evidence ends at a simulated root that the policy names. "
    "It shows that the checks work; it proves nothing about any hardware."
)

_NO_POLICY = (
    "Judged by strict production, which trusts no log and so no node: name your policy with --policy. "
    "'cloister demo' writes one for its own platform into its folder."
)

NOT_LISTED_NOTICE = (
    "NOT LISTED: the policy (profile sigstore-only) accepts a release that no public log lists. Nobody can watch "
    "what its builder signs, and a withdrawn release stays usable until it ends."
)


def printable(text: str) -> str:
    """``text`` with everything escaped that a terminal would obey, or could not show.

    Evidence is quoted in details; a control sequence in it could write another verdict over the true one.
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text
    )


def with_code(code: str | None, text: str) -> str:
    """``[code] text``; many a text begins with its code already."""
    return f"[{code}] {text.removeprefix(code).lstrip(': ')}" if code else text


def show_verification(console: Console, verification: Verification) -> None:
    """Print every row, the verdict, and SIMULATED where the evidence is."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("check", no_wrap=True)
    table.add_column("outcome", no_wrap=True)
    table.add_column("detail", overflow="fold")
    for row in verification.rows:
        table.add_row(
            row.id, Text(_MARK.get(row.outcome, row.outcome), _STYLE.get(row.outcome, "")), _detail(row)
        )
    console.print(table)
    if verification.simulated:
        console.print(Text(SIMULATED_NOTICE, "bold black on yellow"))
    error = verification.error
    if error is None:
        node = verification.require()
        if not node.release.listed:
            console.print(Text(NOT_LISTED_NOTICE, "bold black on yellow"))
        console.print(
            Text.assemble(
                ("verified", "bold green"),
                printable(f"  {node.release.name} {node.release.version}"),
                f", valid until {node.valid_until:%Y-%m-%d %H:%M:%SZ}",
            )
        )
    else:
        console.print(
            Text.assemble(("refused", "bold red"), f"  {error.code} at {error.stage}: nothing was sent")
        )
        if error.hint:
            console.print(Text(printable(error.hint)))
        if verification.policy_name == Policy.production().name:
            console.print(_NO_POLICY, style="dim")


def _detail(row: Row) -> Text:
    return Text(printable(with_code(row.code, row.detail)), "" if row.outcome != "fail" else "red")
