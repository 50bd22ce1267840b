"""No import runs upward: which room may use which, and what the ground floor must not pull in."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent.parent

# Room -> the rooms it may import besides itself.
MAY_IMPORT: dict[str, set[str]] = {
    "attestation": set(),
    "ohttp": set(),
    "measurements": set(),
    "client_sdk": {"attestation", "ohttp", "measurements"},
    "enclave_runtime": {"attestation", "ohttp", "measurements"},
    "images": {"measurements"},
    "benchmarks": {"client_sdk"},
}

# Files that are the door of another floor, each with its reason.
EXCEPTIONS: dict[str, set[str]] = {
    # Copied into the image; it runs there as the node's first code and is never imported outside.
    "images/guest/start.py": {"enclave_runtime"},
    # The plain arm of a comparison serves the node's own inner application without its protection.
    "benchmarks/plain_node.py": {"enclave_runtime"},
    # Records what the engine's steps would move between host and device.
    "benchmarks/crossing_trace.py": {"enclave_runtime"},
    # An engine with and without a lease.
    "benchmarks/leases.py": {"enclave_runtime"},
    # Decoders by themselves: how well they predict a text, and what it costs to overwrite their pages.
    "benchmarks/perplexity.py": {"enclave_runtime"},
    "benchmarks/perplexity_command.py": {"enclave_runtime"},
    "benchmarks/zero_on_free.py": {"enclave_runtime"},
    # Engines with and without guesses, and a draft that is cut out of a model.
    "benchmarks/speculation.py": {"enclave_runtime"},
    # The decoder by itself, and a model for it to compute.
    "benchmarks/decode_arms.py": {"enclave_runtime"},
    "benchmarks/random_model.py": {"enclave_runtime"},
    # Times the sealing of one request by itself.
    "benchmarks/arms.py": {"ohttp"},
    # An engine with some of a node's defences in force, and the rest without.
    "benchmarks/defence_arm.py": {"enclave_runtime", "ohttp"},
    # Measures the verifier by itself, below the client.
    "benchmarks/cpu_evidence.py": {"attestation"},
    "benchmarks/gpu_evidence.py": {"attestation"},
    # Measures ohttp's own pieces beside their limits and other packages.
    "benchmarks/blind_tokens.py": {"ohttp"},
    "benchmarks/canary_gateway.py": {"ohttp"},
    "benchmarks/many_streams.py": {"ohttp"},
    # What an observer sees is framed by the node's own code and encrypted by its own gateway.
    "benchmarks/recorded_traffic.py": {"enclave_runtime", "ohttp"},
    "benchmarks/traffic_analysis.py": {"ohttp"},
    "benchmarks/wire_traffic.py": {"ohttp"},
    # Measures the log and the client's check of it, below the client.
    "benchmarks/transparency.py": {"measurements"},
    "benchmarks/simulated_year.py": {"measurements"},
    "benchmarks/sigstore_path.py": {"measurements"},
    # Measure the library by itself, below the client.
    "benchmarks/ohttp_peers.py": {"ohttp"},
    "benchmarks/ohttp_gateway.py": {"ohttp"},
    "benchmarks/ohttp_floor.py": {"ohttp"},
    "benchmarks/ohttp_memory.py": {"ohttp"},
}

GROUND_FLOOR = ("attestation", "ohttp", "measurements")
HEAVY = {"torch", "numpy", "fastapi", "starlette", "uvicorn", "transformers", "httpx", "httpx2", "requests"}
FORBIDDEN_AT_IMPORT = {"torch", "fastapi", "uvicorn", "starlette"}


def modules() -> list[Path]:
    return sorted(path for room in MAY_IMPORT for path in (REPOSITORY / room).rglob("*.py"))


def imported(tree: ast.AST, package: str) -> Iterator[tuple[str, int]]:
    """Every absolute module name that code imports, wherever in it, with the line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base]).rstrip(".")
            yield base, node.lineno
            if not node.module and not node.level:
                yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args:
            # importlib.import_module("x"), __import__("x")
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            first = node.args[0]
            is_import = name in ("import_module", "__import__", "run_module")
            if is_import and isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield first.value, node.lineno


def at_import(tree: ast.Module, package: str) -> Iterator[tuple[str, int]]:
    """Only what runs when the module is imported: not in functions, not under TYPE_CHECKING."""
    pending: list[ast.stmt] = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            pending.extend(node.orelse)
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from imported(node, package)
        pending.extend(child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt))


def package_of(path: Path) -> str:
    return ".".join(path.relative_to(REPOSITORY).parent.parts)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_no_import_runs_upward(path: Path) -> None:
    relative = path.relative_to(REPOSITORY).as_posix()
    room = relative.partition("/")[0]
    allowed = {room} | MAY_IMPORT[room] | EXCEPTIONS.get(relative, set())
    tree = ast.parse(path.read_bytes())
    wrong = [
        f"{relative}:{line} imports {name}"
        for name, line in imported(tree, package_of(path))
        if (top := name.partition(".")[0]) in MAY_IMPORT and top not in allowed
    ]
    assert wrong == []


@pytest.mark.parametrize("room", GROUND_FLOOR)
def test_the_ground_floor_names_nothing_heavy_at_import(room: str) -> None:
    wrong = []
    for path in sorted((REPOSITORY / room).rglob("*.py")):
        tree = ast.parse(path.read_bytes())
        for name, line in at_import(tree, package_of(path)):
            if name.partition(".")[0] in HEAVY:
                wrong.append(f"{path.relative_to(REPOSITORY)}:{line} imports {name}")
    assert wrong == []


@pytest.mark.parametrize("room", [*GROUND_FLOOR, "client_sdk"])
def test_importing_every_module_of_a_room_pulls_in_no_engine_and_no_web_framework(room: str) -> None:
    names = [
        ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted((REPOSITORY / room).rglob("*.py"))
        if path.name != "__main__.py"
    ]
    program = (
        "import importlib, json, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        f"print(json.dumps(sorted({FORBIDDEN_AT_IMPORT!r} & sys.modules.keys())))"
    )
    command = [sys.executable, "-I", "-B", "-c", program]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == []


def test_the_check_sees_every_way_to_import() -> None:
    source = """
import torch.nn
from enclave_runtime import boot
from .sibling import x
from .. import y
def later():
    import fastapi
    from client_sdk.verify import z
    importlib.import_module("benchmarks.load")
"""
    found = {name for name, _ in imported(ast.parse(source), "room.inner")}
    expected = {"torch.nn", "enclave_runtime", "room.inner.sibling", "room", "fastapi", "client_sdk.verify"}
    assert found == expected | {"benchmarks.load"}
    assert {name for name, _ in at_import(ast.parse(source), "room.inner")} == {
        "torch.nn",
        "enclave_runtime",
        "room.inner.sibling",
        "room",
    }


def test_every_exception_is_still_needed() -> None:
    for relative, rooms in EXCEPTIONS.items():
        path = REPOSITORY / relative
        assert path.is_file(), relative
        used = {
            name.partition(".")[0] for name, _ in imported(ast.parse(path.read_bytes()), package_of(path))
        }
        assert rooms <= used, relative
