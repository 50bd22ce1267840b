"""Chat templates: rendered as trained, confined, and silent about the conversation when they fail."""

import pytest

from enclave_runtime.engine.chat_template import ChatTemplate
from enclave_runtime.engine.errors import ChatTemplateError, ModelMalformed
from enclave_runtime.engine.model import LoadedModel

SECRET = "my secret question"


def template(source: str | None) -> ChatTemplate:
    return ChatTemplate(source, bos="<s>", eos="</s>")


def test_renders_what_the_model_was_trained_on(tiny_model: LoadedModel) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    text = "<|im_start|>user\nHi<|im_end|>\n"
    assert tiny_model.chat_template.render(messages, add_generation_prompt=False) == text
    assert tiny_model.chat_template.render(messages) == text + "<|im_start|>assistant\n"


def test_offers_the_markers_loops_and_json() -> None:
    source = (
        "{{ bos_token }}{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}"
        "{{ m | tojson }}{% endfor %}{{ eos_token }}"
    )
    rendered = template(source).render([{"role": "é"}, {"role": "x"}])
    assert rendered == '<s>{"role": "é"}</s>'


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__['os'].getenv('HOME') }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({}) }}",
        "{{ raise_exception(messages[0]['content']) }}",
        "{{ messages[0]['content'] + 1 }}",
        "{{ missing.attribute }}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
        "{% include 'file' %}",
    ],
)
def test_a_failing_template_tells_nothing(source: str) -> None:
    with pytest.raises(ChatTemplateError) as caught:
        template(source).render([{"role": "user", "content": SECRET}])
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_templates_that_do_not_compile_are_malformed() -> None:
    for source in ("{% if %}", "{{ strftime_now('%d') "):
        with pytest.raises(ModelMalformed):
            template(source)


def test_without_a_template_every_conversation_is_refused() -> None:
    with pytest.raises(ChatTemplateError) as caught:
        template(None).render([{"role": "user", "content": "Hi"}])
    assert caught.value.code == "no_chat_template"
