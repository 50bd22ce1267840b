"""Guessing the next tokens of an answer by a second, smaller model of the same vocabulary.

In each step the draft goes ahead of the model: for every answering request it chooses, with the request's own settings
and its own random numbers for those positions, the tokens that may come next. The model computes them in one step
and a guess counts only if the sampler picks exactly that token from the model's own logits
(``enclave_runtime.engine.engine``). So an answer is the same, token for token, whatever the draft says.

The draft has pages of its own under the same rules as the model's: an owner each, overwritten before anyone else gets
them. What it computes in a step is bounded like the model's: at most the step's budget in its first pass, where it
catches up with prompts and answers in order of arrival, and one token for each request in every further pass.
"""

from collections.abc import Iterator
from collections.abc import Sequence as Ordered

import numpy as np

from enclave_runtime.engine.decoder import ATTENTION_TILE, Decoder, Span
from enclave_runtime.engine.engine_config import EngineConfig
from enclave_runtime.engine.errors import DraftMismatch, EngineFault
from enclave_runtime.engine.model import LoadedModel
from enclave_runtime.engine.public_prefix import PublicPrefix
from enclave_runtime.engine.sequence import DraftSeat, Sequence
from enclave_runtime.engine.speculate import dealt

DEFAULT_GUESSES = 4


def check_draft(model: LoadedModel, draft: LoadedModel, max_context: int) -> None:
    """Raise `DraftMismatch` unless ``draft`` can guess for ``model``: the same tokens under the same numbers, as many
    logits, and a context of at least ``max_context`` tokens.
    """
    if draft.tokenizer.vocabulary_digest() != model.tokenizer.vocabulary_digest():
        raise DraftMismatch("the draft has another vocabulary", code="draft_vocabulary")
    if draft.config.vocab_size != model.config.vocab_size:
        raise DraftMismatch(
            "the draft has another number of logits",
            code="draft_vocabulary",
            expected=model.config.vocab_size,
            found=draft.config.vocab_size,
        )
    if draft.config.context_length < max_context:
        raise DraftMismatch(
            "the draft's context is shorter than the engine's",
            code="draft_context",
            expected=max_context,
            found=draft.config.context_length,
        )


