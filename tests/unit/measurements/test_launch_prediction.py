"""Prediction of launches, and explanations of those that differ; no input leaves the error family."""

import base64
import hashlib
import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
import typer
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from executables import executable, linux
from hypothesis import given, settings
from hypothesis import strategies as st

from measurements.errors import ImageError
from measurements.launch.cpu_models import CPU_SIGNATURES, cpuid_signature, signature_of
from measurements.launch.event_log import LoggedEvent, parse_event_log, replay
from measurements.launch.explain import explain_log, explain_record, explain_registers
from measurements.launch.firmware import Firmware, SevSectionType
from measurements.launch.id_key import id_key_digest
from measurements.launch.portable_executable import Image
from measurements.launch.record import LaunchRecord
from measurements.launch.reported import registers_of
from measurements.launch.snp import REGISTER, DirectBoot, SnpLaunch, predict_snp
from measurements.launch.tdx_mrtd import ONE_PASS, TWO_PASS, predict_mrtd
from measurements.launch.tdx_rtmr import (
    NO_SECURE_BOOT,
    Machine,
    TdxBoot,
    Variable,
    patched_kernel,
    predict_rtmrs,
)
from measurements.launch.uki import predict_pcr11, read_uki
from measurements.launch.vmsa import Vmm
from measurements.measure_command import register

AP_EIP = 0x80B004


def guid(text: str) -> bytes:
    return UUID(text).bytes_le


def ovmf(size: int = 3 * 4096) -> bytes:
    """A firmware image with the metadata of both kinds, made by hand."""
    data = bytearray(hashlib.shake_128(b"firmware").digest(size))
    sev = struct.pack("<4sIII", b"ASEV", 16 + 5 * 12, 1, 5) + b"".join(
        struct.pack("<III", gpa, length, kind)
        for gpa, length, kind in (
            (0x800000, 0x9000, SevSectionType.SEC_MEM),
            (0x80D000, 0x1000, SevSectionType.SECRETS),
            (0x80E000, 0x1000, SevSectionType.CPUID),
            (0x810000, 0x1000, SevSectionType.KERNEL_HASHES),
            (0x811000, 0x2000, SevSectionType.SEC_MEM),
        )
    )
    tdx = struct.pack("<4sIII", b"TDVF", 16 + 3 * 32, 1, 3) + b"".join(
        struct.pack("<IIQQII", *section)
        for section in (
            (0x1000, 0x2000, 0xFFFFE000, 0x2000, 0, 1),
            (0, 0x1000, 0xFFFFD000, 0x1000, 1, 0),
            (0, 0, 0x820000, 0x4000, 3, 2),
        )
    )
    data[0x100 : 0x100 + len(sev)] = sev
    data[0x400 : 0x400 + len(tdx)] = tdx
    table = b""
    for name, content in (
        ("dc886566-984a-4798-a75e-5585a7bf67cc", struct.pack("<I", size - 0x100)),
        ("e47a6535-984a-4798-865e-4685a7bf8ec2", struct.pack("<I", size - 0x400)),
        ("00f771de-1a7e-4fcb-890e-68c77e2fb44e", struct.pack("<I", AP_EIP)),
        ("7255371f-3a3b-4b04-927b-1da6efa8d454", struct.pack("<II", 0x810C00, 0x400)),
    ):
        table += content + struct.pack("<H", len(content) + 18) + guid(name)
    table += struct.pack("<H", len(table) + 18) + guid("96b582de-1fb2-45f7-baea-a366c55a082d")
    data[size - 32 - len(table) : size - 32] = table
    return bytes(data)


FIRMWARE = Firmware.parse(ovmf())
BOOT = DirectBoot(b"kernel", b"initrd", "console=ttyS0")
LAUNCH = SnpLaunch(FIRMWARE, 2, signature_of("EPYC-Milan"), 0x1, Vmm.QEMU, BOOT)
UKI = {"linux": linux(), "osrel": b"ID=x\n", "cmdline": b"ro", "initrd": b"disk" * 100}


