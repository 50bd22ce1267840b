"""``cloister image boot``: run an image under QEMU until it is told to stop."""

import json
import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from images import hypervisor, machine, vm_manifest
from images.errors import ImageError, MachineError
from images.hypervisor import Accelerator, Machine
from images.terminal import NOT_AVAILABLE, OK, USAGE_OR_IO, failed

HELP = """Boot a virtual-machine image, and say when its node answers.

KVM is tried for five seconds and left where no guest comes up under it. The machine has the image's volumes, one
network card that reaches nothing but the forwarded port, and a port to the platform that makes evidence
(`cloister platform --socket S`). One JSON line says where the node listens; Ctrl-C or SIGTERM stops it.

Exit status 2: QEMU is not installed. 1: the machine ended before its node listened.
"""


def boot(
    image_dir: Annotated[Path, typer.Argument(help="A folder that image build made.")],
    staple: Annotated[Path, typer.Option(help="The staple (cloister release publish --staple).")],
    platform: Annotated[Path | None, typer.Option(help="The platform's Unix socket.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port here; 0: a free one.")] = 0,
    memory: Annotated[int, typer.Option(min=128, help="The machine's memory in MiB.")] = 2048,
    cpus: Annotated[int, typer.Option(min=1, max=255, help="The machine's processors.")] = 2,
    accelerator: Annotated[str, typer.Option(help="auto, kvm or tcg.")] = "auto",
    patience: Annotated[int, typer.Option(help="Seconds until the node has to answer.")] = 600,
) -> int:
    """See ``cloister image boot --help``."""
    try:
        chosen = choose_accelerator(accelerator, image_dir)

        def settings(scratch: Path, forwarded: int) -> Machine:
            sockets = {"host_socket": scratch / "host", "serial": scratch / "serial", "platform": platform}
            return Machine(chosen, memory, cpus, forwarded, **sockets)  # type: ignore[arg-type]

        vm_manifest.read(image_dir)
        with machine.running(image_dir, settings, {"staple": staple.read_bytes()}, patience, port) as node:
            stopped = threading.Event()
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: stopped.set())
            event = {
                "event": "listening",
                "port": node.port,
                "accelerator": chosen,
                "seconds": round(node.seconds, 1),
                "seal": machine.seal_rows(node.serial),
            }
            print(json.dumps(event), flush=True)
            while not stopped.wait(0.2):
                if node.process.poll() is not None:
                    raise MachineError("machine_ended", "the machine ended")
    except MachineError as error:
        return failed(error, NOT_AVAILABLE if error.code == "qemu_missing" else USAGE_OR_IO)
    except ImageError as error:
        return failed(error, USAGE_OR_IO)
    return OK


def choose_accelerator(asked: str, image_dir: Path) -> Accelerator:
    """KVM where it works or is asked for, emulation else. Raises MachineError."""
    if asked == "kvm":
        return "kvm"
    if asked == "tcg":
        return "tcg"
    if asked != "auto":
        raise MachineError("accelerator_unknown", "one of auto, kvm, tcg", found=asked)
    return "kvm" if hypervisor.kvm_works(image_dir / "vmlinuz") else "tcg"
