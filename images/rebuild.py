"""Building an image a second time under other circumstances, and naming the first path in which the two differ.

The second build runs in a process of its own: in a folder with a longer name, as another user where this one may
choose and that one may read the inputs, with another file mode mask, time zone, language, hash seed and order of
inputs. It compiles all bytecode again.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from images import vm_manifest
from images.census import mismatch
from images.errors import ImageError
from images.input_store import InputStore
from images.vm_manifest import VmManifest

_NOBODY: dict[str, Any] = {"user": 65534, "group": 65534, "extra_groups": []}
_PROGRAM = "from images.rebuild import second_build; second_build()"

_PROBE = """
import os, sys
import images.vm_image
sys.exit(any(not os.access(path, os.R_OK) for path in sys.argv[1:]))
"""

Progress = Callable[[str, int, int], None]


def compare(
    described: VmManifest,
    recipe: str,
    store: InputStore,
    model: Path | None,
    progress: Progress,
) -> tuple[str, ...]:
    """The artifacts that a second build made equal, by name.

    ``recipe`` is its name or its file. Without ``model`` its volume is not built again: a stand-in takes its place,
    and what depends on the volume's hashes is left out of the comparison. Raises ImageMismatch naming the first
    difference, ImageError.
    """
    policy = described.policy
    identity = next(volume["identity"] for volume in policy["volumes"] if volume["name"] == "model")
    with tempfile.TemporaryDirectory(prefix="cloister-rebuilt-in-another-place-") as scratch:
        folder = Path(scratch)
        folder.chmod(0o777)
        stand_in = folder / Path(policy["model"]).name
        if model is None:
            draft = json.loads(policy["node"]).get("draft", {}).get("name")
            for name in filter(None, (stand_in.name, draft)):
                (folder / name).write_bytes(b"stand-in")
        jobs = {
            "recipe": str(Path(recipe).resolve()) if recipe.endswith(".toml") else recipe,
            "store": str(store.folder.resolve()),
            "model": str((model or stand_in).resolve()),
            "identity": identity,
            "config": policy["node"],
            "out": str(folder / "image"),
        }
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "TZ": "Pacific/Kiritimati",
            "LC_ALL": "C",
            "PYTHONHASHSEED": "4711",
            "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
            "HOME": scratch,
        }
        readable = [store.folder.resolve(), Path(jobs["model"])]
        nobody = _NOBODY if os.geteuid() == 0 and _may_read(readable, environment) else {}
        process = subprocess.Popen(
            [sys.executable, "-B", "-c", _PROGRAM, json.dumps(jobs)],
            cwd=scratch,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            umask=0o077,
            **nobody,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            step, done, total = json.loads(line)
            progress(f"again: {step}", done, total)
        words = process.stderr.read().strip().splitlines()
        if process.wait():
            raise ImageError("rebuild_failed", words[-1] if words else "the second build failed")
        return _equal(described, vm_manifest.read(folder / "image"), with_model=model is not None)


def second_build() -> None:
    """The program of the second build: one JSON argument, progress as JSON lines."""
    from images import vm_image

    job = json.loads(sys.argv[1])
    chosen, locked = vm_image.load(job["recipe"])
    # The other way round, to show that no order of inputs matters.
    turned = type(locked)(locked.recipe, locked.debs[::-1], locked.wheels[::-1])
    given = vm_image.VmInputs(Path(job["model"]), job["identity"], job["config"].encode())
    store = InputStore(Path(job["store"]), {})
    last = ""

    def report(step: str, done: int, total: int) -> None:
        nonlocal last
        if step != last or done == total:
            last = step
            print(json.dumps([step, done, total]), flush=True)

    vm_image.build(chosen, turned, store, given, Path(job["out"]), report)


def _may_read(paths: list[Path], environment: dict[str, str]) -> bool:
    """Whether the user nobody can run this program here and read these paths."""
    words = [sys.executable, "-B", "-c", _PROBE, *map(str, paths)]
    try:
        return (
            subprocess.run(words, env=environment, capture_output=True, check=False, **_NOBODY).returncode
            == 0
        )
    except OSError:
        return False


def _equal(first: VmManifest, second: VmManifest, *, with_model: bool) -> tuple[str, ...]:
    """The names compared. Inner files first, since they say more than the volume that holds them."""
    volumes = ("root:", "initrd:", "model:") if with_model else ("root:", "initrd:")
    ours = {file.path: file for file in first.files if file.path.startswith(volumes)}
    theirs = {file.path: file for file in second.files if file.path.startswith(volumes)}
    for path in sorted(ours.keys() | theirs.keys(), key=str.encode):
        one, other = ours.get(path), theirs.get(path)
        if one is None or other is None:
            which = "second" if one is None else "first"
            raise mismatch("rebuild_differs", f"only the {which} build has this path", path)
        if one.sha256 != other.sha256 or one.size != other.size:
            detail = f"its content differs; it comes from {one.package}"
            raise mismatch("rebuild_differs", detail, path, one.sha256, other.sha256)
        if one.mode != other.mode:
            raise mismatch("rebuild_differs", "its mode differs", path, f"{one.mode:o}", f"{other.mode:o}")
    bound = set() if with_model else {"model.img", "policy.json", "initrd", "image.efi"}
    names = sorted(set(first.artifacts) | set(second.artifacts))
    for name in names:
        if name in bound:
            continue
        a, b = first.artifacts.get(name), second.artifacts.get(name)
        if a != b:
            detail = "every file inside is equal, the artifact is not"
            raise mismatch("rebuild_differs", detail, name, a and a.sha256, b and b.sha256)
    return tuple(name for name in names if name not in bound)
