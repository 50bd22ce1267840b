"""The host's side of a node: its measured command line, its start from an image, and what it says at the
start.
"""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from attestation.simulated.platform import Platform
from enclave_runtime.config import HOST_INPUTS, STAPLE_DESCRIPTOR, HostInputs, NodeConfig
from enclave_runtime.exit_codes import MEANING, ExitCode
from enclave_runtime.metrics_schema import DEFAULT
from enclave_runtime.seal import Piece
from enclave_runtime.staple_feed import framed

IMAGE_VOLUME = "image"
MODEL_VOLUME = "model"
NOTICE = b'{"event": "notice"'
"""How a line of a node's begins that its operator should see though the node goes on."""


class LaunchFailed(Exception):
    """A node could not be started, or ended before it listened; the text is for the operator."""


@dataclass(frozen=True, slots=True)
class RunningNode:
    """A node that listens: its process, its launch digest (48 bytes), what it said, and the pipe for fresh staples."""

    process: "subprocess.Popen[bytes]"
    measurement: bytes
    said: "Announcement"
    staples: int = -1

    def renew_staple(self, file: bytes) -> None:
        """Hand the node a fresh staple (the bytes of its file). Waits while the node is busy; raises OSError where
        it is gone.
        """
        remaining = memoryview(framed(file))
        while remaining:
            remaining = remaining[os.write(self.staples, remaining) :]


def node_config(
    roots: Mapping[str, str],
    *,
    model_name: str,
    gpu_count: int = 1,
    engine: Mapping[str, int] | None = None,
    padding: Mapping[str, str | int] | None = None,
    tokens: Mapping[str, Any] | None = None,
    tolerate: tuple[Piece, ...] = (Piece.MEMORY_LOCKED,),
    metrics: Mapping[str, Any] | None = None,
    admission: Mapping[str, int] | None = None,
    public_prefix: str = "",
    decoder: Mapping[str, str | int] | None = None,
    draft: Mapping[str, str | int] | None = None,
    leases: Mapping[str, int | str] | None = None,
    transparency: Mapping[str, Any] | None = None,
) -> NodeConfig:
    """The configuration of a node on the simulated platform with these ``roots`` (``Platform.roots``).

    Its own GPUs have to verify in full under the platform's roots. Its bytes (``encode``) are the command line that
    the platform measures. A simulated machine may lack the right to lock its memory; a node that tolerates it says
    so in its manifest.
    """
    gpu = {"count": gpu_count}
    return NodeConfig(
        model_name=model_name,
        gpu_count=gpu_count,
        gpu_policy={"gpu": gpu, "simulated": dict(roots)} if gpu_count else {},
        engine=dict(engine or {}),
        padding=dict(padding or {}),
        tokens=dict(tokens or {}),
        tolerate=tolerate,
        metrics=DEFAULT.table() if metrics is None else dict(metrics),
        admission=dict(admission or {}),
        public_prefix=public_prefix,
        decoder=dict(decoder or {}),
        draft=dict(draft or {}),
        leases=dict(leases or {}),
        transparency=dict(transparency or {}),
    )


def default_model_name(model: Path) -> str:
    """The name under which a node offers the model at ``model``, unless it is given another."""
    stem = model.name.removesuffix(".gguf")
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", stem).strip("-._+")[:128] or "model"


def start(platform: Platform, image_dir: Path, config: NodeConfig, host: HostInputs) -> RunningNode:
    """Measure and start a node from a process image, and wait until it listens.

    Raises LaunchFailed with the node's own reason, AttestationError where the platform cannot measure it.
    """
    if not (image_dir / "root").is_dir():
        raise LaunchFailed(f"no image in {image_dir}: cloister image build process -o {image_dir}")
    command_line = config.encode()
    staples, feed = os.pipe()
    launched = platform.launch(
        volumes={IMAGE_VOLUME: image_dir / "root", MODEL_VOLUME: host.model},
        cmdline=command_line,
        # A locale of the host's would have its files mapped into the node.
        env={HOST_INPUTS: host.encode(), STAPLE_DESCRIPTOR: str(staples), "LC_ALL": "C"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        extra_fds=(staples,),
    )
    os.close(staples)
    said = await_listening(launched.process)
    return RunningNode(launched.process, launched.measurement, said, feed)


class Announcement(NamedTuple):
    """What a node says once: where it listens, where its metrics can be read, the rows of its seal, and the
    seconds of each step of its boot.
    """

    port: int
    metrics_port: int
    seal: tuple[Mapping[str, str], ...]
    seconds: Mapping[str, float]


def await_listening(process: "subprocess.Popen[bytes]") -> Announcement:
    """Wait for the node's one line. Raises LaunchFailed with its last words."""
    assert process.stdout is not None
    assert process.stderr is not None
    words: list[bytes] = []
    reader = threading.Thread(target=_keep_last, args=(process.stderr, words), daemon=True)
    reader.start()
    line = process.stdout.readline()
    try:
        event = json.loads(line)
        seconds = {str(step): float(took) for step, took in event["seconds"].items()}
        return Announcement(int(event["port"]), int(event["metrics_port"]), tuple(event["seal"]), seconds)
    except (ValueError, LookupError, TypeError, AttributeError):
        pass
    if line:
        process.kill()  # it talks, but not as a node does
    status = process.wait()
    reader.join(5)
    raise LaunchFailed(f"the node ended with status {status}: {_reason(status, words)}")


def meaning_of(status: int) -> str:
    """What a node's exit status says, in words."""
    if status < 0:
        return f"killed by signal {-status}"
    return MEANING[ExitCode(status)] if status in set(ExitCode) else "not a status of the node"


def _reason(status: int, words: list[bytes]) -> str:
    last = words[-1].decode("utf-8", "replace").strip() if words else ""
    try:
        refused: dict[str, Any] = json.loads(last)
        said = f"{refused['code']}: {refused['detail']}" if refused["detail"] else str(refused["code"])
    except (ValueError, LookupError, TypeError):
        said = last
    return f"{meaning_of(status)}{f' ({said})' if said else ''}"


def _keep_last(stream: IO[bytes], words: list[bytes]) -> None:
    for line in stream:
        if line.startswith(NOTICE):
            print(line.decode("utf-8", "replace").strip(), file=sys.stderr, flush=True)
            continue
        words.append(line)
        del words[:-20]
