"""SPDM reports: every rule of the layout, and hostile bytes."""

import os
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import AttestationError
from attestation.nvidia.chain import VerifiedChain
from attestation.nvidia.device import check_chain, check_signature
from attestation.nvidia.evidence import GpuEvidence
from attestation.nvidia.opaque import Mode, OpaqueType, parse_opaque, read_gpu_fields
from attestation.nvidia.policy import GpuPolicy
from attestation.nvidia.spdm import MAX_REPORT, parse_report
from attestation.simulated.nvidia import SimulatedDevicePki
from attestation.simulated.nvidia_report import GpuSettings, measurement

AT = datetime(2026, 11, 21, tzinfo=UTC)
NONCE = bytes(range(32))
PKI = SimulatedDevicePki.create()
GPU = PKI.make_gpu()
EVIDENCE = GPU.evidence(NONCE)
REPORT = EVIDENCE.evidence
RECORD_END = 45 + 64 * 55


@pytest.fixture(scope="module")
def chain() -> VerifiedChain:
    return check_chain(EVIDENCE, GpuPolicy(simulated_root=PKI.root_sha256), AT)


def patched(offset: int, value: bytes) -> bytes:
    return REPORT[:offset] + value + REPORT[offset + len(value) :]


def refusal(parse: Callable[[], object]) -> str:
    with pytest.raises(AttestationError) as caught:
        parse()
    return caught.value.code


def test_parsed_report() -> None:
    report = parse_report(REPORT)
    assert report.nonce == NONCE
    assert report.signed + report.signature == REPORT
    assert report.measurements == tuple(measurement(index, GpuSettings()) for index in range(64))
    assert report.opaque[OpaqueType.FEATURE_FLAG] == b"\0\0"
    assert report.responder_nonce != NONCE


@pytest.mark.parametrize(
    ("offset", "value", "code"),
    [
        (0, b"\x12", "spdm_version"),
        (1, b"\xe1", "report_malformed"),
        (2, b"\x00", "request_not_signed"),
        (2, b"\x03", "report_malformed"),
        (3, b"\x01", "request_not_full"),
        (36, b"\x01", "request_slot"),
        (37, b"\x10", "spdm_version"),
        (38, b"\x7f", "report_malformed"),
        (39, b"\x01", "report_malformed"),
        (40, b"\x01", "request_slot"),
        (41, b"\x3f", "report_malformed"),
        (41, b"\x00", "report_malformed"),
        (42, b"\xff\xff\xff", "report_malformed"),
        (45, b"\x02", "report_malformed"),
        (46, b"\x02", "report_malformed"),
        (47, b"\x34", "report_malformed"),
        (49, b"\x81", "report_malformed"),
        (50, b"\x20", "report_malformed"),
        (RECORD_END + 32, b"\xff\xff", "report_malformed"),
        (RECORD_END + 34, b"\x03\x00", "report_malformed"),
    ],
)
def test_each_fixed_field_is_checked(offset: int, value: bytes, code: str) -> None:
    assert refusal(lambda: parse_report(patched(offset, value))) == code


def test_length_must_fit() -> None:
    assert refusal(lambda: parse_report(REPORT + b"\0")) == "report_malformed"
    assert refusal(lambda: parse_report(REPORT + bytes(MAX_REPORT))) == "report_malformed"
    for length in range(len(REPORT)):
        assert refusal(partial(parse_report, REPORT[:length])) == "report_malformed"


def test_every_single_byte_is_signed(chain: VerifiedChain) -> None:
    assert check_signature(EVIDENCE, chain).raw == REPORT
    # Inside a signed run of bytes one place stands for its neighbours: a signature check is slow.
    places = [*range(45), *range(45, RECORD_END, 5), *range(RECORD_END, len(REPORT))]
    for offset in places:
        changed = patched(offset, bytes([REPORT[offset] ^ 0x01]))
        with pytest.raises(AttestationError):
            check_signature(GpuEvidence("HOPPER", None, changed, b""), chain)


@pytest.mark.parametrize("signature", [bytes(96), b"\xff" * 96, bytes(48) + b"\x01" * 48])
def test_degenerate_signatures(chain: VerifiedChain, signature: bytes) -> None:
    evidence = GpuEvidence("HOPPER", None, REPORT[:-96] + signature, b"")
    assert refusal(lambda: check_signature(evidence, chain)) == "report_signature_invalid"


