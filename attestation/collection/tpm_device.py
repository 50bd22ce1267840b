"""A TPM by its device: quotes over a node's PCRs, on a plain machine and behind Azure's paravisor.

A TPM signs 32 bytes where a CPU signs 64: what it is asked for is the digest of docs/protocol.md §2 for TPMs.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from ..bundle import CpuSection
from ..tpm.evidence import AzureEvidence, Quote, TpmEvidence
from .faults import refused, require_length, unreachable
from .tpm_commands import DEVICE, Transact, quote, read_nv, read_pcrs, read_public

QUALIFYING_LENGTH: Final = 32
AZURE_AK: Final = 0x81000003
"""Handle of the attestation key that Azure's paravisor makes."""

AZURE_HCL_REPORT: Final = 0x01400001
"""NV index of Azure's HCL report."""

DEFAULT_SELECTION: Final[Mapping[str, Sequence[int]]] = MappingProxyType(
    {"sha256": (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14)}
)
_ATTEMPTS: Final = 3
_NONE: Final[Mapping[str, bytes]] = MappingProxyType({})


class TpmDevice:
    """A CpuDevice whose evidence is of kind ``tpm``: a quote by the attestation key at the handle ``ak``.

    ``collateral`` is what the node was given to staple (``ak_chain``, ``ak_crl``); ``eventlog`` reads the
    machine's log, ``/sys/kernel/security/tpm0/binary_bios_measurements``.
    """

    data_length: Final = QUALIFYING_LENGTH

    def __init__(
        self,
        transact: Transact,
        ak: int,
        *,
        selection: Mapping[str, Sequence[int]] = DEFAULT_SELECTION,
        eventlog: Callable[[], bytes] | None = None,
        collateral: Mapping[str, bytes] = _NONE,
    ) -> None:
        self._transact = transact
        self._ak = ak
        self._selection = {bank: tuple(sorted(indices)) for bank, indices in selection.items()}
        self._eventlog = eventlog
        self._collateral = dict(collateral)

    def report(self, report_data: bytes) -> CpuSection:
        """A quote whose extraData is these 32 bytes. Raises PlatformFault."""
        require_length(report_data, QUALIFYING_LENGTH)
        try:
            public = read_public(self._transact, self._ak)
            evidence = TpmEvidence(self.quote(report_data), public).encode()
            return CpuSection("tpm", evidence, self._with_log())
        except OSError as error:
            raise unreachable(DEVICE, error.strerror or "no answer") from None

    def quote(self, qualifying: bytes) -> Quote:
        """A quote, with values that were the same before and after it. Raises PlatformFault, OSError."""
        values = read_pcrs(self._transact, self._selection)
        for _ in range(_ATTEMPTS):
            message, signature = quote(self._transact, self._ak, qualifying, self._selection)
            after = read_pcrs(self._transact, self._selection)
            if after == values:
                return Quote(message, signature, values)
            values = after
        raise refused(DEVICE, "PCRs keep changing")

    def hcl_report(self) -> bytes:
        """Azure's HCL report out of the TPM's NV memory. Raises PlatformFault, OSError."""
        return read_nv(self._transact, AZURE_HCL_REPORT)

    def _with_log(self) -> dict[str, bytes]:
        if self._eventlog is None:
            return dict(self._collateral)
        return {**self._collateral, "eventlog": self._eventlog()}


class AzureDevice:
    """A CpuDevice for a confidential VM on Azure: the HCL report vouches for the key that signs the quote.

    ``kind`` is ``azure-snp`` or ``azure-tdx``. For the latter ``td_quote`` turns a TDREPORT into a quote,
    which Azure's host does for the guest.
    """

    data_length: Final = QUALIFYING_LENGTH

    def __init__(
        self, tpm: TpmDevice, kind: str, *, td_quote: Callable[[bytes], bytes] | None = None
    ) -> None:
        if (kind == "azure-tdx") != (td_quote is not None):
            raise ValueError("a TD quote belongs to azure-tdx, and only there")
        self._tpm = tpm
        self._kind = kind
        self._td_quote = td_quote

    def report(self, report_data: bytes) -> CpuSection:
        """A quote whose extraData is these 32 bytes, with what vouches for its key. Raises PlatformFault."""
        section = self._tpm.report(report_data)
        try:
            hcl = self._tpm.hcl_report()
            quoted = None if self._td_quote is None else self._td_quote(hcl)
        except OSError as error:
            raise unreachable(DEVICE, error.strerror or "no answer") from None
        evidence = AzureEvidence(TpmEvidence.parse(section.evidence).quote, hcl, quoted)
        return CpuSection(self._kind, evidence.encode(), section.collateral)
