"""The benches of the encryption measure what they say: their arms work, and no decoder passes its bound."""

from contextlib import ExitStack

import pytest

from benchmarks import ohttp_gateway, ohttp_memory, ohttp_peers


@pytest.mark.parametrize("case", ohttp_memory.cases(), ids=lambda case: case.name)
@pytest.mark.parametrize("portion", [1, ohttp_memory.PORTION])
def test_no_decoder_holds_more_than_its_bound(case: ohttp_memory.Case, portion: int) -> None:
    most, _, _ = ohttp_memory.peak(case, portion, 20_000 if portion == 1 else 1_000_000)
    assert most <= case.bound + ohttp_memory.OVERHEAD


def test_every_arm_beside_a_peer_does_its_work() -> None:
    key, base_nonce, cells = bytes(32), bytes(12), [bytes((n,)) * 512 for n in range(100)]
    arms = ohttp_peers.own_arms(key, base_nonce, cells)
    arms |= ohttp_peers.pyhpke_arms() | ohttp_peers.ehbp_arms(key, base_nonce, cells)
    found = ohttp_peers.report(ohttp_peers.measure(arms, rounds=1, calls=1))
    for goal in ohttp_peers.GOALS:
        assert goal.first in arms
    assert set(found["microseconds"]) == set(arms)


def test_the_gateways_arms_open_and_answer_as_the_floor_under_them_does() -> None:
    with ExitStack() as opened:
        arms = [
            opened.enter_context(ohttp_gateway.arm(name, *what)) for name, what in ohttp_gateway.ARMS.items()
        ]
        for one in arms[2:]:
            ohttp_gateway.check(one)
        for one in arms:
            one.round(2)
        found = ohttp_gateway.report(arms)
    assert found["arms"]["bare"]["elapsed_ratio"] == 1.0
    assert set(found["arms"]) == set(ohttp_gateway.ARMS)
