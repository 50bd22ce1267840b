"""From an OpenAI request to a running generation: template, tokens, admission.

Tokenising happens on a thread of its own, so that one long prompt does not hold up the others' cells. A
node that is full says so before it spends that time, and a prompt that is too long is refused by its bytes.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial

from enclave_runtime.admission import AdmissionLimits
from enclave_runtime.answer_stream import Generation
from enclave_runtime.engine.engine import Engine
from enclave_runtime.engine.errors import (
    ChatTemplateError,
    EngineError,
    EngineStopped,
    InvalidRequest,
    PromptTooLong,
    QueueFull,
    TooManyLeases,
)
from enclave_runtime.engine.generation import Generation as EngineGeneration
from enclave_runtime.engine.generation import Piece
from enclave_runtime.engine.request import GenerationRequest
from enclave_runtime.leases import HALF, Leases, OpenLease, decoded
from enclave_runtime.openai_requests import (
    ChatRequest,
    CompletionRequest,
    LeaseRequest,
    RequestRefused,
    unsupported,
)
from enclave_runtime.standing_thread import StandingThread

OVERLOADED = RequestRefused(503, "overloaded", "The node has as many requests as it can hold; try again.")
TIME_LIMIT = RequestRefused(503, "time_limit", "The answer took longer than this node allows.")
NO_LEASE = RequestRefused(503, "overloaded", "The node has as many leases open as it can hold; try again.")
STOPPING = RequestRefused(503, "stopping", "The node is about to stop.")


class EngineCompletions:
    """Answers by one engine, under one public name. ``thread`` does the tokenising.

    A request that was accepted, which is one that got its place in the engine's line, is answered: whatever
    refuses one does so before.
    """

    def __init__(
        self,
        engine: Engine,
        model_name: str,
        thread: StandingThread,
        limits: AdmissionLimits | None = None,
        leases: Leases | None = None,
    ) -> None:
        self.leases = leases
        self.limits = limits or AdmissionLimits()
        self._tokenising = 0
        self._open = True
        self._engine = engine
        self._thread = thread
        self._model_name = model_name

    @property
    def model_name(self) -> str:
        """The name that requests must give."""
        return self._model_name

    def queue_depth(self) -> int:
        """How many requests wait."""
        return self._engine.stats().waiting

    def close(self) -> None:
        """Accept nothing any more; what was accepted is answered, and leases end."""
        self._open = False
        if self.leases is not None:
            self.leases.end_all()

    def open_lease(self, request: LeaseRequest) -> OpenLease:
        """Begin a lease. Raises RequestRefused."""
        secret = decoded(request.secret, HALF)
        if secret is None or self.leases is None:
            raise RequestRefused(400, "invalid_value", "'secret' is 32 bytes in base64url.", "secret")
        if not self._open:
            raise STOPPING.anew()
        try:
            return self.leases.open(secret, request.seconds)
        except TooManyLeases:
            raise NO_LEASE.anew() from None
        except EngineStopped:
            raise STOPPING.anew() from None

    async def chat(self, request: ChatRequest) -> tuple[Generation, int]:
        """Start the answer to a conversation. Raises RequestRefused."""
        model = self._engine.model
        messages = [
            {"role": "system" if message.role == "developer" else message.role, "content": message.text}
            for message in request.messages
        ]

        def tokens() -> list[int]:
            return model.tokenizer.encode(model.chat_template.render(messages))

        return await self._start(request, [message["content"] for message in messages], tokens)

    async def complete(self, request: CompletionRequest) -> tuple[Generation, int]:
        """Start the continuation of a text. Raises RequestRefused."""
        tokenizer = self._engine.model.tokenizer
        return await self._start(
            request, [request.prompt], lambda: tokenizer.encode(request.prompt, add_special_tokens=True)
        )

    async def _start(
        self,
        request: ChatRequest | CompletionRequest,
        texts: Sequence[str],
        tokens: Callable[[], list[int]],
    ) -> tuple[Generation, int]:
        if not self._open:
            raise STOPPING.anew()
        leases = self.leases
        if request.lease is not None and leases is None:
            raise unsupported("lease")
        config = self._engine.config
        if self.queue_depth() >= config.max_queue or self._tokenising >= config.max_queue + config.max_batch:
            raise OVERLOADED.anew()
        most = self.limits.prompt_bytes(self._engine.max_context)
        if sum(len(text.encode("utf-8", "surrogatepass")) for text in texts) > most:
            raise _refusal(PromptTooLong(), self._engine.max_context)
        limit = self.limits.output_tokens
        try:
            self._tokenising += 1
            try:
                prompt = await self._thread.run(tokens)
                asked = GenerationRequest(
                    prompt_tokens=prompt,
                    max_tokens=limit if request.token_limit is None else min(limit, request.token_limit),
                    temperature=request.temperature,
                    top_p=request.top_p,
                    stop=request.stop,
                    seed=request.seed,
                    ignore_eos=request.ignore_eos,
                    top_k=request.top_k,
                    min_p=request.min_p,
                    repetition_penalty=request.repetition_penalty,
                    presence_penalty=request.presence_penalty,
                    frequency_penalty=request.frequency_penalty,
                    top_logprobs=request.wanted_logprobs,
                    json_schema=request.json_schema,
                    lease=leases.find(request.lease) if leases and request.lease else None,
                )
                submit = partial(self._engine.submit, asked)
                # A schema takes its time to compile.
                generation = submit() if asked.json_schema is None else await self._thread.run(submit)
            finally:
                self._tokenising -= 1
        except EngineError as error:
            raise _refusal(error, self._engine.max_context) from None
        return TimedGeneration(generation, self.limits.request_s), generation.prompt_tokens


class TimedGeneration:
    """A generation that ends with an error of its own when it takes longer than it may."""

    def __init__(self, generation: EngineGeneration, seconds: float) -> None:
        self._generation = generation
        self._until = asyncio.get_running_loop().time() + seconds

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """As the engine's; raises RequestRefused (``time_limit``)."""
        pieces = self._generation.pieces()
        loop = asyncio.get_running_loop()
        try:
            while True:
                try:
                    piece = await asyncio.wait_for(anext(pieces), self._until - loop.time())
                except StopAsyncIteration:
                    return
                except TimeoutError:
                    raise TIME_LIMIT.anew() from None
                yield piece
        finally:
            await pieces.aclose()

    def cancel(self) -> None:
        """Stop making this answer."""
        self._generation.cancel()


def _refusal(error: EngineError, max_context: int) -> RequestRefused:
    match error:
        case QueueFull():
            return OVERLOADED.anew()
        case EngineStopped():
            return STOPPING.anew()
        case PromptTooLong():
            message = (
                f"The prompt and its answer must fit into {max_context} tokens; this prompt leaves no room."
            )
            return RequestRefused(400, "context_length_exceeded", message, "messages")
        case ChatTemplateError():
            message = "The model's chat template does not take this sequence of messages."
            return RequestRefused(400, "invalid_conversation", message, "messages")
        case InvalidRequest():
            return RequestRefused(
                400, "invalid_value", "An option or the prompt is not one this model takes."
            )
        case _:
            return RequestRefused(500, "internal_error", "The node could not start the answer.")
