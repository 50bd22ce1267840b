"""Asking NVIDIA's attestation service about this machine's GPUs, for a node whose clients want its answer.

The service sees the evidence and the nonce, both of which any client of the node sees too. Its answer is
judged here as a client will judge it, before the node staples it.
"""

import base64
import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from attestation.nvidia.collateral_fetch import Network
from attestation.nvidia.device import LS10
from attestation.nvidia.errors import CollateralFault, TokenKeyError
from attestation.nvidia.evidence import parse_evidence_list
from attestation.nvidia.nras import NrasPolicy, verify_answer
from attestation.nvidia.second_opinion import ANSWER_NAME, KEYS_NAME

NRAS_URL: Final = "https://nras.attestation.nvidia.com/v4/attest/gpu"
NRAS_KEYS_URL: Final = "https://nras.attestation.nvidia.com/.well-known/jwks.json"
KEYS_INTERVAL: Final = timedelta(minutes=1)
"""How long after a look at the service's keys the next may be, however many tokens name an unknown key."""


class SecondOpinionFetcher:
    """Fetches answers, with the keys that they are signed with.

    ``network`` carries the service key of whoever runs the node, where the service asks for one; ``now``
    gives the time (aware). Keys live for a day or two, so they are fetched anew as soon as a token names one
    that is not known.
    """

    def __init__(self, network: Network, policy: NrasPolicy, *, now: Callable[[], datetime]) -> None:
        self._network = network
        self._policy = policy
        self._now = now
        self._keys = b'{"keys":[]}'
        self._keys_at: datetime | None = None

    def fetch(self, section: bytes, nonce: bytes) -> dict[str, bytes]:
        """The service's answer about the GPUs of a section over ``nonce``, as GPU collateral.

        Raises `CollateralFault` where the service cannot be asked, and what `verify_answer` raises where its
        answer is not good.
        """
        body, count = answer_request(section, nonce)
        answer = self._network.post(NRAS_URL, body, "application/json")
        try:
            self._verify(answer, nonce, count)
        except TokenKeyError as error:
            if error.code != "key_unknown" or not self._may_look_again():
                raise
            self._keys_at = self._now()
            self._keys = self._network.get(NRAS_KEYS_URL)
            self._verify(answer, nonce, count)
        return {ANSWER_NAME: answer, KEYS_NAME: self._keys}

    def _verify(self, answer: bytes, nonce: bytes, count: int) -> None:
        verify_answer(answer, self._keys, nonce=nonce, count=count, at=self._now(), policy=self._policy)

    def _may_look_again(self) -> bool:
        return self._keys_at is None or self._now() - self._keys_at >= KEYS_INTERVAL


def answer_request(section: bytes, nonce: bytes) -> tuple[bytes, int]:
    """The request (JSON) about all GPUs of a section, and how many they are.

    Raises `EvidenceListError`, or `CollateralFault` (``nras_request``) for no GPU or several architectures.
    """
    gpus = [entry for entry in parse_evidence_list(section) if entry.arch != LS10]
    architectures = {entry.arch for entry in gpus}
    if len(architectures) != 1:
        raise CollateralFault(
            code="nras_request",
            stage="collateral",
            detail="the service is asked about GPUs of one architecture",
            found=sorted(architectures),
        )
    evidence = [
        {
            "evidence": base64.b64encode(entry.evidence).decode("ascii"),
            "certificate": base64.b64encode(entry.certificate).decode("ascii"),
        }
        for entry in gpus
    ]
    request = {
        "nonce": nonce.hex(),
        "arch": gpus[0].arch,
        "claims_version": "3.0",
        "evidence_list": evidence,
    }
    return json.dumps(request, separators=(",", ":")).encode("ascii"), len(gpus)