LOGGED = {
    "TD hand-off block": (0x8000000B, b""),
    "variable BootOrder": (0x80000002, Variable(UUID(int=0), "BootOrder", bytes(2)).measured()),
    "boot option 0": (0x80000002, Variable(UUID(int=0), "Boot0000", b"UiApp").measured()),
    **{f"ACPI data {number}": (0x0A, b"ACPI DATA") for number in range(3)},
}


def ccel(record: LaunchRecord) -> bytes:
    """The event log of a guest that measured exactly what ``record`` tells."""
    spec = b"Spec ID Event03\0" + struct.pack("<IBBBBI", 0, 0, 2, 0, 2, 1) + struct.pack("<HHB", 12, 48, 0)
    data = struct.pack("<II20sI", 1, 3, bytes(20), len(spec)) + spec
    for event in record.events:
        if event.register.startswith("rtmr"):
            kind, content = LOGGED.get(event.what, (0x0D, b"hi"))
            head = struct.pack("<IIIH", int(event.register[4:]) + 1, kind, 1, 12)
            data += head + event.digest + struct.pack("<I", len(content)) + content
    return data + b"\xff" * 32


def predict_tdx() -> LaunchRecord:
    machine = Machine(
        hashlib.sha384(b"hob").digest(), (bytes(48), bytes(48), bytes(48)), bytes(2), (b"UiApp",)
    )
    return predict_rtmrs(TdxBoot(linux(), b"initrd", "console=ttyS0", 2 << 30, machine), FIRMWARE)


def test_the_cpuid_signature_of_known_processors() -> None:
    assert cpuid_signature(0x17, 1, 2) == 0x800F12
    assert signature_of("EPYC-Genoa") == 0xA10F10
    assert signature_of("EPYC-Turin") == 0xB00F00
    with pytest.raises(ImageError, match="unknown processor"):
        signature_of("Opteron")


def test_every_input_of_a_launch_changes_its_digest() -> None:
    variants = [
        LAUNCH,
        replace(LAUNCH, vcpus=3),
        replace(LAUNCH, cpu_signature=signature_of("EPYC-v4")),
        replace(LAUNCH, guest_features=0x21),
        replace(LAUNCH, vmm=Vmm.EC2),
        replace(LAUNCH, vmm=Vmm.GCE),
        replace(LAUNCH, boot=None),
        replace(LAUNCH, boot=replace(BOOT, kernel=b"other")),
        replace(LAUNCH, boot=replace(BOOT, initrd=b"other")),
        replace(LAUNCH, boot=replace(BOOT, cmdline="other")),
        replace(LAUNCH, firmware=Firmware.parse(b"\0" + ovmf()[1:])),
    ]
    assert len({predict_snp(launch).registers[REGISTER] for launch in variants}) == len(variants)


def test_what_cannot_be_launched_is_not_predicted() -> None:
    for launch in (
        replace(LAUNCH, vcpus=0),
        replace(LAUNCH, guest_features=1 << 64),
        replace(LAUNCH, firmware_digest=b"short"),
        replace(LAUNCH, firmware=Firmware.parse(bytes(4096)), boot=None),
    ):
        with pytest.raises(ImageError):
            predict_snp(launch)


def test_a_bare_launch_digest_is_explained_by_the_one_input_that_differs() -> None:
    predicted = LaunchRecord.parse(predict_snp(LAUNCH).encode())
    for launch, cause in (
        (replace(LAUNCH, vcpus=16), "16 vCPUs instead of 2"),
        (replace(LAUNCH, cpu_signature=CPU_SIGNATURES["EPYC-Genoa"]), "processor EPYC-Genoa"),
        (replace(LAUNCH, guest_features=0x21), "guest features 0x21 instead of 0x1"),
        (replace(LAUNCH, vmm=Vmm.EC2), "hypervisor ec2 instead of qemu"),
        (replace(LAUNCH, vmm=Vmm.GCE), "hypervisor gce instead of qemu"),
        (replace(LAUNCH, boot=None), "no kernel booted directly"),
    ):
        found = explain_registers(predicted, predict_snp(launch).registers)
        assert not found.matches
        assert cause in found.findings[0].where
    unknown = explain_registers(predicted, {REGISTER: bytes(48)})
    assert "whole register" in unknown.findings[0].where
    assert explain_registers(predicted, predict_snp(LAUNCH).registers).matches


