"""Fixtures that every kind of test shares."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from vm_world import VmRelease

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--exhaustive", action="store_true", help="also run the long proofs (make test-all)")


def pytest_configure(config: pytest.Config) -> None:
    # On a busy machine time says nothing about a test: no deadlines, and the same examples each time. The long
    # proofs draw new ones.
    exhaustive = bool(config.getoption("--exhaustive"))
    settings.register_profile(
        "cloister",
        deadline=None,
        derandomize=not exhaustive,
        suppress_health_check=[HealthCheck.too_slow],
        print_blob=exhaustive,
    )
    settings.load_profile("cloister")
    config.addinivalue_line("markers", "exhaustive: a long proof, run with --exhaustive")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--exhaustive"):
        return
    for item in items:
        if item.get_closest_marker("exhaustive"):
            item.add_marker(pytest.mark.skip(reason="a long proof: run it with --exhaustive (make test-all)"))


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The folder of evidence, tokens, logs and transcripts with known verdicts.

    It lies outside the repository; ``CLOISTER_VECTORS`` names another place for it.
    """
    folder = Path(os.environ.get("CLOISTER_VECTORS", REPOSITORY.parent / "shared" / "vectors"))
    if not folder.is_dir():
        pytest.skip("the conformance vectors are not on this machine (CLOISTER_VECTORS names their folder)")
    return folder


@pytest.fixture(scope="session")
def vm_release(tmp_path_factory: pytest.TempPathFactory) -> "VmRelease":
    """A virtual-machine image, built and published; skips where it cannot be."""
    from vm_world import release_vm

    return release_vm(tmp_path_factory.mktemp("vm"))


@pytest.fixture(scope="session")
def sealed_release(tmp_path_factory: pytest.TempPathFactory) -> "VmRelease":
    """The same with a kernel of its own, which is compiled where it is not kept; skips where it cannot be."""
    from vm_world import release_vm, require_sealed_kernel

    require_sealed_kernel()
    return release_vm(tmp_path_factory.mktemp("sealed"), "cpu-sealed")
