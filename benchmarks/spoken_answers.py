"""Labelled answers to listen to: texts of several topics, cut into tokens, each token with the time it takes.

The texts are put together from phrases, not written by a model: what matters to an observer of the wire is how long
tokens are, how many there are and how fast they come, and these differ from topic to topic here as they do, or more
than they do, in real answers. Tokens are those of a real tokenizer where a model file is at hand.
"""

import math
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Topic:
    """``phrases``: what sentences are made of. ``tokens``: median of an answer. ``pace``: of its tokens, 1 is usual.

    ``prefill_s``: the median wait for the first token, which grows with the prompts that a topic has.
    """

    name: str
    phrases: tuple[str, ...]
    tokens: int
    pace: float
    prefill_s: float


@dataclass(frozen=True, slots=True)
class Spoken:
    """An answer: its tokens' texts, and the seconds before each."""

    label: str
    tokens: tuple[str, ...]
    gaps: tuple[float, ...]


def _topic(name: str, tokens: int, pace: float, prefill_s: float, phrases: str) -> Topic:
    return Topic(name, tuple(p.strip() for p in phrases.split("|")), tokens, pace, prefill_s)


TOPICS = (
    _topic(
        *("medicine", 150, 1.0, 0.15),
        "a persistent inflammation of the gastrointestinal tract|the prescribed anticoagulant|symptoms such as"
        " breathlessness|electrocardiographic abnormalities|an appointment with a specialist|hypertension and"
        " hypercholesterolaemia|discontinue the medication|immunosuppressive treatment|should be evaluated"
        " immediately|contraindicated during pregnancy|chronic obstructive pulmonary disease|haemoglobin",
    ),
    _topic(
        *("cooking", 110, 1.05, 0.08),
        "add a cup of milk|stir it well|two eggs and salt|heat the oven|let it rest|cut the leek thin|a bit of oil|"
        "boil for ten min|mix in the rice|fry until gold|top with mint|serve it hot|a pan of soup|chop an onion",
    ),
    _topic(
        *("program", 190, 0.8, 0.25),
        "def run(self, x):\n    return x + 1|for i in range(n):|if not ok:\n    raise ValueError(i)|self.a[i] ="
        " b[j]|print(f'{x=}')|import os, sys|while (a <= b) { i++; }|x = [y for y in z]|}\n\n|assert f(2) == 4|"
        "try:\n    g()\nexcept E:\n    pass|# TODO",
    ),
    _topic(
        *("law", 170, 1.1, 0.3),
        "notwithstanding the foregoing provisions|the defendant's obligations hereunder|without prejudice to any"
        " remedy|jurisdiction of the competent court|indemnification of the contracting party|pursuant to the"
        " agreement|compensatory damages|shall be construed accordingly|unenforceable or invalid|reasonable notice",
    ),
    _topic(
        *("grief", 130, 0.95, 0.1),
        "I am so sorry|you are not alone in this|it is okay to cry|he knew that you loved him|take all the time you"
        " need|be kind to yourself|there is no right way to feel|one day at a time|I am here with you|it still"
        " hurts, I know|a walk may help",
    ),
    _topic(
        *("travel", 120, 1.0, 0.12),
        "take the night train to Ljubljana|a guesthouse near the harbour|book the ferry in advance|the museum closes"
        " on Mondays|rent a bicycle for the afternoon|a small restaurant by the river|bring a waterproof jacket|the"
        " mountain path to Zermatt|about forty minutes by bus|an unforgettable panorama",
    ),
)
"""Six topics whose words, lengths and pace differ."""

WORDS = (
    _topic(
        *("short words", 120, 1.0, 0.1),
        "I do so|a cat is in it|we go to it|he is at an inn|as I am|it is on me|if we do it|no, so be it|up on it",
    ),
    _topic(
        *("long words", 120, 1.0, 0.1),
        "internationalization notwithstanding|characteristically uncompromising|extraordinary responsibilities|"
        "telecommunications infrastructure|disproportionately inconsequential|institutionalization throughout",
    ),
)
"""The same number of tokens at the same pace; only the tokens' lengths differ."""

Cut = Callable[[str], list[str]]


def speak(topic: Topic, cut: Cut, draw: random.Random, rhythm: random.Random, *, alike: bool) -> Spoken:
    """One answer: its words by ``draw``; its number of tokens, its pace and its waits by ``rhythm``.

    With ``alike`` all topics have the same distributions of these, and the same values where ``rhythm`` is in the
    same state: they then differ in words alone.
    """
    median = 140 if alike else topic.tokens
    wanted = max(8, round(median * math.exp(rhythm.gauss(0.0, 0.35))))
    tokens: list[str] = []
    while len(tokens) < wanted:
        sentence = " ".join(draw.choice(topic.phrases) for _ in range(draw.randint(2, 4)))
        tokens += cut(f" {sentence}{draw.choice('..,;:')}")
    del tokens[wanted:]
    pace = (1.0 if alike else topic.pace) * 0.02 * math.exp(rhythm.gauss(0.0, 0.15))
    gaps = [pace * math.exp(rhythm.gauss(0.0, 0.25)) for _ in tokens]
    gaps[0] += (0.12 if alike else topic.prefill_s) * math.exp(rhythm.gauss(0.0, 0.3))
    return Spoken(topic.name, tuple(tokens), tuple(gaps))


def tokenizer(model: Path | None) -> tuple[Cut, str]:
    """How texts are cut, and what that is called: the tokenizer in a GGUF file, or else pieces of words."""
    if model is not None and model.is_file():
        try:
            return _of_gguf(model), f"the tokenizer of {model.name}"
        except (ImportError, ValueError, LookupError):
            pass
    return lambda text: re.findall(r"\s?\w{1,5}|\s+|[^\w\s]", text), "pieces of words of at most 5 letters"


def _of_gguf(model: Path) -> Cut:
    gguf: Any = import_module("gguf")
    tokenizers: Any = import_module("tokenizers")
    fields = gguf.GGUFReader(model).fields
    tokens, merges = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "merges"))
    pairs = [tuple(merge.split(" ", 1)) for merge in merges]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=pairs))
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    return lambda text: [text[begin:end] for begin, end in bpe.encode(text).offsets]
