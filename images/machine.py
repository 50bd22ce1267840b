"""A running virtual machine: started, handed its public inputs and fresh staples, watched until its node answers."""

import base64
import contextlib
import http.client
import json
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from images import hypervisor, vm_manifest
from images.errors import MachineError
from images.hypervisor import Machine

POLL_S = 0.25
_LAST_WORDS = 12
_ESCAPES = re.compile(r"\x1b\[[0-9;=]*[A-Za-z]")
_UNPRINTABLE = re.compile(r"[^\n\x20-\x7e]")


@dataclass(frozen=True, slots=True)
class RunningMachine:
    """A machine whose node answers. ``seconds`` from the start of QEMU; ``serial`` is what its console said.

    ``metrics_port`` is where its metrics are to be had here; ``host`` the host's end of the port that its inputs
    came by; ``staple_bytes`` how large a fresh staple may be, 0 where the image takes none.
    """

    process: "subprocess.Popen[bytes]"
    port: int
    seconds: float
    serial: Path
    metrics_port: int
    host: socket.socket
    staple_bytes: int

    def renew_staple(self, file: bytes) -> None:
        """Hand the node a fresh staple (the bytes of its file), waiting until the machine has taken it.

        The node judges it, and says nothing. Raises MachineError (``staple_not_taken``) for one that the image has
        no room for, OSError where the machine is gone.
        """
        if len(file) > self.staple_bytes:
            room = f"at most {self.staple_bytes:,} bytes" if self.staple_bytes else "none, by its policy"
            raise MachineError("staple_not_taken", f"{len(file):,} bytes; the machine takes {room}")
        self.host.sendall(len(file).to_bytes(4, "big") + file)


@contextlib.contextmanager
def running(
    image_dir: Path,
    machine: Callable[[Path, int, int], Machine],
    inputs: Mapping[str, bytes],
    patience_s: float,
    port: int = 0,
) -> Iterator[RunningMachine]:
    """Start an image and wait until its node answers; the machine ends on leaving.

    ``machine`` makes the settings from a scratch folder (for its sockets) and the two forwarded ports, of the node
    and of its metrics; ``inputs`` are public pieces that the host hands over, ``staple`` among them. Raises
    MachineError (``machine_ended`` with the console's last words, ``machine_silent``).
    """
    policy = vm_manifest.read(image_dir).policy
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as open_things:
        folder = Path(scratch)
        wanted = machine(folder, *_free_ports(port))
        words = hypervisor.command(image_dir, policy["network"], wanted)
        listener = open_things.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        listener.bind(str(wanted.host_socket))
        listener.listen()
        listener.settimeout(POLL_S)
        log = open_things.enter_context((folder / "qemu").open("wb"))
        started = time.monotonic()
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        open_things.callback(_stop, process)
        deadline = started + patience_s
        host = open_things.enter_context(_accept(listener, process, folder, deadline))
        _hand_over(host, inputs)
        while not _answers(wanted.port):
            _still_running(process, folder, deadline)
            time.sleep(POLL_S)
        seconds = time.monotonic() - started
        yield RunningMachine(
            process,
            wanted.port,
            seconds,
            wanted.serial,
            wanted.metrics_port,
            host,
            policy["staples"]["bytes"],
        )


def seal_rows(serial: Path) -> tuple[Mapping[str, str], ...]:
    """The rows of the node's seal, where its image lets the console tell of them; else none."""
    for line in serial.read_text("utf-8", "replace").splitlines():
        if '"event": "listening"' in line:
            with contextlib.suppress(ValueError, LookupError, TypeError):
                return tuple(json.loads(line[line.index("{") :])["seal"])
    return ()


def _accept(
    listener: socket.socket, process: "subprocess.Popen[bytes]", folder: Path, deadline: float
) -> socket.socket:
    while True:
        try:
            return listener.accept()[0]
        except TimeoutError:
            _still_running(process, folder, deadline)


def _hand_over(host: socket.socket, inputs: Mapping[str, bytes]) -> None:
    document = json.dumps({name: base64.b64encode(data).decode() for name, data in inputs.items()}).encode()
    host.settimeout(None)
    with contextlib.suppress(
        OSError
    ):  # A machine that has ended is found to have ended, with its last words.
        host.sendall(len(document).to_bytes(4, "big") + document)


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _still_running(process: "subprocess.Popen[bytes]", folder: Path, deadline: float) -> None:
    status = process.poll()
    if status is not None:
        raise MachineError(
            "machine_ended", f"the machine ended before its node listened: {_last_words(folder)}"
        )
    if time.monotonic() > deadline:
        raise MachineError("machine_silent", f"the node did not answer in time: {_last_words(folder)}")


def _last_words(folder: Path) -> str:
    said = [
        path.read_bytes().decode("utf-8", "replace")
        for path in (folder / "qemu", folder / "serial")
        if path.exists()
    ]
    plain = [_UNPRINTABLE.sub("", _ESCAPES.sub("", text)) for text in said]
    lines = [line.strip() for text in plain for line in text.splitlines() if line.strip()]
    return " | ".join(lines[-_LAST_WORDS:]) or "it said nothing"


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_ports(port: int) -> tuple[int, int]:
    """``port``, or one that is free where it is 0; and another that is."""
    with contextlib.ExitStack() as probes:
        found = []
        for _ in range(2):
            probe = probes.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            probe.bind(("127.0.0.1", 0))
            found.append(int(probe.getsockname()[1]))
    return port or found[0], found[1]
