"""Evidence from a machine's own devices, with recorded devices in their place."""

import ctypes
import errno
import hashlib
import itertools
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.collect import CpuDevice
from attestation.collection.certificate_table import parse_certificate_table
from attestation.collection.configfs_tsm import ConfigfsTsm, SystemFiles
from attestation.collection.sev_guest import GET_EXT_REPORT, SevGuest
from attestation.collection.tdx_guest import GET_REPORT0, TdxGuest, quote_request, read_quote
from attestation.collection.tpm_commands import read_nv, read_pcrs
from attestation.collection.tpm_device import AZURE_HCL_REPORT, TpmDevice
from attestation.errors import AttestationError, EvidenceMalformed, PlatformFault
from attestation.tpm.evidence import TpmEvidence

DATA = hashlib.sha512(b"claims").digest()
VCEK = UUID("63da758d-e664-4564-adc5-f4b93be8accd")
VLEK = UUID("a8074bc2-a25a-483e-aae6-39c045a0b8a1")
ASK = UUID("4ab7b379-bbac-4fe4-a02f-05aef327c782")
OTHER = UUID("00000000-1111-2222-3333-444444444444")


def snp_report(report_data: bytes, *, vlek: bool = False) -> bytes:
    report = bytearray(0x4A0)
    struct.pack_into("<I", report, 0x000, 2)
    struct.pack_into("<Q", report, 0x008, 0x30000)
    struct.pack_into("<I", report, 0x034, 1)
    struct.pack_into("<I", report, 0x048, 4 if vlek else 0)
    report[0x050:0x090] = report_data
    return bytes(report)


def table(*entries: tuple[UUID, bytes], end: bytes = bytes(24)) -> bytes:
    head, body = b"", b""
    start = 24 * len(entries) + len(end)
    for guid, content in entries:
        head += guid.bytes + struct.pack("<II", start + len(body), len(content))
        body += content
    return head + end + body


TABLE = table((VCEK, b"vcek der"), (OTHER, b"?"), (ASK, b"ask der"), (VLEK, b"vlek der"))


class Tree:
    """configfs as the kernel behaves: attributes appear with the folder, reports follow what was written."""

    def __init__(self, provider: bytes, answer: Callable[[bytes], bytes], extra: bytes | None = None) -> None:
        self.provider, self.answer, self.extra = provider, answer, extra
        self.requests: dict[Path, bytes] = {}
        self.generation = 0
        self.interferences = 0
        self.made = 0

    def make(self, folder: Path) -> None:
        if folder in self.requests:
            raise FileExistsError(errno.EEXIST, "File exists", str(folder))
        self.requests[folder] = b""
        self.made += 1

    def remove(self, folder: Path) -> None:
        del self.requests[folder]

    def write(self, path: Path, data: bytes) -> None:
        assert path.name == "inblob"
        self.requests[path.parent] = data
        self.generation += 1

    def read(self, path: Path, limit: int) -> bytes:
        request = self.requests[path.parent]
        if path.name == "provider":
            return self.provider + b"\n"
        if path.name == "generation":
            return b"%d\n" % self.generation
        if path.name == "auxblob":
            if self.extra is None:
                raise FileNotFoundError(errno.ENOENT, "No such file", str(path))
            return self.extra[: limit + 1]
        if self.interferences:
            self.interferences -= 1
            self.generation += 1
            return self.answer(bytes(64))[: limit + 1]
        return self.answer(request)[: limit + 1]


def tsm(tree: Tree, **collateral: bytes) -> ConfigfsTsm:
    names = (f"request{number}" for number in itertools.count())
    return ConfigfsTsm(lambda: next(names), files=tree, collateral=collateral)


def test_configfs_gives_a_report_with_the_hosts_certificates() -> None:
    tree = Tree(b"sev_guest", snp_report, TABLE)
    device: CpuDevice = tsm(tree)
    section = device.report(DATA)
    assert section.tee == "sev-snp"
    assert section.evidence == snp_report(DATA)
    assert section.collateral == {"vek": b"vcek der", "ask": b"ask der"}
    assert tree.requests == {}


def test_what_was_stapled_takes_precedence_over_what_the_host_offers() -> None:
    section = tsm(Tree(b"sev_guest", snp_report, TABLE), vek=b"ours", crl=b"list").report(DATA)
    assert section.collateral == {"vek": b"ours", "ask": b"ask der", "crl": b"list"}


def test_a_report_by_a_vlek_comes_with_the_vlek() -> None:
    section = tsm(Tree(b"sev_guest", lambda data: snp_report(data, vlek=True), TABLE)).report(DATA)
    assert section.collateral["vek"] == b"vlek der"


