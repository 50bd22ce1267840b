"""Collateral fetched from services that answer as AMD's and Intel's do, and judged like any other."""

import json
import threading
from base64 import encodebytes
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote as percent_encoded

import pytest
import typer
from tdx_cases import cases as tdx_cases

from attestation.collateral_fetch.amd_kds import fetch_snp, vcek_url
from attestation.collateral_fetch.intel_pcs import INTEL_PCS, ROOT_CA_CRL, fetch_tdx
from attestation.collateral_fetch.network import MAX_ANSWER, Answer, FetchFailed, HttpsNetwork, KeptAnswers
from attestation.collateral_folder import read_collateral, write_collateral
from attestation.commands import register
from attestation.errors import AttestationError, EvidenceMalformed
from attestation.sev_snp import SnpCollateral, appraise
from attestation.sev_snp_policy import SnpPolicy
from attestation.sev_snp_report import Product, parse_report
from attestation.simulated.amd import SimulatedAmd
from attestation.tdx.collateral import TdxCollateral
from attestation.tdx.quote import parse_quote
from attestation.tdx.verify import appraise as appraise_tdx

AT = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


class Recorded:
    """A network of recorded answers."""

    def __init__(self, answers: dict[str, Answer]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def get(self, url: str) -> Answer:
        self.asked.append(url)
        if url not in self.answers:
            raise FetchFailed(code="fetch_failed", expected=200, found=404, detail=url)
        return self.answers[url]


@pytest.fixture(scope="module")
def amd(tmp_path_factory: pytest.TempPathFactory) -> SimulatedAmd:
    return SimulatedAmd.open(tmp_path_factory.mktemp("amd"), lambda: AT)


def pem(*certificates: bytes) -> bytes:
    return b"".join(
        b"-----BEGIN CERTIFICATE-----\n" + encodebytes(data) + b"-----END CERTIFICATE-----\n"
        for data in certificates
    )


def kds(amd: SimulatedAmd, report: bytes) -> Recorded:
    collateral = amd.section(bytes(64), amd.settings(bytes(48))).collateral
    base = "https://kdsintf.amd.com/vcek/v1/Genoa"
    return Recorded(
        {
            vcek_url(parse_report(report), Product.GENOA): Answer(collateral["vek"]),
            f"{base}/cert_chain": Answer(pem(collateral["ask"], collateral["ark"])),
            f"{base}/crl": Answer(collateral["crl"]),
        }
    )


def test_amds_service_gives_what_a_report_takes(amd: SimulatedAmd, tmp_path: Path) -> None:
    report = amd.section(bytes(64), amd.settings(bytes(48))).evidence
    network = kds(amd, report)
    write_collateral(tmp_path / "out", fetch_snp(report, network))
    chip = parse_report(report).chip_id.hex()
    assert network.asked[0] == (
        f"https://kdsintf.amd.com/vcek/v1/Genoa/{chip}?blSPL=10&teeSPL=00&snpSPL=27&ucodeSPL=88"
    )
    pieces = read_collateral(tmp_path / "out")
    policy = SnpPolicy(simulated_root=amd.root_sha256)
    assert appraise(report, SnpCollateral(**pieces), policy, AT).error is None


def test_what_never_changes_is_asked_for_once(amd: SimulatedAmd, tmp_path: Path) -> None:
    report = amd.section(bytes(64), amd.settings(bytes(48))).evidence
    network, kept = kds(amd, report), KeptAnswers(tmp_path / "kept")
    first = fetch_snp(report, network, kept=kept)
    again = fetch_snp(report, network, kept=kept)
    assert {**first, "crl": b""} == {**again, "crl": b""}
    crls = [url for url in network.asked if url.endswith("/crl")]
    assert len(crls) == 2  # a revocation list is never kept
    assert len(network.asked) == 4


def test_an_answer_that_is_not_what_was_asked_for_is_not_kept(amd: SimulatedAmd, tmp_path: Path) -> None:
    report = amd.section(bytes(64), amd.settings(bytes(48))).evidence
    network, kept = kds(amd, report), KeptAnswers(tmp_path / "kept")
    for url in list(network.answers):
        busy = Recorded({**network.answers, url: Answer(b"<html>busy</html>")})
        with pytest.raises(FetchFailed):
            fetch_snp(report, busy, kept=kept)
    assert fetch_snp(report, network, kept=kept) == fetch_snp(report, network)
    for spoiled in (tmp_path / "kept").iterdir():
        spoiled.write_bytes(b"")
    assert fetch_snp(report, network, kept=kept) == fetch_snp(report, network)


def test_where_a_turin_chip_is(vectors: Path) -> None:
    report = parse_report((vectors / "snp/real/turin_v5_oak.report.bin").read_bytes())
    url = vcek_url(report, Product.TURIN, base="https://cache.example")
    assert url.startswith(f"https://cache.example/vcek/v1/Turin/{report.chip_id[:8].hex()}?fmcSPL=")


def test_what_amds_service_cannot_give_is_said(amd: SimulatedAmd, vectors: Path) -> None:
    report = amd.section(bytes(64), amd.settings(bytes(48))).evidence
    old = (vectors / "snp/real/milan_v2.report.bin").read_bytes()
    vlek = (vectors / "snp/real/milan_v3_vlek_aws.report.bin").read_bytes()
    masked = bytearray(report)
    masked[0x1A0:0x1E0] = bytes(64)
    network = kds(amd, report)
    for evidence, code in (
        (old, "product_unknown"),
        (vlek, "collateral_missing"),
        (masked, "collateral_missing"),
    ):
        with pytest.raises(FetchFailed) as caught:
            fetch_snp(bytes(evidence), network)
        assert caught.value.code == code
    for url in list(network.answers):
        broken = Recorded({**network.answers, url: Answer(b"<html>busy</html>")})
        with pytest.raises(AttestationError):
            fetch_snp(report, broken)
    with pytest.raises(EvidenceMalformed):
        fetch_snp(b"", network)


def pcs(members: dict[str, str], fmspc: str, ca: str) -> Recorded:
    def served(member: str, text: str, signature: str) -> bytes:
        return f'{{"{member}":{text},"signature":"{signature}"}}'.encode()

    def chain(name: str) -> str:
        return percent_encoded(members[name])

    tdx, sgx = f"{INTEL_PCS}/tdx/certification/v4", f"{INTEL_PCS}/sgx/certification/v4"
    return Recorded(
        {
            f"{tdx}/tcb?fmspc={fmspc}": Answer(
                served("tcbInfo", members["tcb_info"], members["tcb_info_signature"]),
                {"tcb-info-issuer-chain": chain("tcb_info_issuer_chain")},
            ),
            f"{tdx}/qe/identity": Answer(
                served("enclaveIdentity", members["qe_identity"], members["qe_identity_signature"]),
                {"sgx-enclave-identity-issuer-chain": chain("qe_identity_issuer_chain")},
            ),
            f"{sgx}/pckcrl?ca={ca}&encoding=der": Answer(
                bytes.fromhex(members["pck_crl"]),
                {"sgx-pck-crl-issuer-chain": chain("pck_crl_issuer_chain")},
            ),
            ROOT_CA_CRL: Answer(bytes.fromhex(members["root_ca_crl"])),
        }
    )


def test_intels_service_gives_what_a_quote_takes(vectors: Path, tmp_path: Path) -> None:
    case = next(c for c in tdx_cases(vectors, "real") if c.expect["verdict"] == "accept")
    assert case.members is not None
    fmspc = json.loads(case.members["tcb_info"])["fmspc"]
    network = pcs(case.members, fmspc.lower(), "platform")
    write_collateral(tmp_path / "out", fetch_tdx(case.quote, network))
    collateral = TdxCollateral.from_members(read_collateral(tmp_path / "out"))
    assert collateral.tcb_info == case.members["tcb_info"].encode()
    assert appraise_tdx(case.quote, collateral, case.policy, case.at).error is None
    for url, answer in network.answers.items():
        headerless = Recorded({**network.answers, url: Answer(answer.body)})
        garbled = Recorded({**network.answers, url: Answer(b"{}", answer.headers)})
        if answer.headers:
            with pytest.raises(FetchFailed):
                fetch_tdx(case.quote, headerless)
        with pytest.raises(FetchFailed):
            fetch_tdx(case.quote, garbled)


@pytest.mark.parametrize("change", [lambda data: data[:300], lambda data: bytes(len(data)), lambda _: b""])
def test_evidence_that_cannot_be_read_is_not_asked_about(
    vectors: Path, change: Callable[[bytes], bytes]
) -> None:
    quote = (vectors / "tdx/real/goog_cos113.quote.bin").read_bytes()
    network = Recorded({})
    with pytest.raises(AttestationError):
        fetch_tdx(change(quote), network)
    assert network.asked == []


def test_a_chain_that_cannot_be_read_is_not_asked_about(vectors: Path) -> None:
    quote = (vectors / "tdx/real/goog_cos113.quote.bin").read_bytes()
    pck = parse_quote(quote).pck_chain
    begin = b"-----BEGIN CERTIFICATE-----"
    for broken in (pck.replace(begin, begin.lower()), pck.replace(b"\nMII", b"\nNII")):
        network = Recorded({})
        with pytest.raises(FetchFailed):
            fetch_tdx(quote.replace(pck, broken), network)
        assert network.asked == []


def test_a_folder_of_collateral_is_read_strictly(tmp_path: Path) -> None:
    write_collateral(tmp_path / "a", {"vek": b"1", "eventlog": b"2", "tcb_info": b"3"})
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        "eventlog.bin",
        "tcb_info.json",
        "vek.der",
    ]
    assert read_collateral(tmp_path / "a") == {"vek": b"1", "eventlog": b"2", "tcb_info": b"3"}
    (tmp_path / "a" / "vek.pem").write_bytes(b"")
    with pytest.raises(EvidenceMalformed, match="two files"):
        read_collateral(tmp_path / "a")
    (tmp_path / "b" / "nested").mkdir(parents=True)
    with pytest.raises(EvidenceMalformed, match="not a file"):
        read_collateral(tmp_path / "b")
    (tmp_path / "c").mkdir()
    for number in range(200):
        (tmp_path / "c" / str(number)).touch()
    with pytest.raises(EvidenceMalformed, match="more than"):
        read_collateral(tmp_path / "c")


