"""Runs the GPU kernels on the CPU by Triton's interpreter, against float64: prints each largest relative error.

A program of its own, because the interpreter is chosen before triton is imported. Outputs are poisoned first, sizes
are ragged. The interpreter multiplies the bit patterns of bf16 operands in ``tl.dot``, so attention is run in
float16 here; nothing in those kernels depends on which of the two it is.
"""

import json
import os

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import torch
import triton

from enclave_runtime.engine.cuda.kernels.attention import decode_join, decode_split, prefill
from enclave_runtime.engine.cuda.kernels.norm import add_rms_norm, embed
from enclave_runtime.engine.cuda.kernels.projection import (
    gate_up_swiglu,
    swiglu,
    weights_times_row,
    weights_times_rows,
)
from enclave_runtime.engine.cuda.kernels.rotary import rotate_and_append
from enclave_runtime.engine.cuda.kernels.sampling import gumbel_blocks, gumbel_join
from enclave_runtime.engine.cuda.weight_formats import FP8, INT8, WeightFormat
from enclave_runtime.engine.cuda.weight_rounding import quantised
from enclave_runtime.engine.sampling import Sampler, SamplingSettings

HEADS, KV_HEADS, SIZE, PAGE, SPLITS = 6, 2, 64, 16, 4
GROUP, HALF = HEADS // KV_HEADS, SIZE // 2


def poisoned(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.full(shape, float("nan"), dtype=dtype)


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.double() - wanted.double()).abs().max() / wanted.double().abs().max())


def norm() -> dict[str, float]:
    x, residual, weight = (torch.randn(3, 577), torch.randn(3, 577), torch.randn(577))
    x, residual, weight = x.bfloat16(), residual.bfloat16(), weight.bfloat16()
    out, added = poisoned(3, 577), (x.float() + residual.float()).bfloat16()
    add_rms_norm[(3,)](x, residual, weight, out, 577, 1e-5, BLOCK=1024)
    wide = added.double()
    wanted = wide * torch.rsqrt((wide * wide).mean(1, keepdim=True) + 1e-5) * weight.double()
    table, tokens = torch.randn(9, 577).bfloat16(), torch.tensor([8, 0, 3], dtype=torch.int32)
    begun, zeros = poisoned(3, 577), poisoned(3, 577)
    embed[(3,)](tokens, table, begun, zeros, 577, BLOCK=1024)
    return {
        "norm": error(out, wanted),
        "norm.residual": error(residual, added),
        "embed": float(not torch.equal(begun, table[tokens.long()]) or bool(zeros.any())),
    }


def projection() -> dict[str, float]:
    rows, inputs, outputs = 3, 577, 130
    x = torch.randn(rows, inputs).bfloat16()
    grid, none = (rows, triton.cdiv(outputs, 16)), torch.zeros(1)
    found = {}
    for name, kind in (("bf16", None), ("int8", INT8), ("fp8", FP8)):
        # 577 inputs: the last group of an output is not whole.
        parts = [held(kind, torch.randn(outputs, inputs)) for _ in range(2)]
        (gate, gate_scales, gated), (up, up_scales, raised) = parts
        sizes = {"GROUP": kind.group if kind else 0, "ROWS": 16, "COLUMNS": 128}
        out = poisoned(rows, outputs)
        weights_times_row[grid](x, gate, gate_scales, out, inputs, outputs, **sizes)
        found[f"product.{name}"] = error(out, x.double() @ gated.T)
        out = poisoned(rows, outputs)
        gate_up_swiglu[grid](x, gate, up, gate_scales, up_scales, out, inputs, outputs, **sizes)
        gated, raised = x.double() @ gated.T, x.double() @ raised.T
        found[f"swiglu.{name}"] = error(out, gated * torch.sigmoid(gated) * raised)
    found |= many_rows()
    plain = torch.randn(outputs, inputs).bfloat16()
    both, out = torch.cat([gated, raised], 1).bfloat16(), poisoned(rows, outputs)
    swiglu[(rows, triton.cdiv(outputs, 64))](both, out, outputs, BLOCK=64)
    gated, raised = both.double().chunk(2, 1)
    found["swiglu.apart"] = error(out, gated * torch.sigmoid(gated) * raised)
    out = poisoned(rows, outputs, dtype=torch.float32)
    weights_times_row[(rows, triton.cdiv(outputs, 16))](
        x, plain, none, out, inputs, outputs, GROUP=0, ROWS=16, COLUMNS=128
    )
    found["product.logits"] = error(out, x.double() @ plain.double().T)
    return found


