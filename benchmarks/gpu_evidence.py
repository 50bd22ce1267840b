"""How long a full appraisal of GPUs takes on one core, beside NVIDIA's own verifier where that is at hand.

    python -m benchmarks.gpu_evidence [--rounds N] [--nvidia-python PATH] [--json]

Full means: chain, signature, nonce, firmware id, mode, both reference manifests, measurements, and OCSP of
nine certificates. The evidence is minted here, format-exact, under throw-away roots. ``--nvidia-python`` is
the interpreter of an environment with the package ``nv-local-gpu-verifier`` (its pinned dependencies do not
fit this project's): it judges the same evidence in the same run, in turn with ours, so that both meet the
same load. Prints medians and ratios; asserts nothing.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from attestation.nvidia.evidence import GpuEvidence, encode_evidence_list
from attestation.nvidia.opaque import Mode
from attestation.nvidia.policy import GpuPolicy
from attestation.nvidia.verify import verify_gpu, verify_gpus
from attestation.simulated.nvidia import SimulatedDevicePki
from attestation.simulated.nvidia_report import GpuSettings, board_settings
from attestation.simulated.nvidia_rim import SimulatedRimPki

ARM = Path(__file__).with_name("nvidia_verifier_arm.py")
NONCE = bytes(range(32))


@dataclass
class Minted:
    """Evidence of one GPU, of eight, and of a whole board, with all collateral, good at ``at``."""

    at: datetime
    pki: SimulatedDevicePki = field(default_factory=SimulatedDevicePki.create)
    rims: SimulatedRimPki = field(default_factory=SimulatedRimPki.create)

    def __post_init__(self) -> None:
        self.settings = GpuSettings()
        gpus = [self.pki.make_gpu() for _ in range(8)]
        self.gpus = [gpu.evidence(NONCE) for gpu in gpus]
        protected, wirings = board_settings()
        switches = [self.pki.make_switch(wiring) for wiring in wirings]
        self.board: list[GpuEvidence] = [gpu.evidence(NONCE, protected) for gpu in gpus]
        self.board += [
            switch.evidence(NONCE, wiring) for switch, wiring in zip(switches, wirings, strict=True)
        ]
        self.collateral = {
            **self.rims.gpu_rims(self.settings),
            **self.rims.switch_rims(wirings[0]),
            **self.rims.ocsp(self.at),
        }
        for entry in self.board:
            self.collateral.update(self.pki.ocsp(entry.certificate, self.at))
        self.policy = GpuPolicy(
            modes=frozenset(Mode),
            simulated_root=self.pki.root_sha256,
            simulated_rim_root=self.rims.root_sha256,
        )

    def write(self, folder: Path) -> None:
        """Write what the other arm reads: the first GPU's evidence as files."""
        first = self.gpus[0]
        (folder / "report.hex").write_text(first.evidence.hex())
        (folder / "chain.pem").write_bytes(first.certificate)
        (folder / "device_root.pem").write_bytes(self.pki.root.certificate.public_bytes(Encoding.PEM))
        (folder / "rim_root.pem").write_bytes(self.rims.root.certificate.public_bytes(Encoding.PEM))
        driver, vbios = self.rims.gpu_rims(self.settings).values()
        (folder / "driver_rim.xml").write_bytes(driver)
        (folder / "vbios_rim.xml").write_bytes(vbios)
        responses = {**self.pki.ocsp(first.certificate, self.at), **self.rims.ocsp(self.at)}
        for place, response in enumerate(responses.values()):
            (folder / f"{place}.ocsp").write_bytes(response)
        facts = {
            "nonce": NONCE.hex(),
            "driver": self.settings.driver_version,
            "vbios": self.settings.vbios_version,
        }
        (folder / "facts.json").write_text(json.dumps(facts))


def timed(rounds: int, judge: Callable[[], object]) -> list[float]:
    """Seconds of each of ``rounds`` calls, after one that is not counted."""
    judge()
    seconds = []
    for _ in range(rounds):
        begin = time.perf_counter()
        judge()
        seconds.append(time.perf_counter() - begin)
    return seconds


def nvidia_seconds(python: str, minted: Minted, rounds: int) -> list[float]:
    """Seconds that NVIDIA's verifier takes for one GPU. Raises RuntimeError where it does not run or accept."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        minted.write(folder)
        # It writes log files where it stands.
        done = subprocess.run(
            [python, str(ARM), name, str(rounds + 1)], capture_output=True, text=True, cwd=name, timeout=300
        )
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        raise RuntimeError(f"{python} could not run the verifier: {done.stderr.strip()[-400:]}")
    answer = json.loads(lines[-1])
    if not answer["accepted"]:
        raise RuntimeError("NVIDIA's verifier did not accept the evidence, so its time says nothing")
    return [float(value) for value in answer["seconds"][1:]]


def measure(rounds: int, nvidia_python: str | None) -> dict[str, object]:
    """All figures, in milliseconds: median and least of ours, and of NVIDIA's verifier where given."""
    # Time is read here alone; evidence is judged at the time it was minted for.
    at = datetime.now(UTC)
    minted = Minted(at)
    one = minted.gpus[0]
    eight, board = encode_evidence_list(minted.gpus), encode_evidence_list(minted.board)
    ours = timed(rounds, lambda: verify_gpu(one, NONCE, minted.policy, at, minted.collateral))
    theirs: list[float] | None = None
    if nvidia_python is not None:
        theirs = nvidia_seconds(nvidia_python, minted, rounds)
        ours += timed(rounds, lambda: verify_gpu(one, NONCE, minted.policy, at, minted.collateral))
    few = max(3, rounds // 4)
    figures: dict[str, object] = {
        "one_gpu_ms": summary(ours),
        "eight_gpus_ms": summary(
            timed(few, lambda: verify_gpus(eight, NONCE, minted.policy, at, minted.collateral))
        ),
        "board_of_8_gpus_and_4_switches_ms": summary(
            timed(few, lambda: verify_gpus(board, NONCE, minted.policy, at, minted.collateral))
        ),
    }
    if theirs is not None:
        figures["nvidia_verifier_one_gpu_ms"] = summary(theirs)
        figures["ratio_to_nvidia_verifier"] = round(statistics.median(ours) / statistics.median(theirs), 3)
        # The quickest rounds of both are those that met least of what else the machine does.
        figures["ratio_of_the_least"] = round(min(ours) / min(theirs), 3)
    return figures


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Median and least, in milliseconds."""
    return {
        "median": round(1000 * statistics.median(seconds), 2),
        "least": round(1000 * min(seconds), 2),
        "rounds": len(seconds),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Time of full GPU appraisals on one core.")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--nvidia-python", help="interpreter of an environment with nv-local-gpu-verifier")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one core, for both arms
    try:
        figures = measure(options.rounds, options.nvidia_python)
    except RuntimeError as error:
        sys.exit(str(error))
    if options.json:
        print(json.dumps(figures, indent=2))
        return
    for name, value in figures.items():
        if isinstance(value, dict):
            value = f"median {value['median']} ms, least {value['least']} ms ({value['rounds']} rounds)"
        print(f"{name.removesuffix('_ms').replace('_', ' '):36} {value}")
    if options.nvidia_python is None:
        print("NVIDIA's verifier was not tried: --nvidia-python names no environment that has it.")


if __name__ == "__main__":
    main()
