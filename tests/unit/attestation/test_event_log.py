"""Boot event logs: both forms, the header's word, what extends nothing, and limits."""

import hashlib
import struct

import pytest
from software_tpm import NO_ACTION, SEPARATOR, SoftwareTpm, variable

from attestation.errors import AttestationError, EvidenceMalformed
from attestation.tpm.event_types import measured_data
from attestation.tpm.eventlog import MAX_EVENT_LOG, MAX_EVENTS, parse_ccel, parse_event_log, rtmrs


def legacy(*events: tuple[int, int, bytes]) -> bytes:
    return b"".join(
        struct.pack("<II", register, kind)
        + hashlib.new("sha1", data).digest()  # noqa: S324 - the form has no other
        + struct.pack("<I", len(data))
        + data
        for register, kind, data in events
    )


def test_a_log_replays_to_what_was_extended() -> None:
    tpm = SoftwareTpm().boot()
    log = parse_event_log(tpm.event_log())
    assert log.crypto_agile
    assert log.banks == ("sha256", "sha384")
    for bank in log.banks:
        for index, value in log.replay(bank).items():
            assert value == tpm.pcr(bank, index)
    log.check_digests()
    with pytest.raises(AttestationError, match="eventlog_replay_mismatch"):
        log.replay("sha1")


def test_the_older_form_has_one_bank() -> None:
    log = parse_event_log(
        legacy((0, 0x8, b"1.0"), (0xFFFFFFFF, NO_ACTION, b"vendor"), (4, SEPARATOR, bytes(4)))
    )
    assert not log.crypto_agile
    assert log.banks == ("sha1",)
    assert log.replay("sha1").keys() == {0, 4}


@pytest.mark.parametrize("locality", [0, 3, 4])
def test_startup_locality_is_the_first_value_of_pcr_0(locality: int) -> None:
    tpm = SoftwareTpm()
    tpm.measure(0, NO_ACTION, b"StartupLocality\0" + bytes([locality]))
    log = parse_event_log(tpm.event_log())
    assert log.replay("sha256") == {0: bytes(31) + bytes([locality])}
    tpm.measure(0, SEPARATOR, bytes(4))
    expected = hashlib.sha256(bytes(31) + bytes([locality]) + hashlib.sha256(bytes(4)).digest()).digest()
    assert parse_event_log(tpm.event_log()).replay("sha256") == {0: expected}


def test_startup_locality_is_told_once_and_first() -> None:
    told = (0, NO_ACTION, b"StartupLocality\0\3")
    for measured in (
        [told, told],
        [(0, SEPARATOR, bytes(4)), told],
        [(0, NO_ACTION, b"StartupLocality\0\1")],
        [(0, NO_ACTION, b"StartupLocality\0\3\0")],
        [(0, NO_ACTION, b"StartupLocality\0")],
    ):
        tpm = SoftwareTpm()
        for event in measured:
            tpm.measure(*event)
        with pytest.raises(EvidenceMalformed, match="eventlog_malformed"):
            parse_event_log(tpm.event_log())


def with_header(change: tuple[bytes, bytes]) -> bytes:
    log = SoftwareTpm().boot().event_log()
    assert change[0] in log[:80]
    return log.replace(*change, 1)


@pytest.mark.parametrize(
    "change",
    [
        (struct.pack("<IHH", 2, 0xB, 32), struct.pack("<IHH", 1, 0xB, 32)),
        (struct.pack("<IHH", 2, 0xB, 32), struct.pack("<IHH", 9, 0xB, 32)),
        (struct.pack("<IHH", 2, 0xB, 32), struct.pack("<IHH", 0, 0xB, 32)),
        (struct.pack("<HH", 0xB, 32), struct.pack("<HH", 0xB, 20)),
        (struct.pack("<HH", 0xB, 32), struct.pack("<HH", 0xC, 48)),
        (struct.pack("<HH", 0xB, 32), struct.pack("<HH", 0xD, 64)),
        (struct.pack("<HH", 0xB, 32), struct.pack("<HH", 0x999, 0)),
        (b"Spec ID Event03", b"Spec ID Event02"),
    ],
)
def test_an_odd_header_is_malformed(change: tuple[bytes, bytes]) -> None:
    with pytest.raises(EvidenceMalformed, match="eventlog_malformed"):
        parse_event_log(with_header(change))


