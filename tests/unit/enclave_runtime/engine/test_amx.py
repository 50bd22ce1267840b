"""The AMX kernels: every product beside its reference, whole models beside AVX-512's, and when they are not chosen.

On a processor with AMX all of it runs on that. On others with AVX-512 each tile instruction is carried out by an
emulator written from Intel's manual (amx_emulator.c), preloaded into the processes that these tests start.
"""

import json
import sys
from pathlib import Path
from typing import Any

import gguf
import pytest
from amx_machine import AMX, AVX512, BEST, ENGINE_TESTS, SILICON, SOURCES, compiled, run

from benchmarks import decode_command
from enclave_runtime.engine.cpu import binding

KINDS = {"bf16": 0, "q8": 1, "q8 in halves": 2, "q4 with offset": 3, "q4": 4}
pytestmark = pytest.mark.skipif(BEST < AVX512, reason="the compiled decoder with AVX-512 is not there")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the programs of these tests."""
    folder = tmp_path_factory.mktemp("amx")
    compiled(folder, "amx_products", "-O1", f"-I{SOURCES}")
    compiled(folder, "amx_instructions", "-O1")
    return folder


def test_every_instruction_does_what_the_manual_says(built: Path) -> None:
    done = run(built, built / "amx_instructions")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 1000


@pytest.mark.parametrize(
    "mistake",
    [
        *("without permission", "without shapes", "too many rows", "rows without bytes", "reserved bytes"),
        *("another palette", "the same tile twice", "depths that differ", "rows that differ"),
        "after the release",
    ],
)
def test_what_the_manual_forbids_ends_the_process(built: Path, mistake: str) -> None:
    """So no kernel can rely on what the emulator would let pass."""
    assert run(built, built / "amx_instructions", "no mistake").returncode == 0
    done = run(built, built / "amx_instructions", mistake)
    assert done.returncode < 0 if SILICON else (done.returncode == 97 and "amx_emulator: " in done.stderr)


def products(built: Path, kind: int, fine: bool, inputs: int, blocks: int, rows: list[int]) -> float:
    done = run(
        built,
        built / "amx_products",
        binding.library_file(),
        *map(str, (kind, int(fine), inputs, blocks, *rows)),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["cases"] == 2 * len(rows)
    return float(found["worst"])


@pytest.mark.parametrize(
    ("inputs", "blocks", "rows"),
    [
        (32, 1, [*range(1, 65)]),
        (96, 3, [*range(1, 65)]),
        (288, 4, [1, 16, 17, 32, 33, 63, 64]),  # two runs of inputs where there are more than 32 rows
        (1056, 2, [5, 40, 64]),
    ],
)
def test_bfloat16_is_summed_in_the_manuals_order(
    built: Path, inputs: int, blocks: int, rows: list[int]
) -> None:
    """Bit for bit, with denormal numbers, and near double precision."""
    assert 0 < products(built, KINDS["bf16"], False, inputs, blocks, rows) < 1e-6


@pytest.mark.parametrize("fine", [True, False])
@pytest.mark.parametrize("kind", list(KINDS)[1:])
def test_quantised_weights_give_the_bits_of_avx512(built: Path, kind: str, fine: bool) -> None:
    products(built, KINDS[kind], fine, 32, 1, [*range(14, 65)])
    products(built, KINDS[kind], fine, 96, 3, [3, 16, 17, 31, 32, 33, 50, 63, 64])
    products(built, KINDS[kind], fine, 1056, 1, [18, 48])  # two runs of inputs


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", KINDS)
def test_every_shape_of_product(built: Path, kind: str) -> None:
    for fine in (True, False):
        for inputs in (32, 64, 96, 256, 288, 576, 1024, 1056, 2080):
            for blocks in (1, 2, 3, 8):
                products(
                    built, KINDS[kind], fine, inputs, blocks, [1, 2, 15, 16, 17, 31, 32, 33, 47, 48, 49, 64]
                )


def best_path(built: Path, mistake: str = "") -> tuple[int, str]:
    script = (
        "from enclave_runtime.engine.cpu import binding; l = binding.library(); b = l.cloister_best_path();"
        "print(b, l.cloister_path_name(b).decode())"
    )
    done = run(built, sys.executable, "-c", script, mistake=mistake)
    assert done.returncode == 0, done.stderr
    number, name = done.stdout.strip().split(" ", 1)
    return int(number), name


def test_amx_is_chosen_where_it_computes_what_it_should(built: Path) -> None:
    path, name = best_path(built)
    assert path == AMX
    assert name.startswith("amx")


@pytest.mark.skipif(SILICON, reason="this processor's AMX makes no mistakes on demand")
@pytest.mark.parametrize("mistake", ["no-permission", "wrong-bf16", "wrong-bytes", "neighbours"])
def test_amx_is_not_chosen_where_it_is_refused_or_computes_something_else(built: Path, mistake: str) -> None:
    """One output of one tile a thousandth off, an integer off by one, a row that depends on its neighbour."""
    assert best_path(built, mistake)[0] == AVX512


STEPS = {
    "bf16": gguf.GGMLQuantizationType.BF16,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
    "q4_1": gguf.GGMLQuantizationType.Q4_1,
    "q4_0": gguf.GGMLQuantizationType.Q4_0,
}


def check_steps(built: Path, model: Path, tokens: int, *neighbours: int, bf16: bool = False) -> None:
    done = run(built, sys.executable, ENGINE_TESTS / "amx_steps.py", model, *map(str, (tokens, *neighbours)))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["path"] == AMX
    for precision in ("16 bits", "8 bits"):
        part = found[precision]
        assert part["alone as in batches"], precision
        assert part["residue"] == 0
        if bf16:
            assert part["apart"] < 0.03  # sums in another order, activations rounded to bfloat16 in between
        else:
            assert part["as avx512"], precision
    if not SILICON:
        assert found["products"] > 1000
        assert found["configured"] == 0  # no thread has anything left in its tiles


@pytest.mark.parametrize("kind", STEPS)
def test_whole_models_in_every_batch(built: Path, tiny: Any, tmp_path: Path, kind: str) -> None:
    """A request has the same bits alone and in batches; with quantised weights they are AVX-512's."""
    changes = {
        "hidden_size": 96,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "intermediate_size": 352,
    }
    path = tiny.gguf(tmp_path / "m.gguf", kind=STEPS[kind], changes=changes, spread=0.1)
    check_steps(built, path, 50, 5, 37, bf16=kind == "bf16")


def test_the_bench_measures_the_rates_of_tiles(built: Path) -> None:
    """That it counts them: how fast they are, an emulator cannot say."""
    source = Path(decode_command.__file__).with_name("cpu_rates.c")
    program = compiled(built, "cpu_rates", "-O3", "-pthread", "-DTILE_PRODUCTS=400", source=source)
    with_tiles = json.loads(run(built, program, "2", "tiles").stdout)
    without = json.loads(run(built, program, "2").stdout)
    assert set(with_tiles) - set(without) == {"amx_bf16_GMAC_s", "amx_int8_GMAC_s"}
    assert all(with_tiles[rate] > 0 for rate in with_tiles)


@pytest.mark.exhaustive
def test_the_demo_model(built: Path, demo_model_path: Path) -> None:
    check_steps(built, demo_model_path, 34)


@pytest.mark.exhaustive
def test_whatever_holds_for_the_other_kernels(built: Path) -> None:
    """All that test_cpu_decoder.py asks of every instruction set the processor has."""
    done = run(
        built,
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        ENGINE_TESTS / "test_cpu_decoder.py",
    )
    assert done.returncode == 0, done.stdout
