"""Variable-length integers of QUIC (RFC 9000 section 16), as Binary HTTP and chunked OHTTP use them.

The two highest bits of the first byte give the length: 1, 2, 4 or 8 bytes. Encodings need not be minimal,
so the reader takes any of the four; the writer always gives the shortest.
"""

from .errors import VarintError

MAX = (1 << 62) - 1


def encode(value: int) -> bytes:
    """The shortest encoding of ``value``; raises VarintError outside 0 … 2**62 - 1."""
    if 0x40 <= value < 0x4000:
        return (0x4000 | value).to_bytes(2)
    if 0 <= value < 0x40:
        return value.to_bytes(1)
    if 0 <= value < 0x4000_0000:
        return (0x8000_0000 | value).to_bytes(4)
    if 0 <= value <= MAX:
        return (0xC000_0000_0000_0000 | value).to_bytes(8)
    raise VarintError("out_of_range", "a variable-length integer holds 62 bits")


def decode(data: bytes | bytearray | memoryview, offset: int = 0) -> tuple[int, int] | None:
    """The integer at ``offset`` and the offset after it; ``None`` where ``data`` ends before it does.

    Never raises: every complete encoding is valid, and only the caller knows whether more is to come.
    """
    if offset >= len(data):
        return None
    first = data[offset]
    if first < 0x40:
        return first, offset + 1
    end = offset + (1 << (first >> 6))
    if end > len(data):
        return None
    return int.from_bytes(data[offset:end]) & ((1 << (8 * (end - offset) - 2)) - 1), end
