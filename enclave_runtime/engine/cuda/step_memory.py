"""The device memory of steps, and the host's copies of what the two keep in common."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from enclave_runtime.engine.config import ModelConfig
from enclave_runtime.engine.cuda.device import Device
from enclave_runtime.engine.cuda.device_memory import scratch
from enclave_runtime.engine.decoder import ATTENTION_TILE, Span
from enclave_runtime.engine.errors import UnsupportedModel
from enclave_runtime.engine.rope import rotation_table
from enclave_runtime.engine.sampling import PlainDraw

AHEAD = 8
"""Steps of which tokens come back in one copy, at most."""
LARGEST_BATCH = 64
"""Rows of one token in one graph, at most; more run in turn."""

# Where each array of the control block begins, in bytes a row of the batch; device and host count alike.
_SEEDS = 0  # uint64 [batch, 2]
_TEMPERATURES = 16  # float64 [batch]
_TOKENS, _POSITIONS, _LENGTHS, _TAKEN = 24, 28, 32, 36  # int32 [batch] each
_TABLES = 40  # int32 [batch, width]


@dataclass(slots=True)
class StepMemory:
    """Addresses, and the pinned memory that goes with some of them. Sizes count rows or positions.

    ``control`` is one block: seeds, temperatures, tokens, positions, lengths and taken (the head), then page tables.
    """

    batch: int
    chunk: int
    positions_reserved: int
    width: int
    splits: int
    vocabulary_blocks: int
    room: int
    logits: int
    history: int
    control: int
    chunk_control: int
    cosines: int
    sines: int
    control_host: np.ndarray
    chunk_host: np.ndarray
    logits_host: np.ndarray
    history_host: np.ndarray

    @classmethod
    def of(cls, device: Device, config: ModelConfig, positions: int, rows: int) -> "StepMemory":
        # At least 16, so that each array of the control block begins at a multiple of 16 bytes.
        batch = min(LARGEST_BATCH, max(16, 1 << (max(rows, 1) - 1).bit_length()))
        chunk = -(-max(rows, 1) // ATTENTION_TILE) * ATTENTION_TILE
        width = -(-positions // device.shape.page)
        splits = device.constants("decode_split")["SPLITS"]
        blocks = -(-config.vocab_size // device.constants("gumbel_blocks")["BLOCK"])
        if blocks > device.constants("gumbel_join")["BLOCK"]:
            raise UnsupportedModel("vocabulary larger than the kernels take", found=config.vocab_size)
        largest = max(
            scratch(0, batch, config, splits=splits, blocks=blocks).size,
            scratch(0, chunk, config, splits=0, blocks=0).size,
        )
        tables = rotation_table(config.rope, config.head_dim, positions)
        turns = [device.allocate(table.nbytes) for table in tables]
        for at, table in zip(turns, tables, strict=True):
            device.upload(at, table)
            device.wait()
        control_host = device.pinned(batch * (_TABLES + 4 * width))
        chunk_host = device.pinned(4 * (2 * chunk + width))
        logits_host = device.pinned(batch * config.vocab_size * 4)
        history_host = device.pinned(AHEAD * batch * 4)
        return cls(
            batch=batch,
            chunk=chunk,
            positions_reserved=positions,
            width=width,
            splits=splits,
            vocabulary_blocks=blocks,
            room=device.allocate(largest),
            logits=device.allocate(logits_host.nbytes),
            history=device.allocate(history_host.nbytes),
            control=device.allocate(control_host.nbytes),
            chunk_control=device.allocate(chunk_host.nbytes),
            cosines=turns[0],
            sines=turns[1],
            control_host=control_host,
            chunk_host=chunk_host,
            logits_host=logits_host.view(np.float32).reshape(batch, config.vocab_size),
            history_host=history_host.view(np.int32).reshape(AHEAD, batch),
        )

    @property
    def buckets(self) -> list[int]:
        """Sizes of batches that are recorded."""
        return [1 << power for power in range(self.batch.bit_length())]

    @property
    def head_bytes(self) -> int:
        return _TABLES * self.batch

    @property
    def seeds(self) -> int:
        return self.control + _SEEDS * self.batch

    @property
    def temperatures(self) -> int:
        return self.control + _TEMPERATURES * self.batch

    @property
    def tokens(self) -> int:
        return self.control + _TOKENS * self.batch

    @property
    def positions(self) -> int:
        return self.control + _POSITIONS * self.batch

    @property
    def lengths(self) -> int:
        return self.control + _LENGTHS * self.batch

    @property
    def taken(self) -> int:
        return self.control + _TAKEN * self.batch

    @property
    def tables(self) -> int:
        return self.control + self.head_bytes

    @property
    def chunk_tokens(self) -> int:
        return self.chunk_control

    @property
    def chunk_positions(self) -> int:
        return self.chunk_control + 4 * self.chunk

    @property
    def chunk_table(self) -> int:
        return self.chunk_control + 8 * self.chunk

    @property
    def _seeds(self) -> np.ndarray:
        return self._host(_SEEDS, _TEMPERATURES).view(np.uint64).reshape(self.batch, 2)

    @property
    def _temperatures(self) -> np.ndarray:
        return self._host(_TEMPERATURES, _TOKENS).view(np.float64)

    @property
    def _numbers(self) -> np.ndarray:
        """Tokens, positions, lengths and taken: int32 [4, batch]."""
        return self._host(_TOKENS, _TABLES).view(np.int32).reshape(4, self.batch)

    @property
    def _tables(self) -> np.ndarray:
        return self.control_host[self.head_bytes :].view(np.int32).reshape(self.batch, self.width)

    def _host(self, begin: int, end: int) -> np.ndarray:
        """The host's copy of the arrays from offset ``begin`` to ``end``."""
        return self.control_host[begin * self.batch : end * self.batch]

    def bucket(self, rows: int) -> int:
        """The smallest size that is recorded and holds ``rows``."""
        return 1 << (rows - 1).bit_length()

    def place(self, spans: Sequence[Span], draws: Sequence[PlainDraw], nobodys: int) -> int:
        """Write what these rows are; the bytes of ``control_host`` to send up, 0 if the device knows it all.

        The other rows of the bucket are nobody's: they stand on the page ``nobodys`` and move on with the rest.
        """
        count, bucket = len(spans), self.bucket(len(spans))
        seeds = np.array([(draw.key & (1 << 64) - 1, draw.key >> 64) for draw in draws], dtype=np.uint64)
        temperatures = np.array([draw.temperature for draw in draws])
        numbers = np.array([(span.tokens[0], span.start, span.start + 1) for span in spans], dtype=np.int32).T
        tables = np.full((bucket, self.width), nobodys, dtype=np.int32)
        for row, span in enumerate(spans):
            pages = span.table.pages[: self.width]
            tables[row, : len(pages)] = pages
        new_tables = not np.array_equal(tables, self._tables[:bucket])
        if not (
            new_tables
            or not np.array_equal(seeds, self._seeds[:count])
            or not np.array_equal(temperatures, self._temperatures[:count])
            or not np.array_equal(numbers, self._numbers[:3, :count])
            or (self._numbers[2, count:bucket] + AHEAD > self.positions_reserved).any()
        ):
            return 0
        self.control_host[: self.head_bytes].fill(0)
        self._seeds[:count], self._temperatures[:count] = seeds, temperatures
        self._numbers[:3, :count] = numbers
        self._numbers[2, count:bucket] = 1
        if not new_tables:
            return self.head_bytes
        self._tables[:bucket] = tables
        return self.head_bytes + tables.nbytes

    def moved_on(self, bucket: int, steps: int) -> None:
        """Let the host's copy follow what `gumbel_join` did on the device."""
        self._numbers[0, :bucket] = np.maximum(self.history_host[steps - 1, :bucket], 0)
        self._numbers[1:3, :bucket] += steps

    def write_chunk(self, tokens: np.ndarray, first: int, pages: np.ndarray) -> None:
        numbers = self.chunk_host.view(np.int32)
        numbers[: len(tokens)] = tokens
        numbers[self.chunk : self.chunk + len(tokens)] = np.arange(first, first + len(tokens))
        used = pages[: self.width]
        numbers[2 * self.chunk : 2 * self.chunk + len(used)] = used

    def forget(self, device: Device) -> None:
        """Overwrite tokens, seeds and page tables on both sides."""
        self.control_host.fill(0)
        device.zero(self.control, self.control_host.nbytes)
