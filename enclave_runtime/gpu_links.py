"""Links between GPUs: activations may cross only those that evidence vouches for.

NVLink between Hopper GPUs is plaintext. In protected PCIe mode (PPCIE) eight GPUs and their switches belong to one
confidential machine and prove it together; in multi-GPU passthrough of Blackwell (MPT) NVLink is encrypted. GPUs that
were each passed through alone (SPT) have no link that anybody vouches for.
"""

from collections.abc import Set

from attestation.nvidia.opaque import Mode
from enclave_runtime.errors import ConfigurationError

PROTECTED = frozenset({Mode.PPCIE, Mode.MPT})
"""Modes whose evidence covers the links between the GPUs of a node."""


def check_links(kernels: str, gpu_count: int, modes: Set[Mode]) -> None:
    """Raise ConfigurationError ``gpu_links`` where a node would compute on several GPUs, and the ``modes`` that its
    policy accepts in its own evidence leave the links between them unprotected.

    ``kernels`` is `DecoderChoice.kernels`: only ``cuda`` computes on GPUs.
    """
    if kernels == "cuda" and gpu_count > 1 and not (modes and modes <= PROTECTED):
        asked = ", ".join(sorted(mode.value for mode in modes)) or "none"
        raise ConfigurationError(
            "gpu_links",
            f"{gpu_count} GPUs: activations would cross links that evidence in mode {asked} does not cover; "
            "'modes' of gpu_policy has to be PPCIE or MPT alone",
        )