class Service(BaseHTTPRequestHandler):
    """A service that is busy at first, moved, gone, or says too much."""

    busy = 0
    answers: ClassVar[dict[str, bytes]] = {}

    def do_GET(self) -> None:
        status, body = 200, b"answer"
        if self.answers:
            body = self.answers.get(self.path, b"")
            status = 200 if body else 404
        if self.path == "/busy" and Service.busy:
            Service.busy -= 1
            status = 429
        elif self.path == "/moved":
            status = 302
        elif self.path == "/gone":
            status = 404
        elif self.path == "/huge":
            body = bytes(MAX_ANSWER + 1)
        self.send_response(status)
        self.send_header("Location", "/")
        self.send_header("TCB-Info-Issuer-Chain", "chain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is said."""


@pytest.fixture
def service() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Service)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_requests_are_bounded_and_follow_nobody(service: str) -> None:
    waited: list[float] = []
    network = HttpsNetwork(waited.append, plain=frozenset({service}))
    Service.busy = 2
    answer = network.get(f"{service}/busy")
    assert (answer.body, answer.headers["tcb-info-issuer-chain"]) == (b"answer", "chain")
    assert waited == [1.0, 2.0]
    Service.busy = 9
    with pytest.raises(FetchFailed) as caught:
        network.get(f"{service}/busy")
    assert (caught.value.found, caught.value.retryable) == (429, True)
    for path, found in (("moved", 302), ("gone", 404)):
        with pytest.raises(FetchFailed) as caught:
            network.get(f"{service}/{path}")
        assert (caught.value.found, caught.value.retryable) == (found, False)
    with pytest.raises(FetchFailed, match="too large"):
        network.get(f"{service}/huge")
    with pytest.raises(FetchFailed, match="not an https address"):
        HttpsNetwork(waited.append).get(f"{service}/")


