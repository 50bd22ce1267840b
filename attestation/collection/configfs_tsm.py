"""Linux's common interface for reports: configfs-tsm (Documentation/ABI/testing/configfs-tsm-report, Linux 6.7).

A folder made below ``/sys/kernel/config/tsm/report`` is one request: what is written to ``inblob`` comes back
signed in ``outblob``. ``provider`` says by what; ``generation`` counts changes to the request, so that a
report is never taken for an answer to another one.
"""

import errno
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, Protocol

from ..bundle import CpuSection
from ..sev_snp_report import REPORT_DATA_LENGTH, REPORT_LENGTH
from .certificate_table import MAX_TABLE
from .faults import refused, require_length, unreachable
from .snp_section import snp_section

REPORT_FOLDER: Final = Path("/sys/kernel/config/tsm/report")
TDX: Final = "tdx"

_DEVICE: Final = "configfs-tsm"
_MAX_QUOTE: Final = 64 * 1024
_SMALL: Final = 4096
_ATTEMPTS: Final = 3
_NONE: Final[Mapping[str, bytes]] = MappingProxyType({})


class FileTree(Protocol):
    """The file operations that a request takes; every one raises OSError as the system does."""

    def make(self, folder: Path) -> None:
        """Make one folder, which must not exist."""
        ...

    def remove(self, folder: Path) -> None:
        """Remove a folder that ``make`` made."""
        ...

    def write(self, path: Path, data: bytes) -> None:
        """Write an attribute in one operation."""
        ...

    def read(self, path: Path, limit: int) -> bytes:
        """Read an attribute, and no more than ``limit`` + 1 bytes of it."""
        ...


class SystemFiles:
    """The running system's files."""

    def make(self, folder: Path) -> None:
        """See FileTree."""
        folder.mkdir()

    def remove(self, folder: Path) -> None:
        """See FileTree."""
        folder.rmdir()

    def write(self, path: Path, data: bytes) -> None:
        """See FileTree."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            if os.write(descriptor, data) != len(data):
                raise OSError(errno.EIO, "short write", str(path))
        finally:
            os.close(descriptor)

    def read(self, path: Path, limit: int) -> bytes:
        """See FileTree."""
        with path.open("rb", buffering=0) as file:
            parts = bytearray()
            while len(parts) <= limit:
                piece = file.read(limit + 1 - len(parts))
                if not piece:
                    break
                parts += piece
            return bytes(parts)


class ConfigfsTsm:
    """A CpuDevice for SEV-SNP and TDX guests.

    ``new_name`` gives each request's folder name, which must not repeat on this machine. ``collateral`` is
    what the node was given to staple; for SEV-SNP, certificates that the host offers are added where it
    has none.
    """

    data_length: Final = REPORT_DATA_LENGTH

    def __init__(
        self,
        new_name: Callable[[], str],
        *,
        collateral: Mapping[str, bytes] = _NONE,
        folder: Path = REPORT_FOLDER,
        files: FileTree | None = None,
    ) -> None:
        self._new_name = new_name
        self._collateral = dict(collateral)
        self._folder = folder
        self._files = files or SystemFiles()

    def report(self, report_data: bytes) -> CpuSection:
        """Evidence over 64 bytes of report data. Raises PlatformFault."""
        require_length(report_data, REPORT_DATA_LENGTH)
        request = self._folder / self._new_name()
        try:
            self._files.make(request)
        except OSError as error:
            raise unreachable(_DEVICE, error.strerror or "no request can be made") from None
        try:
            return self._ask(request, report_data)
        except OSError as error:
            raise unreachable(_DEVICE, error.strerror or "the request failed") from None
        finally:
            self._drop(request)

    def _ask(self, request: Path, report_data: bytes) -> CpuSection:
        files = self._files
        provider = files.read(request / "provider", _SMALL).strip()
        for _ in range(_ATTEMPTS):
            files.write(request / "inblob", report_data)
            before = files.read(request / "generation", _SMALL)
            try:
                evidence = files.read(request / "outblob", _MAX_QUOTE)
                # An auxblob belongs to the same answer: the kernel makes both at the first read.
                extra = self._optional(request / "auxblob")
            except BlockingIOError:
                continue  # the request changed while it was answered
            if files.read(request / "generation", _SMALL) == before:
                return self._section(provider, evidence, extra, report_data)
        raise refused(_DEVICE, "another program keeps changing the request")

    def _section(self, provider: bytes, evidence: bytes, extra: bytes, report_data: bytes) -> CpuSection:
        if provider == b"sev_guest":
            if len(evidence) != REPORT_LENGTH:
                raise refused(_DEVICE, f"a report of {len(evidence)} bytes")
            return snp_section(_DEVICE, evidence, extra, report_data, self._collateral)
        if provider == b"tdx_guest":
            if not evidence or len(evidence) > _MAX_QUOTE:
                raise refused(_DEVICE, f"a quote of {len(evidence)} bytes")
            return CpuSection(TDX, evidence, dict(self._collateral))
        raise refused(_DEVICE, f"the unknown provider {provider[:32].decode('ascii', 'replace')}")

    def _optional(self, path: Path) -> bytes:
        try:
            return self._files.read(path, MAX_TABLE)
        except FileNotFoundError:
            return b""

    def _drop(self, request: Path) -> None:
        try:
            self._files.remove(request)
        except OSError:
            return  # it holds no secret, and a new request has a new name
