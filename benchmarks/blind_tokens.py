"""What blind tokens cost beside npm's blindrsa-ts: ``python -m benchmarks.blind_tokens [--json]``.

Blinding, signing and finishing one signature with a 2048-bit key; and for a node, checking a token and remembering it.
Both sides take turns in short rounds within one run, so that other load falls on both. A time is the median of its
rounds, a ratio the median of the rounds' own ratios. The limit for signing is libcrypto's own bare private operation,
which is measured beside it; ours adds the check that its result is right. Needs node and npm, or ``--peers`` with a
folder whose node_modules holds the package; without them only our own times are told.
"""

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

from cryptography.hazmat.primitives import serialization

from ohttp.blind_rsa import SigningKey, generate_pkcs8
from ohttp.private_token import TokenChallenge
from ohttp.spent_tokens import MemorySpentTokens
from ohttp.token_issuance import PendingToken
from ohttp.token_key import TokenKey

from .environment import cpu_name, installed
from .statistics import median

PEER = "@cloudflare/blindrsa-ts@0.4.4"
ROUNDS = 30
CALLS = {"blind": (20, 2), "sign": (20, 1), "finalize": (50, 5)}
"""Calls a round, ours and theirs: theirs take long."""

GOALS = {"blind": 0.05, "sign": 0.01}
DRIVER = Path(__file__).with_name("blindrsa_peer.js")

Arm = Callable[[], object]
Peer = Callable[[dict[str, Any]], dict[str, Any]]


def own_arms(signer: SigningKey) -> dict[str, Arm]:
    """Ours, by name; the last three have no counterpart."""
    key = TokenKey.of(signer.public)
    challenge = TokenChallenge("issuer.example", "node.example")
    pending = PendingToken.begin(challenge, key, os.urandom)
    signed = signer.blind_sign(pending.request.blinded)
    token = pending.finish(signed)
    apply = signer._private.apply

    async def remember() -> None:
        spent = MemorySpentTokens()
        await spent.spend(token, 1, 0)

    loop = asyncio.new_event_loop()
    return {
        "blind": lambda: PendingToken.begin(challenge, key, os.urandom),
        "sign": lambda: signer.blind_sign(pending.request.blinded),
        "finalize": lambda: pending.finish(signed),
        "bare private operation": lambda: apply(pending.request.blinded),
        "check a token": lambda: token.check(challenge, key),
        "remember a token": lambda: loop.run_until_complete(remember()),
    }


@contextmanager
def peer(folder: Path | None) -> Iterator[Peer | None]:
    """The other side, in a process of its own; None where it is not to be had."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or (folder is None and npm is None):
        yield None
        return
    with tempfile.TemporaryDirectory() as made:
        home = Path(made)
        if folder is None:
            install = [str(npm), "install", "--ignore-scripts", "--no-audit", "--no-fund", PEER]
            if subprocess.run(install, cwd=home, capture_output=True, timeout=300).returncode:
                yield None
                return
        else:
            (home / "node_modules").symlink_to((folder / "node_modules").resolve())
        shutil.copyfile(DRIVER, home / "peer.mjs")
        with subprocess.Popen(
            [node, "--preserve-symlinks", "peer.mjs"],
            cwd=home,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:

            def ask(question: dict[str, Any]) -> dict[str, Any]:
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write(json.dumps(question) + "\n")
                process.stdin.flush()
                answer: dict[str, Any] = json.loads(process.stdout.readline())
                return answer

            try:
                yield ask
            finally:
                process.kill()


def timed(arm: Arm, calls: int) -> float:
    """Seconds of one call."""
    start = perf_counter()
    for _ in range(calls):
        arm()
    return (perf_counter() - start) / calls


def measure(ask: Peer | None, rounds: int) -> dict[str, Any]:
    """Seconds by arm, and ratios to the peer where there is one."""
    der = generate_pkcs8()
    signer = SigningKey(der)
    arms = own_arms(signer)
    ours: dict[str, list[float]] = {name: [] for name in arms}
    theirs: dict[str, list[float]] = {name: [] for name in CALLS} if ask else {}
    if ask:
        spki = signer.public._verifier.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        ask({"spki": spki.hex(), "pkcs8": der.hex()})
        for name in CALLS:
            ask({"arm": name, "calls": 1})
    for _ in range(rounds):
        for name, arm in arms.items():
            ours[name].append(timed(arm, CALLS.get(name, (50, 0))[0]))
            if ask and name in CALLS:
                theirs[name].append(ask({"arm": name, "calls": CALLS[name][1]})["seconds"])
    return {
        "machine": cpu_name(),
        "cryptography": installed("cryptography"),
        "peer": PEER if ask else None,
        "rounds": rounds,
        "microseconds": {name: median(samples) * 1e6 for name, samples in ours.items()},
        "peer_microseconds": {name: median(samples) * 1e6 for name, samples in theirs.items()},
        "ratios": {
            name: {
                "ratio": median([a / b for a, b in zip(ours[name], samples, strict=True)]),
                "at_most": GOALS.get(name),
            }
            for name, samples in theirs.items()
        },
    }


def main(arguments: list[str]) -> int:
    """Measure and print; 2 where the peer is not to be had."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--peers", type=Path, help="a folder whose node_modules holds the peer")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    with peer(options.peers) as ask:
        found = measure(ask, options.rounds)
    if options.json:
        print(json.dumps(found, indent=1))
        return 0 if found["peer"] else 2
    print(f"{found['machine']}; 2048 bits, {found['rounds']} rounds, peer {found['peer'] or 'not to be had'}")
    for name, value in found["microseconds"].items():
        line = f"  {name:24} {value:10.1f} us"
        if name in found["ratios"]:
            ratio, most = found["ratios"][name]["ratio"], found["ratios"][name]["at_most"]
            line += f"   peer {found['peer_microseconds'][name]:10.1f} us   ratio {ratio:.4f}"
            line += f" (goal: at most {most})" if most else ""
        print(line)
    return 0 if found["peer"] else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
