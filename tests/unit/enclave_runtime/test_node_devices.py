"""A node's own devices: those that the measured configuration names, recorded here, and no others in their place."""

import errno
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from fake_nvml import FakeNvml, Minted
from sealed_node import REPOSITORY, START
from software_tpm import SoftwareTpm, sized

from attestation.appraisal import appraise_cpu
from attestation.bundle import EvidenceBundle
from attestation.collateral_folder import write_collateral
from attestation.collection.quote_services import azure_td_quote, vsock_service
from attestation.device_socket import DeviceSocket
from attestation.errors import AttestationError, PlatformFault
from attestation.nvidia.collateral_cache import CollateralCache
from attestation.nvidia.collect import NvmlGpus
from attestation.policy import AttestationPolicy
from attestation.sev_snp_policy import SnpPolicy
from attestation.simulated.amd import SimulatedAmd
from attestation.simulated.nvidia import SimulatedGpus
from attestation.tpm.ak import spki_sha256
from attestation.tpm.policy import TpmPolicy
from enclave_runtime.config import HOST_INPUTS, HostInputs, NodeConfig
from enclave_runtime.devices import keep, open_cpu, start_keeper
from enclave_runtime.errors import ConfigurationError, NodeError
from enclave_runtime.evidence import EvidenceMaker
from enclave_runtime.exit_codes import ExitCode
from measurements.staple import Staple

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
STAPLE = Staple(b"rp", b"rl", b"sp", b"sl", b"checkpoint")
AK = 0x81010001


class Configfs:
    """configfs-tsm over a processor of the simulated platform."""

    def __init__(self, amd: SimulatedAmd, provider: bytes = b"sev_guest") -> None:
        self.amd, self.provider, self.settings = amd, provider, amd.settings(bytes(48))
        self.request = b""

    def make(self, folder: Path) -> None: ...

    def remove(self, folder: Path) -> None: ...

    def write(self, path: Path, data: bytes) -> None:
        self.request = data

    def read(self, path: Path, limit: int) -> bytes:
        if path.name == "outblob":
            return self.amd.section(self.request, self.settings).evidence
        if path.name == "auxblob":
            raise FileNotFoundError(errno.ENOENT, "No such file", str(path))
        return self.provider if path.name == "provider" else b"1"


class NoConfigfs:
    def make(self, folder: Path) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(folder))


class TpmChip:
    """The commands of a quote, answered by a TPM in software."""

    def __init__(self, tpm: SoftwareTpm) -> None:
        self.tpm = tpm

    def __call__(self, command: bytes) -> bytes:
        code, body = int.from_bytes(command[6:10], "big"), command[10:]
        if code == 0x173:
            assert int.from_bytes(body, "big") == AK
            return self._answer(self.tpm.public + sized(b"name") + sized(b""))
        if code == 0x17E:
            values = b"".join(sized(self.tpm.pcr("sha256", index)) for index in self._chosen(body))
            return self._answer(bytes(4) + body + struct.pack(">I", len(self._chosen(body))) + values)
        assert code == 0x158
        (length,) = struct.unpack_from(">H", body, 17)
        qualifying, rest = body[19 : 19 + length], body[19 + length + 2 :]
        quoted = self.tpm.attest(qualifying, [("sha256", self._chosen(rest))])
        parameters = sized(quoted) + self.tpm.sign(quoted)
        return self._answer(struct.pack(">I", len(parameters)) + parameters + bytes(5))

    @staticmethod
    def _chosen(selection: bytes) -> list[int]:
        bits = int.from_bytes(selection[7:10], "little")
        return [index for index in range(24) if bits >> index & 1]

    @staticmethod
    def _answer(body: bytes) -> bytes:
        return struct.pack(">HII", 0x8001, 10 + len(body), 0) + body


class Recorded:
    """A machine with just these interfaces."""

    def __init__(self, files=None, tpm: SoftwareTpm | None = None, nvml: FakeNvml | None = None) -> None:
        self.files = files or NoConfigfs()
        self._tpm, self._nvml = tpm, nvml
        self.opened: list[str] = []

    def has(self, path: Path) -> bool:
        return not isinstance(self.files, NoConfigfs)

    def ioctl(self, device: str):
        self.opened.append(device)
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", device)

    def tpm(self):
        self.opened.append("tpm")
        if self._tpm is None:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", "/dev/tpmrm0")
        return TpmChip(self._tpm)

    def event_log(self) -> bytes:
        assert self._tpm is not None
        return self._tpm.event_log()

    def gpus(self, count: int, cache: Path | None) -> NvmlGpus:
        return NvmlGpus(self._nvml, count, cache=CollateralCache(cache) if cache else None)