class Draft:
    """The draft of an engine; only the engine's thread uses it.

    ``guesses`` is how many tokens it goes ahead at most. ``public_prefix`` makes room for one.
    """

    def __init__(
        self,
        decoder: Decoder,
        end_ids: frozenset[int],
        config: EngineConfig,
        *,
        guesses: int,
        max_context: int,
        public_prefix: bool,
    ) -> None:
        pages = (config.max_batch + public_prefix) * -(-max_context // config.page_tokens)
        self.decoder = decoder
        self.pool = decoder.new_pool(pages, config.page_tokens)
        self.public_prefix: PublicPrefix | None = None
        self._guesses = guesses
        self._end_ids = end_ids
        self._step_budget = config.step_budget
        decoder.reserve(max_context, rows=config.step_budget, threads=config.threads)

    def begin(self, sequence: Sequence) -> None:
        """Give a request that joins the batch its pages."""
        table = self.pool.allocate(sequence.owner, len(sequence.tokens))
        sequence.draft = DraftSeat(table, sequence.length)
        if self.public_prefix is not None:
            prompt = sequence.tokens[: sequence.prompt_length]
            sequence.draft.computed = self.public_prefix.begin(prompt, table, self.pool)

    def end(self, sequence: Sequence) -> None:
        """Overwrite what the draft has of a request's."""
        seat, sequence.draft = sequence.draft, None
        if seat is not None:
            self.pool.release(seat.table)

    def guess(
        self, running: Ordered[Sequence], answering: Ordered[Sequence], budget: int
    ) -> list[tuple[Sequence, Span]]:
        """Catch up with ``running``, and guess at most ``budget`` tokens for those who are ``answering`` in this step:
        the spans, of the model's pages, that check them.
        """
        for sequence in running:
            _seat(sequence).settle(sequence)
        pieces, ready = self._first_pass(running, answering)
        wants = [min(self._guesses, len(s.tokens) - 1 - s.length) for s in ready]
        dealing = zip(ready, dealt(wants, budget), strict=True)
        going = [_Guessing(sequence, most) for sequence, most in dealing if most > 0]
        guessed = {id(guessing.sequence) for guessing in going}
        work = []
        for sequence, start, end in pieces:
            wanted = end == sequence.length and id(sequence) in guessed
            tokens = sequence.tokens[start:end]
            work.append((sequence, Span(tokens, start, _seat(sequence).table, wanted)))
        while work:
            logits = self._step(work)
            rows = zip(going, logits, strict=True)
            going = [guessing for guessing, row in rows if guessing.take(row, self._end_ids)]
            logits.fill(0)
            work = [(guessing.sequence, guessing.span()) for guessing in going]
        return [(sequence, check) for sequence in ready for check in sequence.checks(_seat(sequence).count)]

    def _first_pass(
        self, running: Ordered[Sequence], answering: Ordered[Sequence]
    ) -> tuple[list[tuple[Sequence, int, int]], list[Sequence]]:
        """The positions that are known and not computed yet, as far as the budget goes, those who are answering first;
        and the answering requests that are caught up with by then.
        """
        answers = {id(sequence) for sequence in answering}
        others = [sequence for sequence in running if id(sequence) not in answers]
        room = self._step_budget
        pieces, ready = [], []
        for sequence in (*answering, *others):
            # A prompt's last token waits for the step in which the answer begins: its logits are the first guess.
            known = sequence.length if id(sequence) in answers else sequence.length - 1
            for start, end in _pieces(_seat(sequence).computed, known, room):
                pieces.append((sequence, start, end))
                room -= end - start
                if end == sequence.length:
                    ready.append(sequence)
        return pieces, ready

    def _step(self, work: list[tuple[Sequence, Span]]) -> np.ndarray:
        logits = self.decoder.step([span for _, span in work], self.pool)
        if not np.isfinite(logits).all():
            raise EngineFault("logits of the draft are not finite")
        for sequence, span in work:
            _seat(sequence).computed = span.start + len(span.tokens)
        return logits


class _Guessing:
    """A request for which the draft goes ahead in this step."""

    def __init__(self, sequence: Sequence, most: int) -> None:
        self.sequence = sequence
        self._most = most
        self._seat = _seat(sequence)
        self._constraint = None if sequence.constraint is None else sequence.constraint.fork()

    def take(self, logits: np.ndarray, end_ids: frozenset[int]) -> bool:
        """Choose the next guess from ``logits`` [vocabulary]; whether another may follow."""
        sequence, seat = self.sequence, self._seat
        position = sequence.length + seat.count
        mask = None if self._constraint is None else self._constraint.mask()
        try:
            token = sequence.sampler.pick(logits, sequence.tokens[:position], sequence.prompt_length, mask)
        except EngineFault:  # a grammar that allows nothing: the model will meet it, too
            return False
        if token in end_ids and not sequence.ignore_eos:
            return False  # after an end there is nothing to check
        sequence.guessed[seat.count] = sequence.tokens[position] = token
        seat.count += 1
        if self._constraint is not None and self._constraint.accept(token):
            return False
        return seat.count < self._most

    def span(self) -> Span:
        """The latest guess, to go on from."""
        last = self._seat.count - 1
        token = self.sequence.guessed[last : last + 1]
        return Span(token, self.sequence.length + last, self._seat.table, True)


def _seat(sequence: Sequence) -> DraftSeat:
    assert sequence.draft is not None, "a running request has its pages of the draft"
    return sequence.draft


def _pieces(start: int, end: int, room: int) -> Iterator[tuple[int, int]]:
    """Positions ``start`` .. ``end - 1`` in spans that a decoder takes, at most ``room`` of them."""
    while start < end and room > 0:
        if start % ATTENTION_TILE:
            stop = start + 1
        else:
            stop = min(end, start + room)
            if stop < end:
                stop -= stop % ATTENTION_TILE
            if stop == start:
                return
        yield start, stop
        room -= stop - start
        start = stop
