"""Products of few rows with large weights: decoding reads every weight once, so the read is what is made fast.

One program computes a block of outputs of one row, with the sum over the inputs always in the same order: a row's
result does not depend on how many rows there are.
"""

import triton
import triton.language as tl


@triton.jit
def weights_times_row(
    x, weight, scales, out, inputs, outputs, SCALED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """``out = x @ weight.T``, times a scale for each output where SCALED is 1. Grid: (rows, ceil(outputs / ROWS)).

    ``x``: bf16 [rows, inputs]; ``weight``: bf16, int8 or fp8e4nv [outputs, inputs]; ``scales``: float32 [outputs];
    ``out``: bf16 or float32 [rows, outputs].
    """
    row, block = tl.program_id(0), tl.program_id(1)
    index = block * ROWS + tl.arange(0, ROWS)
    real = index < outputs
    total = tl.zeros((ROWS,), tl.float32)
    for start in range(0, inputs, COLUMNS):
        at = start + tl.arange(0, COLUMNS)
        known = at < inputs
        value = tl.load(x + row * inputs + at, mask=known, other=0.0).to(tl.float32)
        place = index[:, None].to(tl.int64) * inputs + at[None, :]
        part = tl.load(weight + place, mask=real[:, None] & known[None, :], other=0.0).to(tl.float32)
        total += tl.sum(part * value[None, :], 1)
    if SCALED == 1:
        total *= tl.load(scales + index, mask=real, other=0.0)
    tl.store(out + row * outputs + index, total.to(out.dtype.element_ty), mask=real)


@triton.jit
def gate_up_swiglu(x, gate, up, out, inputs, outputs, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """``out = silu(x @ gate.T) * (x @ up.T)`` (Shazeer, 2020), both products in one pass over ``x``.

    Grid: (rows, ceil(outputs / ROWS)). ``x``: bf16 [rows, inputs]; ``gate``, ``up``: bf16 [outputs, inputs]; ``out``:
    bf16 [rows, outputs].
    """
    row, block = tl.program_id(0), tl.program_id(1)
    index = block * ROWS + tl.arange(0, ROWS)
    real = index < outputs
    gated = tl.zeros((ROWS,), tl.float32)
    raised = tl.zeros((ROWS,), tl.float32)
    for start in range(0, inputs, COLUMNS):
        at = start + tl.arange(0, COLUMNS)
        known = at < inputs
        value = tl.load(x + row * inputs + at, mask=known, other=0.0).to(tl.float32)
        place = index[:, None].to(tl.int64) * inputs + at[None, :]
        both = real[:, None] & known[None, :]
        gated += tl.sum(tl.load(gate + place, mask=both, other=0.0).to(tl.float32) * value[None, :], 1)
        raised += tl.sum(tl.load(up + place, mask=both, other=0.0).to(tl.float32) * value[None, :], 1)
    result = gated / (1.0 + tl.exp(-gated)) * raised
    tl.store(out + row * outputs + index, result.to(out.dtype.element_ty), mask=real)


@triton.jit
def swiglu(both, out, outputs, BLOCK: tl.constexpr):
    """``out = silu(gate) * up`` where a row of ``both`` is gate and up, one after the other.

    Grid: (rows, ceil(outputs / BLOCK)). ``both``: bf16 [rows, 2 × outputs]; ``out``: bf16 [rows, outputs].
    """
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    real = at < outputs
    gated = tl.load(both + row * 2 * outputs + at, mask=real, other=0.0).to(tl.float32)
    raised = tl.load(both + row * 2 * outputs + outputs + at, mask=real, other=0.0).to(tl.float32)
    result = gated / (1.0 + tl.exp(-gated)) * raised
    tl.store(out + row * outputs + at, result.to(out.dtype.element_ty), mask=real)
