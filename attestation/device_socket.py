"""A machine's devices over a socket: how a sealed process asks for evidence of itself.

On hardware the devices are ``/dev/sev-guest``, a TPM, or the GPU driver. A sealed process can open none of them, so
that one end of a socket pair is all it holds; at the other end are this machine's devices, or a simulated platform.
A request is u8 operation ‖ u32 length ‖ body, a reply u8 status ‖ u32 length ‖ body; a body of several values
has u32 length ‖ value for each. Lengths are big-endian. A refusal says, in ASCII, its code, a space, and why.
"""

import re
import socket
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from struct import Struct
from threading import Lock
from typing import Final

from attestation.bundle import MAX_BUNDLE, CpuSection
from attestation.claims import DATA_LENGTHS, NONCE_LENGTH
from attestation.collect import CpuDevice, GpuDevices
from attestation.errors import AttestationError, PlatformFault

PLATFORM_FD: Final = "CLOISTER_PLATFORM_FD"
"""Name of the variable in which the platform gives a process the number of its device's file descriptor."""

REPORT: Final = 1
GPU_COUNT: Final = 2
GPU_EVIDENCE: Final = 3
GPU_COLLATERAL: Final = 4
DATA_LENGTH: Final = 5
OPERATIONS: Final = {
    REPORT: DATA_LENGTHS,
    GPU_COUNT: {0},
    GPU_EVIDENCE: {NONCE_LENGTH},
    GPU_COLLATERAL: {8},
    DATA_LENGTH: {0},
}
"""Operations, with the lengths that a request's body may have."""

OK: Final = 0
REFUSED: Final = 1

_REFUSAL: Final = re.compile(rb"([a-z0-9_]{1,64})(?: ([\x20-\x7e]{0,400}))?")
_HEADER: Final = Struct(">BI")
_LENGTH: Final = Struct(">I")


class DeviceSocket:
    """Both devices of a machine: a CpuDevice and the GpuDevices, for use by any thread.

    It holds an open socket and does nothing but send and receive on it.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._lock = Lock()

    @classmethod
    def from_fd(cls, fd: int) -> "DeviceSocket":
        """The device behind a file descriptor. Raises PlatformFault (``platform_unreachable``)."""
        try:
            return cls(socket.socket(fileno=fd))
        except OSError:
            raise _unreachable("the descriptor is no socket") from None

    def close(self) -> None:
        """Let go of the devices."""
        self._socket.close()

    @property
    def data_length(self) -> int:
        """How many bytes the CPU's device signs. Raises PlatformFault."""
        body = self._ask(DATA_LENGTH, b"")
        if len(body) != 1 or body[0] not in DATA_LENGTHS:
            raise _unreachable("a reply of another form")
        return body[0]

    def report(self, report_data: bytes) -> CpuSection:
        """CPU evidence over ``data_length`` bytes. Raises PlatformFault."""
        tee, evidence, *collateral = split_values(self._ask(REPORT, report_data), at_least=2)
        return CpuSection(tee.decode("ascii", "replace"), evidence, _named(collateral))

    def count(self) -> int:
        """How many GPUs there are. Raises PlatformFault."""
        body = self._ask(GPU_COUNT, b"")
        if len(body) != 1:
            raise _unreachable("a reply of another form")
        return body[0]

    def evidence(self, nonce: bytes) -> bytes:
        """GPU evidence over a nonce of 32 bytes, as a bundle carries it. Raises PlatformFault."""
        return self._ask(GPU_EVIDENCE, nonce)

    def collateral(self, at: datetime) -> dict[str, bytes]:
        """Reference manifests and OCSP responses about the GPUs, good at ``at``. Raises PlatformFault."""
        reply = self._ask(GPU_COLLATERAL, int(at.timestamp()).to_bytes(8, "big"))
        return _named(split_values(reply, at_least=0))

    def _ask(self, operation: int, body: bytes) -> bytes:
        lengths = OPERATIONS[operation]
        if len(body) not in lengths:
            expected = " or ".join(map(str, sorted(lengths)))
            raise PlatformFault(code="platform_request", expected=f"{expected} bytes", found=len(body))
        try:
            with self._lock:
                send_message(self._socket, operation, body)
                reply = receive_message(self._socket)
        except OSError:
            raise _unreachable("the connection broke") from None
        if reply is None:
            raise _unreachable("the platform is gone")
        status, answer = reply
        if status != OK:
            said = _REFUSAL.fullmatch(answer)
            if said is None:
                raise PlatformFault(code="platform_refused", detail="the platform gave no evidence")
            raise PlatformFault(code=said[1].decode(), detail=(said[2] or b"").decode())
        return answer


