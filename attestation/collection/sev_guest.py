"""SEV-SNP's own device, ``/dev/sev-guest`` (Linux, include/uapi/linux/sev-guest.h), for kernels without configfs-tsm.

The extended request also brings the certificates that the host offers. It is made twice: a request without
room for them is refused with the room that they need.
"""

import ctypes
import errno
from collections.abc import Callable, Mapping
from struct import Struct
from types import MappingProxyType
from typing import Final

from ..bundle import CpuSection
from ..sev_snp_report import REPORT_DATA_LENGTH, REPORT_LENGTH
from .certificate_table import MAX_TABLE
from .faults import refused, require_length, unreachable
from .snp_section import snp_section

DEVICE: Final = "/dev/sev-guest"
GET_EXT_REPORT: Final = 0xC020_5302
"""_IOWR('S', 2, struct snp_guest_request_ioctl)."""

Ioctl = Callable[[int, bytearray], None]
"""``ioctl(request, argument)``: changes the argument in place, raises OSError."""

_ARGUMENT: Final = Struct("<B7xQQII")  # msg_version, req_data, resp_data, fw_error, vmm_error
_REQUEST: Final = Struct("<64sI28xQI4x")  # user_data, vmpl, reserved, certs_address, certs_len
_RESPONSE: Final = 4000
_REPORT_AT: Final = 0x20
_STATUS: Final = Struct("<II")
_VMM_INVALID_LENGTH: Final = 1
_VMM_BUSY: Final = 2
_NONE: Final[Mapping[str, bytes]] = MappingProxyType({})


class SevGuest:
    """A CpuDevice over ``/dev/sev-guest``. ``ioctl`` is the open device's; ``vmpl`` must be that of the guest."""

    data_length: Final = REPORT_DATA_LENGTH

    def __init__(self, ioctl: Ioctl, *, collateral: Mapping[str, bytes] = _NONE, vmpl: int = 0) -> None:
        self._ioctl = ioctl
        self._collateral = dict(collateral)
        self._vmpl = vmpl

    @classmethod
    def from_fd(cls, fd: int, *, collateral: Mapping[str, bytes] = _NONE, vmpl: int = 0) -> "SevGuest":
        """The device behind an open file descriptor, which stays open as long as this is used."""
        from fcntl import ioctl

        return cls(
            lambda request, argument: _called(ioctl, fd, request, argument), collateral=collateral, vmpl=vmpl
        )

    def report(self, report_data: bytes) -> CpuSection:
        """Evidence over 64 bytes of REPORT_DATA, with the host's certificates. Raises PlatformFault."""
        require_length(report_data, REPORT_DATA_LENGTH)
        room = 0
        for _ in range(3):
            report, table, needed = self._ask(report_data, room)
            if needed == room:
                return snp_section(DEVICE, report, table, report_data, self._collateral)
            if not room < needed <= MAX_TABLE:
                raise refused(DEVICE, f"the host offers certificates of {needed} bytes")
            room = needed
        raise refused(DEVICE, "the host's certificates keep growing")

    def _ask(self, report_data: bytes, room: int) -> tuple[bytes, bytes, int]:
        """The report, the table, and the room that the table needs: another than ``room`` means ask again."""
        certificates = ctypes.create_string_buffer(max(room, 1))
        response = ctypes.create_string_buffer(_RESPONSE)
        address = ctypes.addressof(certificates) if room else 0
        request = ctypes.create_string_buffer(_REQUEST.pack(report_data, self._vmpl, address, room))
        argument = bytearray(_ARGUMENT.pack(1, ctypes.addressof(request), ctypes.addressof(response), 0, 0))
        try:
            self._ioctl(GET_EXT_REPORT, argument)
        except OSError as error:
            *_, firmware, vmm = _ARGUMENT.unpack(argument)
            if vmm == _VMM_INVALID_LENGTH:
                return b"", b"", int(_REQUEST.unpack(request.raw[: _REQUEST.size])[3])
            if vmm == _VMM_BUSY or error.errno in (errno.EAGAIN, errno.EINTR):
                raise unreachable(DEVICE, "busy") from None
            raise refused(
                DEVICE, f"firmware error 0x{firmware:x}, host error {vmm}, errno {error.errno}"
            ) from None
        status, size = _STATUS.unpack_from(response.raw)
        if status or size != REPORT_LENGTH:
            raise refused(DEVICE, f"status {status}, a report of {size} bytes")
        return response.raw[_REPORT_AT : _REPORT_AT + REPORT_LENGTH], certificates.raw[:room], room


def _called(ioctl: Callable[..., object], fd: int, request: int, argument: bytearray) -> None:
    ioctl(fd, request, argument, True)