def test_two_records_are_explained_by_the_first_page_that_differs() -> None:
    changed = bytearray(ovmf())
    changed[0x1234] ^= 1
    other = predict_snp(replace(LAUNCH, firmware=Firmware.parse(bytes(changed))))
    (finding,) = explain_record(predict_snp(LAUNCH), other).findings
    assert finding.where == "event 1: firmware: normal page at 0xffffe000"
    longer = explain_record(predict_snp(LAUNCH), predict_snp(replace(LAUNCH, vcpus=3)))
    assert longer.findings[0].expected == "nothing more"
    with pytest.raises(ImageError, match="cannot be compared"):
        explain_record(predict_snp(LAUNCH), predict_tdx())


def test_mrtd_matches_in_either_page_order() -> None:
    predicted = predict_mrtd(FIRMWARE)
    assert predicted.registers[ONE_PASS] != predicted.registers[TWO_PASS]
    for order in (ONE_PASS, TWO_PASS):
        assert explain_registers(predicted, {ONE_PASS: predicted.registers[order]}).matches
    assert not explain_registers(predicted, {ONE_PASS: bytes(48)}).matches


def test_an_event_log_is_explained_by_the_event_that_differs() -> None:
    predicted = predict_tdx()
    log = parse_event_log(ccel(predicted))
    assert explain_log(predicted, log).matches
    assert {f"rtmr{index - 1}": value for index, value in replay(log, "sha384").items()} == {
        name: value for name, value in predicted.registers.items() if any(predicted.of(name))
    }
    boot = TdxBoot(linux(), b"Initrd", "console=ttyS0", 2 << 30)
    (finding,) = explain_log(predict_rtmrs(boot, FIRMWARE), log).findings
    assert finding.register == "rtmr2"
    assert finding.where.startswith("event 1: initial RAM disk")


def test_rtmr0_needs_the_machine_and_secure_boot_variables_are_measured_even_where_absent() -> None:
    assert "rtmr0" not in predict_rtmrs(TdxBoot(linux(), b"", "", 1 << 30), FIRMWARE).registers
    # What real guests without Secure Boot log for PK, measured over its name alone.
    assert hashlib.sha384(NO_SECURE_BOOT[1].measured()).hexdigest().startswith("6f2e3cbc14f9def86980f5f6")


