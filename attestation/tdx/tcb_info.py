"""TCB Info (Intel PCS v4, GET /tdx/certification/v4/tcb): which levels of a kind of platform are good for what."""

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from ..certificate import PublicKey
from .signed_document import Document, malformed
from .tcb_status import TcbStatus

_NAME = "tcb_info"


class PlatformLevel(NamedTuple):
    """One level of the platform: ``sgx`` and ``tdx`` are 16 security version numbers each."""

    sgx: bytes
    tdx: bytes
    pcesvn: int
    status: TcbStatus
    date: datetime
    advisories: frozenset[str]


class SvnLevel(NamedTuple):
    """One level of a TDX module or of the quoting enclave, by its security version number."""

    isvsvn: int
    status: TcbStatus
    date: datetime
    advisories: frozenset[str]


class TdxModule(NamedTuple):
    """A TDX module that Intel signed: its signer and attributes, and its levels (none for the first one)."""

    mrsigner: bytes
    attributes: bytes
    attributes_mask: bytes
    levels: tuple[SvnLevel, ...]


class TcbInfo(NamedTuple):
    """A TCB Info document. ``modules`` are by major version, 0 being the one that has no number."""

    issued: datetime
    next_update: datetime
    evaluation_number: int
    fmspc: bytes
    pceid: bytes
    modules: Mapping[int, TdxModule]
    levels: tuple[PlatformLevel, ...]


def read_tcb_info(raw: bytes, signature: bytes, key: PublicKey | None) -> TcbInfo:
    """Check the signature over ``raw``, then read it; dates are the appraisal's.

    Raises CollateralInvalid (``tcb_info_signature``, ``tcb_info_malformed``, ``tcb_info_invalid``) or
    TcbRejected (``tcb_status_unrecognized``).
    """
    document = Document.open(raw, signature, key, _NAME)
    document.require("id", "TDX")
    document.require("version", 3)
    document.require("tcbType", 0)
    return TcbInfo(
        issued=document.time("issueDate"),
        next_update=document.time("nextUpdate"),
        evaluation_number=document.number("tcbEvaluationDataNumber", (1 << 31) - 1),
        fmspc=document.octets("fmspc", 6),
        pceid=document.octets("pceId", 2),
        modules=_modules(document),
        # The service lists the highest first, and Intel's library sorts them so, whatever the document says.
        levels=tuple(sorted(map(_platform_level, document.list("tcbLevels")), key=_height, reverse=True)),
    )


def svn_level(level: Document) -> SvnLevel:
    """Read one level of a module or an enclave."""
    return SvnLevel(
        isvsvn=level.inner("tcb").number("isvsvn", 0xFFFF),
        status=level.status(),
        date=level.time("tcbDate"),
        advisories=level.advisories(),
    )


def _height(level: PlatformLevel) -> tuple[bytes, int, bytes]:
    return level.sgx, level.pcesvn, level.tdx


def _platform_level(level: Document) -> PlatformLevel:
    tcb = level.inner("tcb")
    return PlatformLevel(
        tcb.components("sgxtcbcomponents"),
        tcb.components("tdxtcbcomponents"),
        tcb.number("pcesvn", 0xFFFF),
        level.status(),
        level.time("tcbDate"),
        level.advisories(),
    )


def _modules(document: Document) -> dict[int, TdxModule]:
    modules = {0: _module(document.inner("tdxModule"), ())}
    if "tdxModuleIdentities" not in document:
        return modules
    for identity in document.list("tdxModuleIdentities", 0):
        name = identity.text("id").upper()
        digits = name.removeprefix("TDX_")
        if len(name) != 6 or len(digits) != 2 or not set(digits) <= set("0123456789ABCDEF"):
            raise malformed(_NAME, "a module's id is not TDX_ and its version")
        version = int(digits, 16)
        if version in modules:
            raise malformed(_NAME, f"module {name} occurs twice")
        modules[version] = _module(identity, tuple(map(svn_level, identity.list("tcbLevels"))))
    return modules


def _module(identity: Document, levels: tuple[SvnLevel, ...]) -> TdxModule:
    return TdxModule(
        mrsigner=identity.octets("mrsigner", 48),
        attributes=identity.octets("attributes", 8),
        attributes_mask=identity.octets("attributesMask", 8),
        levels=levels,
    )
