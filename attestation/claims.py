"""What a node claims, and the values by which its CPU and its GPUs vouch for it (docs/protocol.md §2).

The claims travel as the bytes the node wrote; they are hashed as they came and never written anew.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from .errors import EvidenceMalformed, PlatformFault
from .strict_json import exact_members, load_object

MAX_CLAIMS: Final = 4096
"""Bytes of claims at most."""

NONCE_LENGTH: Final = 32
"""Bytes of a challenger's nonce."""

_VERSION: Final = 1
_GPU_NONCE_LABEL: Final = b"cloister/gpu-nonce/v1\0"
_REPORT_DATA_LABEL: Final = b"cloister/report-data/v1\0"
_DIGESTS: Final = ("ohttp_keys", "gpu_evidence", "runtime", "checkpoint")
_MEMBERS: Final = ("v", *_DIGESTS, "nonce", "not_before", "not_after")
_MALFORMED: Final = "claims_malformed"
_HEX: Final = re.compile(r"(?:[0-9a-f]{64})\Z")
_TIME: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z\Z")


@dataclass(frozen=True, slots=True)
class Claims:
    """A node's claims. ``raw`` is what was signed for; the digests are SHA-256 values of 32 bytes.

    ``nonce`` is a challenger's (32 bytes), or empty in the bundle that is made for everybody.
    """

    raw: bytes
    v: int
    ohttp_keys: bytes
    gpu_evidence: bytes
    runtime: bytes
    checkpoint: bytes
    nonce: bytes
    not_before: datetime
    not_after: datetime

    def gpu_nonce(self, gpu_count: int) -> bytes:
        """The nonce that GPUs sign under these claims: that of ``gpu_nonce``, from the digests claimed here.

        So the GPUs are held to the key that the CPU vouches for, whatever key is carried beside the claims.
        """
        return _gpu_nonce(self.ohttp_keys, self.checkpoint, self.nonce, gpu_count)

    @classmethod
    def parse(cls, raw: bytes) -> "Claims":
        """Read claims as carried. Raises EvidenceMalformed for whatever is not exactly version 1."""
        members = exact_members(
            load_object(raw, limit=MAX_CLAIMS, code=_MALFORMED), _MEMBERS, code=_MALFORMED, where="claims"
        )
        version = members["v"]
        if type(version) is not int or version != _VERSION:
            raise EvidenceMalformed(code="claims_version", expected=_VERSION, found=version)
        digests = {name: _hex32(members[name], name) for name in _DIGESTS}
        nonce = b"" if members["nonce"] == "" else _hex32(members["nonce"], "nonce")
        not_before, not_after = (_time(members[name], name) for name in ("not_before", "not_after"))
        if not not_before < not_after:
            raise EvidenceMalformed(code=_MALFORMED, detail="not_before is not before not_after")
        return cls(
            raw=bytes(raw), v=version, nonce=nonce, not_before=not_before, not_after=not_after, **digests
        )

    @classmethod
    def build(
        cls,
        *,
        ohttp_keys: bytes,
        gpu_section: bytes,
        runtime: bytes,
        checkpoint: bytes,
        nonce: bytes,
        not_before: datetime,
        not_after: datetime,
    ) -> "Claims":
        """Write the claims of a node over the bytes of the other sections, exactly as those will be served.

        Times are aware and lose fractions of a second. Raises EvidenceMalformed for what would not parse.
        """
        members = {
            "v": _VERSION,
            "ohttp_keys": hashlib.sha256(ohttp_keys).hexdigest(),
            "gpu_evidence": hashlib.sha256(gpu_section).hexdigest(),
            "runtime": hashlib.sha256(runtime).hexdigest(),
            "checkpoint": hashlib.sha256(checkpoint).hexdigest(),
            "nonce": nonce.hex(),
            "not_before": f"{not_before.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
            "not_after": f"{not_after.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
        }
        return cls.parse(json.dumps(members, separators=(",", ":")).encode("ascii"))


def gpu_nonce(*, ohttp_keys: bytes, checkpoint: bytes, nonce: bytes, gpu_count: int) -> bytes:
    """The 32 bytes that every GPU of a node signs, from the key configs and the checkpoint as served (§2).

    Raises EvidenceMalformed for a count that one byte cannot hold, or a nonce of another length than 0 or 32.
    """
    keys, seen = hashlib.sha256(ohttp_keys).digest(), hashlib.sha256(checkpoint).digest()
    return _gpu_nonce(keys, seen, nonce, gpu_count)


def report_data(claims_raw: bytes) -> bytes:
    """The 64 bytes of REPORT_DATA by which CPU evidence vouches for the claims (§2)."""
    return hashlib.sha512(_REPORT_DATA_LABEL + claims_raw).digest()


def quote_nonce(claims_raw: bytes) -> bytes:
    """The 32 bytes of qualifying data by which a TPM's quote vouches for the claims (§2)."""
    return hashlib.sha256(_REPORT_DATA_LABEL + claims_raw).digest()


DATA_LENGTHS: Final = frozenset({32, 64})
"""How many bytes CPU devices sign: a TPM 32, a processor 64."""


def device_data(claims_raw: bytes, length: int) -> bytes:
    """What a device that signs ``length`` bytes is given, so that its evidence vouches for the claims (§2).

    Raises PlatformFault (``platform_request``) for a length that is none of ``DATA_LENGTHS``.
    """
    if length not in DATA_LENGTHS:
        raise PlatformFault(code="platform_request", expected=sorted(DATA_LENGTHS), found=length)
    return quote_nonce(claims_raw) if length == 32 else report_data(claims_raw)


def _gpu_nonce(keys: bytes, checkpoint: bytes, nonce: bytes, gpu_count: int) -> bytes:
    if not 0 <= gpu_count <= 255:
        raise EvidenceMalformed(code="gpu_count", expected="0 to 255", found=gpu_count)
    if len(nonce) not in (0, NONCE_LENGTH):
        raise EvidenceMalformed(code="nonce_malformed", expected="0 or 32 bytes", found=len(nonce))
    return hashlib.sha256(_GPU_NONCE_LABEL + keys + checkpoint + nonce + bytes([gpu_count])).digest()


def _hex32(value: object, name: str) -> bytes:
    if not isinstance(value, str) or not _HEX.match(value):
        raise EvidenceMalformed(code=_MALFORMED, detail=f"{name} is not 64 lower-case hexadecimal digits")
    return bytes.fromhex(value)


def _time(value: object, name: str) -> datetime:
    if isinstance(value, str) and _TIME.match(value):
        try:
            return datetime.strptime(value, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        except ValueError:
            pass
    raise EvidenceMalformed(code=_MALFORMED, detail=f"{name} is not a time in RFC 3339 UTC seconds")
