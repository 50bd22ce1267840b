"""One run: every arm booted several times in a counterbalanced order, the same load to each.

A cycle boots every arm once and the first arm twice; cycles alternate forwards and backwards (A B A' A' B A ...), so
that drift of the machine hits the arms alike. The first arm against itself is the A/A comparison: its interval is
the noise floor, below which no cost is claimed. Arms never run at the same time.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import metrics, workload
from benchmarks.arms import Arm, Booted
from benchmarks.load import Clock, Timing, closed_loop, empty, one, open_loop
from benchmarks.recording import Boot, Load, Recorder
from benchmarks.workload import Prompt

AGAIN = "~again"
"""What the second recording of the first arm is called, after the arm's name."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is asked of each boot: ``requests`` prompts of ``profile`` with answers of ``max_tokens`` tokens.

    They are asked in a closed loop at each of ``concurrency``, and by a Poisson schedule at each of ``rates`` per
    second; ``warm_up`` requests before that are not counted, but the first gives the time to first token of a
    cold boot. With a trace, its own prompts and times replace all of that.
    """

    boots: int = 1
    profile: str = "short"
    requests: int = 8
    max_tokens: int = 32
    concurrency: tuple[int, ...] = (1,)
    rates: tuple[float, ...] = ()
    warm_up: int = 2
    empties: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        counts = (self.boots, self.requests, self.max_tokens, self.warm_up, self.empties, *self.concurrency)
        if (
            min(counts) < 1
            or not all(rate > 0 for rate in self.rates)
            or not (self.concurrency or self.rates)
        ):
            raise ValueError("a plan needs boots, requests, tokens, warm-up and a load, all positive")

    def manifest(self) -> dict[str, Any]:
        """What each boot is asked, as JSON types; recordings that differ in it are not comparable.

        The number of boots is left out: a run may be continued with more, here or on another machine.
        """
        plan = {**asdict(self), "concurrency": list(self.concurrency), "rates": list(self.rates)}
        del plan["boots"]
        return plan

    def total(self) -> int:
        """Requests that count, of one boot."""
        return self.requests * (len(self.concurrency) + len(self.rates))


@dataclass(frozen=True, slots=True)
class Turn:
    """One boot of one arm in the order of the run."""

    arm: Arm
    boot: int
    again: bool

    @property
    def recording(self) -> str:
        """The name of the folder that it is recorded in."""
        return self.arm.name + (AGAIN if self.again else "")


Progress = Callable[[Turn, str, int, int], None]


def order(arms: Sequence[Arm], boots: int) -> tuple[Turn, ...]:
    """The boots of a run. A single arm has no second recording: there is nothing to compare it with here."""
    turns: list[Turn] = []
    for boot in range(boots):
        cycle = [Turn(arm, boot, False) for arm in arms]
        if len(arms) > 1:
            cycle.append(Turn(arms[0], boot, True))
        turns += cycle if boot % 2 == 0 else cycle[::-1]
    return tuple(turns)


async def run(
    arms: Sequence[Arm],
    plan: Plan,
    out: Path,
    *,
    environment: Mapping[str, Any],
    machine: str,
    clock: Clock,
    progress: Progress = lambda *_: None,
    trace: tuple[Sequence[Prompt], Sequence[float]] | None = None,
) -> None:
    """Run what is not recorded under ``out`` yet. Raises LoadError, ClientError, RecordingError at the first fault."""
    manifest = plan.manifest() | ({"trace": [prompt.digest for prompt in trace[0]]} if trace else {})
    recorders: dict[str, Recorder] = {}
    for turn in order(arms, plan.boots):
        name = turn.recording
        if name not in recorders:
            recorders[name] = Recorder(out / name, name, manifest)
        if recorders[name].done(turn.boot):
            continue
        async with turn.arm.boot() as booted:
            components, loads = await _measure(booted, plan, turn, clock, progress, trace)
        boot = Boot(turn.boot, machine, components, booted.facts)
        await asyncio.to_thread(recorders[name].write, environment, boot, loads)


async def _measure(
    booted: Booted,
    plan: Plan,
    turn: Turn,
    clock: Clock,
    progress: Progress,
    trace: tuple[Sequence[Prompt], Sequence[float]] | None,
) -> tuple[dict[str, float], list[Load]]:
    # The same prompts for every boot number whatever the arm, others for every boot.
    asked = workload.prompts(
        plan.profile,
        plan.requests + plan.warm_up,
        max_tokens=plan.max_tokens,
        seed=plan.seed * 1009 + turn.boot,
    )
    warm, prompts = asked[: plan.warm_up], asked[plan.warm_up :]
    warmed = [await one(booted.client, slot, prompt, booted.model, clock) for slot, prompt in enumerate(warm)]
    components = {**booted.components, metrics.FIRST_TOKEN.name: metrics.ttft(warmed[0])}
    times = sorted([await empty(booted.client, clock) for _ in range(plan.empties)])
    components[metrics.EMPTY.name] = times[len(times) // 2]
    total, loads, count = (len(trace[0]) if trace else plan.total()), list[Load](), 0

    def answered(_: Timing) -> None:
        nonlocal count
        count += 1
        progress(turn, name, count, total)

    if trace:
        name = "trace"
        timings = await open_loop(
            booted.client, trace[0], trace[1], model=booted.model, clock=clock, answered=answered
        )
        return components, [Load(turn.boot, name, timings)]
    for lanes in plan.concurrency:
        name = f"closed-{lanes}"
        timings = await closed_loop(
            booted.client, prompts, concurrency=lanes, model=booted.model, clock=clock, answered=answered
        )
        loads.append(Load(turn.boot, name, timings))
    for rate in plan.rates:
        name = f"open-{rate:g}"
        schedule = workload.poisson(len(prompts), rate, plan.seed + turn.boot)
        timings = await open_loop(
            booted.client, prompts, schedule, model=booted.model, clock=clock, answered=answered
        )
        loads.append(Load(turn.boot, name, timings))
    return components, loads
