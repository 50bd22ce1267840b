"""Sampling on the device, so that token ids and not logits cross to the host: the Gumbel-max trick, seeded.

``argmax(logits / temperature + g)`` with Gumbel noise ``g`` is a draw from the softmax (Gumbel, 1954). The noise of a
token depends on the request's seed, the position and the token id alone (Philox), so a draw repeats whatever the
batch.
"""

import triton
import triton.language as tl


@triton.jit
def gumbel_blocks(
    logits, seeds, positions, temperatures, scores, winners, vocabulary, blocks, BLOCK: tl.constexpr
):
    """The best token of each block of the vocabulary. Grid: (rows, blocks).

    ``logits``: float32 [rows, vocabulary]; ``seeds``, ``positions``: int32 [rows]; ``temperatures``: float32 [rows],
    0 for the likeliest token. ``scores``: float32 and ``winners``: int32 [rows, blocks]. The first of equals wins.
    """
    row, block = tl.program_id(0), tl.program_id(1)
    token = block * BLOCK + tl.arange(0, BLOCK)
    real = token < vocabulary
    score = tl.load(logits + row * vocabulary + token, mask=real, other=float("-inf"))
    temperature = tl.load(temperatures + row)
    if temperature > 0.0:
        draw = tl.rand(tl.load(seeds + row), tl.load(positions + row) * vocabulary + token)
        noise = -tl.log(-tl.log(tl.maximum(draw, 1e-10)))
        score = tl.where(real, score / temperature + noise, float("-inf"))
    best = tl.argmax(score, 0)
    tl.store(scores + row * blocks + block, tl.max(score, 0))
    tl.store(winners + row * blocks + block, block * BLOCK + best)


@triton.jit
def gumbel_join(scores, winners, tokens, blocks, BLOCK: tl.constexpr):
    """The best of all blocks. Grid: (rows,). ``tokens``: int32 [rows]; ``BLOCK``: a power of two >= ``blocks``."""
    row, at = tl.program_id(0), tl.arange(0, BLOCK)
    score = tl.load(scores + row * blocks + at, mask=at < blocks, other=float("-inf"))
    best = tl.argmax(score, 0)
    tl.store(tokens + row, tl.load(winners + row * blocks + best))
