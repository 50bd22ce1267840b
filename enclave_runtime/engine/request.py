"""What the engine is asked for: a prompt in tokens, and how to answer it."""

from collections.abc import Sequence as Ordered
from dataclasses import dataclass, field

from enclave_runtime.engine.errors import InvalidRequest
from enclave_runtime.engine.lease import Lease
from enclave_runtime.engine.sampling import SamplingSettings

MAX_STOPS = 16
MAX_STOP_CHARACTERS = 256


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What to answer, and how.

    ``max_tokens`` None means as many as the context holds. ``temperature`` 0 takes the likeliest token each
    time; the other settings of sampling are those of `SamplingSettings`. ``json_schema`` (a JSON text) makes the
    answer JSON of that schema. ``stop`` strings end the answer and are left out of it. Without a ``seed`` a random
    one is drawn. With ``ignore_eos`` an end token does not end the answer, so that its length is known beforehand.
    A ``lease`` (`Engine.open_lease`) keeps what is computed for the next request that brings it.
    """

    prompt_tokens: Ordered[int] = field(repr=False)
    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    stop: tuple[str, ...] = field(default=(), repr=False)
    seed: int | None = None
    ignore_eos: bool = False
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    top_logprobs: int | None = None
    json_schema: str | None = field(default=None, repr=False)
    lease: Lease | None = field(default=None, repr=False)

    def sampling(self) -> SamplingSettings:
        """The settings of sampling among these."""
        return SamplingSettings(
            self.temperature,
            self.top_k,
            self.top_p,
            self.min_p,
            self.repetition_penalty,
            self.presence_penalty,
            self.frequency_penalty,
            self.top_logprobs,
        )

    def check(self, vocab_size: int) -> None:
        """Raise `InvalidRequest` for a setting out of range."""
        if self.max_tokens is not None and (type(self.max_tokens) is not int or self.max_tokens < 1):
            raise InvalidRequest("max_tokens", expected="an integer of at least 1")
        if problem := self.sampling().problem():
            raise InvalidRequest(problem[0], expected=problem[1])
        if self.seed is not None and not -(1 << 63) <= self.seed < 1 << 64:
            raise InvalidRequest("seed", expected="a 64-bit integer")
        if len(self.stop) > MAX_STOPS or not all(1 <= len(stop) <= MAX_STOP_CHARACTERS for stop in self.stop):
            raise InvalidRequest(
                "stop", expected=f"at most {MAX_STOPS} strings of 1 to {MAX_STOP_CHARACTERS} characters"
            )
        if len(self.prompt_tokens) < 1:
            raise InvalidRequest("prompt without tokens")
        if min(self.prompt_tokens) < 0 or max(self.prompt_tokens) >= vocab_size:
            raise InvalidRequest("token id outside the vocabulary", expected=f"below {vocab_size}")
