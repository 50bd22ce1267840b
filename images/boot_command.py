"""``cloister image boot``: run an image under QEMU until it is told to stop."""

import contextlib
import json
import shutil
import signal
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from images import hypervisor, machine, virtual_tpm, vm_manifest
from images.errors import ImageError, MachineError
from images.hypervisor import Accelerator, Machine
from images.machine import RunningMachine
from images.staple_file import StapleFile
from images.terminal import NOT_AVAILABLE, OK, USAGE_OR_IO, failed, tell
from measurements.vm_predictions import SEV_FIRMWARE

_LOOK_EVERY_S = 1.0

HELP = """Boot a virtual-machine image, and say when its node answers.

KVM is tried for five seconds and left where no guest comes up under it. The machine has the image's volumes, one
network card that reaches nothing but the forwarded port, and a port to the platform that makes evidence
(`cloister platform --socket S`).

With --tpm the unified image is started by UEFI firmware, which measures it into a virtual TPM (swtpm) whose laboratory
authority certifies the key that signs quotes; the folder's root.sha256 is what a policy names. With --simulated-snp,
firmware made for SEV compares kernel, disk and command line with the image's hashes before it starts them.

One JSON line says where the node listens and where its metrics are; Ctrl-C or SIGTERM stops it. When the staple's
file changes, the machine is handed the new one.

Exit status 2: QEMU is not installed. 1: the machine ended before its node listened.
"""


def boot(
    image_dir: Annotated[Path, typer.Argument(help="A folder that image build made.")],
    staple: Annotated[Path, typer.Option(help="The staple (cloister release publish --staple).")],
    platform: Annotated[Path | None, typer.Option(help="The platform's Unix socket.")] = None,
    tpm: Annotated[
        Path | None,
        typer.Option(help="A folder for a virtual TPM, made where it is not there: a measured boot by UEFI."),
    ] = None,
    simulated_snp: Annotated[
        bool,
        typer.Option(
            "--simulated-snp",
            help="Boot by SEV firmware, which checks what it loads against the image's hashes.",
        ),
    ] = False,
    append: Annotated[
        str | None, typer.Option(help="Another command line than the image's, as a host may choose one.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port here; 0: a free one.")] = 0,
    memory: Annotated[int, typer.Option(min=128, help="The machine's memory in MiB.")] = 2048,
    cpus: Annotated[int, typer.Option(min=1, max=255, help="The machine's processors.")] = 2,
    accelerator: Annotated[str, typer.Option(help="auto, kvm or tcg.")] = "auto",
    patience: Annotated[int, typer.Option(help="Seconds until the node has to answer.")] = 600,
) -> int:
    """See ``cloister image boot --help``."""
    # From the first program that is started on: none may outlive this one.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    try:
        described = vm_manifest.read(image_dir)
        chosen = choose_accelerator(accelerator, image_dir)
        watched = StapleFile(staple)
        inputs = {"staple": watched.read()}
        with contextlib.ExitStack() as machines:
            virtual = None if tpm is None else virtual_tpm.create(tpm, lambda: datetime.now(UTC))
            if virtual is not None:
                inputs["ak_chain"] = virtual.ak_chain

            def settings(scratch: Path, forwarded: int, metrics: int) -> Machine:
                basic = Machine(
                    chosen,
                    memory,
                    cpus,
                    forwarded,
                    scratch / "host",
                    scratch / "serial",
                    platform,
                    append=append,
                    metrics_port=metrics,
                )
                if virtual is not None:
                    control = machines.enter_context(virtual_tpm.running(virtual.folder, scratch))
                    return _measured(basic, image_dir, scratch, control)
                if simulated_snp:
                    return _hashed(basic, image_dir, described.cmdline, scratch)
                return basic

            node = machines.enter_context(machine.running(image_dir, settings, inputs, patience, port))
            _say(node, chosen)
            threading.Thread(target=_keep_staple_fresh, args=(node, watched), daemon=True).start()
            _wait(node)
    except _Stopped:
        return OK
    except MachineError as error:
        missing = error.code in ("qemu_missing", "tpm_missing", "firmware_missing")
        return failed(error, NOT_AVAILABLE if missing else USAGE_OR_IO)
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


def _measured(basic: Machine, image_dir: Path, scratch: Path, control: Path) -> Machine:
    """A machine that starts the unified image by UEFI and has a TPM."""
    variables = scratch / "variables"
    shutil.copyfile(image_dir / "firmware" / "OVMF_VARS_4M.fd", variables)
    code = image_dir / "firmware" / "OVMF_CODE_4M.fd"
    return replace(basic, tpm=control, unified=True, flash=(code, variables))


def _hashed(basic: Machine, image_dir: Path, cmdline: str, scratch: Path) -> Machine:
    """A machine whose firmware has the hashes of the image, whatever the host hands it."""
    # Its way of fetching the firmware needs what the extra `images` brings.
    from images import snp_boot

    path = image_dir / "firmware" / SEV_FIRMWARE
    if not path.is_file():
        raise MachineError(
            "firmware_missing", f"{path} is not there: its package could not be had when building"
        )
    address, table = snp_boot.hash_table(image_dir, cmdline, path.read_bytes(), basic.memory)
    (scratch / "hashes").write_bytes(table)
    return replace(basic, firmware=path, loaded=(address, scratch / "hashes"), model=snp_boot.MODEL)


def _say(node: RunningMachine, accelerator: Accelerator) -> None:
    event = {
        "event": "listening",
        "port": node.port,
        "metrics_port": node.metrics_port,
        "accelerator": accelerator,
        "seconds": round(node.seconds, 1),
        "seal": machine.seal_rows(node.serial),
    }
    print(json.dumps(event), flush=True)


def _keep_staple_fresh(node: RunningMachine, watched: StapleFile) -> None:
    """Hand the staple over whenever it is due. What the node makes of it, its evidence shows."""
    while node.process.poll() is None:
        time.sleep(_LOOK_EVERY_S)
        if not watched.due(time.monotonic()):
            continue
        try:
            file = watched.read()
            node.renew_staple(file)
            tell(f"staple of {len(file):,} bytes handed over")
        except ImageError as error:
            tell(f"staple not handed over: {error.detail}")
        except OSError:
            return  # the machine is gone


def _wait(node: RunningMachine) -> None:
    while node.process.poll() is None:
        time.sleep(0.2)
    raise MachineError("machine_ended", "the machine ended")


class _Stopped(BaseException):
    """Somebody asked this program to end."""


def _stop(*_: object) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # the machine is being stopped: once is enough
    raise _Stopped
