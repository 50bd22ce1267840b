"""Collateral fetched for one machine's GPUs, from a simulated NVIDIA that answers, fails and lies."""

import base64
import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import httpx2
import pytest
from cryptography import x509
from cryptography.x509 import ocsp as x509_ocsp
from fake_nvml import FakeNvml, Minted
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.collect import GpuDevices
from attestation.errors import AttestationError
from attestation.nvidia import commands
from attestation.nvidia.chain import parse_chain
from attestation.nvidia.collateral_cache import CollateralCache
from attestation.nvidia.collateral_fetch import (
    MAX_ANSWER,
    OCSP_RESPONDER,
    RIM_SERVICE,
    CollateralFetcher,
    HttpsNetwork,
    Refreshed,
    needed_names,
    ocsp_request,
    read_rim_answer,
)
from attestation.nvidia.collateral_folder import read_collateral
from attestation.nvidia.collect import NvmlGpus
from attestation.nvidia.errors import CollateralFault
from attestation.nvidia.evidence import encode_evidence_list, parse_evidence_list
from attestation.nvidia.policy import GpuPolicy
from attestation.nvidia.verify import appraise_gpu_section, verify_gpus
from attestation.simulated.nvidia import SimulatedDevicePki
from attestation.simulated.nvidia_certificates import Authority
from attestation.simulated.nvidia_ocsp import Answer, answer
from attestation.simulated.nvidia_report import GpuSettings
from attestation.simulated.nvidia_rim import SimulatedRimPki

AT = datetime(2026, 11, 21, 12, tzinfo=UTC)
NONCE = bytes(range(32))
PKI = SimulatedDevicePki.create()
RIMS = SimulatedRimPki.create()
MANIFESTS = RIMS.gpu_rims(GpuSettings())
GPUS = [PKI.make_gpu() for _ in range(2)]
SECTION = encode_evidence_list([gpu.evidence(NONCE) for gpu in GPUS])
POLICY = GpuPolicy(count=2, simulated_root=PKI.root_sha256, simulated_rim_root=RIMS.root_sha256)
ISSUERS: tuple[Authority, ...] = (
    PKI.root, PKI.family, PKI.provisioner, RIMS.root, RIMS.family, RIMS.issuer,
)  # fmt: skip


@dataclass
class SimulatedNvidia:
    """RIM service and OCSP responder. ``failing``: addresses (or the OCSP responder) that do not answer."""

    how: Answer = field(default_factory=Answer)
    failing: frozenset[str] = frozenset()
    answers: dict[str, bytes] = field(default_factory=dict)
    echo_nonce: bool = True
    asked: list[str] = field(default_factory=list)

    def get(self, url: str) -> bytes:
        self._reach(url)
        rim_id = url.removeprefix(RIM_SERVICE)
        if rim_id in self.answers:
            return self.answers[rim_id]
        return rim_answer(rim_id, MANIFESTS[f"rim/{rim_id}"])

    def post(self, url: str, body: bytes, media_type: str) -> bytes:
        self._reach(url)
        assert (url, media_type) == (OCSP_RESPONDER, "application/ocsp-request")
        request = x509_ocsp.load_der_ocsp_request(body)
        nonce = request.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce
        assert len(nonce) == 32
        subject, issuer = self._find(request)
        return answer(subject, issuer, AT, replace(self.how, nonce=nonce if self.echo_nonce else bytes(32)))

    def _reach(self, url: str) -> None:
        self.asked.append(url)
        if url in self.failing:
            raise CollateralFault(code="fetch_failed", stage="collateral", detail=url)

    def _find(self, request: x509_ocsp.OCSPRequest) -> tuple[x509.Certificate, Authority]:
        chains = [x509.load_pem_x509_certificates(gpu.certificate) for gpu in GPUS]
        for subject in (*(one for chain in chains for one in chain), *RIMS.path):
            if subject.serial_number == request.serial_number:
                for issuer in ISSUERS:
                    if issuer.certificate.subject == subject.issuer:
                        return subject, issuer
        raise AssertionError("asked about a certificate that nobody issued")


def rim_answer(rim_id: str, manifest: bytes) -> bytes:
    text = base64.b64encode(manifest).decode()
    return json.dumps(
        {"id": rim_id, "rim": text, "request_id": "1", "sha256": "", "last_updated": ""}
    ).encode()


def refresh(nvidia: SimulatedNvidia, cache: CollateralCache) -> Refreshed:
    fetcher = CollateralFetcher(nvidia, cache, POLICY, now=lambda: AT, entropy=lambda size: b"\x07" * size)
    return fetcher.refresh(SECTION)


@pytest.fixture
def cache(tmp_path: Path) -> CollateralCache:
    return CollateralCache(tmp_path / "cache")


