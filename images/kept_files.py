"""Small files that were made from inputs with a hash, kept under it and read back only as they were kept."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import rfc8785

_RECORD = "built.json"


def read(folder: Path) -> Mapping[str, bytes] | None:
    """The files that ``write`` put into ``folder``; None where there are none, or where they have changed since."""
    try:
        record = json.loads((folder / _RECORD).read_bytes())
        found = {name: (folder / name).read_bytes() for name in record}
        return found if record == _digests(found) else None
    except (OSError, ValueError, TypeError):
        return None


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Keep ``files`` in ``folder``, in place of what is there, whole or not at all. Raises OSError."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        made = Path(scratch, "made")
        made.mkdir()
        for name, data in {**files, _RECORD: rfc8785.dumps(_digests(files))}.items():
            (made / name).write_bytes(data)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(made, folder)


def _digests(files: Mapping[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}
