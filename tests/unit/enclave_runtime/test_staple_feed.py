"""A fresh staple takes the place of the old one only if it is about the same release and not older."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from private_world import GPU, publish

from enclave_runtime.staple_feed import MAX_STAPLE_FILE, StapleFeed, StapleRefused, framed, successor
from measurements.publish import ReleaseDraft, ReleaseLog
from measurements.signing_key import SigningKey
from measurements.staple import Staple
from measurements.statement import Subject

DIGEST = bytes(range(48))


@pytest.fixture(scope="module")
def staples(tmp_path_factory: pytest.TempPathFactory) -> tuple[Staple, Staple, Staple]:
    """The first staple of a release, one of the same release later, and one of another release."""
    folder = tmp_path_factory.mktemp("log")
    first = Staple.parse(publish(folder, DIGEST)[0].read_bytes())
    later = datetime.now(UTC) + timedelta(hours=20)
    log = ReleaseLog.open(folder / "log", lambda: later)
    signer = SigningKey.load(folder / "signer.key")
    measurements = ({"tee": "sev-snp", "launchDigest": DIGEST.hex()}, GPU)
    draft = ReleaseDraft("test/node", "1", "prod", (Subject("image", DIGEST.hex()[:64]),), measurements)
    renewed = log.publish(draft, [signer]).staple
    other = Staple.parse(publish(tmp_path_factory.mktemp("other"), bytes(48))[0].read_bytes())
    return first, renewed, other


def refusal(before: Staple, file: bytes) -> str:
    with pytest.raises(StapleRefused) as caught:
        successor(before, file)
    return caught.value.code


def test_a_renewed_staple_is_taken(staples: tuple[Staple, Staple, Staple]) -> None:
    first, renewed, _ = staples
    assert renewed != first
    assert successor(first, renewed.encode()) == renewed
    assert successor(renewed, renewed.encode()) == renewed


def test_what_is_no_successor_is_refused(staples: tuple[Staple, Staple, Staple]) -> None:
    first, renewed, other = staples
    assert refusal(renewed, first.encode()) == "older"
    assert refusal(first, other.encode()) == "another_release"
    assert refusal(first, b"{}") == "malformed"
    assert refusal(first, replace(renewed, status_leaf=b"another status").encode()) == "proof"
    assert refusal(first, replace(renewed, checkpoint=b"none").encode()) == "proof"
    assert refusal(renewed, replace(renewed, checkpoint=first.checkpoint).encode()) == "proof"


def test_random_and_changed_bytes_stay_in_the_family(staples: tuple[Staple, Staple, Staple]) -> None:
    first, renewed, _ = staples
    file = renewed.encode()
    for place in range(0, len(file), 7):
        changed = bytearray(file)
        changed[place] ^= 1
        for data in (bytes(changed), file[:place]):
            try:
                successor(first, data)
            except StapleRefused:
                continue


@given(st.lists(st.binary(max_size=40), max_size=5), st.integers(1, 9))
def test_the_feed_gives_back_what_went_in_however_it_was_cut(files: list[bytes], size: int) -> None:
    feed, data = StapleFeed(), b"".join(map(framed, files))
    found = [file for at in range(0, len(data), size) for file in feed.feed(data[at : at + size])]
    assert found == files


def test_the_feed_holds_no_more_than_one_staple() -> None:
    feed = StapleFeed()
    with pytest.raises(StapleRefused) as caught:
        list(feed.feed((MAX_STAPLE_FILE + 1).to_bytes(4, "big")))
    assert caught.value.code == "too_large"
    assert list(feed.feed(framed(b"more"))) == []
