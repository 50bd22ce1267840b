"""Everything the engine refuses, as one family.

::

    EngineError
    ├── ModelError
    │   ├── ModelNotFound         no model at the path given
    │   ├── ModelMalformed        a model file contradicts its format or itself
    │   ├── UnsupportedModel      well formed, but of a kind this decoder does not compute
    │   └── DraftMismatch         a draft that cannot guess for the model
    ├── InvalidRequest            a sampling setting or token id out of range
    ├── PromptTooLong             the prompt leaves no room in the context
    ├── QueueFull                 as many requests wait as may wait
    ├── TooManyLeases             as many leases are open as may be
    ├── EngineStopped             the engine is not running (any more)
    ├── EngineFault               a step failed; the requests in it are lost, their memory is cleared
    ├── PagesExhausted            fewer free KV pages than asked for
    ├── PageOwnershipError        a KV page was about to be used by someone who does not own it
    ├── SealedPageForged          a sealed page outside the pool is not the one that was put there; the engine ends
    ├── RankLost                  a process that computes a part of the model is gone; the engine ends
    └── ChatTemplateError         the model's chat template refused the conversation, or there is none

No error carries text of a prompt or of an answer: lengths, names of settings and names from the model's own
files are all that ``expected`` and ``found`` ever hold.
"""


class EngineError(Exception):
    """Root of the family.

    ``code`` is stable and machine-readable, ``detail`` is for people, ``expected`` and ``found`` say what a
    failed check compared.
    """

    default_code = "engine_error"

    def __init__(
        self, detail: str = "", *, code: str | None = None, expected: object = None, found: object = None
    ) -> None:
        self.code = code or self.default_code
        self.detail = detail
        self.expected = expected
        self.found = found
        super().__init__(detail)

    @property
    def said(self) -> str:
        """Everything but the code."""
        compared = (("expected", self.expected), ("found", self.found))
        values = ", ".join(f"{name} {value!r}" for name, value in compared if value is not None)
        text = self.detail or self.code
        return f"{text} ({values})" if values else text

    def __str__(self) -> str:
        return f"{self.code}: {self.said}" if self.detail else self.said


class ModelError(EngineError):
    """The model on disk cannot be used."""

    default_code = "model_error"


class ModelNotFound(ModelError):
    """There is no model at the path given."""

    default_code = "model_not_found"


class ModelMalformed(ModelError):
    """A model file contradicts its format, or two of its files contradict each other."""

    default_code = "model_malformed"


class UnsupportedModel(ModelError):
    """The model is well formed, but names something this decoder does not compute."""

    default_code = "model_unsupported"


class DraftMismatch(ModelError):
    """A draft has another vocabulary than the model, or too short a context."""

    default_code = "draft_mismatch"


class InvalidRequest(EngineError):
    """A setting of a request is out of range."""

    default_code = "invalid_request"


class PromptTooLong(EngineError):
    """The prompt fills the context: ``expected`` is the longest prompt allowed, ``found`` its length."""

    default_code = "prompt_too_long"


class QueueFull(EngineError):
    """As many requests wait as may wait; nothing of this one was kept."""

    default_code = "queue_full"


class TooManyLeases(EngineError):
    """As many leases are open as may be."""

    default_code = "too_many_leases"


class EngineStopped(EngineError):
    """The engine has not been started, or was stopped."""

    default_code = "engine_stopped"


class EngineFault(EngineError):
    """A step failed inside the engine. The requests in it ended and their pages were cleared."""

    default_code = "engine_fault"


class PagesExhausted(EngineError):
    """Fewer free KV pages than a request needs."""

    default_code = "pages_exhausted"


class PageOwnershipError(EngineError):
    """A KV page was about to be read, written or freed under another owner's name."""

    default_code = "page_ownership"


class SealedPageForged(EngineError):
    """Keys and values that were sealed outside the pool do not open: nothing in memory can be trusted."""

    default_code = "sealed_page_forged"


class RankLost(EngineError):
    """A process that computes a part of the model is gone, or does not do what it is told."""

    default_code = "rank_lost"


class ChatTemplateError(EngineError):
    """The chat template refused the conversation, or the model has none."""

    default_code = "chat_template"
