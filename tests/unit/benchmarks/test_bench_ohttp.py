"""The benches of the encryption measure what they say: their arms work, and no decoder passes its bound."""

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


def test_the_gateways_arm_opens_and_answers() -> None:
    with ohttp_gateway.arm("X25519", 0x0020) as sealed, ohttp_gateway.arm("bare", None) as bare:
        ohttp_gateway.check(sealed)
        for one in (bare, sealed):
            one.round(2)
        found = ohttp_gateway.report([bare, sealed])
    assert found["arms"]["bare"]["elapsed_ratio"] == 1.0
