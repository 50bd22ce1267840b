"""Simulated GPUs: the same devices from the same folder, keys that stay private."""

import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from attestation.errors import PlatformFault
from attestation.nvidia.policy import GpuPolicy
from attestation.nvidia.verify import verify_gpus
from attestation.simulated.nvidia import SimulatedDevicePki, SimulatedGpus

AT = datetime(2026, 11, 21, tzinfo=UTC)
NONCE = bytes(range(32))


def policy(gpus: SimulatedGpus) -> GpuPolicy:
    return GpuPolicy(count=gpus.count(), rim="off", revocation="off", simulated_root=gpus.root_sha256)


def test_same_folder_same_devices(tmp_path: Path) -> None:
    first = SimulatedGpus.open(tmp_path, 2)
    again = SimulatedGpus.open(tmp_path, 3)
    assert again.root_sha256 == first.root_sha256
    assert (first.count(), again.count()) == (2, 3)
    before = verify_gpus(first.evidence(NONCE), NONCE, policy(first), AT)
    after = verify_gpus(again.evidence(NONCE), NONCE, policy(again), AT)
    assert [gpu.ueid for gpu in before] == [gpu.ueid for gpu in after[:2]]
    assert len({gpu.ueid for gpu in after}) == 3


def test_no_gpus(tmp_path: Path) -> None:
    none = SimulatedGpus.open(tmp_path, 0)
    assert none.evidence(NONCE) == b""
    with pytest.raises(ValueError, match="simulated GPUs"):
        SimulatedGpus.open(tmp_path, 33)


def test_another_folder_is_another_root(tmp_path: Path) -> None:
    roots = {SimulatedGpus.open(tmp_path / name, 1).root_sha256 for name in "ab"}
    assert len(roots) == 2


def test_only_the_owner_reads_the_keys(tmp_path: Path) -> None:
    SimulatedGpus.open(tmp_path, 1)
    keys = sorted((tmp_path / "nvidia").glob("*.key"))
    rim_keys = [f"rim-{name}.key" for name in ("family", "issuer", "root", "signer")]
    assert [key.name for key in keys] == sorted(
        ["family.key", "gpu-0.key", "provisioner.key", "root.key", *rim_keys]
    )
    assert {stat.S_IMODE(key.stat().st_mode) for key in keys} == {0o600}
    assert not [path for path in (tmp_path / "nvidia").iterdir() if path.name.startswith(".")]


def test_no_key_in_a_repr() -> None:
    pki = SimulatedDevicePki.create()
    assert "key=" not in repr(pki)
    assert "key=" not in repr(pki.make_gpu())  # a certificate in base64 may hold the three letters


@pytest.mark.parametrize("name", ["root.pem", "root.key", "gpu-0.key", "provisioner.pem"])
def test_damaged_state_is_reported(tmp_path: Path, name: str) -> None:
    SimulatedGpus.open(tmp_path, 1)
    (tmp_path / "nvidia" / name).write_bytes(b"damaged")
    with pytest.raises(PlatformFault) as caught:
        SimulatedGpus.open(tmp_path, 1)
    assert caught.value.code == "simulated_state"
    assert name in str(caught.value)


def test_device_of_a_lost_root_is_reported(tmp_path: Path) -> None:
    SimulatedGpus.open(tmp_path, 1)
    (tmp_path / "nvidia" / "root.pem").unlink()
    with pytest.raises(PlatformFault):
        SimulatedGpus.open(tmp_path, 1)


def test_responder_nonce_comes_from_the_given_entropy(tmp_path: Path) -> None:
    gpus = SimulatedGpus.open(tmp_path, 1, entropy=lambda size: b"\x5a" * size)
    (gpu,) = verify_gpus(gpus.evidence(NONCE), NONCE, policy(gpus), AT)
    assert gpu.report.responder_nonce == b"\x5a" * 32
