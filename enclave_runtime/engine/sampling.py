"""Choosing the next token of one request from its logits.

A choice depends on the request's own logits, settings, seed and position only. Noise is looked up, not drawn in
turn: token t at position p gets the number that Philox (Salmon et al., SC 2011) gives under the request's seed at
counter (p, t), so whoever knows the seed can check any single choice. With Gumbel noise the largest of logit over
temperature plus noise is a sample of the softmax (Gumbel-max, arXiv 1611.01144).
"""

from dataclasses import dataclass

import numpy as np

from enclave_runtime.engine.errors import EngineFault

MAX_TOP_LOGPROBS = 20
_LIKELY = 1024  # candidates looked at first; more only if these do not reach top_p
_POSITION = 1 << 128  # a position's share of Philox's counters


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """How to choose. Filters apply in the order of the fields, after ``temperature``; the neutral values are the
    defaults.

    ``repetition_penalty`` divides positive and multiplies negative logits of tokens seen in prompt or answer
    (CTRL, arXiv 1909.05858); ``presence_penalty`` and ``frequency_penalty`` are subtracted once, or once for each
    time, from tokens of the answer. ``top_logprobs`` None gives no log-probabilities, a number those of the token
    chosen and of that many likeliest ones, before temperature, penalties and filters.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    top_logprobs: int | None = None

    def problem(self) -> tuple[str, str] | None:
        """The first setting out of range and what it may be; None where there is none."""
        for name, fine, expected in (
            ("temperature", 0.0 <= self.temperature <= 100.0, "0 to 100"),
            ("top_k", type(self.top_k) is int and 0 <= self.top_k <= 1 << 31, "0 (all) or a count"),
            ("top_p", 0.0 < self.top_p <= 1.0, "above 0, at most 1"),
            ("min_p", 0.0 <= self.min_p <= 1.0, "0 to 1"),
            ("repetition_penalty", 0.01 <= self.repetition_penalty <= 100.0, "0.01 to 100"),
            ("presence_penalty", -2.0 <= self.presence_penalty <= 2.0, "-2 to 2"),
            ("frequency_penalty", -2.0 <= self.frequency_penalty <= 2.0, "-2 to 2"),
            (
                "top_logprobs",
                self.top_logprobs is None
                or (type(self.top_logprobs) is int and 0 <= self.top_logprobs <= MAX_TOP_LOGPROBS),
                f"0 to {MAX_TOP_LOGPROBS}",
            ),
        ):
            if not fine:
                return name, expected
        return None


@dataclass(frozen=True, slots=True)
class PlainDraw:
    """A choice among all tokens that needs the request's ``key`` (128 bits) and ``temperature`` only."""

    key: int
    temperature: float


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Natural logarithms of probabilities: of the chosen token, and of the likeliest, most likely first."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


