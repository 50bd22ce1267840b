"""A host launches something other than what was published, and hopes that the measurement stays the same.

Each attempt stands beside a control with the defence removed, in which the same attempt goes unnoticed.
"""

import hashlib
import struct
from dataclasses import replace
from uuid import UUID

import pytest

from measurements.errors import ImageError
from measurements.launch.explain import explain_record, explain_registers
from measurements.launch.firmware import Firmware, SevSectionType
from measurements.launch.record import LaunchRecord
from measurements.launch.snp import REGISTER, DirectBoot, SnpLaunch, predict_snp
from measurements.launch.uki import predict_pcr11


def firmware(*, kernel_hashes: bool) -> Firmware:
    """A firmware that checks a directly booted kernel against measured hashes, or one that does not."""
    data = bytearray(hashlib.shake_128(b"ovmf").digest(2 * 4096))
    kinds = [(0x80D000, SevSectionType.SECRETS), (0x80E000, SevSectionType.CPUID)]
    if kernel_hashes:
        kinds.append((0x80F000, SevSectionType.KERNEL_HASHES))
    sections = b"".join(struct.pack("<III", gpa, 4096, kind) for gpa, kind in kinds)
    metadata = struct.pack("<4sIII", b"ASEV", 16 + len(sections), 1, len(kinds)) + sections
    data[64 : 64 + len(metadata)] = metadata
    table = b""
    for guid, content in (
        ("dc886566-984a-4798-a75e-5585a7bf67cc", struct.pack("<I", len(data) - 64)),
        ("00f771de-1a7e-4fcb-890e-68c77e2fb44e", struct.pack("<I", 0x80B004)),
        ("7255371f-3a3b-4b04-927b-1da6efa8d454", struct.pack("<II", 0x80F000, 0x400)),
    ):
        table += content + struct.pack("<H", len(content) + 18) + UUID(guid).bytes_le
    table += struct.pack("<H", len(table) + 18) + UUID("96b582de-1fb2-45f7-baea-a366c55a082d").bytes_le
    data[-32 - len(table) : -32] = table
    return Firmware.parse(bytes(data))


def digest(launch: SnpLaunch) -> bytes:
    return predict_snp(launch).registers[REGISTER]


GENUINE = DirectBoot(b"kernel", b"initrd", "roothash=1234 ro")
TAMPERED = (
    replace(GENUINE, kernel=b"another kernel"),
    replace(GENUINE, initrd=b"another initrd"),
    replace(GENUINE, cmdline="roothash=1234 rw init=/bin/sh"),
)


def test_swap_kernel_initrd_or_command_line_behind_the_same_firmware() -> None:
    published = SnpLaunch(firmware(kernel_hashes=True), 4, boot=GENUINE)
    for boot in TAMPERED:
        assert digest(replace(published, boot=boot)) != digest(published)
        (finding,) = explain_record(
            predict_snp(published), predict_snp(replace(published, boot=boot))
        ).findings
        assert "kernel_hashes" in finding.where


def test_control_without_measured_hashes_the_swap_goes_unnoticed() -> None:
    # Such a firmware boots whatever kernel the host hands it, and nothing of it reaches the digest.
    unprotected = SnpLaunch(firmware(kernel_hashes=False), 4)
    launched = {boot: digest(unprotected) for boot in (GENUINE, *TAMPERED)}
    assert len(launched) == 4
    assert len(set(launched.values())) == 1


def test_a_firmware_that_cannot_check_a_kernel_is_never_given_a_digest_for_one() -> None:
    launch = SnpLaunch(firmware(kernel_hashes=False), 4, boot=GENUINE)
    with pytest.raises(ImageError, match="cannot boot a kernel directly"):
        predict_snp(launch)


def test_start_a_vcpu_more_with_a_state_of_the_hosts_choice() -> None:
    published = SnpLaunch(firmware(kernel_hashes=True), 4, boot=GENUINE)
    found = explain_registers(predict_snp(published), predict_snp(replace(published, vcpus=5)).registers)
    assert not found.matches
    assert "5 vCPUs instead of 4" in found.findings[0].where


def test_add_a_section_to_a_unified_image() -> None:
    image = {"linux": b"kernel", "cmdline": b"ro"}
    genuine = predict_pcr11(image, (), ["sha256"])
    for changed in (
        {**image, "initrd": b"added"},
        {"linux": b"kernel"},
        {"linux": b"kernel", "cmdline": b"rw"},
    ):
        assert not explain_record(genuine, predict_pcr11(changed, (), ["sha256"])).matches


def test_control_a_section_that_no_stub_measures_goes_unnoticed() -> None:
    image = {"linux": b"kernel", "cmdline": b"ro"}
    added = predict_pcr11({**image, "pcrsig": b"signatures of PCR values, which cannot be in them"}, ())
    assert explain_record(predict_pcr11(image, ()), added).matches


def test_pass_a_record_off_as_a_match_by_naming_other_registers() -> None:
    predicted = predict_pcr11({"linux": b"kernel"}, ())
    renamed = LaunchRecord("uki", {"other": bytes(32)}, (), {})
    with pytest.raises(ImageError, match="no register in common"):
        explain_record(predicted, renamed)
