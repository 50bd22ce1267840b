"""``cloister measure``: predict what a launch measures, and explain a measurement that differs."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from .command_line import waiting
from .durable import replace_file
from .errors import TransparencyError
from .image_release import measure_image
from .launch.cpu_models import signature_of
from .launch.event_log import MAX_LOG, parse_event_log
from .launch.explain import Explanation, explain_log, explain_record, explain_registers
from .launch.firmware import MAX_FIRMWARE, Firmware
from .launch.id_key import MAX_PEM, id_key_digest
from .launch.record import MAX_RECORD, LaunchRecord, malformed
from .launch.reported import registers_of
from .launch.snp import REGISTER, DirectBoot, SnpLaunch, predict_snp
from .launch.tdx_mrtd import predict_mrtd
from .launch.tdx_rtmr import MAX_KERNEL, Machine, TdxBoot, predict_rtmrs
from .launch.uki import PHASES, predict_pcr11, read_uki
from .launch.vmsa import Vmm

_OK, _USAGE_OR_IO, _DIFFERS = 0, 1, 3
_DEFAULT: Final = "process-image"

_Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
_Record = Annotated[
    Path | None, typer.Option("--record", help="Also write every measured event here, for explain.")
]
_Firmware = Annotated[Path, typer.Option("--firmware", help="The OVMF image that the guest starts with.")]
_Kernel = Annotated[Path | None, typer.Option(help="The kernel, where the hypervisor loads it itself.")]
_Initrd = Annotated[Path | None, typer.Option(help="The initial RAM disk beside --kernel.")]
_Append = Annotated[str, typer.Option("--append", help="The kernel's command line beside --kernel.")]


class _Group(TyperGroup):
    """Arguments that name no subcommand are those of a process image: ``cloister measure IMAGE_DIR``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = [_DEFAULT, *args]
        return super().parse_args(ctx, args)


def register(app: typer.Typer) -> None:
    """Add ``cloister measure``."""
    group = typer.Typer(name="measure", cls=_Group, help=_HELP, no_args_is_help=False)
    group.command(_DEFAULT, help=_PROCESS_IMAGE)(process_image)
    group.command("snp", help="Predict the launch digest of an SEV-SNP virtual machine.")(snp)
    group.command("tdx", help="Predict MRTD, and the RTMRs of a kernel booted directly.")(tdx)
    group.command("uki", help="Predict PCR 11 of a unified kernel image at each phase of its boot.")(uki)
    group.command("id-key", help="The digest by which a report names an identity or author key.")(id_key)
    group.command("explain", help=_EXPLAIN)(explain)
    app.add_typer(group)


_HELP = """Predict what a launch measures: `cloister measure IMAGE_DIR` for a process image.

A folder whose name is that of a command below is written ./NAME.
"""

_PROCESS_IMAGE = """Predict the launch digest of an image: what its evidence must report.

Only image.json and the model's files are read; `cloister image verify` compares an image with its image.json. With
--model two digests of the model follow: of the measured volume, and as model signers (OpenSSF Model Signing) state it.
"""

_EXPLAIN = """Say which page, event or input makes a reported launch differ from a predicted one.

PREDICTED was written by --record. REPORTED is an SEV-SNP report, a TDX quote, an event log (CCEL or a TPM's),
another record, or a launch digest in hexadecimal. Exit status 0: they agree. 3: they differ.
"""


