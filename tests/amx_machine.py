"""A machine with AMX for tests: this one where it has it, else one on which amx_emulator.c carries instructions out."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from enclave_runtime.engine.cpu import binding

AVX512, AMX = binding.PATH_AVX512, binding.PATH_AMX
LIBRARY = binding.library()
BEST = LIBRARY.cloister_best_path() if LIBRARY is not None else binding.PATH_PORTABLE
SILICON = BEST == AMX
ENGINE_TESTS = Path(__file__).resolve().parent / "unit" / "enclave_runtime" / "engine"
SOURCES = Path(binding.__file__).resolve().parent


def compiled(folder: Path, name: str, *options: str, source: Path | None = None) -> Path:
    """``name``.c of the engine's tests, or ``source``, built into ``folder``; skips the test where no compiler is."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler for the emulator of AMX and its test programs")
    program = folder / name
    file = source or ENGINE_TESTS / f"{name}.c"
    command = [compiler, *options, "-ffp-contract=off", str(file), "-o", str(program), "-lm", "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return program


def environment(folder: Path, mistake: str = "") -> dict[str, str]:
    """What a process needs in its environment to run where there is AMX; the emulator can be told to err."""
    if SILICON:
        return {}
    if BEST < AVX512:
        pytest.skip("the emulator of AMX stands beside AVX-512 with VNNI and BF16, which is not here")
    emulator = folder / "amx_emulator"
    if not emulator.exists():
        compiled(folder, "amx_emulator", "-O3", "-march=native", "-shared", "-fPIC")
    return {"LD_PRELOAD": str(emulator), "AMX_EMULATOR": mistake}


def run(folder: Path, *command: str | Path, mistake: str = "") -> subprocess.CompletedProcess[str]:
    """A program run where there is AMX."""
    where = {**os.environ, **environment(folder, mistake)}
    return subprocess.run([*map(str, command)], env=where, capture_output=True, text=True, check=False)