@given(st.binary(max_size=5000))
def test_random_bytes(data: bytes) -> None:
    with pytest.raises(AttestationError):
        parse_report(data)


@given(st.binary(max_size=400))
def test_random_opaque_data(data: bytes) -> None:
    with suppress(AttestationError):
        read_gpu_fields(parse_opaque(data))


@given(st.dictionaries(st.sampled_from(list(OpaqueType)), st.binary(max_size=12)))
def test_random_fields(fields: dict[int, bytes]) -> None:
    with suppress(AttestationError):
        read_gpu_fields(fields)


FIELDS: dict[int, bytes] = {
    OpaqueType.DRIVER_VERSION: b"570.133.20\0",
    OpaqueType.VBIOS_VERSION: bytes.fromhex("009f009601000000"),
    OpaqueType.NVDEC0_STATUS: b"\x55",
}


def test_fields_of_an_older_driver() -> None:
    fields = read_gpu_fields(FIELDS)
    assert (fields.driver_version, fields.vbios_version) == ("570.133.20", "96.00.9F.00.01")
    assert fields.mode is Mode.SPT
    assert fields.fwid is None
    assert not fields.nvdec_enabled


@pytest.mark.parametrize(
    ("fields", "mode"),
    [
        ({OpaqueType.PROTECTED_PCIE_STATUS: b"\xaa"}, Mode.PPCIE),
        ({OpaqueType.PROTECTED_PCIE_STATUS: b"\x55"}, Mode.SPT),
        ({OpaqueType.FEATURE_FLAG: b"\x01\x00", OpaqueType.OPAQUE_DATA_VERSION: b"\x01\x00"}, Mode.MPT),
        ({OpaqueType.FEATURE_FLAG: b"\x02\x00", OpaqueType.PROTECTED_PCIE_STATUS: b"\xaa"}, Mode.PPCIE),
        ({OpaqueType.OPAQUE_DATA_VERSION: b"\x00\x00"}, Mode.SPT),
    ],
)
def test_mode(fields: dict[int, bytes], mode: Mode) -> None:
    assert read_gpu_fields({**FIELDS, **fields}).mode is mode


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({OpaqueType.FEATURE_FLAG: b"\x03\x00"}, "mode_unknown"),
        ({OpaqueType.FEATURE_FLAG: b"\x00"}, "field_invalid"),
        ({OpaqueType.OPAQUE_DATA_VERSION: b"\x01\x00"}, "field_missing"),
        ({OpaqueType.FEATURE_FLAG: b"\x00\x00", OpaqueType.PROTECTED_PCIE_STATUS: b"\xaa"}, "mode_unknown"),
        ({OpaqueType.FEATURE_FLAG: b"\x02\x00", OpaqueType.PROTECTED_PCIE_STATUS: b"\x55"}, "mode_unknown"),
        ({OpaqueType.PROTECTED_PCIE_STATUS: b"\x00"}, "field_invalid"),
        ({OpaqueType.NVDEC0_STATUS: b"\x00"}, "field_invalid"),
        ({OpaqueType.DRIVER_VERSION: b"../../x\0"}, "field_invalid"),
        ({OpaqueType.DRIVER_VERSION: b"570\0.1\0"}, "field_invalid"),
        ({OpaqueType.DRIVER_VERSION: "٥٧٠.١".encode() + b"\0"}, "field_invalid"),
        ({OpaqueType.VBIOS_VERSION: bytes.fromhex("009f0096010000ff")}, "field_invalid"),
        ({OpaqueType.VBIOS_VERSION: b"\x01"}, "field_invalid"),
        ({OpaqueType.FWID: bytes(47)}, "field_invalid"),
    ],
)
def test_fields_no_device_gives(fields: dict[int, bytes], code: str) -> None:
    assert refusal(lambda: read_gpu_fields({**FIELDS, **fields})) == code


@pytest.mark.parametrize("kind", list(FIELDS))
def test_missing_fields(kind: int) -> None:
    fields = {name: data for name, data in FIELDS.items() if name != kind}
    assert refusal(lambda: read_gpu_fields(fields)) == "field_missing"


def test_no_opaque_field_occurs_twice() -> None:
    field = b"\x03\x00\x01\x00x"
    assert parse_opaque(field) == {3: b"x"}
    assert refusal(lambda: parse_opaque(field + field)) == "report_malformed"


def test_simulated_nonce_has_its_length() -> None:
    assert refusal(lambda: GPU.evidence(os.urandom(31))) == "nonce_length"
