"""A model's chat template: a conversation to the text the model was trained on.

Templates come with the model and are programs in Jinja. They run in Jinja's immutable sandbox, with nothing
in reach but the conversation and the two markers: no clock, no files, no names of the process. Both
whitespace settings and the names offered follow what the templates of Hugging Face models are written for.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress

# jinja2.debug is imported lazily when a template fails, too late once the process is sealed.
import jinja2.debug
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from enclave_runtime.engine.errors import ChatTemplateError, ModelMalformed

MAX_TEMPLATE_CHARACTERS = 1 << 20


class ChatTemplate:
    """A compiled template; one made without a source refuses every conversation."""

    def __init__(self, source: str | None, *, bos: str, eos: str) -> None:
        self.source = source
        self._markers = {"bos_token": bos, "eos_token": eos}
        self._template: jinja2.Template | None = None
        if source is None:
            return
        if len(source) > MAX_TEMPLATE_CHARACTERS:
            raise ModelMalformed("length of the chat template", found=len(source))
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        try:
            self._template = environment.from_string(source)
        except (jinja2.TemplateError, RecursionError):
            raise ModelMalformed("chat template cannot be compiled") from None

    def render(self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool = True) -> str:
        """The text for ``messages`` (each with ``role`` and ``content``), ready for the tokenizer.

        Raises `ChatTemplateError`, which says nothing of the conversation.
        """
        if self._template is None:
            raise ChatTemplateError("the model has no chat template", code="no_chat_template")
        try:
            return self._template.render(
                messages=[dict(message) for message in messages],
                add_generation_prompt=add_generation_prompt,
                **self._markers,
            )
        except Exception:  # a template can fail in any way Python can
            raise ChatTemplateError("the chat template does not accept this conversation") from None

    def warm_up(self) -> None:
        """Run once with success and once with failure, so that nothing is imported at a later time."""
        accepted: list[dict[str, str]] = [{"role": "user", "content": "é"}]
        refused: list[dict[str, str]] = [{}]
        for messages in (accepted, refused):
            with suppress(ChatTemplateError):
                self.render(messages)


def _refuse(_message: object = None) -> str:
    raise jinja2.TemplateError("refused by the template")


def _to_json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)
