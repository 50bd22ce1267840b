"""The [gpu] table: a closed schema whose default is strict production."""

from datetime import timedelta

import pytest

from attestation.errors import PolicyMalformed
from attestation.nvidia.chain import NVIDIA_DEVICE_ROOT_SHA256
from attestation.nvidia.opaque import Mode
from attestation.nvidia.policy import GpuPolicy, version_key
from attestation.nvidia.rim import NVIDIA_RIM_ROOT_SHA256

ROOT = "ab" * 32


def test_production_is_strict() -> None:
    policy = GpuPolicy.production()
    assert policy == GpuPolicy.from_table({})
    assert policy.roots == {NVIDIA_DEVICE_ROOT_SHA256}
    assert (policy.rim, policy.revocation, policy.require_fwid) == ("required", "required", True)
    assert policy.modes == {Mode.SPT}
    assert policy.count is None


def test_table() -> None:
    policy = GpuPolicy.from_table(
        {
            "count": 8,
            "architectures": ["HOPPER"],
            "modes": ["MPT"],
            "min_driver": "570.9",
            "drivers": ["580.159.03"],
            "vbios": ["96.00.a5.00.01"],
            "fwids": ["cd" * 48],
            "blocked_ueids": ["12"],
            "identities": ["ab" * 32],
            "require_fwid": True,
            "rim": "off",
            "revocation": "off",
            "nras": "off",
        },
        simulated_root=ROOT,
    )
    assert policy.count == 8
    assert policy.modes == {Mode.MPT}
    assert policy.vbios == {"96.00.A5.00.01"}
    assert policy.fwids == {b"\xcd" * 48}
    assert policy.identities == {b"\xab" * 32}
    assert policy.roots == {NVIDIA_DEVICE_ROOT_SHA256, ROOT}


@pytest.mark.parametrize(
    "table",
    [
        {"cuont": 1},
        {"count": -1},
        {"count": 256},
        {"count": True},
        {"count": "1"},
        {"architectures": []},
        {"architectures": ["LS10"]},
        {"architectures": "HOPPER"},
        {"modes": []},
        {"modes": ["OFF"]},
        {"modes": [["SPT"]]},
        {"min_driver": "latest"},
        {"min_vbios": "96"},
        {"min_vbios": ["96.00.9F.00.01", "96.00.A0.00.01"]},
        {"min_vbios": 96},
        {"min_driver": "570.1\n"},
        {"drivers": [570]},
        {"vbios": ["96.00"]},
        {"fwids": ["cd" * 47]},
        {"fwids": ["CD" * 48]},
        {"blocked_ueids": ["0x12"]},
        {"identities": ["ab" * 31]},
        {"require_fwid": "yes"},
        {"rim": False},
        {"rim": ["required"]},
        {"revocation": "optional"},
        {"pairs": []},
        {"pairs": [["590.12"]]},
        {"pairs": [["590.12", "96.00"]]},
        {"reject_uncovered": 1},
        {"strict_msr35": "yes"},
        {"allow_rim_cert_hold": None},
        {"ocsp_max_age_hours": 0},
        {"ocsp_max_age_hours": True},
        {"simulated_root": ROOT},
    ],
)
def test_refused_tables(table: dict[str, object]) -> None:
    with pytest.raises(PolicyMalformed) as caught:
        GpuPolicy.from_table(table)
    assert caught.value.code == "policy_invalid"


@pytest.mark.parametrize("root", ["", "ab" * 31, "AB" * 32, NVIDIA_DEVICE_ROOT_SHA256])
def test_refused_simulated_roots(root: str) -> None:
    with pytest.raises(PolicyMalformed):
        GpuPolicy.from_table({}, simulated_root=root)


def test_drivers_compare_by_number() -> None:
    assert version_key("550.9") < version_key("550.90.07") < version_key("570.133.20")
    assert version_key("99.0") < version_key("570")


def test_reference_roots_of_real_and_simulated_devices_are_kept_apart() -> None:
    policy = GpuPolicy.from_table({}, simulated_root="1" * 64, simulated_rim_root="2" * 64)
    assert policy.rim_roots(simulated=True) == {"2" * 64}
    assert policy.rim_roots(simulated=False) == {NVIDIA_RIM_ROOT_SHA256}
    assert GpuPolicy().rim_roots(simulated=True) == frozenset()
    for name in ("simulated_root", "simulated_rim_root"):
        for pin in (NVIDIA_DEVICE_ROOT_SHA256, NVIDIA_RIM_ROOT_SHA256):
            with pytest.raises(PolicyMalformed):
                GpuPolicy.from_table({}, **{name: pin})


def test_pairs_and_ages() -> None:
    policy = GpuPolicy.from_table({"pairs": [["590.12", "96.00.a5.00.01"]], "ocsp_max_age_hours": 24})
    assert policy.pairs == {("590.12", "96.00.A5.00.01")}
    assert policy.ocsp_max_age == timedelta(days=1)
