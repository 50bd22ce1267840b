"""The SEV-SNP report: every field where AMD puts it, and no bit set that must be zero."""

from dataclasses import fields

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import AttestationError, EvidenceMalformed
from attestation.sev_snp_report import (
    REPORT_LENGTH,
    CpuId,
    FirmwareVersion,
    Product,
    Report,
    Tcb,
    parse_report,
    read_tcb,
    write_tcb,
)
from attestation.simulated.amd import ReportSettings, sign_report

SETTINGS = ReportSettings(
    measurement=bytes(range(48)),
    chip_id=bytes(range(64)),
    report_id=b"\x09" * 32,
    host_data=b"\x05" * 32,
    guest_svn=7,
    vmpl=1,
)
RAW = sign_report(ec.generate_private_key(ec.SECP384R1()), b"\xab" * 64, SETTINGS)


def test_fields_are_read_from_their_places() -> None:
    report = parse_report(RAW)
    assert report.version == 5
    assert report.measurement == SETTINGS.measurement
    assert report.report_data == b"\xab" * 64
    assert report.host_data == SETTINGS.host_data
    assert report.chip_id == SETTINGS.chip_id
    assert (report.guest_svn, report.vmpl, report.abi) == (7, 1, (1, 58))
    assert report.cpuid == CpuId(0x19, 0x11, 1)
    assert report.guest_policy == {"smt", "ciphertext_hiding", "page_swap_disable"}
    assert report.platform == {"smt", "ecc", "ciphertext_hiding", "alias_check_complete"}
    assert report.current_version == FirmwareVersion(1, 58, 3)
    assert str(report.current_version) == "1.58.3"


def _patched(offset: int, value: bytes, raw: bytes = RAW) -> bytes:
    return raw[:offset] + value + raw[offset + len(value) :]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (RAW[:-1], "report_malformed"),
        (RAW + b"\0", "report_malformed"),
        (_patched(0, b"\1"), "report_version"),
        (_patched(0, b"\6"), "report_version"),
        (_patched(0x34, b"\2"), "signature_algorithm"),
        (_patched(0x0A, b"\x01"), "guest_policy_reserved"),
        (_patched(0x0F, b"\x80"), "guest_policy_reserved"),
        (_patched(0x48, b"\x20"), "report_malformed"),
        (_patched(0x4C, b"\1"), "report_malformed"),
        (_patched(0x18B, b"\1"), "report_malformed"),
        (_patched(0x1EB, b"\1"), "report_malformed"),
        (_patched(0x1EF, b"\1"), "report_malformed"),
        (_patched(0x208, b"\1"), "report_malformed"),
        (_patched(0x49F, b"\1"), "report_malformed"),
        (_patched(0x200, b"\1", _patched(0, b"\3")), "report_malformed"),
        (_patched(0, b"\2"), "report_malformed"),
    ],
)
def test_what_does_not_follow_the_format_is_refused(data: bytes, code: str) -> None:
    with pytest.raises(EvidenceMalformed) as caught:
        parse_report(data)
    assert caught.value.code == code


def test_tcb_bytes_mean_other_parts_on_turin() -> None:
    raw = bytes.fromhex("0102030400000047")
    assert read_tcb(raw, Product.TURIN) == Tcb(fmc=1, bl=2, tee=3, snp=4, ucode=0x47)
    assert read_tcb(raw, Product.MILAN) == Tcb(bl=1, tee=2, snp=0, ucode=0x47)
    assert write_tcb(read_tcb(raw, Product.TURIN), Product.TURIN) == raw


def test_tcbs_compare_part_by_part() -> None:
    assert Tcb(bl=9, tee=9, snp=9, ucode=0).below(Tcb(bl=0, tee=0, snp=0, ucode=1)) == ("ucode",)
    assert Tcb(bl=1, tee=1, snp=1, ucode=1).below(Tcb(bl=1, tee=1, snp=1, ucode=1)) == ()


@pytest.mark.parametrize(
    ("family", "model", "product"),
    [
        (0x19, 0x01, Product.MILAN),
        (0x19, 0x11, Product.GENOA),
        (0x19, 0xA0, Product.GENOA),
        (0x1A, 0x02, Product.TURIN),
        (0x1A, 0x11, Product.TURIN),
    ],
)
def test_products_follow_family_and_model(family: int, model: int, product: Product) -> None:
    assert CpuId(family, model, 0).product is product


@pytest.mark.parametrize(("family", "model"), [(0x17, 0x31), (0x19, 0x20), (0x1A, 0x50)])
def test_unknown_processors_are_refused(family: int, model: int) -> None:
    with pytest.raises(EvidenceMalformed):
        _ = CpuId(family, model, 0).product


def test_truncation_and_every_single_byte_change_stay_in_the_family() -> None:
    for end in range(0, REPORT_LENGTH, 7):
        with pytest.raises(EvidenceMalformed):
            parse_report(RAW[:end])
    for at in range(REPORT_LENGTH):
        try:
            changed = parse_report(_patched(at, bytes([RAW[at] ^ 0x5A])))
        except AttestationError:
            continue
        assert any(
            getattr(changed, field.name) != getattr(parse_report(RAW), field.name) for field in fields(Report)
        )


@given(st.binary(min_size=REPORT_LENGTH, max_size=REPORT_LENGTH))
def test_random_reports_stay_in_the_family(data: bytes) -> None:
    with pytest.raises(EvidenceMalformed):
        parse_report(data)
