"""Which steps a decoder may draw by itself: several tokens for each request, one copy to the host for all of them."""

from enclave_runtime.engine.decoder import DrawingDecoder, Span
from enclave_runtime.engine.sampling import PlainDraw
from enclave_runtime.engine.sequence import Sequence


def draws_of(decoder: object, planned: list[tuple[Sequence, Span]]) -> tuple[list[PlainDraw], int] | None:
    """The choices of a step and how many steps may follow one another; None where logits have to reach the host.

    That is so where a prompt or a guess is among them, or somebody's choice is more than a plain draw (filters,
    penalties, a grammar, log-probabilities). A draw gives the token that the host would pick, so who else is in a batch
    changes nobody's answer.
    """
    if not isinstance(decoder, DrawingDecoder):
        return None
    draws, steps = [], decoder.ahead
    for sequence, span in planned:
        draw = sequence.sampler.plain() if sequence.constraint is None else None
        if draw is None or not span.wants_logits or len(span.tokens) != 1 or span.start != sequence.computed:
            return None
        draws.append(draw)
        steps = min(steps, len(sequence.tokens) - sequence.length)
    return (draws, steps) if len({id(sequence) for sequence, _ in planned}) == len(planned) else None
