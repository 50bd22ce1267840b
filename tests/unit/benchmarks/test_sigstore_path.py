"""The bench of the Sigstore path runs on the stored bundles and reports both arms of each."""

from pathlib import Path

from benchmarks.sigstore_path import BAR_MS, measure


def test_both_arms_of_every_good_bundle(vectors: Path) -> None:
    result = measure(vectors / "transparency", 1, interpreters=0)
    assert result["bar_ms"] == BAR_MS
    assert {"v1-good", "v2-good"} <= {case["name"] for case in result["cases"]}
    assert all(case["strict_p50_ms"] > 0 < case["library_p50_ms"] for case in result["cases"])
