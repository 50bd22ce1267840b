"""Attention over paged KV: split along the context for decoding, in blocks of queries for prompts.

Both read keys and values through a block table and keep a running softmax (Milakov and Gimelshein, 2018). How the
context is cut depends on the row's own length and on constants, never on the batch: a row's result has the same
bits alone and among others.
"""

import triton
import triton.language as tl


@triton.jit
def decode_split(
    queries,
    keys,
    values,
    tables,
    lengths,
    partial,
    maxima,
    sums,
    table_width,
    scale,
    GROUP: tl.constexpr,
    GROUP_BLOCK: tl.constexpr,
    KV_HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    PAGE: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One share of the context of one row, for all query heads of one KV head. Grid: (rows, KV_HEADS, SPLITS).

    ``queries``: bf16 [rows, KV_HEADS × GROUP, SIZE]; ``keys``, ``values``: bf16 [pages, PAGE, KV_HEADS, SIZE];
    ``tables``: int32 [rows, table_width]; ``lengths``: int32 [rows], positions to attend to. Results, float32:
    ``partial`` [rows, heads, SPLITS, SIZE] (not normalised), ``maxima`` and ``sums`` [rows, heads, SPLITS].
    ``GROUP_BLOCK``: GROUP rounded up to a power of two of at least 16, as tensor cores want it.
    """
    row, kv_head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(lengths + row)
    share = tl.cdiv(tl.cdiv(length, SPLITS), BLOCK) * BLOCK
    begin = split * share
    end = tl.minimum(begin + share, length)
    member, at = tl.arange(0, GROUP_BLOCK), tl.arange(0, SIZE)
    heads = kv_head * GROUP + member
    real = member < GROUP
    query = tl.load(
        queries + (row * KV_HEADS * GROUP + heads)[:, None] * SIZE + at[None, :],
        mask=real[:, None],
        other=0.0,
    )
    largest = tl.full((GROUP_BLOCK,), float("-inf"), tl.float32)
    total = tl.zeros((GROUP_BLOCK,), tl.float32)
    gathered = tl.zeros((GROUP_BLOCK, SIZE), tl.float32)
    for start in range(begin, end, BLOCK):
        position = start + tl.arange(0, BLOCK)
        known = position < end
        page = tl.load(tables + row * table_width + position // PAGE, mask=known, other=0).to(tl.int64)
        place = ((page * PAGE + position % PAGE) * KV_HEADS + kv_head)[:, None] * SIZE + at[None, :]
        key = tl.load(keys + place, mask=known[:, None], other=0.0)
        score = tl.dot(query, tl.trans(key)) * scale
        score = tl.where(known[None, :], score, float("-inf"))
        higher = tl.maximum(largest, tl.max(score, 1))
        weight = tl.exp(score - higher[:, None])
        fade = tl.exp(largest - higher)
        value = tl.load(values + place, mask=known[:, None], other=0.0)
        total = total * fade + tl.sum(weight, 1)
        gathered = gathered * fade[:, None] + tl.dot(weight.to(value.dtype), value)
        largest = higher
    out = (row * KV_HEADS * GROUP + heads) * SPLITS + split
    tl.store(partial + out[:, None] * SIZE + at[None, :], gathered, mask=real[:, None])
    tl.store(maxima + out, largest, mask=real)
    tl.store(sums + out, total, mask=real)


@triton.jit
def decode_join(partial, maxima, sums, out, SIZE: tl.constexpr, SPLITS: tl.constexpr):
    """Join the shares of :func:`decode_split`. Grid: (rows × heads,). ``out``: bf16 [rows, heads, SIZE].

    A share that had no position has a maximum of minus infinity and counts nothing. SPLITS is a power of two.
    """
    row = tl.program_id(0)
    split, at = tl.arange(0, SPLITS), tl.arange(0, SIZE)
    largest = tl.load(maxima + row * SPLITS + split)
    weight = tl.exp(largest - tl.max(largest, 0))
    total = tl.sum(weight * tl.load(sums + row * SPLITS + split), 0)
    parts = tl.load(partial + (row * SPLITS + split)[:, None] * SIZE + at[None, :])
    joined = tl.sum(parts * weight[:, None], 0) / total
    tl.store(out + row * SIZE + at, joined.to(out.dtype.element_ty))


@triton.jit
def prefill(
    queries,
    keys,
    values,
    table,
    out,
    rows,
    first,
    scale,
    GROUP: tl.constexpr,
    KV_HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    PAGE: tl.constexpr,
    QUERIES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A chunk of one prompt: query ``i`` stands at position ``first + i`` and sees all up to itself.

    Grid: (ceil(rows / QUERIES), KV_HEADS × GROUP). ``queries``, ``out``: bf16 [rows, heads, SIZE]; ``table``: int32
    [pages of the sequence]. Keys and values of the chunk itself are in their pages already. ``first`` is a multiple
    of QUERIES wherever a prompt is cut, so that the cuts do not move the blocks.
    """
    block, head = tl.program_id(0), tl.program_id(1)
    kv_head = head // GROUP
    index, at = block * QUERIES + tl.arange(0, QUERIES), tl.arange(0, SIZE)
    real = index < rows
    place = (index * KV_HEADS * GROUP + head)[:, None] * SIZE + at[None, :]
    query = tl.load(queries + place, mask=real[:, None], other=0.0)
    own = first + index
    largest = tl.full((QUERIES,), float("-inf"), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    gathered = tl.zeros((QUERIES, SIZE), tl.float32)
    end = first + tl.minimum((block + 1) * QUERIES, rows)
    for start in range(0, end, BLOCK):
        position = start + tl.arange(0, BLOCK)
        known = position < end
        page = tl.load(table + position // PAGE, mask=known, other=0).to(tl.int64)
        stored = ((page * PAGE + position % PAGE) * KV_HEADS + kv_head)[:, None] * SIZE + at[None, :]
        key = tl.load(keys + stored, mask=known[:, None], other=0.0)
        score = tl.dot(query, tl.trans(key)) * scale
        score = tl.where(position[None, :] <= own[:, None], score, float("-inf"))
        higher = tl.maximum(largest, tl.max(score, 1))
        weight = tl.exp(score - higher[:, None])
        fade = tl.exp(largest - higher)
        value = tl.load(values + stored, mask=known[:, None], other=0.0)
        total = total * fade + tl.sum(weight, 1)
        gathered = gathered * fade[:, None] + tl.dot(weight.to(value.dtype), value)
        largest = higher
    tl.store(out + place, (gathered / total[:, None]).to(out.dtype.element_ty), mask=real[:, None])
