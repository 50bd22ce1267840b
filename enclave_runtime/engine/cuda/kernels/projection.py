"""Products with large weights: decoding reads every weight once, so the read is what is made fast.

Of few rows, one program computes a block of outputs of one row, with the sum over the inputs always in the same order:
a row's result does not depend on how many rows there are. Of many rows and quantised weights, one computes a tile.
Quantised weights have a scale for each group of inputs of each output; a group's sum is taken first, then scaled.
"""

import triton
import triton.language as tl


@triton.jit
def weighed(
    value,
    weight,
    scales,
    index,
    real,
    start,
    inputs,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    GROUP: tl.constexpr,
):
    """What inputs ``start`` .. ``start + COLUMNS - 1`` (``value``, [COLUMNS]) add to outputs ``index`` [ROWS]."""
    at = start + tl.arange(0, COLUMNS)
    place = index[:, None].to(tl.int64) * inputs + at[None, :]
    part = tl.load(weight + place, mask=real[:, None] & (at < inputs)[None, :], other=0.0).to(tl.float32)
    if GROUP == 0:
        share = tl.sum(part * value[None, :], 1)
    else:
        each = tl.sum(tl.reshape(part * value[None, :], (ROWS, COLUMNS // GROUP, GROUP)), 2)
        groups = tl.cdiv(inputs, GROUP)
        group = start // GROUP + tl.arange(0, COLUMNS // GROUP)
        there = real[:, None] & (group < groups)[None, :]
        of_group = scales + index[:, None].to(tl.int64) * groups + group[None, :]
        share = tl.sum(each * tl.load(of_group, mask=there, other=0.0).to(tl.float32), 1)
    return share


@triton.jit
def weights_times_row(
    x, weight, scales, out, inputs, outputs, GROUP: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """``out = x @ weight.T``. Grid: (rows, ceil(outputs / ROWS)). COLUMNS is a multiple of GROUP.

    ``x``: bf16 [rows, inputs]; ``weight``: bf16, int8 or fp8e4nv [outputs, inputs]; ``scales``, unless GROUP is 0:
    float16 or float32 [outputs, ceil(inputs / GROUP)]; ``out``: bf16 or float32 [rows, outputs].
    """
    row, block = tl.program_id(0), tl.program_id(1)
    index = block * ROWS + tl.arange(0, ROWS)
    real = index < outputs
    total = tl.zeros((ROWS,), tl.float32)
    for start in range(0, inputs, COLUMNS):
        at = start + tl.arange(0, COLUMNS)
        value = tl.load(x + row * inputs + at, mask=at < inputs, other=0.0).to(tl.float32)
        total += weighed(value, weight, scales, index, real, start, inputs, ROWS, COLUMNS, GROUP)
    tl.store(out + row * outputs + index, total.to(out.dtype.element_ty), mask=real)


@triton.jit
def weights_times_rows(
    x,
    weight,
    scales,
    out,
    rows,
    inputs,
    outputs,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
):
    """``out = x @ weight.T`` for many rows of quantised weights. Grid: (ceil(outputs / OUTPUTS), ceil(rows / ROWS)).

    ``x``: bf16 [rows, inputs]; ``weight``: int8 or fp8e4nv [outputs, inputs]; ``scales``: float16 or float32 [outputs,
    ceil(inputs / GROUP)]; ``out``: bf16 [rows, outputs]. Every number of both types is one in bf16 and in float16, so
    that weights meet ``x`` unrounded.
    """
    index = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    real, there = index < outputs, row < rows
    groups = tl.cdiv(inputs, GROUP)
    total = tl.zeros((ROWS, OUTPUTS), tl.float32)
    for group in range(groups):
        at = group * GROUP + tl.arange(0, GROUP)
        known = at < inputs
        places = row[:, None].to(tl.int64) * inputs + at[None, :]
        value = tl.load(x + places, mask=there[:, None] & known[None, :], other=0.0)
        places = index[None, :].to(tl.int64) * inputs + at[:, None]
        part = tl.load(weight + places, mask=known[:, None] & real[None, :], other=0.0).to(value.dtype)
        scale = tl.load(scales + index.to(tl.int64) * groups + group, mask=real, other=0.0).to(tl.float32)
        total += tl.dot(value, part) * scale[None, :]
    places = row[:, None].to(tl.int64) * outputs + index[None, :]
    tl.store(out + places, total.to(out.dtype.element_ty), mask=there[:, None] & real[None, :])


@triton.jit
def gate_up_swiglu(
    x,
    gate,
    up,
    gate_scales,
    up_scales,
    out,
    inputs,
    outputs,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """``out = silu(x @ gate.T) * (x @ up.T)`` (Shazeer, 2020), both products in one pass over ``x``.

    Grid: (rows, ceil(outputs / ROWS)). ``x``: bf16 [rows, inputs]; ``gate``, ``up`` and their scales as for
    `weights_times_row`; ``out``: bf16 [rows, outputs].
    """
    row, block = tl.program_id(0), tl.program_id(1)
    index = block * ROWS + tl.arange(0, ROWS)
    real = index < outputs
    gated = tl.zeros((ROWS,), tl.float32)
    raised = tl.zeros((ROWS,), tl.float32)
    for start in range(0, inputs, COLUMNS):
        at = start + tl.arange(0, COLUMNS)
        value = tl.load(x + row * inputs + at, mask=at < inputs, other=0.0).to(tl.float32)
        gated += weighed(value, gate, gate_scales, index, real, start, inputs, ROWS, COLUMNS, GROUP)
        raised += weighed(value, up, up_scales, index, real, start, inputs, ROWS, COLUMNS, GROUP)
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
