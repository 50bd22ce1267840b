"""The GGUF container: header, metadata and tensor table (specification: ggml docs/gguf.md, versions 2 and 3).

Sizes and counts are checked against the bytes that are really there before anything is allocated for them.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from enclave_runtime.engine.errors import ModelMalformed, UnsupportedModel

MAX_METADATA_ENTRIES = 4096
MAX_TENSORS = 1 << 16
MAX_KEY_BYTES = 1 << 12
MAX_STRING_BYTES = 1 << 22
MAX_ARRAY_ITEMS = 1 << 22

Scalar = bool | int | float | str


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One row of the tensor table.

    ``shape`` is in row-major order (the outermost dimension first), ``kind`` the ggml type number, ``offset``
    counts bytes from the start of the data section.
    """

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int


@dataclass(frozen=True, slots=True)
class GgufFile:
    """A parsed container; ``data_start`` is where the data section begins in the file."""

    metadata: "GgufMetadata"
    tensors: Mapping[str, GgufTensor]
    data_start: int


class GgufMetadata:
    """The typed key-value section. Every accessor raises `ModelMalformed` for a missing key without a default
    and for a value of another type.
    """

    def __init__(self, values: Mapping[str, Scalar | list[Scalar]]) -> None:
        self._values = values

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def below(self, prefix: str) -> dict[str, Scalar | list[Scalar]]:
        """Every entry whose key starts with ``prefix``."""
        return {key: value for key, value in self._values.items() if key.startswith(prefix)}

    def integer(self, key: str, default: int | None = None) -> int:
        value = self._values.get(key, default)
        if type(value) is not int:
            raise ModelMalformed(f"GGUF key {key} is missing or no integer")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self._values.get(key, default)
        if type(value) is int or type(value) is float:
            return float(value)
        raise ModelMalformed(f"GGUF key {key} is missing or no number")

    def boolean(self, key: str, default: bool | None = None) -> bool:
        value = self._values.get(key, default)
        if type(value) is not bool:
            raise ModelMalformed(f"GGUF key {key} is missing or no boolean")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        value = self._values.get(key, default)
        if type(value) is not str:
            raise ModelMalformed(f"GGUF key {key} is missing or no string")
        return value

    def texts(self, key: str) -> list[str]:
        value = self._values.get(key)
        if isinstance(value, list) and set(map(type, value)) <= {str}:
            return value  # type: ignore[return-value]
        raise ModelMalformed(f"GGUF key {key} is missing or no array of strings")

    def numbers(self, key: str) -> list[float]:
        value = self._values.get(key)
        if isinstance(value, list) and set(map(type, value)) <= {int, float}:
            return list(map(float, value))
        raise ModelMalformed(f"GGUF key {key} is missing or no array of numbers")

    def integers(self, key: str) -> list[int]:
        value = self._values.get(key)
        if isinstance(value, list) and set(map(type, value)) <= {int}:
            return value  # type: ignore[return-value]
        raise ModelMalformed(f"GGUF key {key} is missing or no array of integers")


def parse_gguf(data: bytes | memoryview) -> GgufFile:
    """Parse everything before the data section. Raises `ModelMalformed` or `UnsupportedModel`."""
    cursor = _Cursor(memoryview(data))
    if bytes(cursor.take(4)) != b"GGUF":
        raise ModelMalformed("not a GGUF file")
    version = cursor.unsigned("I")
    if version not in (2, 3):
        raise UnsupportedModel("GGUF version (little-endian)", expected="2 or 3", found=version)
    tensor_count = cursor.unsigned("Q")
    entry_count = cursor.unsigned("Q")
    if tensor_count > MAX_TENSORS or entry_count > MAX_METADATA_ENTRIES:
        raise ModelMalformed("GGUF header counts out of range", found=(tensor_count, entry_count))
    values: dict[str, Scalar | list[Scalar]] = {}
    for _ in range(entry_count):
        key = cursor.string(MAX_KEY_BYTES)
        if key in values:
            raise ModelMalformed("GGUF key twice", found=key)
        values[key] = cursor.value(cursor.unsigned("I"))
    metadata = GgufMetadata(values)
    tensors: dict[str, GgufTensor] = {}
    for _ in range(tensor_count):
        tensor = _tensor(cursor)
        if tensor.name in tensors:
            raise ModelMalformed("GGUF tensor twice", found=tensor.name)
        tensors[tensor.name] = tensor
    alignment = metadata.integer("general.alignment", 32)
    if not 1 <= alignment <= 1 << 20 or alignment & (alignment - 1):
        raise ModelMalformed("GGUF alignment is no power of two in range", found=alignment)
    start = (cursor.position + alignment - 1) // alignment * alignment
    return GgufFile(metadata, tensors, start)


def _tensor(cursor: "_Cursor") -> GgufTensor:
    name = cursor.string(MAX_KEY_BYTES)
    dimensions = cursor.unsigned("I")
    if not 1 <= dimensions <= 4:
        raise ModelMalformed("dimensions of a GGUF tensor", expected="1 to 4", found=dimensions)
    sizes = [cursor.unsigned("Q") for _ in range(dimensions)]
    if any(not 1 <= size <= 1 << 32 for size in sizes):
        raise ModelMalformed("size of a GGUF tensor out of range", found=name)
    return GgufTensor(name, tuple(reversed(sizes)), cursor.unsigned("I"), cursor.unsigned("Q"))