def test_configfs_gives_a_tdx_quote() -> None:
    section = tsm(Tree(b"tdx_guest", lambda data: b"quote " + data), tcb_info=b"{}").report(DATA)
    assert (section.tee, section.evidence, section.collateral) == (
        "tdx",
        b"quote " + DATA,
        {"tcb_info": b"{}"},
    )


def test_a_request_that_another_program_changed_is_made_again() -> None:
    tree = Tree(b"sev_guest", snp_report, TABLE)
    tree.interferences = 2
    assert tsm(tree).report(DATA).evidence == snp_report(DATA)
    tree.interferences = 9
    with pytest.raises(PlatformFault, match="keeps changing"):
        tsm(tree).report(DATA)
    assert tree.requests == {}


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        (Tree(b"sev_guest", lambda _: snp_report(bytes(64))), "other data"),
        (Tree(b"sev_guest", lambda _: b"short"), "a report of 5 bytes"),
        (Tree(b"sev_guest", snp_report, b"\1" * 30), "certificate_table_malformed"),
        (Tree(b"tdx_guest", lambda _: b""), "a quote of 0 bytes"),
        (Tree(b"arm_cca_guest", snp_report), "unknown provider"),
    ],
)
def test_a_device_that_answers_something_else_gives_no_evidence(tree: Tree, said: str) -> None:
    with pytest.raises(PlatformFault, match=said):
        tsm(tree).report(DATA)
    assert tree.requests == {}


def test_a_machine_without_the_interface_says_so(tmp_path: Path) -> None:
    device = ConfigfsTsm(lambda: "request", folder=tmp_path / "absent")
    with pytest.raises(PlatformFault) as caught:
        device.report(DATA)
    assert caught.value.code == "platform_unreachable"
    with pytest.raises(PlatformFault, match="64 bytes"):
        device.report(b"short")


def test_system_files_write_once_and_read_within_the_limit(tmp_path: Path) -> None:
    files = SystemFiles()
    files.make(tmp_path / "r")
    (tmp_path / "r" / "inblob").touch()
    files.write(tmp_path / "r" / "inblob", b"x" * 100)
    assert files.read(tmp_path / "r" / "inblob", 10) == b"x" * 11
    (tmp_path / "r" / "inblob").unlink()
    files.remove(tmp_path / "r")
    with pytest.raises(FileNotFoundError):
        files.write(tmp_path / "r" / "inblob", b"")


class SevDevice:
    """``/dev/sev-guest`` with a host that offers ``certificates``."""

    def __init__(self, certificates: bytes, *, vmm_error: int = 0, report: bytes | None = None) -> None:
        self.certificates, self.vmm_error, self.given = certificates, vmm_error, report
        self.rooms: list[int] = []

    def __call__(self, request: int, argument: bytearray) -> None:
        assert request == GET_EXT_REPORT == 3 << 30 | 32 << 16 | ord("S") << 8 | 2
        assert len(argument) == 32
        version, asked, response = struct.unpack_from("<B7xQQ", argument)
        assert version == 1
        body = ctypes.string_at(asked, 112)
        user_data, vmpl, address, room = struct.unpack_from("<64sI28xQI", body)
        assert vmpl == 0
        self.rooms.append(room)
        if self.vmm_error:
            struct.pack_into("<II", argument, 24, 0x16, self.vmm_error)
            raise OSError(errno.EIO, "Input/output error")
        if room < len(self.certificates):
            ctypes.memmove(asked + 104, struct.pack("<I", len(self.certificates)), 4)
            struct.pack_into("<II", argument, 24, 0, 1)
            raise OSError(errno.EIO, "Input/output error")
        if room:
            ctypes.memmove(address, self.certificates, len(self.certificates))
        report = self.given if self.given is not None else snp_report(user_data)
        ctypes.memmove(response, struct.pack("<II24x", 0, len(report)) + report, 32 + len(report))


def test_the_sev_device_is_asked_for_the_report_and_the_certificates() -> None:
    device = SevDevice(TABLE.ljust(4096, b"\0"))
    section = SevGuest(device).report(DATA)
    assert section.evidence == snp_report(DATA)
    assert section.collateral == {"vek": b"vcek der", "ask": b"ask der"}
    assert device.rooms == [0, 4096]
    assert SevGuest(SevDevice(b""), collateral={"vek": b"v"}).report(DATA).collateral == {"vek": b"v"}


