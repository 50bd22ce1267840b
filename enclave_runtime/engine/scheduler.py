"""Who computes what in the next step.

First come, first served: requests are admitted in order of arrival as soon as a place in the batch and all
the KV pages they can ever need are free, so an admitted request always runs to its end. In a step every
answering request gets its one token; what is left of the token budget goes to prompts, oldest first. A
prompt is cut only at multiples of `ATTENTION_TILE`, so the cuts do not depend on who else is there. Guesses of
further tokens (`enclave_runtime.engine.speculate`, `enclave_runtime.engine.draft`) get what is left after that, one
for each request in turn.
"""

from collections import deque
from collections.abc import Callable

from enclave_runtime.engine.decoder import ATTENTION_TILE, Span
from enclave_runtime.engine.draft import Draft
from enclave_runtime.engine.errors import QueueFull
from enclave_runtime.engine.pages import PagePool
from enclave_runtime.engine.public_prefix import PublicPrefix
from enclave_runtime.engine.sequence import Sequence
from enclave_runtime.engine.speculate import dealt, guesses


class Scheduler:
    """The waiting line and the running batch. The engine's lock guards `add`; the rest is its thread's."""

    def __init__(
        self, pool: PagePool, *, max_batch: int, max_queue: int, step_budget: int, speculate: int = 0
    ) -> None:
        self._pool = pool
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._step_budget = step_budget
        self._speculate = speculate
        self.public_prefix: PublicPrefix | None = None
        self.draft: Draft | None = None
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []

    def add(self, sequence: Sequence) -> None:
        """Join the end of the line. Raises `QueueFull`."""
        if len(self.waiting) >= self._max_queue:
            raise QueueFull("requests waiting", expected=self._max_queue, found=len(self.waiting))
        self.waiting.append(sequence)

    def admit(self) -> None:
        """Move requests from the line into the batch while there is room for them."""
        while self.waiting and len(self.running) < self._max_batch:
            sequence = self.waiting[0]
            if self._pool.pages_for(len(sequence.tokens)) > self._pool.free_pages:
                return
            sequence.table = self._pool.allocate(sequence.owner, len(sequence.tokens))
            prompt = sequence.tokens[: sequence.prompt_length]
            if sequence.lease is not None:
                sequence.computed = sequence.lease.begin(prompt, sequence.table, self._pool)
            if self.public_prefix is not None and not sequence.computed:
                sequence.computed = self.public_prefix.begin(prompt, sequence.table, self._pool)
            if self.draft is not None:
                self.draft.begin(sequence)
            self.running.append(self.waiting.popleft())

    def plan(self) -> list[tuple[Sequence, Span]]:
        """The spans of the next step: one for each running request, as far as the budget goes."""
        planned = []
        budget = self._step_budget
        for sequence in self.running:
            if sequence.computed >= sequence.prompt_length:
                planned.append((sequence, _span(sequence, sequence.length)))
                budget -= 1
        for sequence in self.running:
            if sequence.computed < sequence.prompt_length:
                end = sequence.computed + budget
                if end >= sequence.prompt_length:
                    end = sequence.prompt_length
                else:
                    end -= end % ATTENTION_TILE
                if end <= sequence.computed:
                    break
                planned.append((sequence, _span(sequence, end)))
                budget -= end - sequence.computed
        return planned

    def guess(self, planned: list[tuple[Sequence, Span]]) -> list[tuple[Sequence, Span]]:
        """Spans of guesses for the answering requests of ``planned``, one token each, in what is left of the budget.
        Where there is a draft, this is where it computes.
        """
        budget = self._step_budget - sum(len(span.tokens) for _, span in planned)
        if self.draft is not None:
            answering = [sequence for sequence, span in planned if span.wants_logits]
            return self.draft.guess(self.running, answering, budget)
        return self._looked_up(planned, budget) if self._speculate and budget > 0 else []

    def _looked_up(self, planned: list[tuple[Sequence, Span]], budget: int) -> list[tuple[Sequence, Span]]:
        answering, wants = [], []
        for sequence, span in planned:
            if span.wants_logits:
                room = len(sequence.tokens) - 1 - sequence.length
                found = guesses(sequence.tokens[: sequence.length], min(self._speculate, room))
                answering.append(sequence)
                wants.append(len(found))
                sequence.guessed[: len(found)] = found
                found.fill(0)
        shares = zip(answering, dealt(wants, budget), strict=True)
        return [(sequence, check) for sequence, share in shares for check in sequence.checks(share)]

    def finish(self, sequence: Sequence) -> None:
        """`leave` for a request that came to its end: a lease keeps what it has computed."""
        if sequence.lease is not None and sequence.table is not None:
            known = sequence.computed
            if not sequence.lease.answers:
                known = min(known, sequence.prompt_length)
            sequence.lease.keep(sequence.tokens[:known], sequence.table, self._pool)
        self.leave(sequence)

    def leave(self, sequence: Sequence) -> None:
        """Take a request out, wherever it is, and clear everything it left."""
        if sequence in self.running:
            self.running.remove(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        table, sequence.table = sequence.table, None
        sequence.wipe()
        if table is not None:
            self._pool.release(table)
        if self.draft is not None:
            self.draft.end(sequence)

    def leave_where(self, condition: Callable[[Sequence], bool]) -> list[Sequence]:
        """`leave` for every request that meets ``condition``; returns them."""
        leaving = [sequence for sequence in [*self.running, *self.waiting] if condition(sequence)]
        for sequence in leaving:
            self.leave(sequence)
        return leaving


def _span(sequence: Sequence, end: int) -> Span:
    assert sequence.table is not None, "a running request has its pages"
    return Span(
        tokens=sequence.tokens[sequence.computed : end],
        start=sequence.computed,
        table=sequence.table,
        wants_logits=end == sequence.length,
    )
