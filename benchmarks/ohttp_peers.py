"""What encryption costs beside other packages: ``python -m benchmarks.ohttp_peers [--json]``.

HPKE set-up beside ``pyhpke``; sealing and opening a stream of 100 cells beside ``tinfoil-ehbp``; a gateway's share of
a request under X-Wing beside X25519. All arms take turns in short rounds within one run, so that other load on the
machine falls on all of them. Times are processor time of the thread: the lower quartile of the rounds. A ratio is
the median of the rounds' own ratios. A peer that is not installed leaves its ratios out.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from time import thread_time
from typing import Any

from ohttp import hpke, kem
from ohttp.aead import AES_256_GCM, SequencedAead
from ohttp.chunked import ChunkedClient, ChunkedGateway, ChunkReader, ResponseSealer
from ohttp.keyconfig import GatewayKey, KeyRing

from .environment import cpu_name, installed
from .statistics import median, quantile

ROUNDS, CALLS = 200, 10
CELLS, CELL = 100, 512
BODY = 1024
INFO = b"message/bhttp chunked request\x00\x01\x00\x20\x00\x01\x00\x02"

Arm = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Goal:
    """``first`` should take at most ``most`` times as long as ``second``."""

    first: str
    second: str
    most: float


GOALS = (
    Goal("sender set-up", "sender set-up, pyhpke", 1.0),
    Goal("recipient set-up", "recipient set-up, pyhpke", 1.0),
    Goal("seal 100 cells", "seal 100 cells, tinfoil-ehbp", 0.4),
    Goal("open 100 cells", "open 100 cells, tinfoil-ehbp", 0.55),
    Goal("gateway, X-Wing", "gateway, X25519", 1.6),
)


def own_arms(key: bytes, base_nonce: bytes, cells: Sequence[bytes]) -> dict[str, Arm]:
    """Ours. ``key`` and ``base_nonce`` seal the stream."""
    suite = hpke.suite(kem.X25519, hpke.HKDF_SHA256, AES_256_GCM)
    private_key = suite.kem.generate()
    enc = suite.setup_sender(private_key.public_key, INFO).enc

    def seal() -> bytes:
        sealer = ResponseSealer(b"", SequencedAead(AES_256_GCM, key, base_nonce))
        return b"".join(
            [sealer.prologue(), *[sealer.seal(cell) for cell in cells[:-1]], sealer.seal_final(cells[-1])]
        )

    parts = _cut(seal(), len(seal()) // len(cells))

    def read() -> None:
        reader = ChunkReader(SequencedAead(AES_256_GCM, key, base_nonce).open)
        opened = [chunk for part in parts for chunk in reader.feed(part)]
        if [*opened, reader.finish()] != cells:
            raise AssertionError("what was opened is not what was sealed")

    return {
        "sender set-up": lambda: suite.setup_sender(private_key.public_key, INFO),
        "recipient set-up": lambda: suite.setup_recipient(enc, private_key, INFO),
        "seal 100 cells": seal,
        "open 100 cells": read,
        "gateway, X25519": _gateway(kem.X25519),
        "gateway, X-Wing": _gateway(kem.MLKEM768_X25519),
    }


def _gateway(kem_id: int) -> Arm:
    """Open a request of 1 KB and seal an answer of 1 KB."""
    ring = KeyRing([GatewayKey.generate(1, kem_id)])
    body = os.urandom(BODY)
    request = ChunkedClient(ring.configs[0]).seal_request(body)

    def run() -> bytes:
        gateway = ChunkedGateway(ring)
        gateway.receive(request)
        gateway.end()
        sealer = gateway.response()
        return sealer.prologue() + sealer.seal_final(body)

    return run


def pyhpke_arms() -> dict[str, Arm]:
    """The same set-ups by pyhpke; nothing where it is not installed."""
    try:
        pyhpke: Any = import_module("pyhpke")
    except ImportError:
        return {}
    suite = pyhpke.CipherSuite.new(
        pyhpke.KEMId.DHKEM_X25519_HKDF_SHA256, pyhpke.KDFId.HKDF_SHA256, pyhpke.AEADId.AES256_GCM
    )
    pair = suite.kem.derive_key_pair(os.urandom(32))
    public_key, private_key = pair.public_key, pair.private_key
    enc, _ = suite.create_sender_context(public_key, info=INFO)
    return {
        "sender set-up, pyhpke": lambda: suite.create_sender_context(public_key, info=INFO),
        "recipient set-up, pyhpke": lambda: suite.create_recipient_context(enc, private_key, info=INFO),
    }


def ehbp_arms(key: bytes, base_nonce: bytes, cells: Sequence[bytes]) -> dict[str, Arm]:
    """The same stream by tinfoil-ehbp; nothing where it is not installed."""
    try:
        derive: Any = import_module("ehbp.derive")
    except ImportError:
        return {}
    keys = derive.ResponseKeyMaterial(key, base_nonce)

    def seal() -> bytes:
        return b"".join(
            [
                derive.frame_chunk(derive.encrypt_chunk(keys, number, cell))
                for number, cell in enumerate(cells)
            ]
        )

    parts = _cut(seal(), len(seal()) // len(cells))

    def read() -> None:
        reader = derive.FrameDecryptor(keys)
        opened = [chunk for part in parts for chunk in reader.push(part)]
        reader.finish()
        if opened != cells:
            raise AssertionError("what was opened is not what was sealed")

    return {"seal 100 cells, tinfoil-ehbp": seal, "open 100 cells, tinfoil-ehbp": read}


def _cut(stream: bytes, size: int) -> list[bytes]:
    """As a network hands it over: about one cell at a time."""
    return [stream[at : at + size] for at in range(0, len(stream), size)]


def measure(arms: dict[str, Arm], rounds: int = ROUNDS, calls: int = CALLS) -> dict[str, list[float]]:
    """Seconds of one call by round, all arms in turn."""
    found: dict[str, list[float]] = {name: [] for name in arms}
    for arm in arms.values():
        arm()
    for _ in range(rounds):
        for name, arm in arms.items():
            start = thread_time()
            for _ in range(calls):
                arm()
            found[name].append((thread_time() - start) / calls)
    return found


def report(found: dict[str, list[float]]) -> dict[str, Any]:
    """Times in µs and the ratios that could be measured, as JSON types."""
    ratios = []
    for goal in GOALS:
        if goal.first in found and goal.second in found:
            pairs = zip(found[goal.first], found[goal.second], strict=True)
            ratio = median([first / second for first, second in pairs])
            ratios.append(
                {"first": goal.first, "second": goal.second, "ratio": round(ratio, 3), "goal": goal.most}
            )
    return {
        "cpu": cpu_name(),
        "python": sys.version.split()[0],
        "packages": {name: installed(name) for name in ("cryptography", "pyhpke", "tinfoil-ehbp")},
        "load_average": os.getloadavg()[0],
        "microseconds": {name: round(quantile(times, 0.25) * 1e6, 1) for name, times in found.items()},
        "ratios": ratios,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What encryption costs beside other packages.")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds of all arms")
    options = parser.parse_args()
    key, base_nonce = os.urandom(32), os.urandom(12)
    cells = [os.urandom(CELL) for _ in range(CELLS)]
    arms = own_arms(key, base_nonce, cells) | pyhpke_arms() | ehbp_arms(key, base_nonce, cells)
    found = report(measure(arms, options.rounds))
    if options.json:
        print(json.dumps(found))
        return
    print(f"{found['cpu']}; Python {found['python']}; {found['packages']}")
    for name, microseconds in found["microseconds"].items():
        print(f"{name:<32} {microseconds:9.1f} µs")
    for row in found["ratios"]:
        print(
            f"{row['first'] + ' / ' + row['second']:<52} {row['ratio']:6.3f}  (goal: at most {row['goal']})"
        )


if __name__ == "__main__":
    main()
