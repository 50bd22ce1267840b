"""``cloister platform``: the simulated platform as a program of its own, for virtual machines."""

import json
import signal
import socket
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from ..errors import AttestationError

HELP = """Be the simulated hardware under a virtual machine.

Measures what is launched (--cmdline and every --measure NAME=FILE), then answers requests for evidence of that one
launch on a Unix socket, to which the machine's virtio port leads. One JSON line says where. Its evidence is marked as
simulated, and only a policy that names this platform's roots accepts it.
"""

_FAILED = 1


def platform(
    state: Annotated[Path, typer.Option(help="The folder where the platform keeps its roots.")],
    listen: Annotated[Path, typer.Option("--socket", help="The Unix socket to make.")],
    cmdline: Annotated[Path, typer.Option(help="The file with the command line that is launched.")],
    measure: Annotated[
        list[str], typer.Option(help="What else is launched, NAME=FILE or NAME=FOLDER; may be repeated.")
    ] = [],  # noqa: B006
    simulated_gpus: Annotated[int, typer.Option(min=0, max=32, help="How many GPUs the platform has.")] = 1,
) -> int:
    """See ``cloister platform --help``."""
    from .launch import measure_launch
    from .platform import Platform

    volumes = dict(entry.split("=", 1) for entry in measure if "=" in entry)
    if len(volumes) != len(measure):
        print("error --measure takes NAME=FILE, each name once", file=sys.stderr)
        return _FAILED
    try:
        hardware = Platform.open(state, lambda: datetime.now(UTC), simulated_gpus)
        measurement = measure_launch(
            cmdline.read_bytes(), {name: Path(path).resolve() for name, path in volumes.items()}
        )
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(str(listen))
            listener.listen()
            _say(listen, measurement)
            stopped = threading.Event()
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: stopped.set())
            listener.settimeout(0.2)
            while not stopped.is_set():
                try:
                    machine, _ = listener.accept()
                except TimeoutError:
                    continue
                machine.setblocking(True)
                hardware.serve(machine, measurement)
    except (AttestationError, OSError) as error:
        print(f"error {error}", file=sys.stderr)
        return _FAILED
    finally:
        listen.unlink(missing_ok=True)
    return 0


def _say(listen: Path, measurement: bytes) -> None:
    event = {
        "event": "listening",
        "port": 0,
        "socket": str(listen),
        "measurement": measurement.hex(),
        "simulated": True,
    }
    print(json.dumps(event), flush=True)
