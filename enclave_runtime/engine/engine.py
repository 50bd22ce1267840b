"""The engine: one thread, one loop, a batch that requests join and leave between steps.

After `Engine.warm_up` no thread is started and no module imported any more, so the process can be sealed.

What is overwritten when an answer ends: its KV pages (before anyone else can own them), its token ids, and
after each step the logits and the step's token ids. What Python does not let us overwrite: strings of decoded
text; and on torch, activations in memory that its allocator has taken back but not yet reused.
"""

import atexit
import secrets
import threading
from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Ordered
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from enclave_runtime.engine.constraint import Constraint, ConstraintCompiler
from enclave_runtime.engine.decoder import DrawingDecoder, Span
from enclave_runtime.engine.draft import DEFAULT_GUESSES, Draft, check_draft
from enclave_runtime.engine.draw_ahead import draws_of
from enclave_runtime.engine.engine_config import EngineConfig
from enclave_runtime.engine.errors import (
    EngineError,
    EngineFault,
    EngineStopped,
    InvalidRequest,
    PageOwnershipError,
    PromptTooLong,
    RankLost,
)
from enclave_runtime.engine.generation import Generation, Mailbox, TokenLogprob
from enclave_runtime.engine.lease import Lease, LeaseBook
from enclave_runtime.engine.lease_room import lease_rooms
from enclave_runtime.engine.model import LoadedModel
from enclave_runtime.engine.public_prefix import computed_prefix, unit
from enclave_runtime.engine.request import GenerationRequest
from enclave_runtime.engine.sampling import Logprobs, PlainDraw, Sampler
from enclave_runtime.engine.scheduler import Scheduler
from enclave_runtime.engine.sequence import Sequence
from enclave_runtime.engine.speculate import MAX_GUESSES
from enclave_runtime.engine.stop_strings import StopFilter
from enclave_runtime.engine.warm_up import walk_every_path


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Counts: the first four as they stand, the others since the start."""

    waiting: int
    running: int
    free_pages: int
    total_pages: int
    finished: int
    cancelled: int
    refused: int
    faults: int
    prompt_tokens: int
    generated_tokens: int


class Engine:
    """Runs a model for many requests at once. `start`, then `warm_up`, then `submit` from any thread."""

    def __init__(
        self,
        model: LoadedModel,
        config: EngineConfig,
        *,
        public_prefix: bool = False,
        draft: LoadedModel | None = None,
        draft_guesses: int = DEFAULT_GUESSES,
        leases: int = 0,
        lease_tokens: int = 1,
        lease_store: str = "pool",
    ) -> None:
        """``draft`` is a smaller model that guesses up to ``draft_guesses`` tokens ahead for each request, in place of
        ``config.speculate``. At most ``leases`` may be open, of ``lease_tokens`` positions each, kept where
        ``lease_store`` says (`enclave_runtime.engine.lease_room`). Raises `DraftMismatch` where the draft cannot guess
        for the model, `InvalidRequest` for settings out of range.
        """
        self.model = model
        self.config = config
        self.max_context = min(config.max_context, model.config.context_length)
        if draft is not None:
            check_draft(model, draft, self.max_context)
            if config.speculate or not 1 <= draft_guesses <= MAX_GUESSES:
                raise InvalidRequest(
                    f"a draft guesses 1 to {MAX_GUESSES} tokens, and in place of 'speculate'"
                )
        # A place in the batch has pages of its own; a public prefix has as many as the longest prompt besides.
        self.lease_tokens = min(lease_tokens, self.max_context)
        pages = (config.max_batch + public_prefix) * -(-self.max_context // config.page_tokens)
        if lease_store == "pool":
            pages += leases * -(-self.lease_tokens // config.page_tokens)
        self.pool = model.decoder.new_pool(pages, config.page_tokens)
        model.decoder.reserve(self.max_context, rows=config.step_budget, threads=config.threads)
        self._scheduler = Scheduler(
            self.pool,
            max_batch=config.max_batch,
            max_queue=config.max_queue,
            step_budget=config.step_budget,
            speculate=config.speculate,
        )
        if draft is not None:
            self._scheduler.draft = Draft(
                draft.decoder,
                model.tokenizer.end_ids,
                config,
                guesses=draft_guesses,
                max_context=self.max_context,
                public_prefix=public_prefix,
            )
        make_room = lease_rooms(lease_store, self.pool, leases, self.lease_tokens)
        self._leases = LeaseBook(make_room, leases, self.lease_tokens, answers=model.decoder.one_order)
        self._constraints = ConstraintCompiler(model.tokenizer, model.config.vocab_size)
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._errands: deque[tuple[Callable[[], None], Future[None]]] = deque()
        self._next_owner = 1
        self._counts = dict.fromkeys(
            ("finished", "cancelled", "refused", "faults", "prompt_tokens", "generated_tokens"), 0
        )

    def start(self) -> None:
        """Start the engine's thread."""
        if self._thread is not None:
            raise EngineError("started twice", code="already_started")
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()
        # A thread inside a library when the interpreter goes away may abort the process.
        atexit.register(self.stop)

    def stop(self) -> None:
        """End every request with `EngineStopped`, clear their memory and wait for the thread to end."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
        atexit.unregister(self.stop)

    def submit(self, request: GenerationRequest) -> Generation:
        """Put a request in line. Never waits.

        Raises `InvalidRequest`, `PromptTooLong`, `QueueFull` or `EngineStopped`. The engine works on its own
        copy of the prompt and overwrites that; the caller's list is the caller's.
        """
        try:
            count = len(request.prompt_tokens)
            if count >= self.max_context:  # before every token is looked at
                raise PromptTooLong("tokens in the prompt", expected=self.max_context - 1, found=count)
            request.check(self.model.config.vocab_size)
            room = self.max_context - count
            max_tokens = room if request.max_tokens is None else min(request.max_tokens, room)
            mailbox = Mailbox()
            prompt = np.array(request.prompt_tokens, dtype=np.int64)
            sequence = Sequence(
                0,
                prompt,
                max_tokens,
                sampler=Sampler(
                    request.sampling(), secrets.randbits(128) if request.seed is None else request.seed
                ),
                constraint=self._constraint(request),
                stops=StopFilter(request.stop),
                stream=self.model.tokenizer.stream(),
                mailbox=mailbox,
                ignore_eos=request.ignore_eos,
                lease=request.lease,
            )
            # numpy keeps small arrays for itself when they are freed, where nothing wipes them.
            prompt.fill(0)
            with self._changed:
                if self._thread is None or self._stopping:
                    raise EngineStopped("the engine is not running")
                sequence.owner = self._next_owner
                self._next_owner += 1
                self._scheduler.add(sequence)
                self._counts["prompt_tokens"] += count
                self._changed.notify()
        except EngineError:
            with self._changed:
                self._counts["refused"] += 1
            raise

        def cancel() -> None:
            # A plain flag: the finaliser that calls this may run while this very thread holds the lock. An
            # engine with a request to cancel is not asleep, and looks at the flag between any two steps.
            sequence.cancelled = True

        return Generation(mailbox, cancel, prompt_tokens=count, max_tokens=max_tokens)

    @property
    def takes_schemas(self) -> bool:
        """Whether answers can be held to a JSON schema."""
        return self._constraints.available

    def _constraint(self, request: GenerationRequest) -> Constraint | None:
        return None if request.json_schema is None else self._constraints.compile(request.json_schema)

    @property
    def alive(self) -> bool:
        """Whether requests are being served."""
        return self._thread is not None and self._thread.is_alive() and not self._stopping

    def warm_up(self) -> None:
        """Take every path a request can take once, so that nothing is started or imported at a later time.

        The counts of `stats` begin anew afterwards.
        """
        walk_every_path(self)
        with self._changed:
            self._counts = dict.fromkeys(self._counts, 0)

    def open_lease(self, salt: bytes) -> Lease:
        """A lease for requests to bring, which holds nothing yet. Never waits. Raises `TooManyLeases` or
        `EngineStopped`.

        ``salt`` is secret, and of this lease alone.
        """
        with self._changed:
            if self._thread is None or self._stopping:
                raise EngineStopped("the engine is not running")
            self._next_owner += 1
            return self._leases.open(salt, self._next_owner - 1)

    def close_lease(self, lease: Lease) -> Future[None]:
        """End ``lease``; what it held is overwritten before the engine's next step, which the result tells. Never
        waits; closing twice does nothing.
        """
        lease.closed = True
        return self.between_steps(lambda: self._leases.close(lease))

    def keep_public_prefix(self, tokens: Ordered[int]) -> int:
        """Compute the keys and values of a text that everybody knows, for prompts that begin with it; how many of its
        tokens are kept, which are whole pages and tiles.

        Call it before requests come, with the engine running. Raises `PromptTooLong` where it leaves prompts no
        room.
        """
        whole = len(tokens) - len(tokens) % unit(self.config.page_tokens)
        if whole >= self.max_context:
            raise PromptTooLong("tokens in the public prefix", expected=self.max_context - 1, found=whole)
        if not whole:
            return 0
        kept = np.array(tokens[:whole], dtype=np.int64)

        def compute() -> None:
            self._scheduler.public_prefix = computed_prefix(kept, self.model.decoder, self.pool)
            draft = self._scheduler.draft
            if draft is not None:
                draft.public_prefix = computed_prefix(kept, draft.decoder, draft.pool)

        self.between_steps(compute).result()
        return whole

    def between_steps(self, work: Callable[[], None]) -> Future[None]:
        """Have the engine's thread do ``work`` between two steps. An engine that ended has nothing left to do."""
        done: Future[None] = Future()
        with self._changed:
            if self._thread is None or self._stopping:
                done.set_exception(EngineStopped("the engine is not running"))
            else:
                self._errands.append((work, done))
                self._changed.notify()
        return done

    def stats(self) -> EngineStats:
        """How much is going on. Counts only."""
        return EngineStats(
            waiting=len(self._scheduler.waiting),
            running=len(self._scheduler.running),
            free_pages=self.pool.free_pages,
            total_pages=self.pool.total_pages,
            **self._counts,
        )

    def _run(self) -> None:
        try:
            while self._ready():
                self._step()
            self._leases.close_all()
            for sequence in self._scheduler.leave_where(lambda _: True):
                sequence.mailbox.fail(EngineStopped("the engine was stopped"))
        except Exception:  # page ownership was broken, or a rank is gone: nothing in memory can be trusted
            self._abandon()

    def _ready(self) -> bool:
        """Sleep until there is work, settle who takes part in the next step; False when asked to stop."""
        with self._changed:
            while not (self._stopping or self._errands or self._scheduler.waiting or self._scheduler.running):
                self._changed.wait()
            while self._errands:
                work, done = self._errands.popleft()
                try:
                    done.set_result(work())
                except (PageOwnershipError, RankLost) as error:
                    done.set_exception(error)
                    raise
                except EngineError as error:
                    done.set_exception(error)
            if self._stopping:
                return False
            for sequence in self._scheduler.leave_where(lambda sequence: sequence.cancelled):
                self._counts["cancelled"] += 1
                sequence.mailbox.put("", 0, "cancelled")
            self._scheduler.admit()
        return True

    def _step(self) -> None:
        planned = self._scheduler.plan()
        if not planned:
            return
        try:
            planned += self._scheduler.guess(planned)
            if (drawn := draws_of(self.model.decoder, planned)) is not None:
                self._draw(planned, *drawn)
                return
            logits = self.model.decoder.step([span for _, span in planned], self.pool)
            if not np.isfinite(logits).all():
                raise EngineFault("logits are not finite")
            self._advance(planned, logits)
            logits.fill(0)
        except (PageOwnershipError, RankLost):
            raise
        except Exception:  # whatever failed (memory, most likely) ends these requests, not the engine
            self._counts["faults"] += 1
            for sequence, _ in planned:
                if sequence.table is not None:
                    self._scheduler.leave(sequence)
                sequence.mailbox.fail(EngineFault("a step of the engine failed"))

    def _draw(self, planned: list[tuple[Sequence, Span]], draws: list[PlainDraw], steps: int) -> None:
        assert isinstance(self.model.decoder, DrawingDecoder)
        tokens = self.model.decoder.draw([span for _, span in planned], self.pool, draws, steps)
        for row in tokens:
            for (sequence, _), token in zip(planned, row, strict=True):
                if sequence.table is not None:  # what was drawn after an answer's end is nobody's
                    sequence.computed += 1
                    self._extend(sequence, int(token))
        tokens.fill(0)

    def _advance(self, planned: list[tuple[Sequence, Span]], logits: np.ndarray) -> None:
        row = 0
        for sequence, span in planned:
            if span.start != sequence.computed or sequence.table is None or not _as_planned(sequence, span):
                row += 1  # a guess that did not come true, or whose request has ended
                continue
            sequence.computed = span.start + len(span.tokens)
            if span.wants_logits:
                self._choose(sequence, logits[row])
                row += 1

    def _choose(self, sequence: Sequence, logits: np.ndarray) -> None:
        mask = None if sequence.constraint is None else sequence.constraint.mask()
        try:
            token = sequence.sampler.pick(
                logits, sequence.tokens[: sequence.length], sequence.prompt_length, mask
            )
        except EngineFault as fault:  # a grammar that ran into its limits: this answer's end, nobody else's
            self._counts["faults"] += 1
            self._scheduler.leave(sequence)
            sequence.mailbox.fail(fault)
            return
        self._extend(sequence, token, sequence.sampler.logprobs(logits, token))

    def _extend(self, sequence: Sequence, token: int, logprobs: Logprobs | None = None) -> None:
        """Add one generated token. If it is the last, the memory is cleared before the reader is told."""
        self._counts["generated_tokens"] += 1
        reason = None
        ended = sequence.constraint is not None and sequence.constraint.accept(token)
        if token in self.model.tokenizer.end_ids and not sequence.ignore_eos:
            text, reason = sequence.text_end(), "stop"
        else:
            text, stopped = sequence.append(token)
            if stopped:
                reason = "stop"
            elif ended:
                text, reason = text + sequence.text_end(), "stop"
            elif sequence.full:
                text, reason = text + sequence.text_end(), "length"
        if reason is not None:
            self._counts["finished"] += 1
            self._scheduler.finish(sequence)
        sequence.mailbox.put(text, 1, reason, None if logprobs is None else self._spelled(logprobs))

    def _spelled(self, logprobs: Logprobs) -> TokenLogprob:
        spell = self.model.tokenizer.bytes_of
        top = tuple((spell(token), logprob) for token, logprob in logprobs.top)
        return TokenLogprob(spell(logprobs.token), logprobs.logprob, top)

    def _abandon(self) -> None:
        with self._changed:
            self._stopping = True
            lost = [*self._scheduler.running, *self._scheduler.waiting]
            self._scheduler.running.clear()
            self._scheduler.waiting.clear()
            while self._errands:
                self._errands.popleft()[1].set_exception(EngineStopped("the engine ended itself"))
        self._counts["faults"] += 1
        self.pool.clear()
        if self._scheduler.draft is not None:
            self._scheduler.draft.pool.clear()
        self._leases.forget_all()
        for sequence in lost:
            sequence.wipe()
            sequence.mailbox.fail(EngineFault("the engine ended itself"))


def _as_planned(sequence: Sequence, span: Span) -> bool:
    """Whether the tokens that were computed are those that the sequence has by now."""
    end = span.start + len(span.tokens)
    return end <= sequence.length and bool(np.array_equal(sequence.tokens[span.start : end], span.tokens))
