"""Policy tables: strict where silent, closed to what is unknown."""

import contextlib
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import AttestationError, PolicyMalformed
from attestation.policy import AttestationPolicy
from attestation.sev_snp_bulletins import AMD_BULLETINS
from attestation.sev_snp_certificates import AMD_ROOTS_SHA256
from attestation.sev_snp_report import Product, Tcb
from attestation.simulated.amd import CURRENT_TCB, GENOA_B1


def parsed(text: str) -> AttestationPolicy:
    return AttestationPolicy.from_table(tomllib.loads(text))


def test_an_empty_policy_is_the_production_policy() -> None:
    policy = AttestationPolicy.from_table({})
    assert policy == AttestationPolicy.production()
    assert not policy.names_simulated_root
    assert policy.snp.trusted_roots == {
        product: frozenset({digest}) for product, digest in AMD_ROOTS_SHA256.items()
    }
    assert policy.snp.require_crl
    assert not policy.snp.allow_debug
    assert policy.snp.vmpl == {0}
    assert policy.snp.bulletins == AMD_BULLETINS
    assert policy.gpu.count is None
    assert (policy.gpu.rim, policy.gpu.revocation) == ("required", "required")


def test_every_product_has_floors() -> None:
    assert {bulletin.product for bulletin in AMD_BULLETINS if bulletin.floor} == set(Product)


def test_the_simulated_chip_is_not_below_any_floor() -> None:
    concerned = [b for b in AMD_BULLETINS if b.concerns(Product.GENOA, GENOA_B1)]
    assert concerned
    for bulletin in concerned:
        assert all(getattr(CURRENT_TCB, part) >= level for part, level in bulletin.floor.items())


def test_only_a_named_root_is_trusted_as_simulated() -> None:
    policy = parsed(f'[simulated]\namd_root_sha256 = "{"ab" * 32}"\nnvidia_root_sha256 = "{"cd" * 32}"')
    assert policy.names_simulated_root
    assert all("ab" * 32 in roots for roots in policy.snp.trusted_roots.values())
    assert policy.gpu.simulated_root == "cd" * 32


def test_values_are_read() -> None:
    policy = parsed(
        """
        [cpu]
        accept = ["sev-snp"]
        [cpu.snp]
        products = ["genoa"]
        vmpl = [0, 1]
        min_firmware = "1.55.40"
        min_abi = "1.58"
        require_single_socket = true
        waive_bulletins = ["AMD-SB-3021"]
        measurement = ["%s"]
        min_tcb.genoa = { snp = 27, ucode = 88 }
        """
        % ("0a" * 48)
    )
    snp = policy.snp
    assert snp.products == {Product.GENOA}
    assert (snp.min_firmware, snp.min_abi) == ((1, 55, 40), (1, 58))
    assert snp.require_guest_policy == {"single_socket"}
    assert snp.pins == {"measurement": frozenset({b"\x0a" * 48})}
    assert snp.min_tcb == {Product.GENOA: Tcb(bl=0, tee=0, snp=27, ucode=88)}
    assert "AMD-SB-3021" not in {bulletin.id for bulletin in snp.bulletins}


@pytest.mark.parametrize(
    "text",
    [
        "[cpus]",
        "cpu = 1",
        "[cpu]\naccept = ['sgx']",
        "[cpu]\nacept = []",
        "[cpu.snp]\nallow_debugging = true",
        "[cpu.snp]\nallow_debug = 1",
        "[cpu.snp]\nvmpl = []",
        "[cpu.snp]\nvmpl = [4]",
        "[cpu.snp]\nvmpl = [true]",
        "[cpu.snp]\nmeasurement = []",
        "[cpu.snp]\nmeasurement = ['AA']",
        "[cpu.snp]\nproducts = ['naples']",
        "[cpu.snp]\nmin_firmware = '1.2'",
        "[cpu.snp]\nmin_firmware = '1.2.999'",
        "[cpu.snp]\nmin_tcb.naples = {}",
        "[cpu.snp]\nmin_tcb.genoa = { snp = 256 }",
        "[cpu.snp]\nmin_tcb.genoa = { spn = 1 }",
        "[cpu.snp]\nwaive_bulletins = ['all']",
        "[gpu]\nunknown = 1",
        "gpu = 3",
        "[simulated]\namd_root_sha256 = 'x'",
        "[simulated]\ntrust = true",
        f"[simulated]\namd_root_sha256 = '{AMD_ROOTS_SHA256[Product.MILAN]}'",
    ],
)
def test_what_is_unknown_or_wrong_is_refused(text: str) -> None:
    with pytest.raises(PolicyMalformed) as caught:
        parsed(text)
    assert caught.value.code == "policy_invalid"


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_KEYS = st.sampled_from(["vmpl", "min_tcb", "measurement", "min_abi", "products", "allow_debug", "x"])


@given(st.dictionaries(_KEYS, _VALUES, max_size=3), st.sampled_from(["cpu", "gpu", "simulated", "snp"]))
def test_random_tables_stay_in_the_family(table: dict[str, object], where: str) -> None:
    with contextlib.suppress(AttestationError):
        AttestationPolicy.from_table({"cpu": {"snp": table}} if where == "snp" else {where: table})
