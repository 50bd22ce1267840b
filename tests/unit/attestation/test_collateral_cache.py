"""The cache of reference manifests and revocation responses: what goes in comes out, or it says so."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attestation.nvidia.collateral_cache import MAX_ISSUES, MAX_PIECE, CollateralCache
from attestation.nvidia.errors import CollateralFault

AT = datetime(2026, 11, 21, 12, tzinfo=UTC)
RIM = "rim/NV_GPU_DRIVER_GH100_590.12"
OCSP = "ocsp/" + "0a" * 32


@pytest.fixture
def cache(tmp_path: Path) -> CollateralCache:
    return CollateralCache(tmp_path / "cache")


def code_of(call: object) -> str:
    with pytest.raises(CollateralFault) as caught:
        call()  # type: ignore[operator]
    return caught.value.code


def test_what_goes_in_comes_out(cache: CollateralCache) -> None:
    cache.put(RIM, b"<manifest/>", AT)
    cache.put(OCSP, b"response", AT)
    assert cache.staple([RIM, OCSP]) == {RIM: b"<manifest/>", OCSP: b"response"}


def test_every_issue_is_kept_and_the_newest_stapled(cache: CollateralCache, tmp_path: Path) -> None:
    cache.put(RIM, b"issue of 2024", AT - timedelta(days=700))
    cache.put(RIM, b"issue of 2026", AT)
    cache.put(RIM, b"fetched late, issued early", AT - timedelta(days=10))
    again = CollateralCache(tmp_path / "cache")
    assert [again.read(issue) for issue in again.issues(RIM)] == [
        b"issue of 2026",
        b"fetched late, issued early",
        b"issue of 2024",
    ]
    assert again.staple([RIM]) == {RIM: b"issue of 2026"}


def test_the_same_bytes_fetched_again_are_one_issue_with_the_newer_time(cache: CollateralCache) -> None:
    cache.put(OCSP, b"response", AT - timedelta(hours=5))
    cache.put(OCSP, b"response", AT)
    (issue,) = cache.issues(OCSP)
    assert issue.fetched_at == AT


def test_the_oldest_issues_go(cache: CollateralCache) -> None:
    for number in range(MAX_ISSUES + 3):
        cache.put(OCSP, b"%d" % number, AT + timedelta(hours=number))
    kept = [cache.read(issue) for issue in cache.issues(OCSP)]
    assert kept == [b"%d" % number for number in reversed(range(3, MAX_ISSUES + 3))]


def test_what_is_missing_is_left_out(cache: CollateralCache) -> None:
    assert cache.issues(RIM) == ()
    cache.put(OCSP, b"response", AT)
    assert cache.staple([RIM, OCSP]) == {OCSP: b"response"}


@pytest.mark.parametrize(
    "name",
    [
        "",
        "rim/",
        "rim/../../etc/passwd",
        "rim/a/b",
        "/etc/passwd",
        "ocsp/xyz",
        "ocsp/" + "0A" * 32,
        "rim/a..b",
        "x/a",
        "rim/a\0",
        "rim/a\n",
    ],
)
def test_names_that_would_leave_the_folder(cache: CollateralCache, name: str, tmp_path: Path) -> None:
    assert code_of(lambda: cache.put(name, b"x", AT)) == "cache_name"
    assert code_of(lambda: cache.issues(name)) == "cache_name"
    assert not list(tmp_path.iterdir())


def test_sizes(cache: CollateralCache) -> None:
    assert code_of(lambda: cache.put(RIM, b"", AT)) == "cache_size"
    assert code_of(lambda: cache.put(RIM, b"x" * (MAX_PIECE + 1), AT)) == "cache_size"
    cache.put(RIM, b"x" * MAX_PIECE, AT)
    assert code_of(lambda: cache.put(RIM, b"x", datetime(2026, 1, 1))) == "cache_unusable"


def test_changed_bytes_are_noticed(cache: CollateralCache, tmp_path: Path) -> None:
    issue = cache.put(RIM, b"<manifest/>", AT)
    (path,) = [path for path in (tmp_path / "cache" / "objects").rglob("*") if path.is_file()]
    path.write_bytes(b"<manifesT/>")
    assert code_of(lambda: cache.read(issue)) == "cache_damaged"
    assert code_of(lambda: cache.staple([RIM])) == "cache_damaged"
    cache.put(RIM, b"<manifest/>", AT)  # fetched again, it is whole again
    assert cache.read(issue) == b"<manifest/>"
    path.unlink()
    assert code_of(lambda: cache.read(issue)) == "cache_damaged"


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_damaged_index(cache: CollateralCache, tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "cache" / "index" / f"{RIM}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    assert code_of(lambda: cache.issues(RIM)) == "cache_damaged"


def test_truncated_index(cache: CollateralCache, tmp_path: Path) -> None:
    cache.put(RIM, b"x", AT)
    path = tmp_path / "cache" / "index" / f"{RIM}.json"
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert code_of(lambda: cache.issues(RIM)) == "cache_damaged"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert code_of(lambda: CollateralCache(tmp_path / "cache").put(RIM, b"x", AT)) == "cache_unusable"
    tmp_path.chmod(0o700)


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"")
    assert code_of(lambda: CollateralCache(tmp_path / "cache").put(RIM, b"x", AT)) == "cache_unusable"
