"""What listing costs, all in one run: ``python -m benchmarks.transparency [--json] [--entries N] [--folder DIR]``.

A log of N entries in files, a release and a status in it, three witnesses. Measured: the client's check of a staple,
beside the signatures that it cannot do without; appends in batches of 256, durable, beside the waits for the disk that
they cannot do without; an auditor's replay of the whole log; the size of a proof; and importing the client's check.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import perf_counter
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rich.console import Console
from rich.progress import Progress

from measurements.audit import replay
from measurements.log import MAX_BATCH, TileLog
from measurements.merkle import TreeFold, leaf_hash, prove_inclusion
from measurements.note import COSIGNATURE_ED25519
from measurements.policy import TransparencyPolicy
from measurements.release import Release, Status, sign_leaf
from measurements.rollback import FileMemory, VolatileMemory
from measurements.signing_key import SigningKey
from measurements.staple import check_staple
from measurements.statement import Subject
from measurements.tlog_policy import TlogPolicy
from measurements.tlog_proof import TlogProof
from measurements.witness import VolatileWitnessStore, Witness

from .environment import cpu_name
from .statistics import median, quantile

AT = datetime(2026, 6, 1, 12, tzinfo=UTC)
BATCH, BATCHES, ENTRY_BYTES = 256, 40, 2048
CHECKS, IMPORTS = 400, 9
BARS: dict[str, tuple[str, float]] = {
    "staple_check_p50_ms": ("≤", 2.0),
    "append_by_256_per_s": (">=", 5000),
    "replay_s": ("≤", 10.0),
    "proof_file_bytes": ("≤", 2048),
    "import_ms": ("≤", 60),
}
"""What is wanted of a million entries; the run says how near it came and fails nobody."""

_PATH = "import sys; from time import perf_counter as t, process_time as c; s, d = t(), c(); " + (
    "import measurements.staple, measurements.policy, measurements.rollback; "
    "print((t() - s) * 1000, any(n.partition('.')[0] == 'sigstore' for n in sys.modules), (c() - d) * 1000)"
)


@dataclass(frozen=True, slots=True)
class Built:
    """A log with a release and a status as its last entries."""

    log: TileLog
    policy: TransparencyPolicy
    members: dict[str, Any]
    build_s: float


def witness(number: int, log: SigningKey) -> Witness:
    """A witness in this process."""
    key = SigningKey.generate(f"witness{number}.example", COSIGNATURE_ED25519)
    return Witness(key, [log.public], VolatileWitnessStore(), lambda: int(AT.timestamp()))


def build(folder: Path, entries: int, advance: Callable[[int], None]) -> Built:
    """A log of ``entries`` entries, the last two a release and the status that lists it."""
    key, signer = SigningKey.generate("log.example/bench"), SigningKey.generate("releases.example")
    witnesses = [witness(number, key) for number in range(3)]
    log = TileLog(folder, key, witnesses)
    log.create()
    release = sign_leaf(
        Release(
            name="acme/node",
            channel="prod",
            version="1.0",
            sequence=1,
            not_before=AT,
            not_after=AT + timedelta(days=90),
            subjects=(Subject("image", "00" * 32),),
            measurements=({"tee": "sev-snp", "launchDigest": "00" * 48},) * 4,
        ).statement(),
        [signer],
    )
    listed = (leaf_hash(release).hex(),)
    status = Status("prod", 1, AT, AT + timedelta(hours=48), 1, listed)
    leaves = [release, sign_leaf(status.statement(), [signer])]
    start = perf_counter()
    with log.exclusive():
        for first in range(0, entries - 2, MAX_BATCH):
            batch = [b"%064d" % number for number in range(first, min(entries - 2, first + MAX_BATCH))]
            log.append(batch)
            advance(len(batch))
        _, signed = log.append(leaves)
    seconds = perf_counter() - start
    node = log.reader(entries).node
    proofs = [
        TlogProof(index, prove_inclusion(index, entries, node), signed.raw)
        for index in (entries - 2, entries - 1)
    ]
    members = {
        "release_proof": proofs[0].encode(),
        "release_leaf": leaves[0],
        "status_proof": proofs[1].encode(),
        "status_leaf": leaves[1],
        "checkpoint": signed.raw,
    }
    trust = TlogPolicy.threshold(key.public, log.witnesses, 3)
    return Built(log, TransparencyPolicy(trust, (signer.public,), 1, "prod"), members, seconds)


def check_times(built: Built, folder: Path) -> dict[str, float]:
    """Milliseconds of a client's check, with and without a memory on the disk; and of its six signatures alone."""
    key = Ed25519PrivateKey.generate()
    public, message = key.public_key(), b"m" * 600
    signature = key.sign(message)

    def signatures() -> None:
        for _ in range(6):  # log, three witnesses, release, status
            public.verify(signature, message)

    def check(memory: Any) -> Callable[[], object]:
        return lambda: check_staple(
            **built.members, policy=built.policy, at=AT + timedelta(hours=1), memory=memory
        ).require()

    arms: dict[str, Callable[[], object]] = {
        "staple_check": check(VolatileMemory()),
        "staple_check_file_memory": check(FileMemory(folder / "memory.json")),
        "six_signatures": signatures,
    }
    times: dict[str, list[float]] = {name: [] for name in arms}
    for arm in arms.values():
        arm()
    for _ in range(CHECKS):
        for name, arm in arms.items():
            start = perf_counter()
            arm()
            times[name].append((perf_counter() - start) * 1000)
    return {
        f"{name}_{label}_ms": round(quantile(found, share), 3)
        for name, found in times.items()
        for label, share in (("p50", 0.5), ("p95", 0.95))
    }