def test_the_shape_of_a_machine_is_taken_from_its_event_log(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predicted = predict_tdx()
    log = parse_event_log(ccel(predicted))
    shape = Machine.of_log(log)
    again = predict_rtmrs(TdxBoot(linux(), b"initrd", "console=ttyS0", 2 << 30, shape), FIRMWARE)
    assert again.registers == predicted.registers
    with pytest.raises(ImageError, match="hand-off"):
        Machine.of_log(log[:1])
    for name, data in (
        ("ovmf", ovmf()),
        ("kernel", linux()),
        ("initrd", b"initrd"),
        ("log", ccel(predicted)),
    ):
        (tmp_path / name).write_bytes(data)
    options = [f"--{name}={tmp_path / name}" for name in ("kernel", "initrd")]
    options += [f"--firmware={tmp_path / 'ovmf'}", f"--machine={tmp_path / 'log'}", "--append=console=ttyS0"]
    assert command("tdx", *options, "--memory=2048", "--json") == 0
    said = json.loads(capsys.readouterr().out)["registers"]
    assert said["rtmr0"] == predicted.registers["rtmr0"].hex()


def test_the_kernel_header_is_filled_in_as_qemu_does() -> None:
    patched = patched_kernel(linux(), 0x3001, 2 << 30)
    assert patched[0x210] == 0xB0
    assert patched[0x211] == 0x81
    assert struct.unpack_from("<H", patched, 0x224) == (0xFE00,)
    assert struct.unpack_from("<I", patched, 0x228) == (0x20000,)
    assert struct.unpack_from("<II", patched, 0x218) == ((0x7FFD7FFF - 0x3001) & ~0xFFF, 0x3001)
    for data in (b"", bytes(0x2000), linux()[:0x1000].replace(b"HdrS\x0f", b"HdrS\x01")):
        with pytest.raises(ImageError):
            patched_kernel(data, 0, 1 << 30)


def test_a_unified_kernel_image_is_measured_by_its_sections() -> None:
    image = executable({".text": b"stub", **{f".{name}": data for name, data in UKI.items()}})
    assert read_uki(image) == UKI
    at_once = predict_pcr11(UKI, (), ["sha256"])
    assert len(at_once.events) == 8
    assert at_once.registers != predict_pcr11({**UKI, "cmdline": b"rw"}, (), ["sha256"]).registers
    event = at_once.events[-1]
    log = tuple(LoggedEvent(11, 0x0D, {"sha256": event.digest}, b"") for event in at_once.events[:-1])
    (finding,) = explain_log(at_once, log).findings
    assert finding == finding.__class__(
        "pcr11.sha256", f"event 7: {event.what}", event.digest.hex(), "missing"
    )
    with pytest.raises(ImageError, match=r"\.linux"):
        predict_pcr11({"cmdline": b""})
    with pytest.raises(ImageError, match="bank"):
        predict_pcr11(UKI, (), ["md5"])


def test_authenticode_leaves_out_checksum_and_certificates() -> None:
    plain = executable({".text": b"code"})
    checked = bytearray(plain)
    checked[0x400 + 24 + 64] ^= 0xFF
    assert Image.parse(bytes(checked)).authenticode() == Image.parse(plain).authenticode()
    signed = bytearray(plain)
    struct.pack_into("<II", signed, 0x400 + 24 + 108 + 4 + 32, len(plain), 8)
    assert Image.parse(bytes(signed) + b"certific").authenticode() == Image.parse(plain).authenticode()
    changed = plain.replace(b"code", b"Code")
    assert Image.parse(changed).authenticode() != Image.parse(plain).authenticode()


def test_the_digest_of_an_identity_key() -> None:
    key = ec.derive_private_key(0x1234567, ec.SECP384R1()).public_key()
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    point = key.public_numbers()
    form = struct.pack("<I", 2) + point.x.to_bytes(72, "little") + point.y.to_bytes(72, "little")
    assert id_key_digest(pem) == hashlib.sha384(form + bytes(0x404 - len(form))).digest()
    other = ec.derive_private_key(5, ec.SECP256R1()).public_key()
    for wrong in (b"", pem[:50], other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)):
        with pytest.raises(ImageError):
            id_key_digest(wrong)


def read_firmware(data: bytes) -> None:
    firmware = Firmware.parse(data)
    predict_mrtd(firmware)
    predict_snp(SnpLaunch(firmware, 1, boot=BOOT))


