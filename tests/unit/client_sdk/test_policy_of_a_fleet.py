"""The policy's table [fleet]."""

import pytest

from client_sdk.errors import PolicyError
from client_sdk.policy import FleetDemands, Policy, _fleet


def test_what_is_left_out_asks_for_a_choice() -> None:
    assert _fleet({}) == FleetDemands(min_nodes=2, max_nodes=4096, mirrors=(), logged=True)
    assert _fleet({"logged": False}).logged is False
    assert _fleet({}, has_log=False).logged is False
    table = {"min_nodes": 5, "max_nodes": 9, "mirrors": ["https://m.example/directory.json"]}
    assert _fleet(table) == FleetDemands(5, 9, ("https://m.example/directory.json",))
    assert Policy.production().fleet is None


@pytest.mark.parametrize(
    "table",
    [
        [],
        {"nodes": 3},
        {"min_nodes": 0},
        {"min_nodes": True},
        {"min_nodes": "2"},
        {"min_nodes": 3, "max_nodes": 2},
        {"max_nodes": 4097},
        {"mirrors": "https://m.example"},
        {"mirrors": [1]},
        {"mirrors": ["file:///etc/hosts"]},
        {"mirrors": ["https://m.example"] * 17},
        {"logged": 1},
        {"logged": "yes"},
    ],
)
def test_anything_else_is_refused(table: object) -> None:
    with pytest.raises(PolicyError, match=r"\[fleet\]"):
        _fleet(table)


def test_a_list_cannot_be_in_a_log_that_is_not_named() -> None:
    with pytest.raises(PolicyError, match="where a log is named"):
        _fleet({"logged": True}, has_log=False)
