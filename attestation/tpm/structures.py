"""TPM 2.0 structures (TPM 2.0 Library, part 2): big-endian fields, read within their bounds."""

import hashlib
from typing import Final

from ..errors import EvidenceMalformed

SHA1: Final = "sha1"
SHA256: Final = "sha256"
SHA384: Final = "sha384"
SHA512: Final = "sha512"

HASH_NAMES: Final = {0x0004: SHA1, 0x000B: SHA256, 0x000C: SHA384, 0x000D: SHA512}
"""TPM_ALG_ID of the hashes by which a bank of PCRs may be kept, and the bank's name."""

DIGEST_LENGTHS: Final = {name: hashlib.new(name).digest_size for name in HASH_NAMES.values()}
"""Bytes of a digest, by the bank's name."""

PCR_COUNT: Final = 24
"""PCRs that a TPM of a PC client has (TCG PC Client Platform TPM Profile §4.6)."""


class TpmReader:
    """Reads fields one after the other; whatever is not there raises EvidenceMalformed with ``code``."""

    def __init__(self, data: bytes, *, code: str) -> None:
        self._data = data
        self._at = 0
        self._code = code

    @property
    def position(self) -> int:
        """Bytes read so far."""
        return self._at

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self._at

    def take(self, length: int) -> bytes:
        """The next ``length`` bytes."""
        if not 0 <= length <= self.left:
            raise self.malformed(f"truncated at byte {self._at}")
        start, self._at = self._at, self._at + length
        return self._data[start : self._at]

    def number(self, length: int) -> int:
        """An unsigned number of ``length`` bytes."""
        return int.from_bytes(self.take(length), "big")

    def sized(self, highest: int) -> bytes:
        """A TPM2B: a length of two bytes, at most ``highest``, and so many bytes."""
        length = self.number(2)
        if length > highest:
            raise self.malformed(f"a field of {length} bytes where {highest} are the most")
        return self.take(length)

    def end(self) -> None:
        """Nothing may be left."""
        if self.left:
            raise self.malformed(f"{self.left} bytes too many")

    def malformed(self, detail: str) -> EvidenceMalformed:
        """The error of this structure."""
        return EvidenceMalformed(code=self._code, detail=detail)
