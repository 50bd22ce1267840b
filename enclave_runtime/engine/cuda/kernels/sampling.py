"""Sampling on the device, so that token ids and not logits cross to the host: the Gumbel-max trick, seeded.

``argmax(logits / temperature + g)`` with Gumbel noise ``g`` is a draw from the softmax (Gumbel, 1954). The noise is
what ``enclave_runtime.engine.sampling`` looks up on the host: token t at position p gets the number that Philox-4x64
(Salmon et al., SC 2011; numpy's counting) gives under the request's seed at counter (p, t), in float64. So a choice is
the same wherever it is made, and whatever the batch.
"""

import triton
import triton.language as tl


@triton.jit
def _bits(low_key, high_key, index, position):
    """Four times 64 bits for counters ``index`` at ``position``, interleaved: uint64 [4 × len(index)]."""
    first, second = index.to(tl.uint64), tl.zeros_like(index).to(tl.uint64)
    third, fourth = second + position.to(tl.uint64), second
    low_key, high_key = second + low_key.to(tl.uint64), second + high_key.to(tl.uint64)
    for _ in tl.static_range(10):
        high_of_first = tl.umulhi(first, tl.full(first.shape, 0xD2E7470EE14C6C93, tl.uint64))
        low_of_first = first * tl.full(first.shape, 0xD2E7470EE14C6C93, tl.uint64)
        high_of_third = tl.umulhi(third, tl.full(first.shape, 0xCA5A826395121157, tl.uint64))
        low_of_third = third * tl.full(first.shape, 0xCA5A826395121157, tl.uint64)
        first, second = high_of_third ^ second ^ low_key, low_of_third
        third, fourth = high_of_first ^ fourth ^ high_key, low_of_first
        low_key += tl.full(low_key.shape, 0x9E3779B97F4A7C15, tl.uint64)
        high_key += tl.full(high_key.shape, 0xBB67AE8584CAA73B, tl.uint64)
    return tl.interleave(tl.interleave(first, third), tl.interleave(second, fourth))


@triton.jit
def gumbel_blocks(
    logits, seeds, lengths, temperatures, scores, winners, vocabulary, blocks, BLOCK: tl.constexpr
):
    """The best token of each block of the vocabulary. Grid: (rows, blocks).

    ``logits``: float32 [rows, vocabulary]; ``seeds``: int64 [rows, 2], the low half first; ``lengths``: int32 [rows],
    the position that is drawn; ``temperatures``: float64 [rows], 0 for the likeliest token. ``scores``: float64 and
    ``winners``: int32 [rows, blocks]. The first of equals wins; a block with a logit that is not finite has winner -1.
    """
    row, block = tl.program_id(0), tl.program_id(1)
    token = block * BLOCK + tl.arange(0, BLOCK)
    real = token < vocabulary
    logit = tl.load(logits + row * vocabulary + token, mask=real, other=0.0)
    broken = tl.max(((logit != logit) | (tl.abs(logit) == float("inf"))).to(tl.int32), 0)
    score = logit.to(tl.float64)
    temperature = tl.load(temperatures + row)
    if temperature > 0.0:
        index = block * (BLOCK // 4) + tl.arange(0, BLOCK // 4) + 1
        low_key, high_key = tl.load(seeds + row * 2), tl.load(seeds + row * 2 + 1)
        bits = _bits(low_key, high_key, index, tl.load(lengths + row))
        uniform = ((bits >> 11).to(tl.float64) + 0.5) * 1.1102230246251565e-16
        score = score / temperature - tl.log(-tl.log(uniform))
    score = tl.where(real, score, float("-inf"))
    best = tl.argmax(score, 0)
    tl.store(scores + row * blocks + block, tl.max(score, 0))
    tl.store(winners + row * blocks + block, tl.where(broken > 0, -1, block * BLOCK + best))


@triton.jit
def gumbel_join(
    scores, winners, tokens, positions, lengths, taken, history, blocks, width, BLOCK: tl.constexpr
):
    """The best of all blocks becomes the row's next token: everything the next step reads moves on. Grid: (rows,).

    ``tokens``, ``positions``, ``lengths``: int32 [rows]. ``history``: int32 [steps, width]; ``taken``: int32 [rows],
    how many of its rows are filled. -1 where a logit was not finite. ``BLOCK``: a power of two >= ``blocks``.
    """
    row, at = tl.program_id(0), tl.arange(0, BLOCK)
    score = tl.load(scores + row * blocks + at, mask=at < blocks, other=float("-inf"))
    broken = tl.min(tl.load(winners + row * blocks + at, mask=at < blocks, other=0), 0) < 0
    best = tl.argmax(score, 0)
    token = tl.where(broken, -1, tl.load(winners + row * blocks + best))
    step = tl.load(taken + row)
    tl.store(history + step * width + row, token)
    tl.store(taken + row, step + 1)
    tl.store(tokens + row, tl.maximum(token, 0))
    tl.store(positions + row, tl.load(positions + row) + 1)
    tl.store(lengths + row, tl.load(lengths + row) + 1)
