"""docs/requirements.md: every guarantee and every optimisation has its row, and every row a test that exists."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from enclave_runtime.optimisations import REFUSED

REPOSITORY = Path(__file__).resolve().parent.parent.parent
GUARANTEES = {
    *(f"S{n}" for n in range(1, 6)),
    *(f"E{n}" for n in range(1, 7)),
    *(f"P{n}" for n in range(1, 6)),
    *(f"T{n}" for n in range(1, 7)),
    *(f"V{n}" for n in range(1, 5)),
}
TEST = re.compile(r"`(test_\w+\.py)::(test_\w+)`")


def tables() -> list[list[list[str]]]:
    """The rows of each table of the page, cells stripped, without heads."""
    found: list[list[list[str]]] = []
    inside = False
    for line in (REPOSITORY / "docs" / "requirements.md").read_text().splitlines():
        if not line.startswith("|"):
            inside = False
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not inside:
            found.append([])
            inside = True
        elif set(line) <= set("|-"):
            continue
        else:
            found[-1].append(cells)
    return found


@cache
def functions(name: str) -> frozenset[str]:
    """The tests of the one file of this name."""
    files = list((REPOSITORY / "tests").rglob(name))
    assert len(files) == 1, f"{name}: {len(files)} files"
    tree = ast.parse(files[0].read_text())
    return frozenset(n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))


GUARANTEE_TABLES, OPTIMISATIONS = tables()[:5], tables()[-1]
ROWS = [row for table in (*GUARANTEE_TABLES, OPTIMISATIONS) for row in table]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_every_row_names_tests_that_exist(row: list[str]) -> None:
    named = TEST.findall(" ".join(row))
    assert named, "a row without a test"
    assert [f"{file}::{test}" for file, test in named if test not in functions(file)] == []


def test_every_guarantee_has_one_row() -> None:
    ids = [row[0] for table in GUARANTEE_TABLES for row in table]
    assert sorted(ids) == sorted(GUARANTEES)
    assert len(GUARANTEES) == 26


def test_every_refused_optimisation_has_its_row_and_no_other_is_called_refused() -> None:
    refused = {
        name for row in OPTIMISATIONS if row[1] == "✖" for name in re.findall(r"`([a-z_0-9]+)`", row[3])
    }
    assert refused == set(REFUSED)
    assert {row[1] for row in OPTIMISATIONS} <= {"✔", "◐", "✖"}
