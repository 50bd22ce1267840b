"""What follows the QKV product: biases, norms of queries and keys, rotary positions, and the append to paged KV."""

import triton
import triton.language as tl


@triton.jit
def rotate_and_append(
    qkv,
    positions,
    tables,
    cosines,
    sines,
    bias,
    query_norm,
    key_norm,
    queries,
    keys,
    values,
    table_width,
    epsilon,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HALF: tl.constexpr,
    PAGE: tl.constexpr,
    NORM: tl.constexpr,
    BIAS: tl.constexpr,
):
    """Split a row of QKV into heads; rotate queries and keys; store keys and values in their page.

    Grid: (rows, HEADS + 2 × KV_HEADS). ``qkv``: bf16 [rows, (HEADS + 2 × KV_HEADS) × 2 × HALF]. ``positions``: int32
    [rows]; ``tables``: int32 [rows, table_width], the page of each PAGE positions of the row's sequence (with
    ``table_width`` 0 one table for all rows). ``cosines``, ``sines``: float32 [positions, HALF]. ``bias``: float32, as
    long as a row of QKV, read where BIAS is 1. ``query_norm``, ``key_norm``: bf16 [2 × HALF], read where NORM is 1.
    ``queries``: bf16 [rows, HEADS, 2 × HALF]; ``keys``, ``values``: bf16 [pages, PAGE, KV_HEADS, 2 × HALF] of a layer.
    A rotation turns the pair (d, d + HALF), as the Llama family does. ``HALF`` is a power of two.
    """
    row, head = tl.program_id(0), tl.program_id(1)
    at = tl.arange(0, HALF)
    source = qkv + (row * (HEADS + 2 * KV_HEADS) + head) * 2 * HALF
    low = tl.load(source + at).to(tl.float32)
    high = tl.load(source + HALF + at).to(tl.float32)
    if BIAS == 1:
        low += tl.load(bias + head * 2 * HALF + at)
        high += tl.load(bias + head * 2 * HALF + HALF + at)
    position = tl.load(positions + row)
    if head < HEADS + KV_HEADS:
        if NORM == 1:
            scale = tl.rsqrt((tl.sum(low * low, 0) + tl.sum(high * high, 0)) / (2 * HALF) + epsilon)
            if head < HEADS:
                low = low * scale * tl.load(query_norm + at).to(tl.float32)
                high = high * scale * tl.load(query_norm + HALF + at).to(tl.float32)
            else:
                low = low * scale * tl.load(key_norm + at).to(tl.float32)
                high = high * scale * tl.load(key_norm + HALF + at).to(tl.float32)
        cosine = tl.load(cosines + position * HALF + at)
        sine = tl.load(sines + position * HALF + at)
        turned = low * cosine - high * sine
        high = high * cosine + low * sine
        low = turned
    if head < HEADS:
        target = queries + (row * HEADS + head) * 2 * HALF
        tl.store(target + at, low.to(queries.dtype.element_ty))
        tl.store(target + HALF + at, high.to(queries.dtype.element_ty))
    else:
        page = tl.load(tables + row * table_width + position // PAGE).to(tl.int64)
        slot = (page * PAGE + position % PAGE) * KV_HEADS
        if head < HEADS + KV_HEADS:
            target = keys + (slot + head - HEADS) * 2 * HALF
            tl.store(target + at, low.to(keys.dtype.element_ty))
            tl.store(target + HALF + at, high.to(keys.dtype.element_ty))
        else:
            target = values + (slot + head - HEADS - KV_HEADS) * 2 * HALF
            tl.store(target + at, low.to(values.dtype.element_ty))
            tl.store(target + HALF + at, high.to(values.dtype.element_ty))
