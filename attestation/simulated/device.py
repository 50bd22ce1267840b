"""The simulated platform's device: how a measured process asks for evidence of itself.

On hardware that is ``/dev/sev-guest`` and the GPU driver. Here it is one end of a socket pair that the
platform gives the process at launch; whoever holds it gets evidence of that one launch and of nothing else.
A request is u8 operation ‖ u32 length ‖ body, a reply u8 status ‖ u32 length ‖ body; a body of several values
has u32 length ‖ value for each. Lengths are big-endian.
"""

import socket
from collections.abc import Sequence
from datetime import datetime
from struct import Struct
from threading import Lock
from typing import Final

from attestation.bundle import MAX_BUNDLE, CpuSection
from attestation.claims import NONCE_LENGTH
from attestation.errors import PlatformFault
from attestation.sev_snp_report import REPORT_DATA_LENGTH

PLATFORM_FD: Final = "CLOISTER_PLATFORM_FD"
"""Name of the variable in which the platform gives a process the number of its device's file descriptor."""

REPORT: Final = 1
GPU_COUNT: Final = 2
GPU_EVIDENCE: Final = 3
GPU_COLLATERAL: Final = 4
OPERATIONS: Final = {REPORT: REPORT_DATA_LENGTH, GPU_COUNT: 0, GPU_EVIDENCE: NONCE_LENGTH, GPU_COLLATERAL: 8}
"""Operations, with the length of each request's body."""

OK: Final = 0
REFUSED: Final = 1

_HEADER: Final = Struct(">BI")
_LENGTH: Final = Struct(">I")


class SimulatedDevice:
    """Both devices of a simulated machine: a CpuDevice and the GpuDevices, for use by any thread.

    It holds an open socket and does nothing but send and receive on it.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._lock = Lock()

    @classmethod
    def from_fd(cls, fd: int) -> "SimulatedDevice":
        """The device behind a file descriptor. Raises PlatformFault (``platform_unreachable``)."""
        try:
            return cls(socket.socket(fileno=fd))
        except OSError:
            raise _unreachable("the descriptor is no socket") from None

    def report(self, report_data: bytes) -> CpuSection:
        """CPU evidence over 64 bytes of REPORT_DATA. Raises PlatformFault."""
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
        if len(body) != OPERATIONS[operation]:
            raise PlatformFault(
                code="platform_request", expected=f"{OPERATIONS[operation]} bytes", found=len(body)
            )
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
            raise PlatformFault(code="platform_refused", detail="the platform gave no evidence")
        return answer


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
