"""The few TPM 2.0 commands that a quote takes, as bytes (TPM 2.0 Library, part 3), and their answers."""

from collections.abc import Callable, Mapping, Sequence
from struct import Struct
from typing import Final

from .faults import refused

DEVICE: Final = "TPM"
MAX_RESPONSE: Final = 16 * 1024

Transact = Callable[[bytes], bytes]
"""Sends one command to the TPM (``/dev/tpmrm0``) and returns its response; raises OSError."""

ALGORITHMS: Final[Mapping[str, int]] = {"sha1": 0x0004, "sha256": 0x000B, "sha384": 0x000C, "sha512": 0x000D}

_NO_SESSIONS: Final = 0x8001
_SESSIONS: Final = 0x8002
_NV_READ, _QUOTE, _NV_READ_PUBLIC, _READ_PUBLIC, _PCR_READ = 0x14E, 0x158, 0x169, 0x173, 0x17E
_HEADER: Final = Struct(">HII")
_EMPTY_PASSWORD: Final = Struct(">IIHBH").pack(9, 0x40000009, 0, 0, 0)
_OWNER: Final = 0x40000001
_ALG_NULL: Final = 0x0010
_NV_CHUNK: Final = 1024
_MAX_NV: Final = 16 * 1024
_PCRS_PER_READ: Final = 8


class _Answer:
    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, size: int) -> bytes:
        if len(self._data) - self._at < size:
            raise refused(DEVICE, "a response that is cut off")
        self._at += size
        return self._data[self._at - size : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def sized(self) -> bytes:
        return self.take(self.number(2))

    def rest(self) -> bytes:
        return self._data[self._at :]


def quote(
    transact: Transact, key: int, qualifying: bytes, selection: Mapping[str, Sequence[int]]
) -> tuple[bytes, bytes]:
    """TPM2_Quote by the key at this handle: TPMS_ATTEST and TPMT_SIGNATURE. Raises PlatformFault, OSError."""
    body = _sized(qualifying) + _ALG_NULL.to_bytes(2, "big") + _selection(selection)
    answer = _call(transact, _QUOTE, [key], body, sessions=True)
    parameters = _Answer(answer.take(answer.number(4)))
    return parameters.sized(), parameters.rest()


def read_public(transact: Transact, key: int) -> bytes:
    """TPM2_ReadPublic: the TPM2B_PUBLIC of the key at this handle. Raises PlatformFault, OSError."""
    area = _call(transact, _READ_PUBLIC, [key], b"", sessions=False).sized()
    return _sized(area)


def read_pcrs(transact: Transact, selection: Mapping[str, Sequence[int]]) -> dict[str, dict[int, bytes]]:
    """TPM2_PCR_Read of all of ``selection``, a few at a time. Raises PlatformFault, OSError."""
    values: dict[str, dict[int, bytes]] = {}
    for bank, wanted in selection.items():
        indices = sorted(wanted)
        for start in range(0, len(indices), _PCRS_PER_READ):
            some = indices[start : start + _PCRS_PER_READ]
            answer = _call(transact, _PCR_READ, [], _selection({bank: some}), sessions=False)
            answer.number(4)  # update counter
            if answer.take(len(_selection({bank: some}))) != _selection({bank: some}):
                raise refused(DEVICE, f"not every PCR of the bank {bank} can be read")
            if answer.number(4) != len(some):
                raise refused(DEVICE, f"not every PCR of the bank {bank} can be read")
            values.setdefault(bank, {}).update({index: answer.sized() for index in some})
    return values


def read_nv(transact: Transact, index: int) -> bytes:
    """The whole content of an NV index that the owner may read. Raises PlatformFault, OSError."""
    public = _Answer(_call(transact, _NV_READ_PUBLIC, [index], b"", sessions=False).sized())
    public.take(4 + 2 + 4)  # index, hash, attributes
    public.sized()  # policy
    size = public.number(2)
    if size > _MAX_NV:
        raise refused(DEVICE, f"an NV index of {size} bytes")
    content = bytearray()
    while len(content) < size:
        length = min(_NV_CHUNK, size - len(content))
        body = length.to_bytes(2, "big") + len(content).to_bytes(2, "big")
        answer = _call(transact, _NV_READ, [_OWNER, index], body, sessions=True)
        piece = _Answer(answer.take(answer.number(4))).sized()
        if len(piece) != length:
            raise refused(DEVICE, "an NV index that is shorter than it says")
        content += piece
    return bytes(content)


def _call(transact: Transact, code: int, handles: list[int], body: bytes, *, sessions: bool) -> _Answer:
    content = b"".join(handle.to_bytes(4, "big") for handle in handles)
    content += (_EMPTY_PASSWORD if sessions else b"") + body
    tag = _SESSIONS if sessions else _NO_SESSIONS
    response = transact(_HEADER.pack(tag, _HEADER.size + len(content), code) + content)
    if not _HEADER.size <= len(response) <= MAX_RESPONSE:
        raise refused(DEVICE, f"a response of {len(response)} bytes")
    _tag, size, result = _HEADER.unpack_from(response)
    if size != len(response):
        raise refused(DEVICE, "a response of another length than it says")
    if result:
        raise refused(DEVICE, f"response code 0x{result:x} to command 0x{code:x}")
    return _Answer(response[_HEADER.size :])


def _selection(selection: Mapping[str, Sequence[int]]) -> bytes:
    parts = len(selection).to_bytes(4, "big")
    for bank, indices in selection.items():
        bits = 0
        for index in indices:
            bits |= 1 << index
        parts += ALGORITHMS[bank].to_bytes(2, "big") + b"\x03" + bits.to_bytes(3, "little")
    return parts


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data