def process_image(
    image: Annotated[Path, typer.Argument(help="The image's folder, holding image.json.")],
    model: Annotated[Path | None, typer.Option(help="The model volume: a folder or one file.")] = None,
    cmdline: Annotated[str, typer.Option(help="The measured command line (serve --show-command-line).")] = "",
    as_json: _Json = False,
) -> int:
    """See ``cloister measure --help``."""

    def work() -> int:
        # What a link names is measured, since `cloister serve` hands over the same, and no link is measured.
        target = None if model is None else model.resolve()
        with waiting("measuring image and model"):
            measured = measure_image(image, model=target, cmdline=cmdline.encode())
        if not measured.elements and not (model and cmdline):
            print(
                "note: a node measures as this only with its --model and its --cmdline beside",
                file=sys.stderr,
            )
        signed = measured.model_signing
        if not as_json:
            print(measured.launch_digest.hex())
            if measured.model is not None:
                print(f"model          {measured.model.hex()}  {measured.model_files} files")
            if signed is not None:
                print(f"model-signing  {signed.hex()}")
            return _OK
        volume = (
            {
                "sha256": measured.model.hex(),
                "files": measured.model_files,
                "modelSigning": None if signed is None else signed.hex(),
            }
            if measured.model
            else None
        )
        _print_json(
            {
                "tee": "sev-snp",
                "launchDigest": measured.launch_digest.hex(),
                "image": {"sha256": measured.image.hex(), "files": measured.image_files},
                "model": volume,
                "cmdline": cmdline,
            }
        )
        return _OK

    return _guarded(work)


def snp(
    firmware: _Firmware,
    vcpus: Annotated[int, typer.Option(help="How many vCPUs the machine has.")] = 1,
    vmm: Annotated[Vmm, typer.Option(help="The hypervisor.")] = Vmm.QEMU,
    cpu: Annotated[str, typer.Option(help="QEMU's processor model, as in -cpu.")] = "EPYC-v4",
    cpu_signature: Annotated[
        str, typer.Option(help="CPUID Fn0000_0001 EAX in hexadecimal, instead of --cpu.")
    ] = "",
    guest_features: Annotated[str, typer.Option(help="SEV_FEATURES in hexadecimal.")] = "0x1",
    kernel: _Kernel = None,
    initrd: _Initrd = None,
    append: _Append = "",
    firmware_digest: Annotated[
        str, typer.Option(help="The digest after the firmware's pages, instead of measuring them.")
    ] = "",
    record: _Record = None,
    as_json: _Json = False,
) -> int:
    """See ``cloister measure snp --help``."""

    def work() -> int:
        signature = _hex(cpu_signature, "--cpu-signature") if cpu_signature else signature_of(cpu)
        launch = SnpLaunch(
            Firmware.parse(_read(firmware, MAX_FIRMWARE)),
            vcpus,
            signature,
            _hex(guest_features, "--guest-features"),
            vmm,
            _direct_boot(kernel, initrd, append),
            _bytes(firmware_digest, "--firmware-digest") if firmware_digest else None,
        )
        return _show(predict_snp(launch), record, as_json, bare=REGISTER)

    return _guarded(work)


def tdx(
    firmware: _Firmware,
    memory: Annotated[int, typer.Option(help="The machine's memory in MiB, beside --kernel.")] = 0,
    kernel: _Kernel = None,
    initrd: _Initrd = None,
    append: _Append = "",
    machine: Annotated[
        Path | None,
        typer.Option(
            help="The CC event log of a machine of the same shape: with it, RTMR0 is predicted too."
        ),
    ] = None,
    record: _Record = None,
    as_json: _Json = False,
) -> int:
    """See ``cloister measure tdx --help``."""

    def work() -> int:
        image = Firmware.parse(_read(firmware, MAX_FIRMWARE))
        predicted = predict_mrtd(image)
        boot = _direct_boot(kernel, initrd, append)
        if boot is not None:
            if memory <= 0:
                raise malformed("with --kernel, the machine's memory must be known: --memory")
            shape = None if machine is None else Machine.of_log(parse_event_log(_read(machine, MAX_LOG)))
            given = TdxBoot(boot.kernel, boot.initrd, boot.cmdline, memory << 20, shape)
            runtime = predict_rtmrs(given, image)
            predicted = LaunchRecord(
                predicted.kind,
                {**predicted.registers, **runtime.registers},
                predicted.events + runtime.events,
                {**predicted.inputs, **runtime.inputs},
            )
        return _show(predicted, record, as_json)

    return _guarded(work)


