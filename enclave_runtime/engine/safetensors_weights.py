"""Weights out of safetensors files: one ``model.safetensors``, or the shards that an index names.

Pickled checkpoints are never read.
"""

import json
import math
import mmap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from enclave_runtime.engine.errors import ModelMalformed, ModelNotFound, UnsupportedModel
from enclave_runtime.engine.ggml_types import BLOCKS, FLOATS, GgmlType
from enclave_runtime.engine.half_floats import widened
from enclave_runtime.engine.weights import StoredTensor

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
MAX_SHARDS = 4096
_KINDS = {kind.name: kind for kind in FLOATS}


@dataclass(frozen=True, slots=True)
class _Tensor:
    """``data`` are its bytes: a view of the mapped file."""

    kind: GgmlType
    shape: tuple[int, ...]
    data: np.ndarray


class SafetensorsFolder:
    """A `TensorSource` over the safetensors files of a folder, which are mapped for as long as it lives."""

    def __init__(self, folder: Path) -> None:
        self.files = weight_files(folder)
        self._tensors: dict[str, _Tensor] = {}
        for path in self.files:
            self._read_table(path)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tensor.shape for name, tensor in self._tensors.items()}

    def read_into(self, name: str, out: np.ndarray) -> None:
        tensor = self._tensors[name]
        np.copyto(out, widened(tensor.data, tensor.kind).reshape(out.shape))

    def kind(self, name: str) -> int:
        return self._tensors[name].kind

    def stored(self, name: str) -> StoredTensor:
        tensor = self._tensors[name]
        rows = 1 if len(tensor.shape) < 2 else tensor.shape[0]
        return StoredTensor(tensor.kind, tensor.data.reshape(rows, -1))

    def _read_table(self, path: Path) -> None:
        """Add what a file holds. The library checks its header: tensors follow one another without a gap, from the
        header's end to the file's, in the order of ``offset_keys``. So their sizes say where each begins.
        """
        try:
            with path.open("rb") as handle:
                data = memoryview(mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ))
            with safe_open(path, framework="numpy") as file:
                begin = 8 + int.from_bytes(data[:8], "little")
                for name in file.offset_keys():
                    part = file.get_slice(name)
                    shape, kind = tuple(part.get_shape()), _KINDS.get(part.get_dtype())
                    if kind is None:
                        raise UnsupportedModel(f"data type of {name[:80]}", found=part.get_dtype())
                    if name in self._tensors:
                        raise ModelMalformed("tensor in two files", found=name[:80])
                    size = math.prod(shape) * BLOCKS[kind][1]
                    stored = np.frombuffer(data, np.uint8, size, begin) if size else np.empty(0, np.uint8)
                    begin += size
                    if not name.endswith("rotary_emb.inv_freq"):  # in old exports; config.json defines it
                        self._tensors[name] = _Tensor(kind, shape, stored)
        except (SafetensorError, OSError, ValueError, OverflowError):
            raise ModelMalformed("safetensors file cannot be read", found=path.name) from None
        if begin != len(data):
            raise ModelMalformed("safetensors file of another size than its tensors", found=path.name)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that hold the model in ``folder``, sorted by name.

    Raises `ModelNotFound` when there is none, `ModelMalformed` for an index that leaves the folder.
    """
    index = folder / INDEX_FILE
    if index.is_file():
        names = _shard_names(index)
    elif (folder / SINGLE_FILE).is_file():
        names = [SINGLE_FILE]
    else:
        raise ModelNotFound("no model.safetensors and no index of shards in the folder")
    for name in names:
        if not (folder / name).is_file():
            raise ModelMalformed("safetensors file missing", expected=name)
    return [folder / name for name in names]


def _shard_names(index: Path) -> list[str]:
    try:
        document = json.loads(index.read_bytes())
        named = set(document["weight_map"].values())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OSError):
        raise ModelMalformed("index of the safetensors shards cannot be read") from None
    if not 1 <= len(named) <= MAX_SHARDS:
        raise ModelMalformed("count of safetensors shards", found=len(named))
    if not all(isinstance(name, str) for name in named):
        raise ModelMalformed("name of a safetensors shard is no string")
    names = sorted(named)
    for name in names:
        if not name.endswith(".safetensors") or name != Path(name).name or name.startswith("."):
            raise ModelMalformed("name of a safetensors shard", found=name[:80])
    return names
