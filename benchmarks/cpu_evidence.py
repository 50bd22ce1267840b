"""How long the CPU evidence verifier takes: ``python -m benchmarks.cpu_evidence VECTORS``.

VECTORS is the folder of evidence with known verdicts; with ``dcap-qvl`` installed, TDX is measured beside it.
The arms take turns in short rounds within one run, so that other load on the machine falls on all of them.
Each time is the lower quartile of its rounds; a ratio is the median of the rounds' own ratios.
"""

import argparse
import base64
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from time import perf_counter

from attestation import sev_snp
from attestation.errors import AttestationError
from attestation.sev_snp_policy import SnpPolicy
from attestation.tdx.chain import Trust, verify_p256
from attestation.tdx.collateral import CollateralCache, TdxCollateral, authenticate
from attestation.tdx.policy import TdxPolicy
from attestation.tdx.quote import parse_quote
from attestation.tdx.verify import verify

from .environment import cpu_name, installed
from .statistics import median, quantile

CALLS, ROUNDS = 5, 120
TDX_CASE = "qvl_tdx+qvl_tdx_quote"
_BINARY = ("root_ca_crl", "pck_crl", "tcb_info_signature", "qe_identity_signature")

Arm = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds of one call by round."""

    name: str
    rounds: list[float]

    @property
    def time(self) -> float:
        """Lower quartile, in seconds."""
        return quantile(self.rounds, 0.25)


def measure(arms: dict[str, Arm], rounds: int = ROUNDS, calls: int = CALLS) -> dict[str, Measured]:
    """Time all arms in turn, ``rounds`` times."""
    found: dict[str, list[float]] = {name: [] for name in arms}
    for arm in arms.values():
        arm()
    for _ in range(rounds):
        for name, arm in arms.items():
            start = perf_counter()
            for _ in range(calls):
                arm()
            found[name].append((perf_counter() - start) / calls)
    return {name: Measured(name, times) for name, times in found.items()}


def ratio(first: Measured, second: Measured) -> float:
    """Median of first/second over the rounds."""
    return median([a / b for a, b in zip(first.rounds, second.rounds, strict=True)])


def tdx_arms(vectors: Path) -> dict[str, Arm]:
    """A real quote with an accepting verdict: cold, with cached collateral, with the PCK chain cached too.

    Besides, the signature checks alone, of which these take seven, three and two: what no reader can save.
    """
    folder = vectors / "tdx"
    case = next(c for c in json.loads((folder / "real" / "cases.json").read_text()) if c["id"] == TDX_CASE)
    members = json.loads((folder / case["collateral"]).read_text())
    quote, time = (folder / case["quote"]).read_bytes(), case["time"]
    collateral = TdxCollateral.from_json(json.dumps(members).encode())
    policy, at = TdxPolicy(), datetime.fromtimestamp(time, UTC)
    chain = parse_quote(quote).pck_chain
    known = CollateralCache.of(authenticate(collateral, policy.trusted_roots))
    issued = Trust(policy.trusted_roots).pck_chain(chain)
    both = known.adding_chain(chain, issued)

    def signatures(count: int) -> Arm:
        key, pck = issued.ca.public_key, issued.pck

        def run() -> None:
            for _ in range(count):
                verify_p256(key, pck.algorithm, pck.signature, pck.signed)

        return run

    arms: dict[str, Arm] = {
        "tdx cold": lambda: verify(quote, collateral, policy, at),
        "tdx, collateral cached": lambda: verify(quote, collateral, policy, at, known),
        "tdx, collateral and PCK chain cached": lambda: verify(quote, collateral, policy, at, both),
        "seven P-256 signatures": signatures(7),
        "three P-256 signatures": signatures(3),
    }
    try:
        dcap_qvl = import_module("dcap_qvl")
    except ImportError:
        return arms
    pieces = {name: bytes.fromhex(text) if name in _BINARY else text for name, text in members.items()}
    other = dcap_qvl.QuoteCollateralV3(**pieces)
    arms["dcap-qvl"] = lambda: dcap_qvl.verify(quote, other, time)
    return arms


def snp_arms(vectors: Path) -> dict[str, Arm]:
    """A real report of each product that verifies, nothing cached."""
    folder, arms = vectors / "snp", {}
    policy = SnpPolicy(bulletins=(), min_report_version=2, require_crl=False)
    for case in json.loads((folder / "real" / "cases.json").read_text()):
        product = case["product"].lower()
        if product in arms or case["mutations"] or case["expect"]["verdict"] != "accept":
            continue
        text = (folder / "trust" / f"{product}_{case['kind']}_chain.pem").read_text()
        blocks = re.findall("-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", text, re.S)
        ask, ark = map(base64.b64decode, blocks)
        report, ek = (folder / case["report"]).read_bytes(), (folder / case["ek"]).read_bytes()
        given = sev_snp.SnpCollateral(ek, ask, ark)
        at = datetime.fromtimestamp(case["time"], UTC)
        try:
            sev_snp.verify(report, given, policy, at)
        except AttestationError:
            continue  # a case that needs a policy of its own
        arms[product] = _bound(report, given, policy, at)
    return {f"snp cold, {name}": arm for name, arm in sorted(arms.items())}


def _bound(report: bytes, given: sev_snp.SnpCollateral, policy: SnpPolicy, at: datetime) -> Arm:
    return lambda: sev_snp.verify(report, given, policy, at)


def malformed_arms(vectors: Path) -> dict[str, Arm]:
    """What is no evidence: empty, cut short, or of another kind."""
    quote = next((vectors / "tdx" / "real").glob("*.quote.bin")).read_bytes()
    at, policy, none = datetime(2026, 1, 1, tzinfo=UTC), TdxPolicy(), sev_snp.SnpCollateral(b"", b"", b"")

    def refused(call: Arm) -> Arm:
        def run() -> None:
            try:
                call()
            except AttestationError:
                return
            raise AssertionError("malformed evidence was accepted")

        return run

    return {
        "malformed: empty quote": refused(lambda: verify(b"", None, policy, at)),
        "malformed: quote cut short": refused(lambda: verify(quote[:-4000], None, policy, at)),
        "malformed: 64 KiB of noise": refused(lambda: verify(b"\4\0\2\0" * 16384, None, policy, at)),
        "malformed: report cut short": refused(lambda: sev_snp.verify(b"\2" * 1183, none, SnpPolicy(), at)),
    }


def import_time(module: str, runs: int = 7) -> float:
    """Seconds that importing ``module`` takes in a new process, the fastest of some."""
    program = f"from time import perf_counter as now; t = now(); import {module}; print(now() - t)"
    command = [sys.executable, "-c", program]
    times = [
        float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(runs)
    ]
    return min(times)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="How long the CPU evidence verifier takes.")
    parser.add_argument("vectors", type=Path, help="the folder of evidence with known verdicts")
    vectors: Path = parser.parse_args().vectors
    print(f"{cpu_name()}; Python {sys.version.split()[0]}; cryptography {installed('cryptography')}")
    tdx = measure(tdx_arms(vectors))
    found = {**tdx, **measure(snp_arms(vectors)), **measure(malformed_arms(vectors))}
    for name, measured in found.items():
        print(f"{name:<40} {measured.time * 1e6:9.1f} µs")
    other = tdx.get("dcap-qvl")
    if other is None:
        print("dcap-qvl is not installed: no ratios")
    else:
        for name, measured in tdx.items():
            if measured is not other:
                print(f"{name} / dcap-qvl {installed('dcap-qvl')}: {ratio(measured, other):.2f}")
    for module in ("attestation.tdx.verify", "attestation.sev_snp", "attestation.appraisal"):
        print(f"import {module:<33} {import_time(module) * 1e3:9.1f} ms")


if __name__ == "__main__":
    main()