def configured(platform: str, gpus: int = 0, policy: Mapping[str, object] = {}, **devices: int) -> NodeConfig:
    config = NodeConfig("tiny", platform, devices, gpu_count=gpus, gpu_policy=policy)
    return NodeConfig.parse(config.encode())


def host(tmp_path: Path, **folders: Path) -> HostInputs:
    return HostInputs(tmp_path, tmp_path, "127.0.0.1", 0, **folders)


@pytest.fixture
def kept(tmp_path):
    """Keep a machine's devices as the second process does, and talk to them as the node does."""
    threads, streams = [], []

    def start(config: NodeConfig, machine: Recorded, inputs: HostInputs | None = None) -> DeviceSocket:
        ours, theirs = socket.socketpair()
        arguments = (theirs, config, inputs or host(tmp_path), machine, AT)
        threads.append(threading.Thread(target=keep, args=arguments))
        threads[-1].start()
        streams.append(ours)
        return DeviceSocket(ours)

    yield start
    for stream in streams:
        stream.close()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def amd(tmp_path_factory) -> SimulatedAmd:
    return SimulatedAmd.open(tmp_path_factory.mktemp("amd"), lambda: AT)


@pytest.fixture(scope="module")
def gpus(tmp_path_factory) -> SimulatedGpus:
    return SimulatedGpus.open(tmp_path_factory.mktemp("gpus"), 2)


def bundle(devices: DeviceSocket, gpu_count: int = 0, table: Mapping[str, object] = {}) -> EvidenceBundle:
    policy = AttestationPolicy.from_table(table).gpu
    maker = EvidenceMaker(devices, devices, gpu_count, policy, STAPLE, b"{}")
    until = AT + timedelta(hours=1)
    data = maker.make(ohttp_keys=b"keys", nonce=b"", not_before=AT, not_after=until, at=AT)
    return EvidenceBundle.parse(data)


def test_a_processor_by_configfs_vouches_for_the_claims(kept, amd, tmp_path) -> None:
    pieces = amd.section(bytes(64), amd.settings(bytes(48))).collateral
    write_collateral(tmp_path / "staple", pieces)
    devices = kept(
        configured("sev-snp"), Recorded(Configfs(amd)), host(tmp_path, collateral=tmp_path / "staple")
    )
    policy = AttestationPolicy(
        tees=frozenset({"sev-snp"}), snp=SnpPolicy(simulated_root=amd.root_sha256, bulletins=())
    )
    verified = appraise_cpu(bundle(devices), policy, AT).require()
    assert verified.tee == "sev-snp"
    # What is to be stapled is read anew each time: a list that was renewed is carried from then on.
    write_collateral(tmp_path / "staple", {"crl": b"newer"})
    assert bundle(devices).cpu.collateral["crl"] == b"newer"


@pytest.mark.parametrize("trick", ["link", "folder", "pipe", "another folder", "too large"])
def test_the_hosts_folder_makes_the_keeper_tell_nothing_else_that_it_can_read(
    kept, amd, tmp_path, trick
) -> None:
    """Evidence is public, and the folder is the host's: a link in it would publish what it leads to."""
    secret, staple = tmp_path / "secret", tmp_path / "staple"
    secret.write_bytes(b"what only the node may read")
    staple.mkdir()
    match trick:
        case "link":
            (staple / "crl.der").symlink_to(secret)
        case "folder":
            (staple / "crl").mkdir()
        case "pipe":
            os.mkfifo(staple / "crl")
        case "another folder":
            staple = tmp_path
        case "too large":
            with (staple / "crl.der").open("wb") as file:
                file.truncate(5 << 20)
    devices = kept(configured("sev-snp"), Recorded(Configfs(amd)), host(tmp_path, collateral=staple))
    if trick == "another folder":
        assert devices.report(bytes(64)).collateral == {}
        return
    with pytest.raises(PlatformFault) as caught:
        devices.report(bytes(64))
    assert caught.value.code == "collateral_unreadable"
    (staple / "crl.der").unlink(missing_ok=True)
    if trick == "link":
        (staple / "crl.der").write_bytes(b"a list")  # control
        assert devices.report(bytes(64)).collateral == {"crl": b"a list"}


