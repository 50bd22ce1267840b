"""NVIDIA's word beside our own: an answer of its attestation service, stapled to a node's evidence.

A node that is asked for it fetches the answer and the service's key set once for its evidence, and carries
both as bytes among the GPU collateral. It counts only for the GPUs whose evidence stands beside it, and only
in addition to their own appraisal.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from attestation.nvidia.errors import TokenError
from attestation.nvidia.nras import NrasPolicy, VerifiedAnswer, check_same_devices, verify_answer
from attestation.nvidia.policy import GpuPolicy

ANSWER_NAME: Final = "nras/answer"
KEYS_NAME: Final = "nras/keys"
"""Names of the two pieces among a bundle's GPU collateral."""


def check_second_opinion(
    gpus: Sequence[tuple[str, str, str]],
    *,
    pieces: Mapping[str, bytes],
    nonce: bytes,
    policy: GpuPolicy,
    simulated: bool,
    at: datetime,
) -> VerifiedAnswer:
    """NVIDIA's service says only good of exactly these GPUs, over this nonce, and is in its time at ``at``.

    ``gpus``: UEID, driver and VBIOS version of each, from its own verified evidence. ``simulated``: whether
    they lead to the simulated root, whose service is then the only one trusted. Raises `TokenError`
    (``token_missing``) and what `verify_answer` and `check_same_devices` raise.
    """
    for name in (ANSWER_NAME, KEYS_NAME):
        if name not in pieces:
            raise TokenError(
                code="token_missing",
                stage="gpu.nras",
                detail=f"the evidence carries no {name}",
                expected=name,
                retryable=True,
            )
    demands = NrasPolicy(
        authorities=policy.nras_authorities(simulated=simulated),
        claims_versions=policy.nras_claims,
        rules=policy.nras_rules,
    )
    answer = verify_answer(
        pieces[ANSWER_NAME], pieces[KEYS_NAME], nonce=nonce, count=len(gpus), at=at, policy=demands
    )
    check_same_devices(answer, gpus)
    return answer
