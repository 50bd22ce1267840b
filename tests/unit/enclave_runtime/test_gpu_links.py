"""Several GPUs compute together only where evidence covers what is between them."""

import pytest

from attestation.nvidia.opaque import Mode
from enclave_runtime.errors import ConfigurationError
from enclave_runtime.exit_codes import ExitCode
from enclave_runtime.gpu_links import check_links


@pytest.mark.parametrize("modes", [set(), {Mode.SPT}, {Mode.SPT, Mode.PPCIE}, {Mode.SPT, Mode.MPT}])
def test_several_gpus_without_protected_links_are_refused_at_the_start(modes: set[Mode]) -> None:
    with pytest.raises(ConfigurationError) as refused:
        check_links("cuda", 2, modes)
    assert (refused.value.code, refused.value.exit_code) == ("gpu_links", ExitCode.CONFIGURATION)


@pytest.mark.parametrize(
    ("kernels", "count", "modes"),
    [
        ("cuda", 8, {Mode.PPCIE}),
        ("cuda", 4, {Mode.MPT}),
        ("cuda", 1, {Mode.SPT}),  # one GPU has no link
        ("auto", 2, {Mode.SPT}),  # the processor computes
    ],
)
def test_protected_links_and_no_links_are_fine(kernels: str, count: int, modes: set[Mode]) -> None:
    check_links(kernels, count, modes)