def test_a_tpm_signs_its_own_form_of_the_claims(kept) -> None:
    tpm = SoftwareTpm().boot()
    devices = kept(configured("tpm", tpm_ak=AK), Recorded(tpm=tpm))
    assert devices.data_length == 32
    pins = frozenset({spki_sha256(tpm.key.public_key())})
    policy = AttestationPolicy(tees=frozenset({"tpm"}), tpm=TpmPolicy(pinned_spki=pins))
    assert appraise_cpu(bundle(devices), policy, AT).require().tee == "tpm"
    with pytest.raises(PlatformFault, match="platform_request"):
        devices.report(bytes(64))


def test_gpus_are_verified_before_work_is_let_onto_them(kept, amd, gpus, tmp_path) -> None:
    cache = CollateralCache(tmp_path / "cache")
    for name, data in gpus.collateral(AT).items():
        cache.put(name, data, AT)
    roots = {"nvidia_root_sha256": gpus.root_sha256, "nvidia_rim_root_sha256": gpus.rim_root_sha256}
    table = {"gpu": {"count": 2}, "simulated": roots}
    nvml = FakeNvml([Minted(gpu) for gpu in gpus._gpus])
    inputs = host(tmp_path, gpu_collateral=tmp_path / "cache")
    devices = kept(configured("sev-snp", 2, table), Recorded(Configfs(amd), nvml=nvml), inputs)
    assert devices.count() == 2
    assert nvml.is_ready == 1
    assert len(bundle(devices, 2, table).gpu_collateral) > 2


@pytest.mark.parametrize("fault", ["devtools", "another root", "one missing", "no manifests"])
def test_gpus_that_do_not_verify_get_no_work_and_the_node_no_devices(
    kept, amd, gpus, tmp_path, fault
) -> None:
    cache = CollateralCache(tmp_path / "cache")
    if fault != "no manifests":
        for name, data in gpus.collateral(AT).items():
            cache.put(name, data, AT)
    roots = {"nvidia_root_sha256": gpus.root_sha256, "nvidia_rim_root_sha256": gpus.rim_root_sha256}
    if fault == "another root":
        roots["nvidia_root_sha256"] = "00" * 32
    minted = [Minted(gpu) for gpu in gpus._gpus][: 1 if fault == "one missing" else 2]
    nvml = FakeNvml(minted, devtools=int(fault == "devtools"))
    config = configured("sev-snp", 2, {"gpu": {"count": 2}, "simulated": roots})
    inputs = host(tmp_path, gpu_collateral=tmp_path / "cache")
    devices = kept(config, Recorded(Configfs(amd), nvml=nvml), inputs)
    expected = {
        "devtools": "cc_devtools",
        "another root": "chain_untrusted",
        "one missing": "gpu_count",
        "no manifests": "rim_not_found",
    }
    with pytest.raises(AttestationError) as caught:
        devices.count()
    assert caught.value.code == expected[fault]
    assert nvml.is_ready == 0
    with pytest.raises(AttestationError):
        devices.report(bytes(64))


@pytest.mark.parametrize(
    ("config", "opened"),
    [
        (configured("sev-snp"), ["/dev/sev-guest"]),
        (configured("sev-snp", vmpl=2), ["/dev/sev-guest"]),
        (configured("tdx", quote_service_port=4050), ["/dev/tdx_guest"]),
        (configured("tpm", tpm_ak=AK), ["tpm"]),
        (configured("azure-snp"), ["tpm"]),
        (configured("azure-tdx"), ["tpm"]),
    ],
)
def test_where_the_devices_are_missing_nothing_takes_their_place(kept, config, opened) -> None:
    machine = Recorded()
    devices = kept(config, machine)
    with pytest.raises(PlatformFault, match="No such file"):
        devices.data_length  # noqa: B018
    assert machine.opened == opened


def test_another_kind_of_machine_than_configured_gives_no_evidence(kept, amd) -> None:
    devices = kept(configured("tdx"), Recorded(Configfs(amd)))
    with pytest.raises(PlatformFault) as caught:
        devices.report(bytes(64))
    assert caught.value.code == "platform_other"
    assert kept(configured("sev-snp"), Recorded(Configfs(amd))).report(bytes(64)).tee == "sev-snp"  # control


def test_a_level_below_the_highest_is_asked_for_by_the_processors_own_device(amd) -> None:
    with pytest.raises(FileNotFoundError):
        open_cpu(configured("sev-snp", vmpl=1), Recorded(Configfs(amd)))


