"""How much an engine or a decoder computes, without the noise of a clock."""

from typing import Any

from enclave_runtime.engine.engine import Engine


def planned_rows(engine: Engine, *, least: int = 1) -> list[int]:
    """How many positions each step of ``engine`` computes from now on: of spans of at least ``least`` tokens, without
    guesses.
    """
    rows: list[int] = []
    plan = engine._scheduler.plan

    def counted() -> Any:
        planned = plan()
        rows.append(sum(len(span.tokens) for _, span in planned if len(span.tokens) >= least))
        return planned

    engine._scheduler.plan = counted  # type: ignore[method-assign]
    return rows


def step_rows(decoder: Any) -> list[int]:
    """How many positions each of ``decoder``'s steps computes from now on."""
    rows: list[int] = []
    step = decoder.step

    def counted(spans: Any, pool: Any) -> Any:
        rows.append(sum(len(span.tokens) for span in spans))
        return step(spans, pool)

    decoder.step = counted
    return rows
