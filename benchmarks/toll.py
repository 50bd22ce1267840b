"""What confidential computing would cost where there is none: a toll for every crossing between host and device.

In CC mode a copy between host and GPU is encrypted through a bounce buffer, one after the other, while the caller
waits: ``t = c0 + bytes / B`` for each crossing, serialised, with no overlap. Two forms: *analytic* adds ``t`` to a
recorded trace of crossings; *emulated* does the encryption for real (AES-256-GCM into a second buffer and back out)
and adds ``c0``. Defaults: B = 4 GB/s (the H100's encrypted path as commonly reported), c0 = 44 × the cost of a plain
small copy (measured on Blackwell: arXiv 2606.23969). Everything from here is *modelled*, and says so wherever it is
shown.
"""

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from benchmarks import published

SMALL_COPY_FACTOR = 44
"""CC over plain for a small allocation and copy, arXiv 2606.23969 (Blackwell, single runs)."""
DEFAULT_SMALL_COPY_S = 10e-6
"""A plain small copy over PCIe, by order of magnitude; measure it where there is a GPU."""
DEFAULT_BANDWIDTH = 4e9

Sampling = Literal["device", "host"]


@dataclass(frozen=True, slots=True)
class Step:
    """One step of an engine as traced: sequences in it, tokens fed, KV pages named, tokens it produced."""

    sequences: int
    tokens_in: int
    pages: int
    tokens_out: int


@dataclass(frozen=True, slots=True)
class Toll:
    """The price of a crossing: ``fixed_s`` seconds each and ``bandwidth`` bytes per second."""

    fixed_s: float = SMALL_COPY_FACTOR * DEFAULT_SMALL_COPY_S
    bandwidth: float = DEFAULT_BANDWIDTH

    def __post_init__(self) -> None:
        if not (self.fixed_s >= 0.0 and self.bandwidth > 0.0):
            raise ValueError("a toll has a fixed part of at least 0 and a positive bandwidth")

    def of(self, sizes: Sequence[int]) -> float:
        """Seconds for crossings of these sizes in bytes, one after the other."""
        return len(sizes) * self.fixed_s + sum(sizes) / self.bandwidth


def crossings(step: Step, *, vocabulary: int, sampling: Sampling, resident_tables: bool) -> tuple[int, ...]:
    """Sizes in bytes of what crosses in one step, each a copy of its own.

    To the device: token ids and positions (int32 each) of new tokens, and the block tables (int32 for each page)
    unless they are ``resident``, kept and extended there. To the host: the sampled ids (int32), or every row of
    float32 logits where sampling happens on the host.
    """
    up = [4 * step.tokens_in, 4 * step.sequences]
    if not resident_tables:
        up.append(4 * step.pages)
    down = 4 * step.tokens_out * (vocabulary if sampling == "host" else 1)
    return (*up, down) if step.tokens_out else tuple(up)


def analytic(trace: Sequence[Sequence[int]], toll: Toll) -> float:
    """Seconds of toll for a whole trace of steps' crossings."""
    return sum(toll.of(sizes) for sizes in trace)


def emulated(
    trace: Sequence[Sequence[int]], toll: Toll, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Seconds for a trace with each copy really encrypted and decrypted through a bounce buffer, plus ``c0`` each.

    AES-256-GCM as CC mode uses, a fresh nonce for each copy. Its bandwidth is this machine's, not ``toll``'s.
    """
    cipher = AESGCM(AESGCM.generate_key(256))
    largest = max((size for sizes in trace for size in sizes), default=0)
    plain = secrets.token_bytes(largest)
    took, count = 0.0, 0
    for sizes in trace:
        for size in sizes:
            nonce = count.to_bytes(12, "big")
            began = clock()
            cipher.decrypt(nonce, cipher.encrypt(nonce, plain[:size], None), None)
            took += clock() - began
            count += 1
    return took + count * toll.fixed_s


@dataclass(frozen=True, slots=True)
class Fit:
    """One published figure beside what the model says of it; ``fitted`` where the model was set by it."""

    model: str
    quantity: str
    off: float
    on: float
    modelled_on: float
    fitted: bool

    @property
    def residual_percent(self) -> float:
        """(modelled - published) / published, in percent."""
        return 100.0 * (self.modelled_on - self.on) / self.on


def calibrate() -> tuple[float, tuple[Fit, ...]]:
    """The toll per token in seconds, set by one published cell, and every other throughput cell as a check.

    The cell is tokens/s of Llama-3.1-8B: 1 / on - 1 / off. A toll that does not depend on the model predicts the
    larger models, which were not used for setting it.
    """
    base = published.cell("Llama-3.1-8B", "TPS")
    toll = 1.0 / base.on - 1.0 / base.off
    fits = []
    for each in published.CELLS:
        if each.unit == "tokens/s":
            modelled = 1.0 / (1.0 / each.off + toll)
            fits.append(Fit(each.model, each.quantity, each.off, each.on, modelled, each is base))
    return toll, tuple(fits)
