"""What a Sigstore bundle costs a client: ``python -m benchmarks.sigstore_path --vectors DIR [--json] [--rounds N]``.

DIR holds the transparency vectors (mini-sigstore, peers, trusted-roots). Each good bundle is verified from its bytes by
two arms in turn, so that noise hits both: the strict check, and the ``sigstore`` package's own verifier with its root
already loaded, which the strict check includes. Also measured: loading a root, and what the first bundle pays in
imports.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from rich.console import Console

from measurements.sigstore.identity import IdentityRule
from measurements.sigstore.root import TrustedRoot
from measurements.sigstore.verify import verify_statement

from .environment import cpu_name
from .statistics import median, quantile

AT: Final = datetime(2030, 1, 1, tzinfo=UTC)
FOLDERS: Final = ("mini-sigstore", "peers")
BAR_MS: Final = 5.0
"""What is wanted at the median; the run says how near it came and fails nobody."""

_IMPORT: Final = "from time import perf_counter as t; s = t(); " + (
    "import measurements.sigstore.verify; print((t() - s) * 1000)"
)


def good_bundles(vectors: Path) -> list[dict[str, Any]]:
    """The cases to accept, each with its bytes and what it must be signed by."""
    found = []
    for folder in FOLDERS:
        for case in json.loads((vectors / folder / "manifest.json").read_text()):
            if case["expect"] == "accept":
                found.append(
                    {
                        "name": case["name"],
                        "bundle": (vectors / case["bundle"]).read_bytes(),
                        "root": (vectors / case["trusted_root"]).read_bytes(),
                        "rule": IdentityRule(issuer=case["issuer"], subject=case["identity"]),
                    }
                )
    return found


def arms(case: dict[str, Any]) -> dict[str, Callable[[], object]]:
    """The ways to verify one bundle, roots loaded."""
    from sigstore.models import Bundle
    from sigstore.models import TrustedRoot as LibraryRoot
    from sigstore.verify import Verifier
    from sigstore.verify.policy import Identity

    root = TrustedRoot.parse(case["root"])
    verifier = Verifier(trusted_root=LibraryRoot(root.model))
    identity = Identity(identity=case["rule"].subject, issuer=case["rule"].issuer)
    text = case["bundle"].decode()
    return {
        "strict": lambda: verify_statement(case["bundle"], root=root, signer=case["rule"], at=AT),
        "library": lambda: verifier.verify_dsse(Bundle.from_json(text), identity),
    }


def timed(work: Callable[[], object]) -> float:
    """Milliseconds of one call."""
    start = perf_counter()
    work()
    return (perf_counter() - start) * 1000


def measure(vectors: Path, rounds: int, *, interpreters: int = 5) -> dict[str, Any]:
    """Every figure of one run; ``interpreters`` are started to see what the first bundle pays in imports."""
    cases = []
    for case in good_bundles(vectors):
        ways = arms(case)
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(rounds + 10):
            for name, work in ways.items():
                spent = timed(work)
                if number >= 10:
                    taken[name].append(spent)
        cases.append(
            {
                "name": case["name"],
                "bytes": len(case["bundle"]),
                **{
                    f"{name}_{label}_ms": round(value, 3)
                    for name, times in taken.items()
                    for label, value in (
                        ("p50", median(times)),
                        ("p95", quantile(times, 0.95)),
                        ("min", min(times)),
                    )
                },
                "ratio": round(median(taken["strict"]) / median(taken["library"]), 2),
            }
        )
    imports = [
        float(subprocess.run([sys.executable, "-c", _IMPORT], capture_output=True, check=True).stdout)
        for _ in range(interpreters)
    ]
    root = good_bundles(vectors)[0]["root"]
    loads = [timed(lambda n=n: TrustedRoot.parse(root + b" " * n)) for n in range(1, 21)]  # type: ignore[misc]
    return {
        "cpu": cpu_name(),
        "bar_ms": BAR_MS,
        "cases": cases,
        "worst_p50_ms": max(case["strict_p50_ms"] for case in cases),
        "first_use_import_ms": round(median(imports), 1) if imports else None,
        "root_load_ms": round(median(loads), 3),
    }


def main() -> None:
    """Run, and print a table or JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sigstore_path", description=__doc__)
    parser.add_argument("--vectors", type=Path, required=True, help="the folder of the transparency vectors")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = measure(options.vectors, options.rounds)
    if options.json:
        print(json.dumps(result, indent=2))
        return
    console = Console(highlight=False)
    console.print(f"{result['cpu']}; strict check beside the library alone, medians of {options.rounds}, ms")
    for case in result["cases"]:
        console.print(
            f"{case['name']:<32} {case['strict_p50_ms']:>7.2f} {case['library_p50_ms']:>7.2f}  × {case['ratio']}"
        )
    console.print(f"worst median {result['worst_p50_ms']} ms, wanted ≤ {BAR_MS} ms")
    console.print(
        f"first use imports {result['first_use_import_ms']} ms; a root is loaded in {result['root_load_ms']} ms"
    )


if __name__ == "__main__":
    main()
