"""The compiled decoder behind the `Decoder` protocol.

A step is one call into the library. A request's logits are the same bits alone and in any batch, however its
prompt is cut: every output is summed in one fixed order (product.inc, attend.inc).
"""

import ctypes
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from enclave_runtime.engine.aligned import aligned_zeros
from enclave_runtime.engine.config import ModelConfig
from enclave_runtime.engine.cpu import binding
from enclave_runtime.engine.cpu.packing import LANES, PackedModel
from enclave_runtime.engine.decoder import Span
from enclave_runtime.engine.errors import EngineFault, InvalidRequest
from enclave_runtime.engine.pages import ArrayPages, PagePool
from enclave_runtime.engine.rope import rotation_table


class CpuDecoder:
    """`Decoder` over packed weights.

    ``path`` chooses the kernels (by default the best this processor has): 0 portable, 1 AVX2, 2 AVX-512, 3 AMX. With
    ``fine``, activations that meet 8-bit or 4-bit weights are rounded to 16 bits with a scale per 32, otherwise to
    8: half the work in large batches, and a distribution that differs from float32's some hundred times as much.
    """

    def __init__(
        self,
        library: ctypes.CDLL,
        config: ModelConfig,
        packed: PackedModel,
        *,
        path: int | None = None,
        fine: bool = True,
    ) -> None:
        self._library, self._config, self._packed = library, config, packed
        self.path: int = library.cloister_best_path() if path is None else path
        self.fine = fine
        self.reserved: _Reserved | None = None

    @property
    def config(self) -> ModelConfig:
        return self._config

    @property
    def one_order(self) -> bool:
        return True

    @property
    def path_name(self) -> str:
        """The instruction set in use."""
        name: bytes = self._library.cloister_path_name(self.path)
        return name.decode()

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights that one token reads."""
        return self._packed.weight_bytes

    def manifest(self) -> Mapping[str, str]:
        """For the runtime manifest; ``digest`` is of the library's file."""
        return {"decoder": "compiled", "path": self.path_name, "digest": binding.library_digest()}

    def new_pool(self, pages: int, page_tokens: int) -> PagePool:
        """KV memory in half precision. Raises `InvalidRequest` unless pages hold a multiple of 16 positions."""
        if page_tokens % LANES:
            raise InvalidRequest("page_tokens", expected=f"a multiple of {LANES}", found=page_tokens)
        pool = ArrayPages(
            layers=self._config.layers,
            kv_heads=self._config.kv_heads,
            head_dim=self._config.head_dim,
            pages=pages,
            page_tokens=page_tokens,
            dtype=np.float16,
        )
        self._library.cloister_prefer_huge_pages(pool.storage.ctypes.data, pool.storage.nbytes)
        # Now, not when a request is there, the system finds memory for every page: by a write to each.
        whole = pool.storage.reshape(-1).view(np.uint8)
        whole[:: mmap.PAGESIZE] = 0
        whole[-1:] = 0
        return pool

    def reserve(self, positions: int, *, rows: int = 256, threads: int = 2) -> None:
        """Take all memory that steps need and start the threads."""
        self.reserved = _Reserved(
            self._library, self._config, self._packed, self.path, self.fine, positions, rows, threads
        )

    def residue(self) -> int:
        """Bytes of activations that are left in memory between steps: 0."""
        return 0 if self.reserved is None else int(self._library.cloister_residue(self.reserved.handle))

    def step(self, spans: Sequence[Span], pool: PagePool) -> np.ndarray:
        """See `Decoder.step`. The logits lie in memory of the decoder's."""
        reserved = self.reserved
        if reserved is None or not isinstance(pool, ArrayPages):
            raise EngineFault("a step before anything was reserved, or with a pool of another decoder")
        wanted = sum(span.wants_logits for span in spans)
        logits = reserved.logits_for(wanted)
        done = 0
        for part in _parts(spans, reserved.rows):
            reserved.run(part, pool, logits[done:])
            done += sum(span.wants_logits for span in part)
        return logits[:wanted, : self._config.vocab_size]


@dataclass(slots=True)
class _Reserved:
    """A decoder of the library's with the arrays it reads steps from."""

    library: ctypes.CDLL
    config: ModelConfig
    packed: PackedModel
    path: int
    fine: bool
    positions: int
    rows: int
    threads: int
    handle: int = field(init=False, default=0)
    _tables: tuple[np.ndarray, np.ndarray] = field(init=False)
    _tokens: np.ndarray = field(init=False)
    _spans: "ctypes.Array[binding.SpanStruct]" = field(init=False)
    _batch: binding.Batch = field(init=False)
    _logits: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self._tables = rotation_table(self.config.rope, self.config.head_dim, self.positions)
        self._tokens = np.zeros(self.rows, dtype=np.int32)
        self._spans = (binding.SpanStruct * self.rows)()
        self._batch = binding.Batch(tokens=self._tokens.ctypes.data, span=self._spans)
        self._logits = self._new_logits(8)
        self.handle = (
            self.library.cloister_decoder_new(
                ctypes.byref(self.packed.struct),
                self.path,
                self.fine,
                self.rows,
                self.threads,
                self.positions,
                self._tables[0].ctypes.data,
                self._tables[1].ctypes.data,
            )
            or 0
        )
        if not self.handle:
            raise EngineFault("no memory or no threads for the decoder")

    def logits_for(self, count: int) -> np.ndarray:
        if count > len(self._logits):
            self._logits = self._new_logits(count)
        return self._logits

    def _new_logits(self, rows: int) -> np.ndarray:
        return aligned_zeros((rows, -(-self.config.vocab_size // LANES) * LANES), np.float32)

    def run(self, spans: Sequence[Span], pool: ArrayPages, logits: np.ndarray) -> None:
        row, batch = 0, self._batch
        tables = []
        for struct, span in zip(self._spans, spans, strict=False):
            count = len(span.tokens)
            pool.check_span(span.table, span.start, count)
            pages = np.ascontiguousarray(span.table.pages, dtype=np.int64)
            tables.append(pages)
            self._tokens[row : row + count] = span.tokens
            struct.row, struct.count, struct.start = row, count, span.start
            struct.pages, struct.wants_logits = pages.ctypes.data, span.wants_logits
            row += count
        storage = pool.storage
        batch.rows, batch.spans = row, len(spans)
        batch.kv, batch.kv_pages, batch.page_tokens = storage.ctypes.data, storage.shape[2], pool.page_tokens
        batch.logits, batch.logits_stride = logits.ctypes.data, self._logits.shape[1]
        failed = self.library.cloister_step(self.handle, ctypes.byref(batch))
        self._tokens[:row] = 0
        if failed:
            raise EngineFault("a step that does not fit what was reserved")

    def __del__(self) -> None:
        if self.handle:
            self.library.cloister_decoder_free(self.handle)
            self.handle = 0


def _parts(spans: Sequence[Span], rows: int) -> list[list[Span]]:
    """The spans cut into batches of at most ``rows`` rows; a cut changes no result."""
    parts: list[list[Span]] = [[]]
    room = rows
    for span in spans:
        begin, count = 0, len(span.tokens)
        while begin < count:
            if room == 0:
                parts.append([])
                room = rows
            end = min(count, begin + room)
            whole = begin == 0 and end == count
            last = end == count and span.wants_logits
            parts[-1].append(
                span if whole else Span(span.tokens[begin:end], span.start + begin, span.table, last)
            )
            room -= end - begin
            begin = end
    return parts
