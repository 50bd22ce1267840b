"""From an OpenAI request to a running generation: template, tokens, admission.

Tokenising happens on a thread of its own, so that one long prompt does not hold up the others' cells. A
node that is full says so before it spends that time.
"""

from collections.abc import Callable

from enclave_runtime.engine.engine import Engine, GenerationRequest
from enclave_runtime.engine.errors import (
    ChatTemplateError,
    EngineError,
    EngineStopped,
    InvalidRequest,
    PromptTooLong,
    QueueFull,
)
from enclave_runtime.engine.generation import Generation
from enclave_runtime.openai_requests import ChatRequest, CompletionRequest, RequestRefused
from enclave_runtime.standing_thread import StandingThread

OVERLOADED = RequestRefused(503, "overloaded", "The node has as many requests as it can hold; try again.")
STOPPING = RequestRefused(503, "stopping", "The node is about to stop.")


class EngineCompletions:
    """Answers by one engine, under one public name. ``thread`` does the tokenising."""

    def __init__(self, engine: Engine, model_name: str, thread: StandingThread) -> None:
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

    async def chat(self, request: ChatRequest) -> tuple[Generation, int]:
        """Start the answer to a conversation. Raises RequestRefused."""
        model = self._engine.model
        messages = [
            {"role": "system" if message.role == "developer" else message.role, "content": message.text}
            for message in request.messages
        ]

        def tokens() -> list[int]:
            return model.tokenizer.encode(model.chat_template.render(messages))

        return await self._start(request, tokens)

    async def complete(self, request: CompletionRequest) -> tuple[Generation, int]:
        """Start the continuation of a text. Raises RequestRefused."""
        tokenizer = self._engine.model.tokenizer
        return await self._start(request, lambda: tokenizer.encode(request.prompt, add_special_tokens=True))

    async def _start(
        self, request: ChatRequest | CompletionRequest, tokens: Callable[[], list[int]]
    ) -> tuple[Generation, int]:
        if self.queue_depth() >= self._engine.config.max_queue:
            raise OVERLOADED
        try:
            prompt = await self._thread.run(tokens)
            generation = self._engine.submit(
                GenerationRequest(
                    prompt_tokens=prompt,
                    max_tokens=request.token_limit,
                    temperature=request.temperature,
                    top_p=request.top_p,
                    stop=request.stop,
                    seed=request.seed,
                    ignore_eos=request.ignore_eos,
                )
            )
        except EngineError as error:
            raise _refusal(error, self._engine.max_context) from None
        return generation, generation.prompt_tokens


def _refusal(error: EngineError, max_context: int) -> RequestRefused:
    match error:
        case QueueFull():
            return OVERLOADED
        case EngineStopped():
            return STOPPING
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
