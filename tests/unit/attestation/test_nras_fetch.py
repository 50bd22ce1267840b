"""Asking a simulated attestation service: what is asked, what is kept, and how often its keys are looked at."""

import base64
import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest

from attestation.errors import AttestationError
from attestation.nvidia.evidence import encode_evidence_list
from attestation.nvidia.nras import NrasPolicy
from attestation.nvidia.nras_fetch import NRAS_KEYS_URL, NRAS_URL, SecondOpinionFetcher, answer_request
from attestation.nvidia.policy import GpuPolicy
from attestation.nvidia.verify import verify_gpus
from attestation.simulated.nras import SimulatedService, good_gpu
from attestation.simulated.nvidia import SimulatedDevicePki

AT = datetime(2026, 11, 21, 12, tzinfo=UTC)
NONCE = bytes(range(32))
PKI = SimulatedDevicePki.create()
GPUS = [PKI.make_gpu() for _ in range(2)]
SECTION = encode_evidence_list([gpu.evidence(NONCE) for gpu in GPUS])
SERVICE = SimulatedService.create(AT)
DEMANDS = NrasPolicy(authorities=frozenset({SERVICE.authority_sha256}))
LOCAL = GpuPolicy(count=2, rim="off", revocation="off", simulated_root=PKI.root_sha256)
GOOD = [
    good_gpu(gpu.ueid, gpu.driver_version, gpu.vbios_version)
    for gpu in verify_gpus(SECTION, NONCE, LOCAL, AT)
]


@dataclass
class SimulatedNvidia:
    """The service behind a network; answers over whatever nonce it is asked with."""

    service: SimulatedService = SERVICE
    keys: bytes = field(default_factory=SERVICE.key_set)
    asked: list[str] = field(default_factory=list)

    def get(self, url: str) -> bytes:
        self.asked.append(url)
        return self.keys

    def post(self, url: str, body: bytes, media_type: str) -> bytes:
        self.asked.append(url)
        request = json.loads(body)
        assert media_type == "application/json"
        assert (request["arch"], request["claims_version"]) == ("HOPPER", "3.0")
        assert [base64.b64decode(one["certificate"]) for one in request["evidence_list"]] == [
            gpu.certificate for gpu in GPUS
        ]
        return self.service.answer(GOOD, bytes.fromhex(request["nonce"]), AT)


def test_what_is_fetched_is_what_a_client_accepts() -> None:
    nvidia = SimulatedNvidia()
    fetcher = SecondOpinionFetcher(nvidia, DEMANDS, now=lambda: AT)
    pieces = fetcher.fetch(SECTION, NONCE)
    policy = replace(LOCAL, nras="required", simulated_nras=SERVICE.authority_sha256)
    assert verify_gpus(SECTION, NONCE, policy, AT, pieces)
    assert nvidia.asked == [NRAS_URL, NRAS_KEYS_URL]
    fetcher.fetch(SECTION, NONCE)  # the keys are known now
    assert nvidia.asked == [NRAS_URL, NRAS_KEYS_URL, NRAS_URL]


def test_keys_are_looked_at_once_a_minute_at_most() -> None:
    nvidia, clock = SimulatedNvidia(keys=b'{"keys":[]}'), [AT]
    fetcher = SecondOpinionFetcher(nvidia, DEMANDS, now=lambda: clock[0])
    for later, looks in ((0, 1), (59, 1), (60, 2), (61, 2)):
        clock[0] = AT + timedelta(seconds=later)
        with pytest.raises(AttestationError, match="key_unknown"):
            fetcher.fetch(SECTION, NONCE)
        assert nvidia.asked.count(NRAS_KEYS_URL) == looks
    nvidia.keys = SERVICE.key_set()
    clock[0] = AT + timedelta(seconds=120)
    assert fetcher.fetch(SECTION, NONCE)


def test_an_answer_of_somebody_else_is_not_kept() -> None:
    other = SimulatedService.create(AT)
    nvidia = SimulatedNvidia(service=other, keys=other.key_set())
    with pytest.raises(AttestationError, match="key_untrusted"):
        SecondOpinionFetcher(nvidia, DEMANDS, now=lambda: AT).fetch(SECTION, NONCE)


def test_requests_that_cannot_be_made() -> None:
    mixed = [GPUS[0].evidence(NONCE), replace(GPUS[1].evidence(NONCE), arch="BLACKWELL")]
    for section in (b"", b"[]", encode_evidence_list(mixed)):
        with pytest.raises(AttestationError, match="nras_request"):
            answer_request(section, NONCE)
    with pytest.raises(AttestationError, match="evidence_format"):
        answer_request(b"{", NONCE)
