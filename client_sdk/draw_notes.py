"""``--fleet`` on the command line: the option, and what a person is told of each draw."""

from typing import Annotated

import typer
from rich.console import Console

from .errors import ClientError
from .fleet import Drawn, Fleet
from .render import show_verification

FleetOption = Annotated[
    str | None,
    typer.Option(
        "--fleet", help="Instead of --relay: the relay's own URL; a node is drawn from its list of nodes."
    ),
]


def one_of(relay: str | None, fleet: str | None, sightings: object) -> None:
    """Exactly one of the two, and sightings with a fleet alone. Raises ClientError."""
    if (relay is None) == (fleet is None):
        raise ClientError(
            "usage",
            "--relay is missing" if relay is None else "give one of --relay and --fleet",
            "--relay URL/NAME for one node, or --fleet URL to draw one of those that the relay at URL lists",
        )
    if relay is not None and sightings is not None:
        raise ClientError("usage", "--sightings belongs to --fleet", "with --relay there is nothing to draw")


class DrawNotes:
    """Says which node was drawn, which could not be used, and when the draws no longer look like chance."""

    def __init__(self, fleet: Fleet, notes: Console) -> None:
        self._fleet, self._notes = fleet, notes
        self._suspected: set[str] = set()

    def draw(self) -> Drawn:
        """Draw a node, and show what was checked. Raises as ``Fleet.draw``."""
        drawn = self._fleet.draw()
        show_verification(self._notes, drawn.verification)
        self(drawn)
        return drawn

    def __call__(self, drawn: Drawn) -> None:
        """Tell of a node that was drawn; a suspicion is told once for each node."""
        for name in drawn.failed:
            self._notes.print(
                f"{name} was drawn first and could not be used", style="yellow", highlight=False
            )
        self._notes.print(f"drawn: {drawn.name}", highlight=False)
        for steering in self._fleet.suspected(drawn.channel):
            if steering.name not in self._suspected:
                self._suspected.add(steering.name)
                self._notes.print(str(steering), style="yellow", highlight=False, markup=False)
