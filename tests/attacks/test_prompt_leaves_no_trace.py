"""A canary goes through a sealed node in every way a prompt can; then it is looked for wherever a node
could leave it.
"""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sealed_node import REPOSITORY, chat, running, write_tiny_model

from enclave_runtime.wiped_memory import SETTINGS

CANARY = "canary-5e1f0c77"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


def put_canary_everywhere(node) -> list[bytes]:
    """Prompts, options, names, paths, headers and garbage with the canary; what comes back as errors."""
    assert node.ask("/v1/chat/completions", chat(CANARY))[0] == 200
    assert node.ask("/v1/chat/completions", chat(CANARY, stream=True, stop=[CANARY], user=CANARY))[0] == 200
    asked = [
        node.ask("/v1/chat/completions", chat(CANARY * 100)),
        node.ask("/v1/chat/completions", chat(CANARY, model=CANARY)),
        node.ask("/v1/chat/completions", chat(CANARY, **{CANARY: CANARY})),
        node.ask("/v1/chat/completions", chat(CANARY, messages=[{"role": CANARY, "content": CANARY}])),
        node.ask("/v1/chat/completions", chat(CANARY, messages=[{"role": "assistant", "content": CANARY}])),
        node.ask("/v1/chat/completions", chat(CANARY, temperature=CANARY)),
        node.ask("/v1/chat/completions", raw=f'{{"model": "{CANARY}"'.encode()),
        node.ask(f"/{CANARY}"),
        node.ask(f"/v1/models/{CANARY}"),
        node.ask("/v1/models", date=CANARY),
        node.ask("/v1/models", request_id=CANARY * 20),
        node.plain("GET", f"/{CANARY}?{CANARY}"),
        node.plain("POST", "/attestation", CANARY.encode()),
        node.plain("POST", "/ohttp", CANARY.encode(), **{"content-type": "message/ohttp-chunked-req"}),
        node.plain("GET", "/health", **{"x-canary": CANARY}),
    ]
    return [body for _, body in asked]


def files_below(*folders: Path) -> list[Path]:
    return [path for folder in folders for path in folder.rglob("*") if path.is_file()]


def test_nothing_but_the_answer_holds_the_prompt(tmp_path, model):
    with running(tmp_path, model) as node:
        errors = put_canary_everywhere(node)
        assert [body for body in errors if CANARY.encode() in body] == []
        shown = node.metrics()
        assert shown.endswith(b"# EOF\n")
        assert CANARY.encode() not in shown + node.bundle()
        node.process.send_signal(signal.SIGTERM)
        assert node.process.wait(15) == 0
        assert node.process.stdout.read() + node.process.stderr.read() == b""
    holding = [path for path in files_below(tmp_path, model) if CANARY.encode() in path.read_bytes()]
    assert holding == []


def test_a_crash_says_nothing_and_leaves_no_core_file(tmp_path, model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    unlimited = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (unlimited, unlimited))
    with running(tmp_path, model) as node:
        node.ask("/v1/chat/completions", chat(CANARY))
        node.process.send_signal(signal.SIGSEGV)
        assert node.process.wait(15) == -signal.SIGSEGV
        assert node.process.stdout.read() + node.process.stderr.read() == b""
    assert [path for path in tmp_path.iterdir() if "core" in path.name] == []


#: Everything in Python that likes to talk when something goes wrong.
TALK = """
import faulthandler, logging, os, sys, threading, warnings
sys.path.insert(0, sys.argv[1])
from pathlib import Path
CANARY = sys.argv[2]
faulthandler.enable()
logging.basicConfig(level=logging.DEBUG)
if sys.argv[3] == "sealed":
    from enclave_runtime import seal
    lock = (seal.Piece.MEMORY_LOCKED,)
    confined = seal.confine(read=[Path(sys.prefix), Path(sys.base_prefix)], bind_ports=(0,), tolerate=lock)
    seal.seal(confined, tolerate=lock)
class Doomed:
    def __del__(self):
        raise ValueError(CANARY)
print(CANARY, flush=True)
os.write(2, CANARY.encode())
logging.error(CANARY)
logging.getLogger("uvicorn.error").critical(CANARY)
warnings.warn(CANARY)
Doomed()
def fail_with(canary_in_a_name=CANARY):
    raise RuntimeError(CANARY)
fail_with()
"""


@pytest.mark.parametrize("sealed", [True, False])
def test_a_process_that_fails_talking_is_heard_only_without_the_seal(sealed):
    arguments = [str(REPOSITORY), CANARY, "sealed" if sealed else "open"]
    done = subprocess.run(
        [sys.executable, "-B", "-c", TALK, *arguments],
        capture_output=True,
        timeout=30,
        check=False,
        env={**os.environ, **SETTINGS},
    )
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 1
    assert (said == "") if sealed else (said.count(CANARY) >= 7)