def test_what_is_fetched_is_what_a_strict_client_needs(cache: CollateralCache) -> None:
    nvidia = SimulatedNvidia()
    refreshed = refresh(nvidia, cache)
    assert refreshed.failures == ()
    # Two manifests; three of each device's certificates, two of them shared; three of the signers' path.
    assert len(refreshed.names) == len(nvidia.asked) == 2 + 4 + 3
    pieces = cache.staple(refreshed.names)
    assert len(verify_gpus(SECTION, NONCE, POLICY, AT, pieces)) == 2
    assert set(needed_names(SECTION, cache)) == set(refreshed.names)


def test_a_collector_staples_what_the_cache_holds(cache: CollateralCache) -> None:
    nvml = FakeNvml(devices=[Minted(gpu) for gpu in GPUS])
    gpus: GpuDevices = NvmlGpus(nvml, 2, cache=cache)
    assert gpus.collateral(AT) == {}
    section = gpus.evidence(NONCE)
    assert gpus.collateral(AT) == {}
    refresh(SimulatedNvidia(), cache)
    assert verify_gpus(section, NONCE, POLICY, AT, gpus.collateral(AT))
    nvml.feature = 0
    with pytest.raises(AttestationError):
        gpus.evidence(NONCE)
    assert gpus.collateral(AT) == {}
    assert NvmlGpus(FakeNvml(devices=[Minted(gpu) for gpu in GPUS]), 2).collateral(AT) == {}


def test_an_answer_to_another_ocsp_request_is_not_kept(cache: CollateralCache) -> None:
    refreshed = refresh(SimulatedNvidia(echo_nonce=False), cache)
    assert {error.code for error in refreshed.failures} == {"ocsp_nonce"}
    assert not any(name.startswith("ocsp/") for name in cache.staple(refreshed.names))


def test_stale_answers_are_not_kept(cache: CollateralCache) -> None:
    refreshed = refresh(SimulatedNvidia(how=Answer(age=timedelta(days=30))), cache)
    assert {error.code for error in refreshed.failures} == {"revocation_stale"}


def test_a_revocation_is_kept_and_told(cache: CollateralCache) -> None:
    refreshed = refresh(SimulatedNvidia(how=Answer(reason=x509.ReasonFlags.key_compromise)), cache)
    appraisal = appraise_gpu_section(SECTION, NONCE, POLICY, AT, cache.staple(refreshed.names))
    assert appraisal.error is not None
    assert appraisal.error.code == "revoked"


def test_what_fails_leaves_the_earlier_piece(cache: CollateralCache) -> None:
    names = refresh(SimulatedNvidia(), cache).names
    broken = SimulatedNvidia(failing=frozenset({OCSP_RESPONDER}))
    refreshed = refresh(broken, cache)
    assert {error.code for error in refreshed.failures} == {"fetch_failed"}
    assert set(cache.staple(names)) == set(names)
    assert verify_gpus(SECTION, NONCE, POLICY, AT, cache.staple(names))


def test_manifests_that_are_wrong_are_not_kept(cache: CollateralCache) -> None:
    driver, vbios = (name.removeprefix("rim/") for name in MANIFESTS)
    good = MANIFESTS[f"rim/{driver}"]
    for bad in (good.replace(b'index="0"', b'index="1"'), MANIFESTS[f"rim/{vbios}"], b"<x/>"):
        refreshed = refresh(SimulatedNvidia(answers={driver: rim_answer(driver, bad)}), cache)
        assert len(refreshed.failures) == 1
        assert cache.issues(f"rim/{driver}") == ()
    other = SimulatedRimPki.create().gpu_rims(GpuSettings())[f"rim/{driver}"]
    refreshed = refresh(SimulatedNvidia(answers={driver: rim_answer(driver, other)}), cache)
    assert [error.code for error in refreshed.failures] == ["rim_chain_untrusted"]


def test_evidence_under_another_root_makes_no_request(cache: CollateralCache) -> None:
    nvidia = SimulatedNvidia()
    stranger = encode_evidence_list([SimulatedDevicePki.create().make_gpu().evidence(NONCE)])
    fetcher = CollateralFetcher(nvidia, cache, POLICY, now=lambda: AT, entropy=bytes)
    with pytest.raises(AttestationError, match="chain_untrusted"):
        fetcher.refresh(stranger)
    assert nvidia.asked == []


@settings(max_examples=100)
@given(st.binary(max_size=300))
def test_answers_of_the_rim_service_that_are_no_such_thing(data: bytes) -> None:
    with pytest.raises(CollateralFault):
        read_rim_answer(data, "NV_GPU_DRIVER_GH100_590.12")


