"""One request inside the engine."""

import numpy as np

from enclave_runtime.engine.constraint import Constraint
from enclave_runtime.engine.decoder import Span
from enclave_runtime.engine.generation import Mailbox
from enclave_runtime.engine.lease import Lease
from enclave_runtime.engine.pages import PageTable
from enclave_runtime.engine.sampling import Sampler
from enclave_runtime.engine.speculate import MAX_GUESSES
from enclave_runtime.engine.stop_strings import StopFilter
from enclave_runtime.engine.tokenizer import TextStream


class DraftSeat:
    """What a draft keeps of one request: its pages, and how far it has come.

    ``computed`` positions are stored in ``table``, guesses among them; the request's ``guessed`` holds ``count`` of
    them for the positions from ``base`` on.
    """

    __slots__ = ("base", "computed", "count", "table")

    def __init__(self, table: PageTable, base: int) -> None:
        self.table = table
        self.base = base
        self.computed = self.count = 0

    def settle(self, sequence: "Sequence") -> None:
        """The guesses were checked: keep what was computed of those that came true, and forget them all."""
        checked = min(self.count, sequence.length - self.base)
        same = sequence.tokens[self.base : self.base + checked] == sequence.guessed[:checked]
        true = checked if bool(same.all()) else int(np.argmin(same))
        self.computed = min(self.computed, self.base + true)
        self.base, self.count = sequence.length, 0
        sequence.guessed.fill(0)


class Sequence:
    """One request inside the engine: its tokens, how far it has come, and what makes its text.

    ``tokens`` is one buffer for prompt and answer, ``guessed`` one for guesses of what follows; both are overwritten at
    the end. Strings that Python made on the
    way (pieces of text, a few held-back characters) cannot be overwritten from here.
    """

    __slots__ = (
        "cancelled",
        "computed",
        "constraint",
        "draft",
        "guessed",
        "ignore_eos",
        "lease",
        "length",
        "mailbox",
        "owner",
        "prompt_length",
        "sampler",
        "stops",
        "stream",
        "table",
        "tokens",
    )

    def __init__(
        self,
        owner: int,
        prompt: np.ndarray,
        max_tokens: int,
        *,
        sampler: Sampler,
        stops: StopFilter,
        stream: TextStream,
        mailbox: Mailbox,
        ignore_eos: bool = False,
        constraint: Constraint | None = None,
        lease: Lease | None = None,
    ) -> None:
        self.owner = owner
        self.prompt_length = self.length = len(prompt)
        self.tokens = np.zeros(len(prompt) + max_tokens, dtype=np.int64)
        self.tokens[: self.length] = prompt
        self.computed = 0  # positions whose keys and values are stored
        self.table: PageTable | None = None
        self.guessed = np.zeros(MAX_GUESSES, dtype=np.int64)
        self.draft: DraftSeat | None = None
        self.sampler = sampler
        self.stops = stops
        self.stream = stream
        self.mailbox = mailbox
        self.ignore_eos = ignore_eos
        self.constraint = constraint
        self.lease = lease
        self.cancelled = False

    @property
    def full(self) -> bool:
        """Whether as many tokens were generated as may be."""
        return self.length == len(self.tokens)

    def checks(self, count: int) -> list[Span]:
        """Spans of one token each that check the first ``count`` guesses."""
        assert self.table is not None, "a running request has its pages"
        return [
            Span(self.guessed[offset : offset + 1], self.length + offset, self.table, True)
            for offset in range(count)
        ]

    def append(self, token: int) -> tuple[str, bool]:
        """Add a generated token. Returns the text to give out, and whether it ends at a stop string."""
        self.tokens[self.length] = token
        self.length += 1
        return self.stops.push(self.stream.push(token))

    def text_end(self) -> str:
        """What is still held back when no token follows."""
        text, stopped = self.stops.push(self.stream.finish())
        return text if stopped else text + self.stops.finish()

    def wipe(self) -> None:
        """Overwrite every token id, and let go of the grammar's state and the lease."""
        self.tokens.fill(0)
        self.guessed.fill(0)
        self.constraint = None
        self.lease = None