def test_the_command_writes_the_folder_that_verify_reads(
    amd: SimulatedAmd, tmp_path: Path, service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = amd.section(bytes(64), amd.settings(bytes(48)))
    recorded = kds(amd, section.evidence)
    answers = {
        url.removeprefix("https://kdsintf.amd.com"): answer for url, answer in recorded.answers.items()
    }
    monkeypatch.setattr(Service, "answers", {path: answer.body for path, answer in answers.items()})
    (tmp_path / "report").write_bytes(section.evidence)
    app = typer.Typer()
    register(app)
    out = str(tmp_path / "out")
    arguments = ["collateral", "fetch", str(tmp_path / "report"), "--out", out, "--amd", service, "--json"]
    assert app(arguments, standalone_mode=False) == 0
    pieces = read_collateral(tmp_path / "out")
    assert pieces.keys() == {"vek", "ask", "ark", "crl"}
    policy = SnpPolicy(simulated_root=amd.root_sha256)
    assert appraise(section.evidence, SnpCollateral(**pieces), policy, AT).error is None
    monkeypatch.setattr(Service, "answers", {"none": b""})
    assert app(arguments, standalone_mode=False) == 1
    (tmp_path / "report").write_bytes(b"{}")
    assert app(arguments, standalone_mode=False) == 1
    assert app([*arguments, "--product", "rome"], standalone_mode=False) == 1
