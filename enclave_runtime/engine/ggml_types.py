"""The formats in which ggml stores tensors, as far as they are read here (ggml.h, ``enum ggml_type``)."""

import enum


class GgmlType(enum.IntEnum):
    """The formats that are read, by ggml's number."""

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q4_1 = 3
    Q8_0 = 8
    Q4_K = 12
    Q6_K = 14
    BF16 = 30


BLOCKS = {
    GgmlType.F32: (1, 4),
    GgmlType.F16: (1, 2),
    GgmlType.BF16: (1, 2),
    GgmlType.Q4_0: (32, 18),
    GgmlType.Q4_1: (32, 20),
    GgmlType.Q8_0: (32, 34),
    GgmlType.Q4_K: (256, 144),
    GgmlType.Q6_K: (256, 210),
}
"""Numbers in a block, and its bytes."""

FLOATS = frozenset((GgmlType.F32, GgmlType.F16, GgmlType.BF16))

_OTHERS = {6: "Q5_0", 7: "Q5_1", 10: "Q2_K", 11: "Q3_K", 13: "Q5_K", 20: "IQ4_NL", 23: "IQ4_XS", 39: "MXFP4"}


def type_name(number: int) -> str:
    """What people call format ``number``, also one that is not read; the number where it is not known."""
    return GgmlType(number).name if number in BLOCKS else _OTHERS.get(number, str(number))
