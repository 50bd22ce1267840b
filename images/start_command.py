"""``start.json``: the command that starts an image, kept inside the measured tree.

A list of strings, canonical JSON, in which ``{root}`` stands for the tree's place. Since it is measured with every
other file, nobody can start a measured image with another program and keep its measurement.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import rfc8785

from images.errors import ManifestError

FILE = "start.json"
MAX_FILE = 64 * 1024
ROOT_MARK = "{root}"


def encode(command: Sequence[str]) -> bytes:
    """The bytes of ``start.json``."""
    return rfc8785.dumps(list(command))


def read(root: Path) -> list[str]:
    """The command of the image whose tree is ``root``, in absolute paths. Raises ManifestError."""
    try:
        with (root / FILE).open("rb") as file:
            parts = json.loads(file.read(MAX_FILE + 1)[:MAX_FILE])
    except OSError as error:
        raise ManifestError("start_unreadable", f"{FILE}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ManifestError("start_malformed", f"{FILE} is not JSON") from error
    if not isinstance(parts, list) or not parts or not all(isinstance(part, str) for part in parts):
        raise ManifestError("start_malformed", f"{FILE} is not a command")
    place = str(root.resolve())
    return [part.replace(ROOT_MARK, place) for part in parts]
