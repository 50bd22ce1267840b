"""Fixtures that every kind of test shares."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The folder of evidence, tokens, logs and transcripts with known verdicts.

    It lies outside the repository; ``CLOISTER_VECTORS`` names another place for it.
    """
    folder = Path(os.environ.get("CLOISTER_VECTORS", REPOSITORY.parent / "shared" / "vectors"))
    if not folder.is_dir():
        pytest.skip("the conformance vectors are not on this machine (CLOISTER_VECTORS names their folder)")
    return folder