PARSERS: dict[str, tuple[Callable[[bytes], object], bytes, int]] = {
    "firmware": (read_firmware, ovmf(), 97),
    "uki": (read_uki, executable({".linux": b"x", ".cmdline": b"y"}), 31),
    "executable": (lambda data: Image.parse(data).authenticode(), executable({".text": b"x"}), 31),
    "kernel": (lambda data: patched_kernel(data, 5, 1 << 30), linux(), 31),
    "event log": (lambda data: replay(parse_event_log(data), "sha384"), ccel(predict_tdx()), 1),
    "machine": (lambda data: Machine.of_log(parse_event_log(data)), ccel(predict_tdx()), 1),
    "record": (LaunchRecord.parse, predict_pcr11({"linux": b""}, ("ready",), ["sha1"]).encode(), 1),
    "reported": (registers_of, bytes(2000), 500),
    "id key": (id_key_digest, b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", 3),
}


@pytest.mark.parametrize("name", PARSERS)
def test_truncation_and_changed_bytes_never_leave_the_error_family(name: str) -> None:
    parse, good, step = PARSERS[name]
    inputs = [good[:length] for length in range(0, len(good), step)]
    for at in range(0, len(good), step):
        for flip in (0x01, 0x80, 0xFF):
            inputs.append(good[:at] + bytes([good[at] ^ flip]) + good[at + 1 :])
    for data in inputs:
        try:
            parse(data)
        except ImageError:
            continue


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=600))
def test_random_bytes_never_leave_the_error_family(name: str, data: bytes) -> None:
    parse, good, _ = PARSERS[name]
    for candidate in (data, good[: len(good) // 2] + data, data + good[len(data) :]):
        try:
            parse(candidate)
        except ImageError:
            continue


@pytest.fixture
def command() -> Callable[..., int]:
    app = typer.Typer()
    register(app)
    app.command("other")(lambda: 0)

    def run(*arguments: str) -> int:
        return int(app(["measure", *arguments], standalone_mode=False) or 0)

    return run


def test_the_command_predicts_records_and_explains(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ovmf").write_bytes(ovmf())
    (tmp_path / "kernel").write_bytes(linux())
    firmware, kernel = ("--firmware", str(tmp_path / "ovmf")), ("--kernel", str(tmp_path / "kernel"))
    record, other = str(tmp_path / "record"), str(tmp_path / "other")
    assert (
        command("snp", *firmware, *kernel, "--append", "ro", "--cpu", "EPYC-Milan", "--record", record) == 0
    )
    digest = capsys.readouterr().out.strip()
    assert len(digest) == 96
    assert command("explain", record, digest) == 0
    assert "agrees" in capsys.readouterr().out
    assert command("snp", *firmware, *kernel, "--append", "rw", "--record", other) == 0
    assert command("explain", record, other, "--json") == 3
    said = json.loads(capsys.readouterr().out.split("\n", 1)[1])
    assert "kernel_hashes" in said["findings"][0]["where"]
    assert command("tdx", *firmware, *kernel, "--memory", "2048", "--json", "--record", record) == 0
    assert set(json.loads(capsys.readouterr().out)["registers"]) == {
        ONE_PASS,
        TWO_PASS,
        "rtmr1",
        "rtmr2",
        "rtmr3",
    }
    (tmp_path / "ccel").write_bytes(ccel(LaunchRecord.parse(Path(record).read_bytes())))
    assert command("explain", record, str(tmp_path / "ccel")) == 0
    (tmp_path / "uki").write_bytes(executable({".linux": b"x"}))
    assert command("uki", str(tmp_path / "uki"), "--phases", "enter-initrd") == 0
    assert "pcr11.sha384" in capsys.readouterr().out
    assert command("tdx", *firmware, *kernel) == 1
    assert command("explain", record, "no-such-file") == 1
    assert command(str(tmp_path)) == 1
    assert "image.json" in capsys.readouterr().err


def test_a_process_image_is_measured_without_a_subcommand(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = base64.b16encode(hashlib.sha256(b"x").digest()).decode().lower()
    (tmp_path / "image.json").write_text(
        f'{{"files":[{{"exec":false,"path":"a","sha256":"{digest}","size":1}}],"v":1}}'
    )
    assert command(str(tmp_path)) == 0
    bare = capsys.readouterr().out.strip()
    assert command("--json", str(tmp_path)) == 0
    assert json.loads(capsys.readouterr().out)["launchDigest"] == bare