# ggml metadata value types: number -> (struct code, numpy type)
_NUMBERS = {
    0: ("B", "<u1"),
    1: ("b", "<i1"),
    2: ("H", "<u2"),
    3: ("h", "<i2"),
    4: ("I", "<u4"),
    5: ("i", "<i4"),
    6: ("f", "<f4"),
    10: ("Q", "<u8"),
    11: ("q", "<i8"),
    12: ("d", "<f8"),
}
_BOOL, _STRING, _ARRAY = 7, 8, 9
_LENGTH = struct.Struct("<Q")
_AT_ONCE = 1 << 13
"""Strings of an array that are taken in one go: bounds the memory this needs."""


class _Cursor:
    """A read position in untrusted bytes that refuses to pass their end."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self.position = 0

    def take(self, count: int) -> memoryview:
        end = self.position + count
        if end > len(self._data):
            raise ModelMalformed("GGUF file ends early", expected=end, found=len(self._data))
        part = self._data[self.position : end]
        self.position = end
        return part

    def unsigned(self, code: str) -> int:
        value: int = struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]
        return value

    def string(self, limit: int) -> str:
        length = self.unsigned("Q")
        if length > limit:
            raise ModelMalformed("GGUF string out of range", expected=f"at most {limit} bytes", found=length)
        return self._text(self.take(length))

    def value(self, kind: int) -> Scalar | list[Scalar]:
        if kind in _NUMBERS:
            code = "<" + _NUMBERS[kind][0]
            number: int | float = struct.unpack(code, self.take(struct.calcsize(code)))[0]
            return number
        if kind == _BOOL:
            return self._boolean(self.take(1)[0])
        if kind == _STRING:
            return self.string(MAX_STRING_BYTES)
        if kind == _ARRAY:
            return self._array()
        raise ModelMalformed("GGUF value type", found=kind)

    def _array(self) -> list[Scalar]:
        kind, count = self.unsigned("I"), self.unsigned("Q")
        if count > MAX_ARRAY_ITEMS:
            raise ModelMalformed("GGUF array out of range", expected=MAX_ARRAY_ITEMS, found=count)
        if kind in _NUMBERS:
            dtype = np.dtype(_NUMBERS[kind][1])
            numbers: list[Scalar] = np.frombuffer(self.take(count * dtype.itemsize), dtype).tolist()
            return numbers
        if kind == _BOOL:
            return [self._boolean(byte) for byte in self.take(count)]
        if kind == _STRING:
            return self._strings(count)
        raise ModelMalformed("GGUF array of this type", found=kind)

    def _strings(self, count: int) -> list[Scalar]:
        if count * 8 > len(self._data) - self.position:
            raise ModelMalformed("GGUF file ends early", found=len(self._data))
        found: list[Scalar] = []
        for begin in range(0, count, _AT_ONCE):
            part = min(_AT_ONCE, count - begin)
            found += self._short_strings(part) or self._any_strings(part)
        return found

    def _short_strings(self, count: int) -> list[Scalar]:
        """All at once, where each has 1 to 255 bytes and none of them is zero, as in vocabularies of a hundred thousand
        pieces; else nothing, and nothing is taken. The only zeros are then seven in each length, whose first byte lies
        before them.
        """
        room = len(self._data) - self.position
        most = min(room, count * 263)
        size = min(most, count * 24)
        while True:
            window = np.frombuffer(self._data, np.uint8, size, self.position)
            zeros = np.flatnonzero(window == 0)
            if len(zeros) >= 7 * count or size == most:
                break
            size = min(most, size * 2)
        if len(zeros) < 7 * count:
            return []
        lengths = zeros[: 7 * count].reshape(count, 7)
        starts = lengths[:, 0] - 1
        ends = starts + 8 + window[starts]
        chained = starts[0] == 0 and (starts[1:] == ends[:-1]).all() and (lengths[:, 6] == starts + 7).all()
        if not chained or ends[-1] > room:
            return []
        region = np.frombuffer(self._data, np.uint8, int(ends[-1]), self.position)
        kept = region != 0
        if np.count_nonzero(kept) != len(region) - 7 * count:  # a zero in the last one
            return []
        joined = region.copy()
        joined[starts] = 0
        found: list[Scalar] = [*self._text(memoryview(joined[kept])).split("\0")[1:]]
        self.position += len(region)
        return found

    def _any_strings(self, count: int) -> list[Scalar]:
        data, position, size = self._data, self.position, len(self._data)
        found: list[Scalar] = []
        for _ in range(count):
            if position + 8 > size:
                raise ModelMalformed("GGUF file ends early", found=size)
            (length,) = _LENGTH.unpack_from(data, position)
            end = position + 8 + length
            if length > MAX_STRING_BYTES or end > size:
                raise ModelMalformed("GGUF string out of range", found=length)
            found.append(self._text(data[position + 8 : end]))
            position = end
        self.position = position
        return found

    @staticmethod
    def _boolean(byte: int) -> bool:
        if byte > 1:
            raise ModelMalformed("GGUF boolean", expected="0 or 1", found=byte)
        return byte == 1

    @staticmethod
    def _text(part: memoryview) -> str:
        try:
            return str(part, "utf-8")
        except UnicodeDecodeError:
            raise ModelMalformed("GGUF string is no UTF-8") from None
