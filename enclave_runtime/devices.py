"""The devices that the measured configuration names, and the small process that holds them for a sealed node.

A sealed node can open nothing, and must give evidence all its life. So before it confines itself, a second process
of the same measured image is set apart, which opens the devices and does nothing but answer over a socket pair, as
a simulated platform does. A platform is what the configuration says it is: where its devices are missing the node
does not start, and no other platform takes their place.
"""

import errno
import os
import resource
import signal
import socket
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import NoReturn, Protocol

from attestation.bundle import CpuSection
from attestation.claims import NONCE_LENGTH
from attestation.collateral_folder import MAX_PIECE
from attestation.collect import CpuDevice, GpuDevices
from attestation.collection import configfs_tsm, sev_guest, tdx_guest
from attestation.collection.configfs_tsm import ConfigfsTsm, FileTree, SystemFiles
from attestation.collection.quote_services import azure_td_quote, vsock_service
from attestation.collection.sev_guest import SevGuest
from attestation.collection.tdx_guest import TdxGuest
from attestation.collection.tpm_commands import MAX_RESPONSE
from attestation.collection.tpm_device import AZURE_AK, AzureDevice, TpmDevice
from attestation.device_socket import (
    REFUSED,
    DeviceSocket,
    answer_all,
    receive_message,
    refusal,
    send_message,
)
from attestation.errors import AttestationError, PlatformFault
from attestation.nvidia.collateral_cache import CollateralCache
from attestation.nvidia.collect import NvmlGpus
from attestation.nvidia.verify import verify_gpus
from attestation.policy import AttestationPolicy
from attestation.tdx.collateral import COLLATERAL_NAMES
from attestation.tees import AZURE_SNP, AZURE_TDX, SEV_SNP, TDX, TPM
from enclave_runtime import kernel_calls
from enclave_runtime.config import HostInputs, NodeConfig
from enclave_runtime.errors import NodeError
from enclave_runtime.exit_codes import ExitCode

TPM_DEVICE = Path("/dev/tpmrm0")
EVENT_LOG = Path("/sys/kernel/security/tpm0/binary_bios_measurements")

_MAX_LOG = 1024 * 1024
_MAX_ENTRIES = 256


class Machine(Protocol):
    """The interfaces of a machine, each of which raises OSError, or PlatformFault or GpuFault, where it is not."""

    def has(self, path: Path) -> bool:
        """Whether there is such a folder or device."""
        ...

    @property
    def files(self) -> FileTree:
        """For configfs."""
        ...

    def ioctl(self, device: str) -> Callable[[int, bytearray], None]:
        """The control call of a device that was opened for it."""
        ...

    def tpm(self) -> Callable[[bytes], bytes]:
        """One command to the TPM, and its answer."""
        ...

    def event_log(self) -> bytes:
        """What the firmware and the boot measured into the TPM."""
        ...

    def gpus(self, count: int, cache: Path | None) -> NvmlGpus:
        """The GPUs by NVIDIA's library; just as many as ``count``."""
        ...


class ThisMachine:
    """The machine that this process runs on."""

    @property
    def files(self) -> FileTree:
        """See Machine."""
        return SystemFiles()

    def has(self, path: Path) -> bool:
        """See Machine."""
        return path.exists()

    def ioctl(self, device: str) -> Callable[[int, bytearray], None]:
        """See Machine."""
        from fcntl import ioctl

        descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)

        def call(request: int, argument: bytearray) -> None:
            ioctl(descriptor, request, argument, True)

        return call

    def tpm(self) -> Callable[[bytes], bytes]:
        """See Machine."""
        descriptor = os.open(TPM_DEVICE, os.O_RDWR | os.O_CLOEXEC)

        def transact(command: bytes) -> bytes:
            os.write(descriptor, command)
            return os.read(descriptor, MAX_RESPONSE)

        return transact

    def event_log(self) -> bytes:
        """See Machine."""
        return SystemFiles().read(EVENT_LOG, _MAX_LOG)

    def gpus(self, count: int, cache: Path | None) -> NvmlGpus:
        """See Machine."""
        return NvmlGpus.open(count, cache=CollateralCache(cache) if cache else None)