@pytest.mark.parametrize(
    ("device", "code", "said"),
    [
        (SevDevice(b"", vmm_error=2), "platform_unreachable", "busy"),
        (SevDevice(b"", vmm_error=7), "platform_refused", "firmware error 0x16"),
        (SevDevice(bytes(1 << 20)), "platform_refused", "certificates of"),
        (SevDevice(b"", report=b"\0" * 100), "platform_refused", "a report of 100 bytes"),
        (SevDevice(b"", report=snp_report(bytes(64))), "platform_refused", "other data"),
    ],
)
def test_a_sev_device_that_fails_gives_no_evidence(device: SevDevice, code: str, said: str) -> None:
    with pytest.raises(PlatformFault, match=said) as caught:
        SevGuest(device).report(DATA)
    assert caught.value.code == code


def tdx_ioctl(request: int, argument: bytearray) -> None:
    assert request == GET_REPORT0 == 3 << 30 | 1088 << 16 | ord("T") << 8 | 1
    tdreport = bytearray(b"\x81" + bytes(1023))
    tdreport[128:192] = argument[:64]
    argument[64:] = tdreport


def quote_answer(quote: bytes, *, error: int = 0, key: bytes = b"") -> bytes:
    body = struct.pack("<II", len(key), len(quote)) + key + quote
    return struct.pack("<HHIII", 1, 0, 1, 16 + len(body), error) + body


def test_the_tdx_device_and_the_quote_service_give_a_quote() -> None:
    def service(message: bytes) -> bytes:
        assert message == quote_request(message[24:])
        assert struct.unpack_from("<HHIIIII", message) == (1, 0, 0, 1048, 0, 1024, 0)
        return quote_answer(b"quote " + message[24 + 128 : 24 + 192], key=b"id")

    section = TdxGuest(tdx_ioctl, service).report(DATA)
    assert (section.tee, section.evidence) == ("tdx", b"quote " + DATA)


def test_a_tdx_device_or_service_that_fails_gives_no_evidence() -> None:
    def broken(request: int, argument: bytearray) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    def silent(message: bytes) -> bytes:
        raise ConnectionResetError(errno.ECONNRESET, "Connection reset")

    for device in (
        TdxGuest(broken, lambda _: b""),
        TdxGuest(lambda *_: None, lambda _: b""),
        TdxGuest(tdx_ioctl, silent),
        TdxGuest(tdx_ioctl, lambda _: quote_answer(b"q", error=0x11001)),
        TdxGuest(tdx_ioctl, lambda _: quote_answer(b"")),
    ):
        with pytest.raises(PlatformFault):
            device.report(DATA)


class Tpm:
    """A TPM that answers the commands of a quote, as a recording would."""

    def __init__(self) -> None:
        self.changes: Iterator[int] = iter(())
        self.boot = 0

    def pcr(self, index: int) -> bytes:
        return hashlib.sha256(bytes([index, self.boot])).digest()

    def __call__(self, command: bytes) -> bytes:
        tag, size, code = struct.unpack_from(">HII", command)
        assert size == len(command)
        body = command[10:]
        if code == 0x173:
            assert (tag, body) == (0x8001, b"\x81\x00\x00\x03")
            return self.answer(struct.pack(">H", 6) + b"public" + struct.pack(">H", 4) + b"name" + b"\0\0")
        if code == 0x17E:
            self.boot += next(self.changes, 0)
            assert body[:7] == b"\0\0\0\1\0\x0b\3"
            bits = int.from_bytes(body[7:10], "little")
            chosen = [self.pcr(index) for index in range(24) if bits >> index & 1]
            values = b"".join(struct.pack(">H", 32) + value for value in chosen)
            return self.answer(bytes(4) + body + struct.pack(">I", len(chosen)) + values)
        if code == 0x158:
            assert tag == 0x8002
            start = 4 + 4 + 9
            (length,) = struct.unpack_from(">H", body, start)
            qualifying = body[start + 2 : start + 2 + length]
            quoted = b"attest:" + qualifying
            parameters = struct.pack(">H", len(quoted)) + quoted + b"signature"
            return self.answer(struct.pack(">I", len(parameters)) + parameters + bytes(5), tag=0x8002)
        if code == 0x169:
            assert int.from_bytes(body, "big") == AZURE_HCL_REPORT
            public = struct.pack(">IHIH", AZURE_HCL_REPORT, 0x0B, 0, 0) + struct.pack(">H", 2600)
            return self.answer(struct.pack(">H", len(public)) + public + struct.pack(">H", 0))
        assert code == 0x14E
        length, offset = struct.unpack(">HH", body[-4:])
        piece = bytes((offset + at) % 251 for at in range(length))
        parameters = struct.pack(">H", length) + piece
        return self.answer(struct.pack(">I", len(parameters)) + parameters + bytes(5), tag=0x8002)

    def answer(self, body: bytes, *, tag: int = 0x8001, code: int = 0) -> bytes:
        return struct.pack(">HII", tag, 10 + len(body), code) + body


