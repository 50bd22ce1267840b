"""The compiled library, as Python sees it: its structures (decoder.h) field by field, and its functions.

The library is a plain shared object beside this file, made when the package is installed with a C compiler at
hand. It is loaded once, before the process is sealed; it makes no code at run time.
"""

import ctypes
import hashlib
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

ABI = 2

#: Kernels by number (paths.c); a processor runs those before its best ones too.
PATH_PORTABLE, PATH_AVX2, PATH_AVX512, PATH_AMX = range(4)

KIND_BF16, KIND_Q8, KIND_Q8_16, KIND_Q4_MIN, KIND_Q4 = range(5)


class Matrix(ctypes.Structure):
    """``matrix``: outputs by inputs (padded to 32) weights of one kind."""

    _fields_ = (
        ("kind", ctypes.c_int32),
        ("unused", ctypes.c_int32),
        ("outputs", ctypes.c_int64),
        ("inputs", ctypes.c_int64),
        ("weights", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
    )


class StoredMatrix(ctypes.Structure):
    """``stored_matrix``: a matrix to lay out, and the bytes that a file holds of it."""

    _fields_ = (
        ("matrix", ctypes.POINTER(Matrix)),
        ("rows", ctypes.c_void_p),
        ("order", ctypes.c_void_p),
        ("row_bytes", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("stored", ctypes.c_int32),
        ("unused", ctypes.c_int32),
    )


class Layer(ctypes.Structure):
    """``layer``: seven matrices, norms and biases (float32, NULL where there is none)."""

    _fields_ = (
        *((name, Matrix) for name in ("query", "key", "value", "output", "gate", "up", "down")),
        *(
            (name, ctypes.c_void_p)
            for name in (
                *("attention_norm", "mlp_norm", "query_bias", "key_bias", "value_bias"),
                *("query_norm", "key_norm"),
            )
        ),
    )


class Model(ctypes.Structure):
    """``model``: sizes, outer matrices, and a pointer to the layers."""

    _fields_ = (
        *(
            (name, ctypes.c_int64)
            for name in (
                *("vocabulary", "hidden", "layers", "heads", "kv_heads", "head_dim", "intermediate"),
            )
        ),
        ("norm_epsilon", ctypes.c_float),
        ("unused", ctypes.c_int32),
        ("embedding", Matrix),
        ("head", Matrix),
        ("final_norm", ctypes.c_void_p),
        ("layer", ctypes.POINTER(Layer)),
    )


class SpanStruct(ctypes.Structure):
    """``span``: consecutive positions of one sequence."""

    _fields_ = (
        ("row", ctypes.c_int64),
        ("count", ctypes.c_int64),
        ("start", ctypes.c_int64),
        ("pages", ctypes.c_void_p),
        ("wants_logits", ctypes.c_int64),
    )


class Batch(ctypes.Structure):
    """``batch``: one step."""

    _fields_ = (
        ("tokens", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("spans", ctypes.c_int64),
        ("span", ctypes.POINTER(SpanStruct)),
        ("kv", ctypes.c_void_p),
        ("kv_pages", ctypes.c_int64),
        ("page_tokens", ctypes.c_int64),
        ("logits", ctypes.c_void_p),
        ("logits_stride", ctypes.c_int64),
    )


_i32, _i64, _size, _address = ctypes.c_int32, ctypes.c_int64, ctypes.c_size_t, ctypes.c_void_p
_SIGNATURES: dict[str, tuple[object, tuple[object, ...]]] = {
    "cloister_abi": (ctypes.c_int, ()),
    "cloister_best_path": (ctypes.c_int, ()),
    "cloister_path_name": (ctypes.c_char_p, (ctypes.c_int,)),
    "cloister_memory": (_address, (_size,)),
    "cloister_memory_free": (None, (_address, _size)),
    "cloister_prefer_huge_pages": (None, (_address, _size)),
    "cloister_matrix_bytes": (_i64, (_i32, _i64, _i64)),
    "cloister_scale_bytes": (_i64, (_i32, _i64, _i64)),
    "cloister_pack": (_i64, (ctypes.POINTER(StoredMatrix), _i64, ctypes.POINTER(ctypes.c_int64))),
    "cloister_decoder_new": (
        _address,
        (ctypes.POINTER(Model), ctypes.c_int, ctypes.c_int, _i64, ctypes.c_int, _i64, _address, _address),
    ),
    "cloister_decoder_free": (None, (_address,)),
    "cloister_residue": (_i64, (_address,)),
    "cloister_step": (ctypes.c_int, (_address, ctypes.POINTER(Batch))),
}


def library_file() -> Path:
    """Where the library is, if it was built."""
    return Path(__file__).with_name("_decoder" + EXTENSION_SUFFIXES[0])


def library_digest() -> str:
    """SHA-256 of the library's file, hexadecimal."""
    with library_file().open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def library() -> ctypes.CDLL | None:
    """The library with its signatures declared, or None where it was not built or is another version's."""
    try:
        loaded = ctypes.CDLL(str(library_file()))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(loaded, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError):
        return None
    return loaded if loaded.cloister_abi() == ABI else None