class Sampler:
    """Chooses for one request. ``seed`` is any integer below 2**128 (negative ones down to -2**127)."""

    def __init__(self, settings: SamplingSettings, seed: int) -> None:
        self.settings = settings
        self._key = seed % (1 << 128)

    def pick(
        self, logits: np.ndarray, tokens: np.ndarray, prompt_length: int, mask: np.ndarray | None = None
    ) -> int:
        """The token for position ``len(tokens)``, from finite float32 ``logits`` [vocabulary].

        ``tokens`` are those before it, the prompt's first; ``mask`` (bool [vocabulary]) says which are allowed.
        Raises `EngineFault` if none is.
        """
        settings, scores = self.settings, logits
        if settings.repetition_penalty != 1.0 or settings.presence_penalty or settings.frequency_penalty:
            scores = self._penalised(scores, tokens, prompt_length)
        if mask is not None:
            scores = np.where(mask[: len(scores)], scores, np.float32(-np.inf))
            if not np.isfinite(scores.max()):
                raise EngineFault("no token is allowed")
        if settings.temperature == 0.0:
            return int(scores.argmax())
        ids = self._candidates(scores)
        if ids is None:
            return self._likeliest_of_all(scores, len(tokens))
        noisy = self._scaled(scores[ids], float(scores.max())) + _gumbel(
            self._bits(len(tokens), len(scores))[ids]
        )
        return int(ids[noisy.argmax()])

    def plain(self) -> PlainDraw | None:
        """What a decoder needs to make these choices itself; None where filters, penalties or log-probabilities
        are asked for.
        """
        settings = self.settings
        if settings != SamplingSettings(temperature=settings.temperature):
            return None
        return PlainDraw(self._key, settings.temperature)

    def logprobs(self, logits: np.ndarray, token: int) -> Logprobs | None:
        """What to report of the choice of ``token``; None where nothing is asked for."""
        count = self.settings.top_logprobs
        if count is None:
            return None
        scores = logits.astype(np.float64)
        scores -= scores.max()
        scores -= np.log(np.exp(scores).sum())
        top = _largest(scores, min(count, len(scores)))
        return Logprobs(token, float(scores[token]), tuple((int(i), float(scores[i])) for i in top))

    def _scaled(self, scores: np.ndarray, most: float) -> np.ndarray:
        scaled: np.ndarray = (scores.astype(np.float64) - most) / self.settings.temperature
        return scaled

    def _penalised(self, scores: np.ndarray, tokens: np.ndarray, prompt_length: int) -> np.ndarray:
        settings, scores = self.settings, scores.copy()
        # Counts over the vocabulary, not sorted copies of the tokens: numpy keeps small arrays when they are freed.
        if settings.repetition_penalty != 1.0:
            seen = np.bincount(tokens, minlength=len(scores)) > 0
            factor = np.float32(settings.repetition_penalty)
            np.copyto(scores, np.where(scores > 0, scores / factor, scores * factor), where=seen)
        times = np.bincount(tokens[prompt_length:], minlength=len(scores))
        lost = np.where(times > 0, settings.presence_penalty + settings.frequency_penalty * times, 0.0)
        scores -= lost.astype(np.float32)
        return scores

    def _candidates(self, scores: np.ndarray) -> np.ndarray | None:
        """The tokens that the filters leave, most likely first; None where every token is left."""
        settings = self.settings
        if not settings.top_k and settings.top_p >= 1.0 and settings.min_p == 0.0:
            return None
        most = float(scores.max())
        count = min(len(scores), settings.top_k or len(scores))
        ids = _largest(scores, min(count, _LIKELY))
        scaled = self._scaled(scores[ids], most)
        if settings.top_p < 1.0:
            weights = np.exp(scaled)
            if settings.top_k and settings.top_k <= len(ids):
                total = float(weights.sum())
            else:
                total = float(np.exp(self._scaled(scores, most)).sum())
            if len(ids) < count and float(weights.sum()) < settings.top_p * total:
                ids = _largest(scores, count)
                scaled = self._scaled(scores[ids], most)
                weights = np.exp(scaled)
                total = float(weights.sum())
            before = weights.cumsum() - weights
            kept = max(1, int(np.count_nonzero(before < settings.top_p * total)))
            ids, scaled = ids[:kept], scaled[:kept]
        elif len(ids) < count and (settings.min_p == 0.0 or scaled[-1] >= np.log(settings.min_p)):
            ids = _largest(scores, count)
            scaled = self._scaled(scores[ids], most)
        if settings.min_p > 0.0:
            ids = ids[scaled >= np.log(settings.min_p)]
        return ids

    def _likeliest_of_all(self, scores: np.ndarray, position: int) -> int:
        """Gumbel-max over the whole vocabulary, looking closely only at tokens that can still win."""
        bits, most = self._bits(position, len(scores)), float(scores.max())
        first = _largest(scores, min(_LIKELY, len(scores)))
        scaled = self._scaled(scores[first], most)
        best = float((scaled + _gumbel(bits[first])).max())
        # Any other token scores at most scaled[-1] and needs noise of at least best - scaled[-1].
        needed = np.exp(-np.exp(min(700.0, scaled[-1] - best)))
        able = np.flatnonzero(bits >= np.uint64(max(0, int(needed * 2.0**53) - 2) << 11))
        ids = np.union1d(first, able)
        noisy = self._scaled(scores[ids], most) + _gumbel(bits[ids])
        return int(ids[noisy.argmax()])

    def _bits(self, position: int, count: int) -> np.ndarray:
        """64 random bits for every token at ``position``: uint64 [count]."""
        bits: np.ndarray = np.random.Philox(key=self._key, counter=position * _POSITION).random_raw(count)
        return bits


def _gumbel(bits: np.ndarray) -> np.ndarray:
    """Standard Gumbel noise from 64 random bits, of which the upper 53 count: float64, finite."""
    uniform = ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    noise: np.ndarray = -np.log(-np.log(uniform))
    return noise


def _largest(scores: np.ndarray, count: int) -> np.ndarray:
    """Places of the ``count`` largest, largest first; of equal ones those that come first."""
    if count <= 0:
        return np.empty(0, dtype=np.int64)
    places: np.ndarray
    if count < len(scores):
        least = np.partition(scores, len(scores) - count)[len(scores) - count]
        above = np.flatnonzero(scores > least)
        places = np.concatenate([above, np.flatnonzero(scores == least)[: count - len(above)]])
        places.sort()
    else:
        places = np.arange(len(scores))
    ordered: np.ndarray = places[np.argsort(-scores[places], kind="stable")]
    return ordered
