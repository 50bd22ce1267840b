"""The decoder for GPUs without a GPU: its kernels interpreted, its calls followed down to C."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from enclave_runtime.engine.cuda.cublaslt import open_library
from enclave_runtime.engine.cuda.driver import CudaError
from enclave_runtime.engine.model import load_model

TESTS = Path(__file__).parents[3]


def ran(*command: str) -> Any:
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


def held(found: dict[str, float]) -> None:
    """Every number is an error that has to be 0, but for distances from float32: weights are float16 in both, and
    activations have 11 bits of precision.
    """
    distances = {name: value for name, value in found.items() if name.endswith(".error")}
    assert {name: value for name, value in found.items() if name not in distances and value} == {}
    assert all(0.0 < value < 0.005 for value in distances.values()), distances


def test_logits_are_those_of_float32_and_nothing_is_left_on_the_device(tiny_folder: Path) -> None:
    pytest.importorskip("triton")
    works = ("llama", "cublaslt", "int8", "pages")
    held(ran(str(TESTS / "interpreted_device.py"), str(tiny_folder), *works))


@pytest.mark.exhaustive
def test_tokens_drawn_on_the_device_are_the_hosts_and_cross_once_for_eight_steps(tiny_folder: Path) -> None:
    pytest.importorskip("triton")
    held(ran(str(TESTS / "interpreted_device.py"), str(tiny_folder), "draws"))


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "work",
    [
        *("tied", "qwen2", "qwen3", "batches", "engine"),
        *("fp8", "int8 rows", "fp8 rows", "int8 batches", "fp8 batches"),
    ],
)
def test_every_family_any_batch_and_the_whole_engine(tiny_folder: Path, work: str) -> None:
    pytest.importorskip("triton")
    held(ran(str(TESTS / "interpreted_device.py"), str(tiny_folder), work))


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the real binding asks of a driver whose functions have the real prototypes."""
    triton = pytest.importorskip("triton")
    include = Path(triton.__file__).parent / "backends" / "nvidia" / "include"
    compiler = shutil.which("cc")
    if compiler is None or not (include / "cuda.h").is_file():
        pytest.skip("no C compiler, or triton came without cuda.h")
    folder = tmp_path_factory.mktemp("stub")
    library = folder / "libstub.so"
    command = [compiler, "-Wall", "-Werror", "-shared", "-fPIC", f"-I{include}", "-o", str(library)]
    subprocess.run([*command, str(TESTS / "stub_libcuda.c")], check=True, capture_output=True)
    (folder / "kernels").mkdir()
    found: dict[str, Any] = ran(str(TESTS / "stub_device.py"), str(library), str(folder / "kernels"))
    found["kernels.json"] = hashlib.sha256((folder / "kernels" / "kernels.json").read_bytes()).hexdigest()
    return found


def names(lines: list[str]) -> list[str]:
    return [" ".join(line.split()[: 2 if line.startswith("captured") else 1]) for line in lines]


def test_every_size_of_batch_is_recorded_before_the_first_step(asked: dict[str, Any]) -> None:
    start = asked["start"]
    assert [start.count(line) for line in ("begin 1", "end", "instantiate 0", "destroy")] == [14] * 4
    first = start[start.index("begin 1") : start.index("end") + 1]
    layer = ["add_rms_norm", "weights_times_row_plain", "rotate_and_append", "decode_split", "decode_join"]
    layer += ["weights_times_row_plain", "add_rms_norm", "gate_up_swiglu_plain", "weights_times_row_plain"]
    kernels = [line.split()[2] for line in first if line.startswith("captured launch")]
    assert kernels == ["embed", *layer, *layer, "add_rms_norm", "weights_times_row_logits"]
    assert names(first[-2:]) == ["captured zero", "end"]
    assert not [line for line in first if line.startswith(("launch", "up", "down", "alloc", "zero", "wait"))]


def test_products_of_many_rows_are_cublaslts_and_chosen_before_the_first_step(asked: dict[str, Any]) -> None:
    chosen = [line for line in asked["start"] if line.startswith("heuristic")]
    # rows, inputs, outputs; bf16 twice, and float32 out for the head
    assert "heuristic 64 64 300 kinds 14 14 0" in chosen
    assert "heuristic 64 96 64 kinds 14 14 14" in chosen
    assert "heuristic 4 64 128 kinds 14 14 14" in chosen
    assert not [line for line in chosen if line.startswith("heuristic 2 ")]
    assert [line for line in asked["prompt"] if line.startswith("product")] == [
        *("product 64 64 128", "product 64 64 64", "product 64 64 192", "product 64 96 64"),
        *("product 64 64 128", "product 64 64 64", "product 64 64 192", "product 64 96 64"),
    ]


def test_a_step_takes_no_memory_and_sends_up_only_what_is_new(asked: dict[str, Any]) -> None:
    for part in ("prompt", "draw", "draw again", "step", "release"):
        assert not [
            line for line in asked[part] if line.startswith(("alloc", "pinned", "begin", "heuristic", "load"))
        ]
    assert names(asked["prompt"]).count("up") == names(asked["prompt"]).count("down") == 1
    # Another thread than before makes the context its own, once.
    drawn = ["up", "zero", *["graph"] * 8, "down", "wait", "zero", "wait"]
    assert names(asked["draw"]) == ["current", *drawn]
    # An unchanged batch: four more tokens for two requests cost one copy of 1,024 bytes.
    assert names(asked["draw again"]) == ["zero", *["graph"] * 4, "down", "wait", "zero", "wait"]
    assert "down 1024" in asked["draw again"]
    assert names(asked["step"]) == ["up", "graph", "down", "wait", "zero", "wait"]
    assert asked["logits"] == [[1, 300], 0.0]


def test_more_rows_than_the_largest_graph_and_prompts_longer_than_a_chunk_run_in_turn(
    asked: dict[str, Any],
) -> None:
    assert asked["crowd"] == [70, 300]
    graphs = [line for line in asked["many rows"] if line.startswith("graph")]
    assert graphs == ["graph 13", "graph 7"]  # 64 rows, then 6 in the graph of 8
    lengths = [line for line in asked["many rows"] if line.startswith("down")]
    assert lengths == [f"down {64 * 1200}", f"down {6 * 1200}"]
    prompts = [line.split()[2:5] for line in asked["long prompt"] if line.startswith("launch prefill")]
    assert prompts == [["1", "4", "1"]] * 4  # two chunks of 64 in two layers
    assert names(asked["long prompt"]).count("down") == 1


def test_pages_are_zeroed_on_the_device_when_they_are_given_back(asked: dict[str, Any]) -> None:
    # Four pages that follow one another in each of two layers' keys and values, then tokens and tables.
    assert asked["copy"] == ["copy 1024"] * 4
    assert asked["release"] == ["zero 4096"] * 4 + [asked["release"][-1]]


def test_the_runtime_manifest_names_the_kernels(asked: dict[str, Any]) -> None:
    assert asked["manifest"] == {"decoder": "cuda", "path": "sm_90", "digest": asked["kernels.json"]}


def test_a_model_on_a_gpu_where_there_is_none_ends_by_name(tiny_folder: Path) -> None:
    with pytest.raises(CudaError) as refused:
        load_model(tiny_folder, "cuda")
    assert refused.value.code == "no_driver"
    with pytest.raises(CudaError) as missing:
        open_library(("libcublasLt-that-is-not-there.so",))
    assert missing.value.code == "no_cublaslt"
