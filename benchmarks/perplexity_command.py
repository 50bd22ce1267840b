"""``cloister bench perplexity``: what each weight format and precision of activations costs in exactness."""

import hashlib
import json
import os
import subprocess
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

OK, USAGE_OR_IO, NOT_AVAILABLE = range(3)
HELP = """Measure the perplexity of weight formats on one text, beside llama.cpp's on the same tokens and windows.

Columns: our decoder with 16-bit activations (a node's default), with 8-bit ones, the same weights in float32, and
llama.cpp. The text is Python's language reference unless --text names another; the second half of each window counts.
With --llama-python (an environment with llama-cpp-python) and --formats, the model is first written in those formats
by llama.cpp's quantiser; where a matrix's rows do not fill blocks of 256, it takes another format for that matrix.
"""
CHARACTERS = 16
"""Of text for each token that is wanted: more than any tokenizer's average."""
_errors = Console(stderr=True, soft_wrap=True)
_PEER = Path(__file__).with_name("llama_perplexity.py")


class PeerFailed(Exception):
    """llama.cpp did not do what was asked."""


def perplexity(
    model: Annotated[list[Path], typer.Option(help="GGUF files or folders of models; may be repeated.")],
    formats: Annotated[str, typer.Option(help="Also these of the first: F16,BF16,Q8_0,Q6_K,Q4_1, …")] = "",
    text: Annotated[Path | None, typer.Option(help="A text file (UTF-8).")] = None,
    windows: Annotated[int, typer.Option(min=1, max=64, help="Windows of the text.")] = 8,
    length: Annotated[int, typer.Option(min=4, max=8192, help="Tokens of a window.")] = 512,
    threads: Annotated[int, typer.Option(min=1, max=256, help="Threads of each arm.")] = 2,
    exact: Annotated[bool, typer.Option(help="Also compute the same weights in float32 (slow).")] = True,
    llama_python: Annotated[Path | None, typer.Option(help="The Python with llama-cpp-python.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the run as JSON.")] = False,
) -> int:
    """See ``cloister bench perplexity --help``."""
    from benchmarks.perplexity import standard_text  # torch, which the command line must not need
    from enclave_runtime.engine.errors import ModelError, UnsupportedModel

    names = [name for name in formats.upper().split(",") if name]
    if names and llama_python is None:
        _errors.print("error: --formats needs --llama-python: llama.cpp's quantiser writes the files")
        return USAGE_OR_IO
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder, Progress(console=_errors, transient=True) as bars:
        task = bars.add_task("models", total=len(model) + len(names))
        try:
            words = standard_text() if text is None else text.read_text("utf-8")
            places = {path.stem if path.is_file() else path.name: path for path in model}
            for name in names:
                assert llama_python is not None
                places[name] = Path(folder) / f"{name}.gguf"
                _peer(llama_python, "quantise", str(model[0]), str(places[name]), name)
            for name, path in places.items():
                bars.update(task, description=name)
                try:
                    rows[name] = _measure(path, words, windows, length, threads, exact, llama_python)
                except UnsupportedModel as error:
                    rows[name] = {"refused": str(error)}
                bars.advance(task)
                if name in names:
                    path.unlink()
        except (OSError, ValueError, ModelError, PeerFailed) as error:
            _errors.print(f"error: {error}", style="red", markup=False, highlight=False)
            return USAGE_OR_IO
    run = {
        "text_sha256": hashlib.sha256(words.encode()).hexdigest(),
        "windows": windows,
        "length": length,
        "models": rows,
    }
    if as_json:
        print(json.dumps(run, indent=1))
    else:
        _show(run)
    return OK


def _measure(
    path: Path, words: str, windows: int, length: int, threads: int, exact: bool, llama_python: Path | None
) -> dict[str, Any]:
    from benchmarks.perplexity import cut, summary, surprises
    from enclave_runtime.engine.cpu.decoder import CpuDecoder
    from enclave_runtime.engine.model import load_model

    found: dict[str, list[float]] = {}
    loaded = load_model(path)
    pieces = cut(loaded.tokenizer.encode(words[: windows * length * CHARACTERS]), windows, length)
    decoder = loaded.decoder
    row: dict[str, Any] = {}
    if isinstance(decoder, CpuDecoder):
        row["kernels"] = decoder.path_name
        found["ours"] = surprises(decoder, pieces, threads)
        decoder.fine = False
        found["ours, 8-bit activations"] = surprises(decoder, pieces, threads)
    del loaded, decoder
    if exact:
        found["float32"] = surprises(load_model(path, "torch").decoder, pieces, threads)
    if llama_python is not None:
        answer = _peer(llama_python, "score", str(path), str(threads), given=json.dumps(pieces))
        found["llama.cpp"] = json.loads(answer)
    for arm, values in found.items():
        result = summary(values)
        row[arm] = {"perplexity": result.value, **asdict(result)}
    return row


def _peer(python: Path, *arguments: str, given: str = "") -> str:
    done = subprocess.run(
        [str(python), str(_PEER), *arguments],
        input=given,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_WAIT_POLICY": "passive"},  # threads that spin are slow beside other work
    )
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise PeerFailed(f"llama.cpp: {arguments[0]} failed: {said[-1] if said else done.returncode}")
    return done.stdout


def _show(run: dict[str, Any]) -> None:
    arms = ("float32", "ours", "ours, 8-bit activations", "llama.cpp")
    table = Table("perplexity", *arms, "±", title=f"{run['windows']} windows of {run['length']} tokens")
    for name, row in run["models"].items():
        if "refused" in row:
            table.add_row(name, row["refused"])
            continue
        cells = [f"{row[arm]['perplexity']:.4f}" if arm in row else "–" for arm in arms]
        first = next(row[arm] for arm in arms if arm in row)
        table.add_row(name, *cells, f"{first['perplexity'] * first['error']:.2f}")
    Console().print(table)
