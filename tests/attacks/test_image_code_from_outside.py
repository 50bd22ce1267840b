"""Attempts to get code into a node's process that its image does not list.

Each stands beside a control in which the same attempt succeeds because the defence is not there.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from images import process_image
from images.errors import ImageMismatch
from images.guest import start
from images.guest.start import NOT_FROM_IMAGE
from images.manifest import root
from images.process_image import Contents

TELL = '\n    import json\n    print(json.dumps(getattr(json, "ORIGIN", "image")))\n'


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image whose program says where the module ``json`` came from."""
    source = Path(start.__file__).read_text().partition("    from enclave_runtime import boot")[0]
    program = tmp_path_factory.mktemp("start") / "program.py"
    program.write_text(source + TELL)
    return process_image.build(tmp_path_factory.mktemp("image") / "i", Contents((), (), program)).image_dir


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """A folder with a module that takes the place of one of the standard library."""
    folder = tmp_path / "planted"
    folder.mkdir()
    (folder / "json.py").write_text(
        'ORIGIN = "planted"\ndef dumps(x): return repr(x).replace("\'", chr(34))\n'
    )
    return folder


def started(command: list[str], cwd: Path, **environment: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(command, capture_output=True, cwd=cwd, env=environment, check=False)


def test_planting_a_module_by_environment_and_working_folder(image: Path, planted: Path) -> None:
    command = process_image.argv(image)
    run = started(command, planted, PYTHONPATH=str(planted), PYTHONHOME=str(planted), PYTHONSTARTUP="json.py")
    assert (run.returncode, json.loads(run.stdout)) == (0, "image")

    # Control: the same interpreter and libraries without isolation take the planted module.
    open_to_it = [part for part in command[:-1] if part not in ("-I", "-S")]
    run = started([*open_to_it, "-c", "import json; print(json.ORIGIN)"], planted, PYTHONPATH=str(planted))
    assert run.stdout == b"planted\n"


def test_running_the_node_with_the_hosts_interpreter(image: Path, planted: Path) -> None:
    script = process_image.argv(image)[-1]
    run = started([sys.executable, "-I", "-S", "-B", script], planted)
    assert (run.returncode, run.stdout) == (NOT_FROM_IMAGE, b"")

    # Control: without the check at the start, the host's interpreter runs the image's program.
    unchecked = planted / "unchecked.py"
    unchecked.write_text(Path(script).read_text().replace("    enter()\n", ""))
    run = started([sys.executable, "-I", "-S", "-B", str(unchecked)], planted)
    assert (run.returncode, json.loads(run.stdout)) == (0, "image")


def test_preloading_a_library_from_outside(image: Path, planted: Path) -> None:
    library = next(path for path in (root(image) / "lib").iterdir() if path.name.startswith("libm."))
    outside = planted / "libplanted.so"
    shutil.copyfile(library, outside)
    command = process_image.argv(image)
    run = started(command, planted, LD_PRELOAD=str(outside))
    assert (run.returncode, run.stdout) == (NOT_FROM_IMAGE, b"")
    assert b"libplanted.so" in run.stderr

    # Control: the loader does map it into a program that does not look.
    look = f"print({str(outside)!r} in open('/proc/self/maps').read())"
    run = started([*command[:-1], "-c", look], planted, LD_PRELOAD=str(outside))
    assert run.stdout == b"True\n"


def test_adding_a_file_that_shadows_a_module(image: Path, planted: Path, tmp_path: Path) -> None:
    altered = tmp_path / "altered"
    shutil.copytree(image, altered)
    library = next((root(altered) / "python").glob("*/python3.*/json"))
    shutil.rmtree(library)
    shutil.copyfile(planted / "json.py", library.with_suffix(".py"))

    # Control: nothing inside the process can tell, so the program runs with it ...
    run = started(process_image.argv(altered), planted)
    assert (run.returncode, json.loads(run.stdout)) == (0, "planted")
    # ... which is why every file is measured: the image is not the one that was described.
    with pytest.raises(ImageMismatch) as caught:
        process_image.verify(altered)
    assert caught.value.path is not None
    assert "json" in caught.value.path


def test_slipping_stale_bytecode_under_an_honest_source(image: Path, tmp_path: Path) -> None:
    altered = tmp_path / "altered"
    shutil.copytree(image, altered)
    module = next((root(altered) / "python").glob("*/python3.*/json/__init__.py"))
    cached = module.parent / "__pycache__" / f"__init__.{sys.implementation.cache_tag}.pyc"
    from images.bytecode import compile_source

    planted = compile_source(module.read_bytes() + b'\nORIGIN = "bytecode"\n', "json")
    assert planted is not None
    cached.write_bytes(planted)

    # Control: the interpreter never compares bytecode with its source.
    run = started(process_image.argv(altered), tmp_path)
    assert json.loads(run.stdout) == "bytecode"
    with pytest.raises(ImageMismatch) as caught:
        process_image.verify(altered)
    assert caught.value.path == cached.relative_to(root(altered)).as_posix()