def start_keeper(config: NodeConfig, host: HostInputs, machine: Machine | None = None) -> int:
    """Set the process apart that holds this machine's devices; the descriptor of the node's end.

    It has opened the devices and verified the GPUs before this returns. Raises NodeError (PLATFORM) with the code
    and the words of whatever failed.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    if os.fork() == 0:
        _live(theirs, ours, config, host, machine or ThisMachine())
    theirs.close()
    devices = DeviceSocket(ours)
    try:
        # Answered once everything is open, or with the reason why it is not.
        devices.data_length  # noqa: B018
    except AttestationError as error:
        ours.close()
        raise NodeError(error.code, ExitCode.PLATFORM, error.detail) from None
    return ours.detach()


def _live(
    stream: socket.socket, other: socket.socket, config: NodeConfig, host: HostInputs, machine: Machine
) -> NoReturn:
    """The whole life of the keeper: it ends with the node, and says nothing but over its socket."""
    try:
        kernel_calls.prctl(kernel_calls.PR_SET_PDEATHSIG, signal.SIGTERM)
        kernel_calls.prctl(kernel_calls.PR_SET_NO_NEW_PRIVS, 1)
        kernel_calls.prctl(kernel_calls.PR_SET_DUMPABLE, 0)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        other.close()
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        with suppress(AttestationError, OSError):  # the node is gone
            keep(stream, config, host, machine, datetime.now(UTC))
    finally:
        os._exit(0)


def open_cpu(config: NodeConfig, machine: Machine) -> CpuDevice:
    """The CPU's device of the platform that the configuration names. Raises PlatformFault, OSError."""
    if config.platform not in _CPUS:
        raise PlatformFault(code="platform_unknown", found=config.platform)
    return _CPUS[config.platform](config.devices, machine)


def open_gpus(config: NodeConfig, host: HostInputs, machine: Machine, at: datetime) -> GpuDevices:
    """The GPUs, verified by the node's own policy at the time ``at``, and ready for work; or none, as configured.

    Raises AttestationError, of whatever of it fails.
    """
    if not config.gpu_count:
        return _NoGpus()
    policy = AttestationPolicy.from_table(config.gpu_policy).gpu
    gpus = machine.gpus(config.gpu_count, host.gpu_collateral)
    nonce = os.urandom(NONCE_LENGTH)
    verified = verify_gpus(gpus.evidence(nonce), nonce, policy, at, gpus.collateral(at))
    if not gpus.ready():
        gpus.set_ready(verified)
    return gpus


def keep(stream: socket.socket, config: NodeConfig, host: HostInputs, machine: Machine, at: datetime) -> None:
    """Open the devices and answer on ``stream`` until its other end closes; what cannot be opened is told there."""
    with stream:
        try:
            cpu = Stapled(open_cpu(config, machine), host.collateral, _PIECES[config.platform])
            gpus = open_gpus(config, host, machine, at)
        except (AttestationError, OSError) as error:
            receive_message(stream)
            send_message(stream, REFUSED, refusal(error))
            return
        answer_all(stream, cpu, gpus)


class Stapled:
    """A CPU's device, with the collateral of these ``names`` that is in a folder whenever evidence is asked for.

    The folder is the host's, and evidence is public: nothing is read but plain files of these names, so that no
    link in it, and no other folder in its place, makes this process tell what it can read besides.
    """

    def __init__(self, device: CpuDevice, folder: Path | None, names: frozenset[str]) -> None:
        self._device = device
        self._folder = folder
        self._names = names

    @property
    def data_length(self) -> int:
        """See CpuDevice."""
        return self._device.data_length

    def report(self, report_data: bytes) -> CpuSection:
        """See CpuDevice; what the folder holds goes before what the host gave with the evidence."""
        section = self._device.report(report_data)
        if self._folder is None:
            return section
        try:
            pieces = dict(self._pieces(self._folder))
        except OSError as error:
            raise PlatformFault(code="collateral_unreadable", detail=error.strerror or "") from None
        return CpuSection(section.tee, section.evidence, {**section.collateral, **pieces})

    def _pieces(self, folder: Path) -> Iterator[tuple[str, bytes]]:
        entries = list(islice(folder.iterdir(), _MAX_ENTRIES + 1))
        if len(entries) > _MAX_ENTRIES:
            raise OSError(errno.EFBIG, "too many files in the folder of collateral")
        for entry in sorted(entries):
            name = entry.name.partition(".")[0]
            if name in self._names:
                yield name, _read_plain_file(entry)


