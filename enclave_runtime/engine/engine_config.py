"""Sizes of the engine, as they stand in the measured configuration and in the runtime manifest."""

from dataclasses import asdict, dataclass

from enclave_runtime.engine.decoder import ATTENTION_TILE
from enclave_runtime.engine.errors import InvalidRequest
from enclave_runtime.engine.speculate import MAX_GUESSES


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Sizes of the engine; part of the runtime manifest.

    ``max_batch`` requests run at once, ``max_queue`` more may wait; a prompt and its answer hold at most
    ``max_context`` tokens (less if the model's own context is shorter); KV pages hold ``page_tokens`` tokens;
    a step computes at most ``step_budget`` tokens on ``threads`` CPU threads, among them at most ``speculate`` guesses
    for each request.
    """

    max_batch: int = 8
    max_queue: int = 64
    max_context: int = 2048
    page_tokens: int = 16
    step_budget: int = 256
    threads: int = 2
    speculate: int = 0

    def __post_init__(self) -> None:
        for name, most in (
            ("max_batch", 1024),
            ("max_queue", 1 << 20),
            ("max_context", 1 << 24),
            ("page_tokens", 1 << 12),
            ("step_budget", 1 << 20),
            ("threads", 1024),
        ):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= most:
                raise InvalidRequest(f"{name} of the engine", expected=f"1 to {most}", found=value)
        if type(self.speculate) is not int or not 0 <= self.speculate <= MAX_GUESSES:
            raise InvalidRequest(
                "speculate of the engine", expected=f"0 to {MAX_GUESSES}", found=self.speculate
            )
        if self.step_budget < self.max_batch + ATTENTION_TILE:
            raise InvalidRequest(
                "step_budget leaves prompts no room beside a full batch",
                expected=f"at least {self.max_batch + ATTENTION_TILE}",
                found=self.step_budget,
            )

    def manifest(self) -> dict[str, int]:
        """The values by name, for the runtime manifest."""
        return asdict(self)
