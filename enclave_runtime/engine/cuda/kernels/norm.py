"""Rows of the residual stream: where they begin, and addition with RMS normalisation in one pass (Zhang and Sennrich,
2019).
"""

import triton
import triton.language as tl


@triton.jit
def embed(tokens, embedding, x, residual, columns, BLOCK: tl.constexpr):
    """``x`` = the row of ``embedding`` for a token, ``residual`` = 0. Grid: (rows,).

    ``tokens``: int32 [rows]; ``embedding``: bf16 [vocabulary, columns]; ``x``, ``residual``: bf16 [rows, columns].
    """
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    inside = at < columns
    token = tl.load(tokens + row).to(tl.int64)
    value = tl.load(embedding + token * columns + at, mask=inside, other=0.0)
    tl.store(x + row * columns + at, value, mask=inside)
    tl.store(residual + row * columns + at, tl.zeros_like(value), mask=inside)


@triton.jit
def add_rms_norm(x, residual, weight, out, columns, epsilon, BLOCK: tl.constexpr):
    """``residual += x``; ``out = residual * rsqrt(mean(residual²) + epsilon) * weight``. Grid: (rows,).

    ``x``, ``residual``, ``out``: bf16 [rows, columns]; ``weight``: bf16 [columns]. ``BLOCK``: a power of two of at
    least ``columns``. The sum is float32; what is stored in ``residual`` is what is normalised.
    """
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    inside = at < columns
    place = row * columns + at
    added = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    added += tl.load(residual + place, mask=inside, other=0.0).to(tl.float32)
    kept = added.to(residual.dtype.element_ty)
    tl.store(residual + place, kept, mask=inside)
    value = kept.to(tl.float32)
    scale = tl.rsqrt(tl.sum(value * value, 0) / columns + epsilon)
    scaled = value * scale * tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + place, scaled.to(out.dtype.element_ty), mask=inside)