def _read_plain_file(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a plain file")
        data = file.read(MAX_PIECE + 1)
    if len(data) > MAX_PIECE:
        raise OSError(errno.EFBIG, "a piece of collateral is too large")
    return data


class _NoGpus:
    def count(self) -> int:
        return 0

    def evidence(self, nonce: bytes) -> bytes:
        return b""

    def collateral(self, at: datetime) -> Mapping[str, bytes]:
        return {}


def _tsm(kind: str, machine: Machine) -> CpuDevice:
    device = ConfigfsTsm(lambda: f"cloister-{os.urandom(8).hex()}", files=machine.files)
    return _OfKind(kind, device)


def _snp(devices: Mapping[str, int], machine: Machine) -> CpuDevice:
    if machine.has(configfs_tsm.REPORT_FOLDER) and not devices.get("vmpl"):
        return _tsm(SEV_SNP, machine)
    return SevGuest(machine.ioctl(sev_guest.DEVICE), vmpl=devices.get("vmpl", 0))


def _tdx(devices: Mapping[str, int], machine: Machine) -> CpuDevice:
    if "quote_service_port" not in devices:
        return _tsm(TDX, machine)
    return TdxGuest(machine.ioctl(tdx_guest.DEVICE), vsock_service(devices["quote_service_port"]))


def _tpm(devices: Mapping[str, int], machine: Machine) -> CpuDevice:
    return TpmDevice(machine.tpm(), devices["tpm_ak"], eventlog=machine.event_log)


def _azure_snp(devices: Mapping[str, int], machine: Machine) -> CpuDevice:
    return AzureDevice(TpmDevice(machine.tpm(), AZURE_AK, eventlog=machine.event_log), AZURE_SNP)


def _azure_tdx(devices: Mapping[str, int], machine: Machine) -> CpuDevice:
    tpm = TpmDevice(machine.tpm(), AZURE_AK, eventlog=machine.event_log)
    return AzureDevice(tpm, AZURE_TDX, td_quote=azure_td_quote)


_SNP_PIECES = frozenset({"vek", "ask", "ark", "crl"})
_TDX_PIECES = frozenset(COLLATERAL_NAMES)
_PIECES: Mapping[str, frozenset[str]] = {
    SEV_SNP: _SNP_PIECES,
    TDX: _TDX_PIECES,
    TPM: frozenset({"ak_chain", "ak_crl"}),
    AZURE_SNP: _SNP_PIECES,
    AZURE_TDX: _TDX_PIECES,
}

_CPUS: Mapping[str, Callable[[Mapping[str, int], Machine], CpuDevice]] = {
    SEV_SNP: _snp,
    TDX: _tdx,
    TPM: _tpm,
    AZURE_SNP: _azure_snp,
    AZURE_TDX: _azure_tdx,
}


class _OfKind:
    """A device of Linux's common interface, which must give evidence of the kind that was configured."""

    def __init__(self, kind: str, device: CpuDevice) -> None:
        self._kind = kind
        self._device = device

    @property
    def data_length(self) -> int:
        return self._device.data_length

    def report(self, report_data: bytes) -> CpuSection:
        section = self._device.report(report_data)
        if section.tee != self._kind:
            raise PlatformFault(code="platform_other", expected=self._kind, found=section.tee)
        return section
