"""TDX's own device, ``/dev/tdx_guest`` (Linux, include/uapi/linux/tdx-guest.h), and Intel's quote service.

The device gives a TDREPORT, which only this machine's CPU can check. The quote service of the host turns it
into a quote that anyone can; how its messages travel (a vsock, as a rule) is the caller's.
"""

from collections.abc import Callable, Mapping
from struct import Struct
from types import MappingProxyType
from typing import Final

from ..bundle import CpuSection
from .configfs_tsm import TDX
from .faults import refused, require_length, unreachable

DEVICE: Final = "/dev/tdx_guest"
GET_REPORT0: Final = 0xC440_5401
"""_IOWR('T', 1, struct tdx_report_req)."""

REPORT_DATA_LENGTH: Final = 64
TDREPORT_LENGTH: Final = 1024
MAX_QUOTE: Final = 64 * 1024

Ioctl = Callable[[int, bytearray], None]
"""``ioctl(request, argument)``: changes the argument in place, raises OSError."""

Exchange = Callable[[bytes], bytes]
"""Sends one message to the quote service and returns its answer, without the length before each."""

_REPORT_DATA_AT: Final = 128
_HEADER: Final = Struct("<HHIII")  # major, minor, type, size, error
_QUOTE_REQUEST: Final = Struct("<II")  # size of the report, size of the list of key ids
_QUOTE_RESPONSE: Final = Struct("<II")  # size of the chosen key id, size of the quote
_GET_QUOTE, _GOT_QUOTE = 0, 1
_NONE: Final[Mapping[str, bytes]] = MappingProxyType({})


class TdxGuest:
    """A CpuDevice over ``/dev/tdx_guest``. ``ioctl`` is the open device's, ``exchange`` the quote service's."""

    data_length: Final = REPORT_DATA_LENGTH

    def __init__(self, ioctl: Ioctl, exchange: Exchange, *, collateral: Mapping[str, bytes] = _NONE) -> None:
        self._ioctl = ioctl
        self._exchange = exchange
        self._collateral = dict(collateral)

    @classmethod
    def from_fd(cls, fd: int, exchange: Exchange, *, collateral: Mapping[str, bytes] = _NONE) -> "TdxGuest":
        """The device behind an open file descriptor, which stays open as long as this is used."""
        from fcntl import ioctl

        def call(request: int, argument: bytearray) -> None:
            ioctl(fd, request, argument, True)

        return cls(call, exchange, collateral=collateral)

    def report(self, report_data: bytes) -> CpuSection:
        """A quote over 64 bytes of REPORTDATA. Raises PlatformFault."""
        require_length(report_data, REPORT_DATA_LENGTH)
        argument = bytearray(report_data + bytes(TDREPORT_LENGTH))
        try:
            self._ioctl(GET_REPORT0, argument)
        except OSError as error:
            raise refused(DEVICE, f"no TDREPORT, errno {error.errno}") from None
        tdreport = bytes(argument[REPORT_DATA_LENGTH:])
        if tdreport[_REPORT_DATA_AT : _REPORT_DATA_AT + REPORT_DATA_LENGTH] != report_data:
            raise refused(DEVICE, "the TDREPORT is over other data than was asked for")
        try:
            answer = self._exchange(quote_request(tdreport))
        except OSError as error:
            raise unreachable("quote service", error.strerror or "no answer") from None
        return CpuSection(TDX, read_quote(answer), dict(self._collateral))


def quote_request(tdreport: bytes) -> bytes:
    """The message that asks for a quote (Intel DCAP, qgs_msg_lib, version 1.0)."""
    body = _QUOTE_REQUEST.pack(len(tdreport), 0) + tdreport
    return _HEADER.pack(1, 0, _GET_QUOTE, _HEADER.size + len(body), 0) + body


def read_quote(answer: bytes) -> bytes:
    """The quote in the service's answer. Raises PlatformFault."""
    if len(answer) < _HEADER.size:
        raise refused("quote service", "a message that is cut off")
    major, _minor, kind, size, error = _HEADER.unpack_from(answer)
    if major != 1 or kind != _GOT_QUOTE or size != len(answer):
        raise refused("quote service", "a message of another form")
    if error:
        raise refused("quote service", f"error 0x{error:x}")
    if len(answer) < _HEADER.size + _QUOTE_RESPONSE.size:
        raise refused("quote service", "a message that is cut off")
    id_size, quote_size = _QUOTE_RESPONSE.unpack_from(answer, _HEADER.size)
    start = _HEADER.size + _QUOTE_RESPONSE.size + id_size
    if not 0 < quote_size <= MAX_QUOTE or start + quote_size != len(answer):
        raise refused("quote service", "a quote of an impossible size")
    return answer[start:]