def test_answer_about_another_manifest() -> None:
    data = rim_answer("NV_GPU_DRIVER_GH100_590.13", b"x")
    with pytest.raises(CollateralFault, match="another manifest"):
        read_rim_answer(data, "NV_GPU_DRIVER_GH100_590.12")
    assert read_rim_answer(data, "NV_GPU_DRIVER_GH100_590.13") == b"x"


def test_only_https() -> None:
    with pytest.raises(CollateralFault, match="not an https address"):
        HttpsNetwork().get("http://ocsp.ndis.nvidia.com")


def test_ocsp_request_names_the_certificate_by_sha384() -> None:
    chain = parse_chain(GPUS[0].certificate).certificates
    request = x509_ocsp.load_der_ocsp_request(ocsp_request(chain[1], chain[2], b"\x01" * 32))
    assert request.serial_number == chain[1].serial
    assert request.hash_algorithm.name == "sha384"


def test_a_folder_as_people_keep_it(tmp_path: Path) -> None:
    entries = parse_evidence_list(SECTION)
    driver, vbios = (name.removeprefix("rim/") for name in MANIFESTS)
    (tmp_path / f"{driver}.swidtag").write_bytes(MANIFESTS[f"rim/{driver}"])
    (tmp_path / "bios of our board.xml").write_bytes(MANIFESTS[f"rim/{vbios}"])
    (tmp_path / "an older issue.xml").write_bytes(
        SimulatedRimPki.create().gpu_rims(GpuSettings())[f"rim/{vbios}"]
    )
    (tmp_path / "notes.txt").write_text("no")
    (tmp_path / "sub.xml").mkdir()
    for name, data in {
        **PKI.ocsp(GPUS[0].certificate, AT),
        **PKI.ocsp(GPUS[1].certificate, AT),
        **RIMS.ocsp(AT),
    }.items():
        (tmp_path / f"{name.removeprefix('ocsp/')}.der").write_bytes(data)
    pieces = read_collateral(tmp_path, entries, POLICY, AT)
    assert verify_gpus(SECTION, NONCE, POLICY, AT, pieces)
    with pytest.raises(CollateralFault):
        read_collateral(tmp_path / "nowhere", entries, POLICY, AT)
    (tmp_path / "big.xml").write_bytes(bytes(300 * 1024))
    with pytest.raises(CollateralFault, match="more than"):
        read_collateral(tmp_path, entries, POLICY, AT)


class Reply:
    """What `httpx2.stream` gives: a status and a body in pieces."""

    def __init__(self, status: int, pieces: list[bytes]) -> None:
        self.status_code = status
        self._pieces = pieces

    def __enter__(self) -> "Reply":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def iter_bytes(self) -> list[bytes]:
        return self._pieces


def test_the_network_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, object] = {}

    def stream(method: str, url: str, **options: object) -> Reply:
        given.update(options, method=method)
        if "refused" in url:
            raise httpx2.ConnectError("no route, and a long story about it")
        return Reply(302 if "moved" in url else 200, [bytes(MAX_ANSWER)] * (2 if "large" in url else 1))

    monkeypatch.setattr(httpx2, "stream", stream)
    network = HttpsNetwork()
    assert network.get("https://example.org/") == bytes(MAX_ANSWER)
    assert (given["method"], given["follow_redirects"]) == ("GET", False)
    assert isinstance(given["timeout"], float)
    network.post("https://example.org/", b"x", "application/ocsp-request")
    assert given["headers"] == {"content-type": "application/ocsp-request"}
    for path in ("moved", "large", "refused"):
        with pytest.raises(CollateralFault, match="fetch_failed") as caught:
            network.get(f"https://example.org/{path}")
        assert "long story" not in str(caught.value)


def test_the_command_writes_what_verify_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia = SimulatedNvidia()
    monkeypatch.setattr(commands, "HttpsNetwork", lambda: nvidia)
    monkeypatch.setattr(commands.GpuPolicy, "production", lambda: POLICY)
    monkeypatch.setattr(commands, "datetime", SimpleNamespace(now=lambda _: AT))
    evidence, out = tmp_path / "evidence.json", tmp_path / "out"
    evidence.write_bytes(SECTION)
    assert commands.fetch_gpu(evidence, out) == 0
    assert len([path for path in out.iterdir() if path.is_file()]) == 9
    assert verify_gpus(
        SECTION, NONCE, POLICY, AT, read_collateral(out, parse_evidence_list(SECTION), POLICY, AT)
    )
    nvidia.failing = frozenset({OCSP_RESPONDER})
    assert commands.fetch_gpu(evidence, out) == 1
    evidence.write_bytes(b"[1]")
    assert commands.fetch_gpu(evidence, out) == 1