def append_rates(folder: Path) -> dict[str, float]:
    """Durable appends by 256, and by turns the six waits for the disk that a batch makes one after the other."""
    key = SigningKey.generate("log.example/append")
    log = TileLog(folder / "append", key, [witness(0, key)])
    log.create()
    entries = [b"%06d" % number + b"e" * (ENTRY_BYTES - 6) for number in range(BATCH)]
    appends: list[float] = []
    waits: list[float] = []
    with log.exclusive():
        log.append(entries)
        for _ in range(BATCHES):
            start = perf_counter()
            log.append(entries)
            middle = perf_counter()
            for number in range(6):
                descriptor = os.open(folder / f"wait{number}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
                os.write(descriptor, entries[0])
                os.fsync(descriptor)
                os.close(descriptor)
            appends.append(middle - start)
            waits.append(perf_counter() - middle)
    return {
        "append_by_256_per_s": round(BATCH / median(appends)),
        "append_by_256_mean_per_s": round(BATCH * BATCHES / sum(appends)),
        "six_waits_for_the_disk_ms": round(median(waits) * 1000, 2),
        "batch_ms": round(median(appends) * 1000, 2),
    }


def import_times() -> dict[str, Any]:
    """Milliseconds of importing the client's check in a new interpreter, and whether it loads sigstore."""
    # With compiled modules, as an installed package has them: the first run writes what is not there yet.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", _PATH]
    found = [
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()
        for _ in range(IMPORTS + 1)
    ][1:]
    return {
        "import_ms": round(median([float(one[0]) for one in found]), 1),
        "import_least_ms": round(min(float(one[0]) for one in found), 1),
        "import_cpu_ms": round(median([float(one[2]) for one in found]), 1),
        "import_loads_sigstore": any(one[1] == "True" for one in found),
    }


@contextmanager
def scratch(parent: Path | None) -> Any:
    """A folder that is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="cloister-log-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def measure(entries: int, parent: Path | None) -> dict[str, Any]:
    """The whole run."""
    with scratch(parent) as folder, Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"a log of {entries:,} entries", total=entries * 2)
        built = build(folder / "log", entries, lambda done: bar.advance(task, done))
        checkpoint = built.log.checkpoint().checkpoint
        source = built.log.public

        def read(name: str) -> bytes:
            return (source / name).read_bytes()

        start = perf_counter()
        tree = replay(read, checkpoint, TreeFold(), lambda *_: None)
        replay_s = perf_counter() - start
        if tree.root() != checkpoint.root:
            raise RuntimeError("the replay did not end at the signed root")
        bar.update(task, completed=entries * 2, description="checks, appends, imports")
        # The first entry's path is as long as any; that of the last ones is shorter.
        path = prove_inclusion(0, entries, built.log.reader(entries).node)
        proof = TlogProof(0, path, built.members["checkpoint"]).encode()
        return {
            "cpu": cpu_name(),
            "cores": len(os.sched_getaffinity(0)),
            "load_average_before": round(os.getloadavg()[0], 2),
            "entries": entries,
            **check_times(built, folder),
            **append_rates(folder),
            "build_by_4096_per_s": round(entries / built.build_s),
            "replay_s": round(replay_s, 2),
            "replay_per_s": round(entries / replay_s),
            "proof_path_bytes": 32 * len(path),
            "proof_file_bytes": len(proof),
            **import_times(),
        }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What a transparency log costs.")
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where to put the logs; default: the system's")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.entries < 3:
        parser.error("--entries is at least 3")
    figures = measure(options.entries, options.folder)
    if options.json:
        print(json.dumps(figures, indent=2))
        return
    for name, value in figures.items():
        sign, bar = BARS.get(name, ("", 0))
        print(f"{name:32} {value!s:>14}" + (f"   wanted {sign.replace('>=', '≥')} {bar:g}" if sign else ""))


if __name__ == "__main__":
    main()