def test_a_bank_that_is_not_known_is_passed_over() -> None:
    log = SoftwareTpm(banks=("sha256",)).boot().event_log()
    unknown = struct.pack("<HH", 0x27, 32)
    header = log[28 : 28 + 4 + 33]
    listed = (
        header[4:]
        .replace(struct.pack("<I", 1), struct.pack("<I", 2))
        .replace(struct.pack("<HH", 0xB, 32), struct.pack("<HH", 0xB, 32) + unknown)
    )
    event = struct.pack("<IIIH", 1, SEPARATOR, 2, 0x27) + bytes(32) + struct.pack("<H", 0xB)
    event += hashlib.sha256(bytes(4)).digest() + struct.pack("<I", 4) + bytes(4)
    parsed = parse_event_log(log[:28] + struct.pack("<I", len(listed)) + listed + event)
    assert parsed.banks == ("sha256",)
    assert parsed.replay("sha256").keys() == {1}


def test_limits_hold_before_anything_is_kept() -> None:
    with pytest.raises(EvidenceMalformed, match="bytes"):
        parse_event_log(bytes(MAX_EVENT_LOG + 1))
    many = legacy((0, SEPARATOR, b"")) * (MAX_EVENTS + 1)
    with pytest.raises(EvidenceMalformed, match="events"):
        parse_event_log(many)
    assert len(parse_event_log(many[: 32 * MAX_EVENTS]).events) == MAX_EVENTS
    with pytest.raises(EvidenceMalformed, match="truncated"):
        parse_event_log(legacy((0, SEPARATOR, b""))[:-4] + b"\xff\xff\xff\xff")
    with pytest.raises(EvidenceMalformed, match="no such register"):
        parse_event_log(legacy((24, SEPARATOR, b"")))


def test_a_ccel_counts_rtmrs_from_one_and_may_be_padded() -> None:
    guest = SoftwareTpm(banks=("sha384",))
    guest.measure(1, SEPARATOR, bytes(4))
    guest.measure(3, 0xD, b"kernel")
    log = guest.event_log()
    for filler in (b"", b"\xff" * 64, bytes(64), b"\xff", b"\0"):
        assert rtmrs(parse_ccel(log + filler)) == {0: guest.pcr("sha384", 1), 2: guest.pcr("sha384", 3)}
    for odd in (log + b"\xff" * 64 + b"\1", legacy((1, SEPARATOR, bytes(4))), b""):
        with pytest.raises(EvidenceMalformed, match="eventlog_malformed"):
            parse_ccel(odd)
    for register in (0, 5):
        guest.measure(register, SEPARATOR, bytes(4))
        with pytest.raises(EvidenceMalformed, match="no such register"):
            parse_ccel(guest.event_log())
        guest.events.pop()


def test_which_digests_can_be_recomputed() -> None:
    boot = variable("Boot0000", b"option")
    assert measured_data(0x80000002, boot) == (b"option", boot)
    assert measured_data(0x80000001, boot) == (boot,)
    assert measured_data(0x800000E0, boot) == (boot,)
    assert measured_data(0x800000E0, boot + b"..") == (boot + b"..", boot + b".")
    assert measured_data(SEPARATOR, bytes(4)) == (bytes(4),)
    for kind in (0x1, 0x6, 0x8, 0xA, 0xD, 0x80000003, 0x80000008, 0x12345678):
        assert measured_data(kind, b"anything") == ()
    for odd in (b"", boot[:-1], boot[:31], boot[:16] + b"\xff" * 16):
        with pytest.raises(EvidenceMalformed, match="eventlog_malformed"):
            measured_data(0x80000002, odd)


@pytest.mark.parametrize(
    ("data", "accepted"), [(bytes(4), True), (b"\xff" * 4, True), (b"\1\0\0\0", False), (b"", False)]
)
def test_a_separator_has_one_of_two_values(data: bytes, accepted: bool) -> None:
    tpm = SoftwareTpm()
    tpm.measure(5, SEPARATOR, data)
    log = parse_event_log(tpm.event_log())
    if accepted:
        log.check_digests()
    else:
        with pytest.raises(EvidenceMalformed, match="eventlog_malformed"):
            log.check_digests()


def test_secure_boot_is_one_byte_of_the_right_variable() -> None:
    for value, expected in ((b"\1", True), (b"\0", False), (b"", False), (b"\2", False)):
        tpm = SoftwareTpm()
        tpm.measure(7, 0x80000001, variable("SecureBoot", value))
        tpm.measure(7, SEPARATOR, bytes(4))
        assert parse_event_log(tpm.event_log()).secure_boot() is expected
    for events in (
        [variable("SecureBoot", b"\1")] * 2,
        [variable("SecureBoot", b"\1\1")],
        [variable("SecureBoot", b"\1", vendor=bytes(16))],
        [variable("SecureBoo", b"\1")],
        [],
    ):
        tpm = SoftwareTpm()
        for data in events:
            tpm.measure(7, 0x80000001, data)
        tpm.measure(7, SEPARATOR, bytes(4))
        with pytest.raises(EvidenceMalformed, match="eventlog_malformed"):
            parse_event_log(tpm.event_log()).secure_boot()
