"""Weights out of safetensors files: one ``model.safetensors``, or the shards that an index names.

Pickled checkpoints are never read.
"""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from enclave_runtime.engine.errors import ModelMalformed, ModelNotFound, UnsupportedModel
from enclave_runtime.engine.weights import StoredTensor

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
MAX_SHARDS = 4096
_DTYPES = {"F32", "F16", "BF16"}
_GGML_KINDS = {"F32": 0, "F16": 1, "BF16": 30}


class SafetensorsFolder:
    """A `TensorSource` over the safetensors files of a folder."""

    def __init__(self, folder: Path) -> None:
        self.files = weight_files(folder)
        self._owner: dict[str, Path] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._kinds: dict[str, int] = {}
        for path in self.files:
            self._read_table(path)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return dict(self._shapes)

    def read_into(self, name: str, out: Tensor) -> None:
        try:
            with safe_open(self._owner[name], framework="pt", device="cpu") as file:
                stored = file.get_tensor(name)
        except (SafetensorError, OSError, ValueError):
            raise ModelMalformed("safetensors file cannot be read", found=self._owner[name].name) from None
        out.copy_(stored.to(torch.float32))

    def kind(self, name: str) -> int:
        return self._kinds[name]

    def stored(self, name: str) -> StoredTensor:
        try:
            with safe_open(self._owner[name], framework="pt", device="cpu") as file:
                tensor = file.get_tensor(name)
        except (SafetensorError, OSError, ValueError):
            raise ModelMalformed("safetensors file cannot be read", found=self._owner[name].name) from None
        rows = tensor if tensor.ndim > 1 else tensor.unsqueeze(0)
        return StoredTensor(self._kinds[name], rows.contiguous().view(torch.uint8).numpy())

    def _read_table(self, path: Path) -> None:
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                for name in file.keys():  # noqa: SIM118 (no mapping)
                    part = file.get_slice(name)
                    if part.get_dtype() not in _DTYPES:
                        raise UnsupportedModel(f"data type of {name[:80]}", found=part.get_dtype())
                    if name in self._shapes:
                        raise ModelMalformed("tensor in two files", found=name[:80])
                    if name.endswith("rotary_emb.inv_freq"):
                        continue  # old exports carry this table; config.json defines it
                    self._shapes[name] = tuple(part.get_shape())
                    self._kinds[name] = _GGML_KINDS[part.get_dtype()]
                    self._owner[name] = path
        except (SafetensorError, OSError, ValueError):
            raise ModelMalformed("safetensors file cannot be read", found=path.name) from None


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
