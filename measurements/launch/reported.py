"""Registers out of a piece of evidence, to compare with a prediction. Nothing is verified here."""

from collections.abc import Mapping
from typing import Final

from .snp import REGISTER
from .tdx_mrtd import ONE_PASS

_SNP_LENGTH: Final = 0x4A0
_SNP_MEASUREMENT: Final = 0x090
_TDX_TYPE: Final = b"\x81\0\0\0"
_TDX_MIN: Final = 48 + 6 + 584
_REGISTER: Final = 48


def registers_of(data: bytes) -> Mapping[str, bytes] | None:
    """The launch digest of an SEV-SNP report (AMD 56860), or MRTD and RTMRs of a TDX quote (Intel DCAP).

    None where the bytes are neither.
    """
    if len(data) == _SNP_LENGTH and 2 <= int.from_bytes(data[:4], "little") <= 5:
        return {REGISTER: data[_SNP_MEASUREMENT : _SNP_MEASUREMENT + _REGISTER]}
    version = int.from_bytes(data[:2], "little")
    if len(data) < _TDX_MIN or data[4:8] != _TDX_TYPE or version not in (4, 5):
        return None
    body = 48 if version == 4 else 54
    registers = {ONE_PASS: data[body + 0x88 : body + 0x88 + _REGISTER]}
    for number in range(4):
        at = body + 0x148 + number * _REGISTER
        registers[f"rtmr{number}"] = data[at : at + _REGISTER]
    return registers