def uki(
    image: Annotated[Path, typer.Argument(help="The unified kernel image.")],
    phases: Annotated[str, typer.Option(help="Phases entered, with colons between.")] = ":".join(PHASES),
    record: _Record = None,
    as_json: _Json = False,
) -> int:
    """See ``cloister measure uki --help``."""

    def work() -> int:
        sections = read_uki(_read(image, MAX_KERNEL))
        return _show(predict_pcr11(sections, phases.split(":") if phases else ()), record, as_json)

    return _guarded(work)


def id_key(path: Annotated[Path, typer.Argument(help="The public key, PEM, P-384.")]) -> int:
    """See ``cloister measure id-key --help``."""

    def work() -> int:
        print(id_key_digest(_read(path, MAX_PEM)).hex())
        return _OK

    return _guarded(work)


def explain(
    predicted: Annotated[Path, typer.Argument(help="A record that --record wrote.")],
    reported: Annotated[str, typer.Argument(help="A file of evidence, or a digest in hexadecimal.")],
    as_json: _Json = False,
) -> int:
    """See ``cloister measure explain --help``."""

    def work() -> int:
        expected = LaunchRecord.parse(_read(predicted, MAX_RECORD))
        found = _compare(expected, reported)
        if as_json:
            _print_json(
                {
                    "matches": found.matches,
                    "compared": list(found.compared),
                    "findings": [
                        {"register": f.register, "where": f.where, "expected": f.expected, "found": f.found}
                        for f in found.findings
                    ],
                }
            )
        else:
            for name in found.compared:
                if name not in {finding.register for finding in found.findings}:
                    print(f"{name:<16} agrees")
            for finding in found.findings:
                print(f"{finding.register:<16} differs: {finding.where}")
                print(f"{'':<16} predicted {finding.expected}")
                print(f"{'':<16} reported  {finding.found}")
        return _OK if found.matches else _DIFFERS

    return _guarded(work)


def _compare(expected: LaunchRecord, reported: str) -> Explanation:
    path = Path(reported)
    if not path.exists():
        return explain_registers(expected, {REGISTER: _bytes(reported, "REPORTED")})
    data = _read(path, MAX_RECORD)
    if data[:1] == b"{":
        return explain_record(expected, LaunchRecord.parse(data))
    registers = registers_of(data)
    if registers is not None:
        return explain_registers(expected, registers)
    return explain_log(expected, parse_event_log(data))


def _direct_boot(kernel: Path | None, initrd: Path | None, append: str) -> DirectBoot | None:
    if kernel is None:
        if initrd is not None or append:
            raise malformed("--initrd and --append belong to --kernel")
        return None
    return DirectBoot(_read(kernel, MAX_KERNEL), b"" if initrd is None else _read(initrd, MAX_KERNEL), append)


def _show(predicted: LaunchRecord, record: Path | None, as_json: bool, *, bare: str = "") -> int:
    if record is not None:
        replace_file(record, predicted.encode())
    if as_json:
        registers = {name: value.hex() for name, value in predicted.registers.items()}
        _print_json({"kind": predicted.kind, "registers": registers, "inputs": dict(predicted.inputs)})
    elif bare:
        print(predicted.registers[bare].hex())
    else:
        for name, value in predicted.registers.items():
            print(f"{name:<16} {value.hex()}")
    return _OK


def _read(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise malformed(f"{path} has more than {limit} bytes")
    return data


def _hex(text: str, option: str) -> int:
    try:
        return int(text, 16)
    except ValueError:
        raise malformed(f"{option} takes a hexadecimal number") from None


def _bytes(text: str, what: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise malformed(f"{what}: neither a file nor hexadecimal") from None


def _guarded(work: Callable[[], int]) -> int:
    """Run a command; its failures become one line on standard error and an exit status."""
    try:
        return work()
    except TransparencyError as error:
        print(f"error {error.code}: {error}", file=sys.stderr)
    except OSError as error:
        print(f"error {error.filename}: {error.strerror}", file=sys.stderr)
    return _USAGE_OR_IO


def _print_json(value: dict[str, Any]) -> None:
    print(json.dumps(value, indent=2))
