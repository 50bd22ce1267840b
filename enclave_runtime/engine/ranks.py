"""Starting a model on several processes of this machine: rank 0 is the caller's, the others are programs of their own.

They meet over gloo on the loopback interface: plain TCP that any process of this machine's network can reach while
they meet, so for development and tests. A sealed node's ranks are forked from it and share memory
(``enclave_runtime.rank_processes``).
"""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from enclave_runtime.engine.config import ModelConfig
from enclave_runtime.engine.decoder import Decoder
from enclave_runtime.engine.errors import EngineError, RankLost, UnsupportedModel
from enclave_runtime.engine.model import LoadedModel, load_model
from enclave_runtime.engine.shard import Shard, check_split, read_shard
from enclave_runtime.engine.tensor_parallel import Ranks, TensorParallelDecoder, follow
from enclave_runtime.engine.weights import TensorSource

_LOOPBACK = "127.0.0.1"
_INTERFACE = {"GLOO_SOCKET_IFNAME": "lo"}
_SUMS = {"cpu": "gloo", "cuda": "nccl"}
_POLL_S, _END_S = 0.05, 30.0


class RankedModel:
    """A model over ``count`` processes; ``model`` is for an `Engine`. A context manager: leaving it ends the others."""

    def __init__(self, path: Path, count: int, device: str = "cpu") -> None:
        """Load every rank's part: on the CPU, with sums over gloo, or (``cuda``) on a GPU each, with sums over NCCL.

        Raises what `load_model` raises, `UnsupportedModel` for a model that does not divide or GPUs that are not there,
        `RankLost` for a rank that ends before it is ready.
        """
        self.processes: list[subprocess.Popen[bytes]] = []
        self._path, self._count, self._device = path, count, device
        try:
            self.model: LoadedModel = load_model(path, self._lead)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the other ranks; those that do not listen are killed."""
        decoder = getattr(getattr(self, "model", None), "decoder", None)
        if isinstance(decoder, TensorParallelDecoder):
            with contextlib.suppress(RankLost):
                decoder.end()
        else:
            for process in self.processes:
                process.kill()
        for process in self.processes:
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if dist.is_initialized():
            dist.destroy_process_group()

    def __enter__(self) -> "RankedModel":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _lead(self, config: ModelConfig, source: TensorSource) -> Decoder:
        check_split(config, self._count)  # a model that does not divide starts nobody
        _check_device(self._device, self._count)
        shard = read_shard(config, source, 0, self._count, _place(self._device, 0))
        store = TCPStore(_LOOPBACK, 0, is_master=True, wait_for_workers=False)
        os.environ.update(_INTERFACE)
        for rank in range(1, self._count):
            command = [sys.executable, "-m", __spec__.name, str(self._path)]
            rest = [str(rank), str(self._count), str(store.port), self._device]
            self.processes.append(subprocess.Popen([*command, *rest], stdin=subprocess.DEVNULL))
        waiting = {_ready(rank): process for rank, process in enumerate(self.processes, 1)}
        while waiting:
            for key, process in list(waiting.items()):
                if store.check([key]):
                    del waiting[key]
                elif process.poll() is not None:
                    raise RankLost("a rank ended before it was ready", found=process.returncode)
            time.sleep(_POLL_S)
        ranks = Ranks.join(0, self._count, store, _SUMS[self._device])
        return TensorParallelDecoder(config, shard, ranks)


def main(arguments: list[str]) -> int:
    """Be a rank other than 0: path of the model, rank, count, port of the store, device."""
    path, device = Path(arguments[0]), arguments[4]
    rank, count, port = (int(each) for each in arguments[1:4])
    os.environ.update(_INTERFACE)
    try:
        shard, config = share_of(path, rank, count, _place(device, rank))
        store = TCPStore(_LOOPBACK, port, is_master=False)
        store.set(_ready(rank), "1")
        follow(config, shard, Ranks.join(rank, count, store, _SUMS[device]))
    except EngineError as error:
        print(f"rank {rank}: {error}", file=sys.stderr)
        return 1
    return 0


def share_of(path: Path, rank: int, count: int, device: str = "cpu") -> tuple[Shard, ModelConfig]:
    """What rank ``rank`` computes of the model at ``path``, and the whole model's configuration.

    Raises what `load_model` and `read_shard` raise.
    """
    made: list[tuple[Shard, ModelConfig]] = []

    def mine(config: ModelConfig, source: TensorSource) -> Decoder:
        made.append((read_shard(config, source, rank, count, device), config))
        raise _Enough

    with contextlib.suppress(_Enough):
        load_model(path, mine)
    return made[0]


class _Enough(Exception):
    """The weights are read; a follower needs no tokenizer."""


def _check_device(device: str, count: int) -> None:
    if device not in _SUMS:
        raise UnsupportedModel("device of the ranks", expected=sorted(_SUMS), found=device)
    if device == "cuda" and not (dist.is_nccl_available() and torch.cuda.device_count() >= count):
        raise UnsupportedModel(
            "a GPU for each rank and NCCL", code="no_gpus", expected=count, found=torch.cuda.device_count()
        )


def _place(device: str, rank: int) -> str:
    return f"{device}:{rank}" if device == "cuda" else device


def _ready(rank: int) -> str:
    return f"ready/{rank}"


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(status)  # gloo's threads and the interpreter's end do not get along; nothing is left to be done