SELECTION = {"sha256": tuple(range(12))}


def test_a_tpm_quotes_over_values_that_did_not_change_meanwhile() -> None:
    tpm = Tpm()
    device = TpmDevice(
        tpm, 0x81000003, selection=SELECTION, eventlog=lambda: b"log", collateral={"ak_chain": b"c"}
    )
    section = device.report(DATA[:32])
    evidence = TpmEvidence.parse(section.evidence)
    assert section.collateral == {"ak_chain": b"c", "eventlog": b"log"}
    assert evidence.quote.message == b"attest:" + DATA[:32]
    assert evidence.quote.signature == b"signature"
    assert evidence.ak_public == b"\x00\x06public"
    assert evidence.quote.pcrs == {"sha256": {index: tpm.pcr(index) for index in range(12)}}
    tpm.changes = iter((0, 0, 1))
    device.report(DATA[:32])
    tpm.changes = itertools.repeat(1)
    with pytest.raises(PlatformFault, match="keep changing"):
        device.report(DATA[:32])
    with pytest.raises(PlatformFault, match="32 bytes"):
        device.report(DATA)


def test_azures_report_is_read_out_of_the_tpm_in_pieces() -> None:
    assert read_nv(Tpm(), AZURE_HCL_REPORT) == bytes(
        ((at // 1024) * 1024 + at % 1024) % 251 for at in range(2600)
    )


def test_a_tpm_that_refuses_or_is_gone_gives_no_evidence() -> None:
    def gone(command: bytes) -> bytes:
        raise OSError(errno.ENODEV, "No such device")

    for transact in (
        gone,
        lambda _: Tpm().answer(b"", code=0x18B),
        lambda _: b"\x80\x01",
        lambda _: bytes(99),
    ):
        with pytest.raises(PlatformFault):
            TpmDevice(transact, 0x81000003).report(DATA[:32])


def test_the_table_of_an_extended_report() -> None:
    assert parse_certificate_table(b"") == parse_certificate_table(bytes(4096)) == {}
    found = parse_certificate_table(TABLE)
    assert found == {"vcek": b"vcek der", "ask": b"ask der", "vlek": b"vlek der"}
    little = table((VCEK, b"x")).replace(VCEK.bytes, VCEK.bytes_le)
    assert parse_certificate_table(little) == {"vcek": b"x"}
    for wrong in (
        table((VCEK, b"x"), (VCEK, b"y")),
        table((VCEK, b"x"), end=b""),
        table((VCEK, b"x"))[:-1],
        table((VCEK, bytes(1 << 15))),
        table((VCEK, b"x"), end=bytes(16) + b"\1" * 8),
        table(*((OTHER, b"x"),) * 40),
        b"\1" * (1 << 20),
    ):
        with pytest.raises(EvidenceMalformed) as caught:
            parse_certificate_table(wrong)
        assert caught.value.code == "certificate_table_malformed"


PARSERS: dict[str, tuple[Callable[[bytes], object], bytes]] = {
    "certificate table": (parse_certificate_table, TABLE),
    "quote service": (read_quote, quote_answer(b"quote", key=b"id")),
    "tpm": (
        lambda data: read_pcrs(lambda _: data, {"sha256": (0,)}),
        Tpm()(struct.pack(">HII", 0x8001, 20, 0x17E) + b"\0\0\0\1\0\x0b\3\1\0\0"),
    ),
    "nv": (
        lambda data: read_nv(lambda _: data, 1),
        Tpm()(struct.pack(">HIII", 0x8001, 14, 0x169, AZURE_HCL_REPORT)),
    ),
}


@pytest.mark.parametrize("name", PARSERS)
def test_changed_and_cut_answers_never_leave_the_error_family(name: str) -> None:
    parse, good = PARSERS[name]
    parse(good) if name != "nv" else None
    inputs = [good[:length] for length in range(len(good))]
    inputs += [
        good[:at] + bytes([good[at] ^ flip]) + good[at + 1 :]
        for at in range(len(good))
        for flip in (1, 0x80, 0xFF)
    ]
    for data in inputs:
        try:
            parse(data)
        except AttestationError:
            continue


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=80, deadline=None)
@given(data=st.binary(max_size=300))
def test_random_answers_never_leave_the_error_family(name: str, data: bytes) -> None:
    parse, good = PARSERS[name]
    for candidate in (data, good[:24] + data):
        try:
            parse(candidate)
        except AttestationError:
            continue