def test_the_keeper_is_another_process_that_ends_with_the_node(amd, tmp_path) -> None:
    descriptor = start_keeper(configured("sev-snp"), host(tmp_path), Recorded(Configfs(amd)))
    devices = DeviceSocket.from_fd(descriptor)
    assert devices.report(bytes(64)).tee == "sev-snp"
    devices.close()
    _, status = os.wait()
    assert status == 0


def test_a_node_on_a_machine_without_the_devices_does_not_start(tmp_path) -> None:
    with pytest.raises(NodeError) as caught:
        start_keeper(configured("sev-snp"), host(tmp_path), Recorded())
    assert caught.value.exit_code is ExitCode.PLATFORM
    os.wait()
    config = configured("azure-snp").encode().decode()
    command = [sys.executable, "-B", "-c", START, str(REPOSITORY), config]
    environment = {HOST_INPUTS: host(tmp_path).encode()}
    done = subprocess.run(command, env=environment, capture_output=True, timeout=60, check=False)
    assert done.returncode == ExitCode.PLATFORM, done.stderr


def test_a_simulated_device_handed_to_a_real_platform_is_refused(tmp_path) -> None:
    environment = {HOST_INPUTS: host(tmp_path).encode(), "CLOISTER_PLATFORM_FD": "7"}
    with pytest.raises(NodeError) as caught:
        HostInputs.parse(environment, "sev-snp")
    assert (caught.value.code, caught.value.exit_code) == ("platform_descriptor", ExitCode.HOST_INPUT)
    assert HostInputs.parse(environment, "simulated")[1].platform == 7  # control


@pytest.mark.parametrize(
    ("platform", "devices"),
    [
        ("sgx", {}),
        ("", {}),
        ("tpm", {}),
        ("tpm", {"tpm_ak": 0x80000000}),
        ("sev-snp", {"tpm_ak": AK}),
        ("sev-snp", {"vmpl": 4}),
        ("sev-snp", {"vmpl": True}),
        ("tdx", {"quote_service_port": 0}),
        ("simulated", {"vmpl": 0}),
    ],
)
def test_platforms_and_devices_that_do_not_exist(platform: str, devices: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError):
        NodeConfig.parse(replace(configured("simulated"), platform=platform, devices=devices).encode())


def served(answers: list[bytes]) -> tuple[socket.socket, threading.Thread]:
    """A listener that takes one connection for each answer, reads what comes, and sends the answer."""
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        for answer in answers:
            stream, _ = listener.accept()
            with stream:
                stream.recv(65536)
                stream.sendall(answer)
                stream.shutdown(socket.SHUT_WR)
                while stream.recv(65536):  # closed with bytes unread, a connection takes its answer with it
                    pass

    thread = threading.Thread(target=run)
    thread.start()
    return listener, thread


def test_the_quote_service_of_the_host() -> None:
    ours, theirs = socket.socketpair()
    theirs.sendall(struct.pack(">I", 5) + b"quote")
    assert vsock_service(4050, connect=lambda: ours)(b"message") == b"quote"
    assert theirs.recv(100) == struct.pack(">I", 7) + b"message"
    for answer in (b"", b"\0\0", struct.pack(">I", 9) + b"short", struct.pack(">I", 1 << 30)):
        ours, theirs = socket.socketpair()
        theirs.sendall(answer)
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(PlatformFault):
            vsock_service(4050, connect=lambda ours=ours: ours)(b"message")


def test_azures_quote_service() -> None:
    head = b"HTTP/1.1 %b\r\nconnection: close\r\n\r\n"
    good = head % b"200 OK" + b'{"quote": "cXVv-_8"}'
    bad = [
        head % b"200 OK" + b'{"quote": "?"}',
        head % b"200 OK" + b"[]",
        head % b"500 Error",
        b"nonsense\r\n\r\n",
    ]
    listener, thread = served([good, *bad])
    with listener:
        port = listener.getsockname()[1]
        assert azure_td_quote(bytes(2600), host="127.0.0.1", port=port) == b"quo\xfb\xff"
        for _ in bad:
            with pytest.raises(PlatformFault):
                azure_td_quote(bytes(2600), host="127.0.0.1", port=port)
        with pytest.raises(PlatformFault):
            azure_td_quote(bytes(100), host="127.0.0.1", port=port)
        thread.join(10)
