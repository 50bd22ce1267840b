"""A node that computes on AMX: the system is asked for tiles before the seal, and behind it nothing is asked for."""

import json
from pathlib import Path

import amx_machine
import pytest
from sealed_node import START, chat, running, write_tiny_model

from attestation.bundle import EvidenceBundle
from enclave_runtime.exit_codes import ExitCode
from enclave_runtime.seal import Piece

pytestmark = pytest.mark.skipif(
    amx_machine.BEST < amx_machine.AVX512, reason="the compiled decoder with AVX-512 is not there"
)

#: Like START, on a machine with AMX: the emulator is preloaded once the node has started itself again.
ON_AMX = """
import os, sys
sys.path.insert(0, sys.argv[1])
from enclave_runtime import wiped_memory
wiped_memory.start_again(os.environ)
if not {machine}.items() <= os.environ.items():
    with open("/proc/self/cmdline", "rb") as file:
        os.execve("/proc/self/exe", file.read()[:-1].split(b"\\0"), {{**os.environ, **{machine}}})
"""


def test_a_sealed_node_computes_on_amx(tmp_path: Path) -> None:
    program = ON_AMX.format(machine=amx_machine.environment(tmp_path)) + START
    model = write_tiny_model(tmp_path / "tiny")
    with running(tmp_path, model, program=program) as node:
        states = {row["state"] for row in node.seal if row["piece"] != Piece.MEMORY_LOCKED}
        assert states == {"in force"}
        kernels = json.loads(EvidenceBundle.parse(node.bundle()).runtime)["kernels"]
        assert kernels["path"].startswith("amx")
        status, answer = node.ask("/v1/chat/completions", chat("Hello, hello, hello.", max_tokens=12, seed=1))
        assert status == 200
        assert json.loads(answer)["usage"]["completion_tokens"] > 0
        node.process.terminate()
        assert node.process.wait(30) == ExitCode.STOPPED
