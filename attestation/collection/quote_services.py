"""Whoever turns a TDREPORT into a quote: the host's quote service over a vsock, or Azure's metadata service.

Neither is trusted: a quote proves itself, and over which report data it is, is checked by whoever verifies.
"""

import base64
import http.client
import json
import socket
from collections.abc import Callable
from typing import Final

from .faults import refused, unreachable

HOST_CID: Final = 2
"""The host's address on every vsock (VMADDR_CID_HOST)."""

AZURE_SERVICE: Final = "169.254.169.254"
AZURE_PATH: Final = "/acc/tdquote"
MAX_ANSWER: Final = 128 * 1024
SECONDS: Final = 30.0

_TDREPORT_AT: Final = 0x20
_TDREPORT_LENGTH: Final = 1024
_AZURE: Final = "Azure's quote service"
_SERVICE: Final = "quote service"

Connect = Callable[[], socket.socket]


def vsock_service(port: int, *, connect: Connect | None = None) -> Callable[[bytes], bytes]:
    """The exchange with Intel's quote generation service at a port of the host; messages follow u32 lengths.

    The exchange raises PlatformFault or OSError.
    """

    def call() -> socket.socket:
        stream = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        stream.settimeout(SECONDS)
        stream.connect((HOST_CID, port))
        return stream

    def exchange(message: bytes) -> bytes:
        with (connect or call)() as stream:
            stream.sendall(len(message).to_bytes(4, "big") + message)
            length = int.from_bytes(_receive(stream, 4), "big")
            if length > MAX_ANSWER:
                raise refused(_SERVICE, f"an answer of {length} bytes")
            return _receive(stream, length)

    return exchange


def azure_td_quote(hcl_report: bytes, *, host: str = AZURE_SERVICE, port: int = 80) -> bytes:
    """The quote over the TDREPORT in an HCL report. Raises PlatformFault, OSError."""
    tdreport = hcl_report[_TDREPORT_AT : _TDREPORT_AT + _TDREPORT_LENGTH]
    if len(tdreport) != _TDREPORT_LENGTH:
        raise refused(_AZURE, "the HCL report is cut off")
    body = json.dumps({"report": base64.urlsafe_b64encode(tdreport).rstrip(b"=").decode()})
    connection = http.client.HTTPConnection(host, port, timeout=SECONDS)
    try:
        connection.request("POST", AZURE_PATH, body, {"content-type": "application/json", "metadata": "true"})
        answer = connection.getresponse()
        data = answer.read(MAX_ANSWER + 1)
    except http.client.HTTPException:
        raise unreachable(_AZURE, "no answer in HTTP") from None
    finally:
        connection.close()
    if answer.status != 200 or len(data) > MAX_ANSWER:
        raise refused(_AZURE, f"status {answer.status}, {len(data)} bytes")
    try:
        text = json.loads(data)["quote"]
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (ValueError, LookupError, TypeError, RecursionError):
        raise refused(_AZURE, "an answer without a quote") from None


def _receive(stream: socket.socket, length: int) -> bytes:
    received = bytearray()
    while len(received) < length:
        piece = stream.recv(min(65536, length - len(received)))
        if not piece:
            raise unreachable(_SERVICE, "the answer was cut short")
        received += piece
    return bytes(received)
