"""The toll model, the published study, and the label that neither can lose."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import published, toll
from benchmarks.provenance import Column, Provenance, ProvenanceMixed, Quantity, markdown
from benchmarks.toll import Step, Toll, analytic, crossings, emulated

STEP = Step(sequences=8, tokens_in=8, pages=80, tokens_out=8)


def test_crossings_are_what_a_step_would_move() -> None:
    lean = crossings(STEP, vocabulary=1000, sampling="device", resident_tables=True)
    assert lean == (32, 32, 32)
    wide = crossings(STEP, vocabulary=1000, sampling="host", resident_tables=False)
    assert wide == (32, 32, 320, 32_000)
    chunk_of_a_prompt = Step(1, 256, 16, 0)
    assert crossings(chunk_of_a_prompt, vocabulary=1000, sampling="device", resident_tables=True) == (1024, 4)


def test_the_analytic_toll_is_serial() -> None:
    assert analytic([(1000, 3000)] * 10, Toll(1e-6, 1e9)) == pytest.approx(10 * (2e-6 + 4000 / 1e9))
    with pytest.raises(ValueError, match="toll"):
        Toll(-1.0, 1e9)


def test_the_emulated_toll_encrypts_for_real_and_adds_the_fixed_part() -> None:
    small, large = [(64,)] * 20, [(1 << 20,)] * 20
    assert emulated(small, Toll(0.5, 1e9)) > 10.0
    assert emulated(large, Toll(0.0, 1e9)) > emulated(small, Toll(0.0, 1e9))


def test_the_calibration_predicts_rows_that_did_not_set_it() -> None:
    per_token, fits = toll.calibrate()
    assert per_token == pytest.approx(0.000555, rel=0.01)
    assert [fit.fitted for fit in fits].count(True) == 1
    assert next(fit.residual_percent for fit in fits if fit.fitted) == pytest.approx(0.0, abs=1e-9)
    checks = [abs(fit.residual_percent) for fit in fits if not fit.fitted]
    assert len(checks) >= 4
    assert max(checks) < 1.0


def test_the_studys_overheads_follow_from_its_own_figures() -> None:
    for cell in published.CELLS:
        assert cell.overhead_percent == pytest.approx(cell.printed_percent, abs=0.1), cell
    assert published.answer_tokens("Llama-3.1-8B") == pytest.approx((205.8, 206.4), abs=0.1)
    assert published.concurrency("Llama-3.1-70B") == pytest.approx(79, abs=1)


def test_what_does_not_fit_together_is_listed() -> None:
    found = "\n".join(published.inconsistencies())
    assert "Phi3-14B-128k TTFT: printed 18.02 %, its own figures give 17.93 %" in found
    assert "no time between tokens" in found
    assert "Little's law" in found
    with pytest.raises(LookupError):
        published.cell("Phi3-14B-128k", "TPS long")


KINDS = st.sampled_from(list(Provenance))


@given(KINDS, st.lists(KINDS, min_size=1, max_size=4))
def test_a_column_never_mixes_provenance(kind: Provenance, cells: list[Provenance]) -> None:
    quantities = tuple(Quantity("1", each) for each in cells)
    if set(cells) == {kind}:
        assert kind.value in Column("x", kind, quantities).heading
    else:
        with pytest.raises(ProvenanceMixed):
            Column("x", kind, quantities)


def test_a_table_shows_every_columns_provenance() -> None:
    column = Column("overhead", Provenance.MODELLED, (Quantity("3 %", Provenance.MODELLED), None))
    text = markdown(["a", "b"], [column])
    assert "overhead (modelled)" in text
    assert "| b | – |" in text
    with pytest.raises(ValueError, match="cell for every row"):
        markdown(["a"], [column])