def held(kind: WeightFormat | None, matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A matrix as a kernel reads it, its scales, and the same numbers in float64."""
    if kind is None:
        plain = matrix.bfloat16()
        return plain, torch.zeros(1), plain.double()
    bits, scales = (torch.from_numpy(each) for each in quantised(kind, matrix.numpy()))
    weight = bits.view(torch.int8 if kind is INT8 else torch.float8_e4m3fn)
    wide = scales.double().repeat_interleave(kind.group, 1)[:, : matrix.shape[1]]
    return weight, scales, weight.double() * wide


def many_rows() -> dict[str, float]:
    """Rows and outputs that are no whole tile. Activations in float16: this kernel uses ``tl.dot``."""
    rows, inputs, outputs, found = 21, 577, 70, {}
    x = torch.randn(rows, inputs).half()
    for name, kind in (("int8", INT8), ("fp8", FP8)):
        weight, scales, wide = held(kind, torch.randn(outputs, inputs))
        out = poisoned(rows, outputs, dtype=torch.float16)
        grid = (triton.cdiv(outputs, 32), triton.cdiv(rows, 16))
        weights_times_rows[grid](
            *(x, weight, scales, out, rows, inputs, outputs), GROUP=kind.group, ROWS=16, OUTPUTS=32
        )
        found[f"rows.{name}"] = error(out, x.double() @ wide.T)
        alone = poisoned(1, outputs, dtype=torch.float16)
        one = (triton.cdiv(outputs, 32), 1)
        weights_times_rows[one](
            *(x[17:18], weight, scales, alone, 1, inputs, outputs), GROUP=kind.group, ROWS=16, OUTPUTS=32
        )
        found[f"rows.{name}.alone"] = error(alone, x[17:18].double() @ wide.T)
    return found


def rotary() -> dict[str, float]:
    found = {}
    for norm in (0, 1):
        rows, positions = 4, torch.tensor([0, 15, 16, 40], dtype=torch.int32)
        tables = torch.tensor([[3, 7, 1]] * rows, dtype=torch.int32)
        qkv = torch.randn(rows, (HEADS + 2 * KV_HEADS) * SIZE).bfloat16()
        angles = torch.arange(64)[:, None] * 10000.0 ** (-torch.arange(HALF)[None] / HALF)
        cosines, sines = angles.cos().contiguous(), angles.sin().contiguous()
        norms = [torch.randn(SIZE).bfloat16() for _ in range(2)]
        bias = torch.randn((HEADS + 2 * KV_HEADS) * SIZE)
        queries, keys, values = (
            poisoned(rows, HEADS, SIZE),
            poisoned(9, PAGE, KV_HEADS, SIZE),
            poisoned(9, PAGE, KV_HEADS, SIZE),
        )
        rotate_and_append[(rows, HEADS + 2 * KV_HEADS)](
            *(qkv, positions, tables, cosines, sines, bias, *norms, queries, keys, values, 3, 1e-6),
            HEADS=HEADS,
            KV_HEADS=KV_HEADS,
            HALF=HALF,
            PAGE=PAGE,
            NORM=norm,
            BIAS=1 - norm,
        )
        split = (qkv.double() + (1 - norm) * bias.double()).view(rows, HEADS + 2 * KV_HEADS, SIZE)
        turned = split.clone()
        if norm:
            for part, weight in ((slice(0, HEADS), norms[0]), (slice(HEADS, HEADS + KV_HEADS), norms[1])):
                scale = torch.rsqrt((split[:, part] ** 2).mean(2, keepdim=True) + 1e-6)
                turned[:, part] = split[:, part] * scale * weight.double()
        low, high = turned[..., :HALF].clone(), turned[..., HALF:].clone()
        cosine, sine = (table[positions.long()].double()[:, None] for table in (cosines, sines))
        turned[..., :HALF], turned[..., HALF:] = low * cosine - high * sine, high * cosine + low * sine
        stored = [(tables[row, at // PAGE].item(), at % PAGE) for row, at in enumerate(positions.tolist())]
        found[f"rotary.{norm}.queries"] = error(queries, turned[:, :HEADS])
        found[f"rotary.{norm}.keys"] = error(
            torch.stack([keys[page, slot] for page, slot in stored]), turned[:, HEADS : HEADS + KV_HEADS]
        )
        found[f"rotary.{norm}.values"] = error(
            torch.stack([values[page, slot] for page, slot in stored]), split[:, HEADS + KV_HEADS :]
        )
        untouched = int(torch.isnan(keys[:, :, 0, 0]).sum())
        found[f"rotary.{norm}.pages_touched"] = float(9 * PAGE - untouched != rows)
    return found


def attended(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, table: list[int], length: int
) -> torch.Tensor:
    """Attention of one row in float64."""
    places = [(table[position // PAGE], position % PAGE) for position in range(length)]
    key = torch.stack([keys[page, slot] for page, slot in places]).double().repeat_interleave(GROUP, 1)
    value = torch.stack([values[page, slot] for page, slot in places]).double().repeat_interleave(GROUP, 1)
    scores = torch.einsum("hd,nhd->hn", query.double(), key) * SIZE**-0.5
    return torch.einsum("hn,nhd->hd", scores.softmax(1), value)


def decoded(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    tables: torch.Tensor,
    lengths: torch.Tensor,
) -> torch.Tensor:
    rows = len(queries)
    partial = poisoned(rows, HEADS, SPLITS, SIZE, dtype=torch.float32)
    maxima, sums = (poisoned(rows, HEADS, SPLITS, dtype=torch.float32) for _ in range(2))
    out = poisoned(rows, HEADS, SIZE, dtype=torch.float16)
    decode_split[(rows, KV_HEADS, SPLITS)](
        *(queries, keys, values, tables, lengths, partial, maxima, sums, tables.shape[1], SIZE**-0.5),
        GROUP=GROUP,
        GROUP_BLOCK=16,
        KV_HEADS=KV_HEADS,
        SIZE=SIZE,
        PAGE=PAGE,
        SPLITS=SPLITS,
        BLOCK=16,
    )
    decode_join[(rows * HEADS,)](partial, maxima, sums, out, SIZE=SIZE, SPLITS=SPLITS)
    return out


def attention() -> dict[str, float]:
    table, pages = [3, 7, 1, 9, 5], 12
    keys, values = (torch.randn(pages, PAGE, KV_HEADS, SIZE).half() for _ in range(2))
    lengths = torch.tensor([1, 17, 33, 64, 80], dtype=torch.int32)
    queries = torch.randn(len(lengths), HEADS, SIZE).half()
    tables = torch.tensor([table] * len(lengths), dtype=torch.int32)
    together = decoded(queries, keys, values, tables, lengths)
    wanted = torch.stack(
        [attended(q, keys, values, table, n) for q, n in zip(queries, lengths.tolist(), strict=True)]
    )
    alone = torch.cat(
        [
            decoded(queries[i : i + 1], keys, values, tables[i : i + 1], lengths[i : i + 1])
            for i in range(len(lengths))
        ]
    )
    found = {"decode": error(together, wanted), "decode.neighbours": float(not torch.equal(together, alone))}
    for rows, first in ((5, 32), (33, 0), (20, 48)):
        queries, out = torch.randn(rows, HEADS, SIZE).half(), poisoned(rows, HEADS, SIZE, dtype=torch.float16)
        prefill[(triton.cdiv(rows, 16), HEADS)](
            *(queries, keys, values, torch.tensor(table, dtype=torch.int32), out, rows, first, SIZE**-0.5),
            GROUP=GROUP,
            KV_HEADS=KV_HEADS,
            SIZE=SIZE,
            PAGE=PAGE,
            QUERIES=16,
            BLOCK=32,
        )
        wanted = torch.stack([attended(q, keys, values, table, first + i + 1) for i, q in enumerate(queries)])
        found[f"prefill.{rows}.{first}"] = error(out, wanted)
    return found


def drawn(logits: torch.Tensor, seeds: list[int], lengths: list[int], temperature: float) -> torch.Tensor:
    rows, vocabulary = logits.shape
    blocks = triton.cdiv(vocabulary, 128)
    scores, winners = torch.zeros(rows, blocks).double(), torch.zeros(rows, blocks, dtype=torch.int32)
    tokens, taken = torch.full((rows,), -1, dtype=torch.int32), torch.ones(rows, dtype=torch.int32)
    halves = [[seed & (1 << 64) - 1, seed >> 64] for seed in seeds]
    keys = torch.from_numpy(np.array(halves, dtype=np.uint64).view(np.int64))
    ends, heat = torch.tensor(lengths, dtype=torch.int32), torch.full((rows,), temperature).double()
    positions, history = ends - 1, torch.full((2, rows + 3), -7, dtype=torch.int32)
    gumbel_blocks[(rows, blocks)](logits, keys, ends, heat, scores, winners, vocabulary, blocks, BLOCK=128)
    gumbel_join[(rows,)](scores, winners, tokens, positions, ends, taken, history, blocks, rows + 3, BLOCK=8)
    moved = positions.tolist() == lengths and [end - 1 for end in ends.tolist()] == lengths
    assert moved
    assert taken.tolist() == [2] * rows
    assert bool((history[0] == -7).all())
    assert bool((history[:, rows:] == -7).all())
    assert torch.equal(history[1, :rows].clamp(min=0), tokens)
    return history[1, :rows]


def sampling() -> dict[str, float]:
    logits = torch.randn(3, 1000) * 2
    found = {
        "greedy": float(not torch.equal(drawn(logits, [1, 2, 3], [5, 6, 7], 0.0).long(), logits.argmax(1)))
    }
    seeds, lengths = [7, (1 << 128) - 5, 1 << 64], [4, 1, 70_000]
    together = drawn(logits, seeds, lengths, 1.3)
    alone = torch.cat([drawn(logits[i : i + 1], [seeds[i]], [lengths[i]], 1.3) for i in range(3)])
    found["sampling.neighbours"] = float(not torch.equal(alone, together))
    other = 0
    settings = SamplingSettings(temperature=0.9)
    for start in range(0, 18, 3):
        logits, lengths = torch.randn(3, 1000) * 2, [start + 1, start + 2, start + 3]
        picked = [
            Sampler(settings, seed).pick(row.numpy(), np.zeros(length, dtype=np.int64), 1)
            for row, seed, length in zip(logits, seeds, lengths, strict=True)
        ]
        other += picked != drawn(logits, seeds, lengths, 0.9).tolist()
    found["sampling.other_than_the_hosts"] = float(other)
    logits[1, 999] = float("nan")
    logits[2, 3] = float("-inf")
    found["sampling.broken"] = float(drawn(logits, seeds, lengths, 0.9).tolist()[1:] != [-1, -1])
    return found


if __name__ == "__main__":
    torch.manual_seed(0)
    print(json.dumps({**norm(), **projection(), **rotary(), **attention(), **sampling()}))
