"""What a relay learns from the sizes and times of encrypted answers, under each padding profile.

Three questions, each with an observer trained for it: which of six topics an answer is about, where the topics differ
in words alone; the same, where they differ in length, pace and wait as well; and whether an answer's words are short
or long. Under ``constant`` the first and the last are to be guesses. The second is not: the length of an answer
leaves through the rung of the ladder on which it ends, and how many bits that is, is measured by itself.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.recorded_traffic import Trace, record
from benchmarks.spoken_answers import TOPICS, WORDS, Spoken, Topic, speak, tokenizer
from benchmarks.traffic_classifier import TREES, Accuracy, entropy, features, guess, shared_bits
from ohttp.padding import CellProfile

PROFILES = (CellProfile("off"), CellProfile("bucket"), CellProfile("constant"))
GAP_BIN_S = 0.005

Say = Callable[[str], None]
Recorder = Callable[[Sequence[Spoken], CellProfile], list[Trace]]


@dataclass(frozen=True, slots=True)
class Question:
    """What the observer wants to know: which of ``topics``; ``alike`` as in ``speak``."""

    name: str
    topics: tuple[Topic, ...]
    alike: bool


QUESTIONS = (
    Question("topic, by its words alone", TOPICS, True),
    Question("topic, with its usual length and pace", TOPICS, False),
    Question("short or long words", WORDS, True),
)


@dataclass(frozen=True, slots=True)
class Found:
    """One question under one profile.

    ``rung``: the accuracy from the number of records alone; ``bits_of_records``: the entropy of that number,
    ``bits_about_label``: how many bits of it tell the label, ``bits_by_chance``: how many seem to where none do.
    ``bits_of_size`` and ``bits_of_gap``: the entropies of one record's size, and of the time before it in steps of
    ``GAP_BIN_S``; ``bytes_an_answer`` and ``seconds_an_answer``: what the profile costs, as means.
    """

    question: str
    profile: str
    accuracy: Accuracy
    rung: Accuracy
    bits_of_records: float
    bits_about_label: float
    bits_by_chance: float
    bits_of_size: float
    bits_of_gap: float
    bytes_an_answer: float
    seconds_an_answer: float


def analyse(
    each: int, model: Path | None, seed: int, say: Say, recorder: Recorder = record
) -> tuple[list[Found], list[Trace], str]:
    """Every question under every profile, ``each`` answers a label; also one trace a profile and label to look at.

    ``recorder``: how traffic is recorded, in virtual time unless told otherwise. Raises
    ModuleNotFoundError without scikit-learn.
    """
    cut, tokens_of = tokenizer(model)
    draw = random.Random(seed)  # noqa: S311 (the same answers for the same seed)
    found: list[Found] = []
    shown: list[Trace] = []
    for question in QUESTIONS:
        spoken = [
            # Where topics are to differ in words alone, the n-th answers of all of them share one rhythm, so the
            # rungs on which they end are equal, and not only alike.
            speak(topic, cut, draw, _rhythm(seed, number) if question.alike else draw, alike=question.alike)
            for topic in question.topics
            for number in range(each)
        ]
        for profile in PROFILES:
            say(f"{question.name}: {profile.name}")
            traces = recorder(spoken, profile)
            twins = [at % each if question.alike else at for at in range(len(traces))]
            found.append(judge(question.name, profile.name, traces, twins, seed))
            if question is QUESTIONS[-1]:
                shown += [Trace(f"{profile.name}: {t.label}", t.sizes, t.times) for t in traces[::each]]
    return found, shown, tokens_of


def judge(
    question: str, profile: str, traces: Sequence[Trace], twins: Sequence[int], seed: int, trees: int = TREES
) -> Found:
    """What an observer makes of ``traces``; ``twins`` as in ``guess``."""
    labels = [trace.label for trace in traces]
    counts = [len(trace.sizes) for trace in traces]
    sizes = [size for trace in traces for size in trace.sizes[1:]]
    gaps = [
        round((later - earlier) / GAP_BIN_S)
        for trace in traces
        for earlier, later in zip(trace.times, trace.times[1:], strict=False)
    ]
    about, by_chance = shared_bits(counts, labels, seed)
    return Found(
        question=question,
        profile=profile,
        accuracy=guess([features(trace) for trace in traces], labels, twins, seed, trees),
        rung=guess([features(_count_alone(trace)) for trace in traces], labels, twins, seed, trees),
        bits_of_records=entropy(counts),
        bits_about_label=about,
        bits_by_chance=by_chance,
        bits_of_size=entropy(sizes),
        bits_of_gap=entropy(gaps),
        bytes_an_answer=sum(sum(trace.sizes) for trace in traces) / len(traces),
        seconds_an_answer=sum(trace.times[-1] for trace in traces) / len(traces),
    )


def summary(found: Sequence[Found], tokens_of: str, each: int, seed: int) -> dict[str, Any]:
    """The result as JSON."""
    return {
        "tokens": tokens_of,
        "answers_a_label": each,
        "seed": seed,
        "profiles": [profile.manifest() for profile in PROFILES],
        "found": [{**asdict(one), "is_chance": one.accuracy.is_chance} for one in found],
    }


def as_expected(found: Sequence[Found]) -> bool:
    """Whether ``constant`` holds what it promises and ``off`` shows that the observer can see.

    That is: under ``constant`` guesses about words are chance, and what is known about the rest is what the number of
    records says; under ``off`` every interval lies above chance.
    """
    by_words = {question.name for question in QUESTIONS if question.alike}
    for one in found:
        if one.profile == "off" and one.accuracy.is_chance:
            return False
        if one.profile == "constant":
            more_than_the_rung = one.accuracy.low > one.rung.high
            if more_than_the_rung or (one.question in by_words and not one.accuracy.is_chance):
                return False
    return True


def _rhythm(seed: int, number: int) -> random.Random:
    return random.Random(f"{seed}/{number}")  # noqa: S311


def _count_alone(trace: Trace) -> Trace:
    """A trace of the same number of records that tells nothing else."""
    return Trace(trace.label, (1,) * len(trace.sizes), tuple(float(n) for n in range(len(trace.sizes))))
