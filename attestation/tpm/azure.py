"""The report of Azure's paravisor (HCL): a hardware report that vouches for the vTPM's attestation key.

On Azure a guest cannot ask the CPU for a report of its own choice. The paravisor asks at boot, for the digest
of its own "variable data": a JSON document with the AK. So trust runs from the CPU's signature to the digest,
to the AK, to the quote, and the challenger's nonce is in the quote.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa

from ..errors import BindingMismatch, EvidenceMalformed
from ..strict_json import load_object

MAX_HCL_REPORT: Final = 16 * 1024

_MALFORMED: Final = "hcl_malformed"
_MAGIC: Final = b"HCLA"
_VERSIONS: Final = (1, 2)
_HARDWARE: Final = slice(0x20, 0x4C0)
_SNP_LENGTH: Final = 1184
_TDREPORT_LENGTH: Final = 1024
_VARIABLE_DATA: Final = 0x4D4
_SHA256: Final = 1
_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]{1,1024}\Z")
_MIN_BITS: Final = 2048
_MAX_BITS: Final = 4096


class HclKind(IntEnum):
    """Which hardware made the report inside, by the number that the paravisor gives it."""

    SNP = 2
    TDX = 4


@dataclass(frozen=True, slots=True)
class HclReport:
    """A parsed HCL report. ``hardware`` is an SEV-SNP report, or a TDREPORT of 1024 bytes."""

    kind: HclKind
    hardware: bytes
    variable_data: bytes

    @property
    def report_data(self) -> bytes:
        """The 64 bytes of report data of the hardware report (TDREPORT: REPORTMACSTRUCT §3.15)."""
        start = 0x50 if self.kind is HclKind.SNP else 0x80
        return self.hardware[start : start + 64]


@dataclass(frozen=True, slots=True)
class RuntimeClaims:
    """What the paravisor says of the machine: its vTPM's AK, and how the machine is configured.

    ``user_data`` is 64 bytes that the guest may set, zero by default; empty where the paravisor has none.
    """

    ak: rsa.RSAPublicKey
    secure_boot: bool
    tpm_enabled: bool
    console_enabled: bool
    user_data: bytes


def parse_hcl_report(data: bytes) -> HclReport:
    """Read an HCL report. Raises EvidenceMalformed (``hcl_malformed``)."""
    if not _VARIABLE_DATA <= len(data) <= MAX_HCL_REPORT:
        raise _malformed("too short or too long")
    if data[:4] != _MAGIC or _number(data, 4) not in _VERSIONS or _number(data, 16):
        raise _malformed("not a report of a known version without an error status")
    kind, hash_type, length = (_number(data, offset) for offset in (0x4C8, 0x4CC, 0x4D0))
    if kind not in tuple(HclKind):
        raise _malformed(f"reports hardware of kind {kind}")
    if hash_type != _SHA256:
        raise _malformed(f"binds by hash {hash_type}")
    end = _VARIABLE_DATA + length
    if end > len(data) or data.count(0, end) != len(data) - end:
        raise _malformed("the variable data does not end where it says")
    hardware = data[_HARDWARE]
    if kind == HclKind.TDX:
        if any(hardware[_TDREPORT_LENGTH:]) or hardware[0] != 0x81:
            raise _malformed("not a TDREPORT")
        hardware = hardware[:_TDREPORT_LENGTH]
    elif _number(hardware, 0) not in range(2, 16):
        raise _malformed("not an SEV-SNP report")
    return HclReport(HclKind(kind), hardware, data[_VARIABLE_DATA:end])


def check_binding(report: HclReport) -> None:
    """Check that the hardware report vouches for the variable data, over all 64 bytes of report data.

    Raises BindingMismatch (``hcl_binding``).
    """
    expected = hashlib.sha256(report.variable_data).digest() + bytes(32)
    if report.report_data != expected:
        raise BindingMismatch(
            code="hcl_binding",
            expected=expected,
            found=report.report_data,
            detail="the hardware does not vouch for the paravisor's data",
        )


def read_runtime_claims(report: HclReport) -> RuntimeClaims:
    """Read the variable data, once ``check_binding`` has passed. Raises EvidenceMalformed."""
    document = load_object(report.variable_data, limit=MAX_HCL_REPORT, code=_MALFORMED)
    keys, configuration = document.get("keys"), document.get("vm-configuration")
    if not isinstance(keys, list) or not isinstance(configuration, dict):
        raise _malformed("no keys, or no configuration")
    named = [key for key in keys if isinstance(key, dict) and key.get("kid") == "HCLAkPub"]
    if len(named) != 1:
        raise _malformed("not exactly one attestation key")
    return RuntimeClaims(
        ak=_rsa_key(named[0]),
        secure_boot=configuration.get("secure-boot") is True,
        tpm_enabled=configuration.get("tpm-enabled") is True,
        console_enabled=configuration.get("console-enabled") is not False,
        user_data=_user_data(document["user-data"]) if "user-data" in document else b"",
    )


def _rsa_key(key: Mapping[str, Any]) -> rsa.RSAPublicKey:
    if key.get("kty") != "RSA" or key.get("key_ops") != ["sign"]:
        raise _malformed("the attestation key is not an RSA key to sign with")
    exponent, modulus = (_base64url(key.get(name)) for name in ("e", "n"))
    if not _MIN_BITS <= modulus.bit_length() <= _MAX_BITS:
        raise _malformed(f"an attestation key of {modulus.bit_length()} bits")
    try:
        return rsa.RSAPublicNumbers(exponent, modulus).public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise _malformed("the attestation key is not an RSA key") from None


def _base64url(value: object) -> int:
    if not isinstance(value, str) or not _BASE64URL.match(value):
        raise _malformed("a number of the attestation key is not base64url")
    try:
        return int.from_bytes(base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)), "big")
    except binascii.Error:
        raise _malformed("a number of the attestation key is not base64url") from None


def _user_data(value: object) -> bytes:
    if not isinstance(value, str) or not re.fullmatch(r"[0-9A-Fa-f]{128}", value):
        raise _malformed("user data is not 64 bytes in hexadecimal")
    return bytes.fromhex(value)


def _number(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 4], "little")


def _malformed(detail: str) -> EvidenceMalformed:
    return EvidenceMalformed(code=_MALFORMED, detail=detail)
