"""One simulated platform for all tests here: its RSA-4096 keys take seconds to make."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from attestation.simulated.amd import SimulatedAmd
from attestation.simulated.nvidia import SimulatedGpus
from attestation.simulated.platform import Platform

AT = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


@pytest.fixture(scope="session")
def platform_state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state folder of a simulated platform that exists since ``AT``."""
    folder = tmp_path_factory.mktemp("platform")
    SimulatedAmd.open(folder, lambda: AT)
    return folder


@pytest.fixture(scope="session")
def amd(platform_state: Path) -> SimulatedAmd:
    """The simulated manufacturer and its chip."""
    return SimulatedAmd.open(platform_state, lambda: AT)


@pytest.fixture(scope="session")
def platform(amd: SimulatedAmd, platform_state: Path) -> Platform:
    """A simulated machine with two GPUs, at the time ``AT``."""
    return Platform(amd, SimulatedGpus.open(platform_state, 2))
