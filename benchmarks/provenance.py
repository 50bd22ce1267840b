"""Where a number comes from. It is carried beside every number, and a column of a table holds one kind only."""

import enum
from collections.abc import Iterable
from dataclasses import dataclass


class Provenance(enum.StrEnum):
    """How a number came to be."""

    MEASURED = "measured"
    MODELLED = "modelled"
    PUBLISHED = "published"


class ProvenanceMixed(Exception):
    """Numbers of different provenance were about to be shown in one column."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number to show: its text and where it comes from."""

    text: str
    provenance: Provenance


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: a title and one quantity (or None, for nothing known) for each row.

    Raises ProvenanceMixed where the quantities do not all have the column's provenance.
    """

    title: str
    provenance: Provenance
    cells: tuple[Quantity | None, ...]

    def __post_init__(self) -> None:
        others = {cell.provenance for cell in self.cells if cell is not None} - {self.provenance}
        if others:
            raise ProvenanceMixed(
                f"column {self.title!r} is {self.provenance}, not {', '.join(sorted(others))}"
            )

    @property
    def heading(self) -> str:
        """The title with the provenance: there is no way to show one without the other."""
        return f"{self.title} ({self.provenance})"


def markdown(rows: Iterable[str], columns: Iterable[Column], *, corner: str = "") -> str:
    """A Markdown table with the rows' names first. Raises ValueError where a column has another number of cells."""
    names, shown = list(rows), list(columns)
    if any(len(column.cells) != len(names) for column in shown):
        raise ValueError("every column has a cell for every row")
    lines = ["| " + " | ".join([corner, *(column.heading for column in shown)]) + " |"]
    lines.append("|" + "---|" * (len(shown) + 1))
    for index, name in enumerate(names):
        cells = [column.cells[index] for column in shown]
        lines.append(
            "| " + " | ".join([name, *("–" if cell is None else cell.text for cell in cells)]) + " |"
        )
    return "\n".join(lines) + "\n"