def answer_all(sock: socket.socket, cpu: CpuDevice, gpus: GpuDevices) -> None:
    """Answer requests with what these devices say, until the other end closes. Raises PlatformFault, OSError."""
    while (request := receive_message(sock)) is not None:
        operation, body = request
        if operation not in OPERATIONS or len(body) not in OPERATIONS[operation]:
            send_message(sock, REFUSED, b"platform_request")
            continue
        try:
            reply = _answer(operation, body, cpu, gpus)
        except AttestationError as error:
            send_message(sock, REFUSED, refusal(error))
        else:
            send_message(sock, OK, reply)


def refusal(error: AttestationError | OSError) -> bytes:
    """What is told of an error."""
    if isinstance(error, OSError):
        code, detail = "platform_unreachable", f"{error.strerror}: {error.filename}"
    else:
        code, detail = error.code, error.detail
    return f"{code} {ascii(detail)[1:-1]}".encode("ascii")[:400]


def _answer(operation: int, body: bytes, cpu: CpuDevice, gpus: GpuDevices) -> bytes:
    if operation == DATA_LENGTH:
        return bytes([cpu.data_length])
    if operation == REPORT:
        section = cpu.report(body)
        return join_values([section.tee.encode(), section.evidence, *_in_turn(section.collateral)])
    if operation == GPU_COUNT:
        return bytes([gpus.count()])
    if operation == GPU_EVIDENCE:
        return gpus.evidence(body)
    try:
        at = datetime.fromtimestamp(int.from_bytes(body, "big"), UTC)
    except (ValueError, OverflowError, OSError):
        raise PlatformFault(code="platform_request", detail="no such time") from None
    return join_values(_in_turn(gpus.collateral(at)))


def _in_turn(pieces: Mapping[str, bytes]) -> list[bytes]:
    """Names and contents in turn."""
    return [part for name, data in pieces.items() for part in (name.encode(), data)]


def send_message(sock: socket.socket, kind: int, body: bytes) -> None:
    """Send one request or reply. Raises OSError."""
    sock.sendall(_HEADER.pack(kind, len(body)) + body)


def receive_message(sock: socket.socket) -> tuple[int, bytes] | None:
    """The next request or reply: its kind and body, or None at the end. Raises PlatformFault or OSError."""
    header = _receive(sock, _HEADER.size)
    if header is None:
        return None
    kind, length = _HEADER.unpack(header)
    if length > MAX_BUNDLE:
        raise _unreachable("a message that is too large")
    body = _receive(sock, length)
    if body is None:
        raise _unreachable("a message was cut short")
    return kind, body


def join_values(values: Sequence[bytes]) -> bytes:
    """Several values as one body."""
    return b"".join(_LENGTH.pack(len(value)) + value for value in values)


def split_values(body: bytes, *, at_least: int) -> list[bytes]:
    """The values of a body. Raises PlatformFault."""
    values: list[bytes] = []
    at = 0
    while at < len(body):
        if len(body) - at < _LENGTH.size:
            raise _unreachable("a reply of another form")
        (length,) = _LENGTH.unpack_from(body, at)
        at += _LENGTH.size
        if len(body) - at < length:
            raise _unreachable("a reply of another form")
        values.append(body[at : at + length])
        at += length
    if len(values) < at_least or (len(values) - at_least) % 2:
        raise _unreachable("a reply of another form")
    return values


def _named(values: Sequence[bytes]) -> dict[str, bytes]:
    """Values that are names and contents in turn."""
    names = [name.decode("ascii", "replace") for name in values[0::2]]
    return dict(zip(names, values[1::2], strict=False))


def _receive(sock: socket.socket, length: int) -> bytes | None:
    received = bytearray()
    while len(received) < length:
        piece = sock.recv(min(length - len(received), 65536))
        if not piece:
            if received:
                raise _unreachable("a message was cut short")
            return None
        received += piece
    return bytes(received)


def _unreachable(detail: str) -> PlatformFault:
    return PlatformFault(code="platform_unreachable", detail=detail, retryable=True)
