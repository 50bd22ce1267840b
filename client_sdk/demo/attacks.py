"""The two attacks that the demo mounts, and how it decides that they were refused for the right reason."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from client_sdk.errors import ClientError

from .processes import cloister

TAMPERED_FILE = Path("app/enclave_runtime/api.py")


@dataclass(frozen=True, slots=True)
class Refusal:
    """What the client said to an attack: the named error, and its one-line detail."""

    code: str
    stage: str
    detail: str


def tamper(image: Path, target: Path) -> Path:
    """Copy a process image with one bit of one runtime file changed; the changed file's path.

    The change is in a comment, so the node still runs: that it runs differently is not what gives it away.
    """
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(image, target, copy_function=_link, symlinks=True)
    victim = target / "root" / TAMPERED_FILE
    changed = bytearray(victim.read_bytes())
    changed[next(i for i, byte in enumerate(changed) if chr(byte).isalpha())] ^= 0x20
    victim.unlink()  # a link to the genuine file: it must not change with ours
    victim.write_bytes(changed)
    return victim


def refusal(relay: str, policy: Path, expected: str) -> Refusal:
    """Verify a node as a client would, in a process of its own; it must be refused with the code ``expected``.

    Raises ClientError where the node was believed, or refused for any other reason.
    """
    command = cloister("verify", "--relay", relay, "--policy", str(policy), "--json")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        result = json.loads(done.stdout)
        error = result["error"] or {}
        found = Refusal(error.get("code", "none"), error.get("stage", ""), error.get("detail", ""))
    except (ValueError, KeyError) as problem:
        raise ClientError(
            "demo_attack", f"no verdict (status {done.returncode}): {done.stderr.strip()}"
        ) from problem
    if done.returncode != 3 or found.code != expected:
        raise ClientError(
            "demo_attack",
            f"the attack should have met {expected}, but: status {done.returncode}, {result['verdict']}, {found.code}",
            "this is a defect worth reporting",
        )
    return found


def hostile_relay(node: str) -> list[str]:
    """The command line of the relay that swaps the key config."""
    return [sys.executable, "-m", "client_sdk.demo.hostile_relay", node]


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
