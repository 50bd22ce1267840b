"""Where the image commands take inputs from: cache folder, mirror, archive."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from images.lock import Lock

if TYPE_CHECKING:
    from images.input_store import InputStore

CacheOption = Annotated[
    Path | None, typer.Option("--cache", help="The folder for inputs; default: in the user's cache folder.")
]
MirrorOption = Annotated[
    str | None,
    typer.Option(
        "--mirror",
        help="Address below which the archives debian and debian-security lie; default: apt's own.",
    ),
]
InputsOption = Annotated[
    Path | None, typer.Option("--inputs", help="An archive that image inputs wrote, to take inputs from.")
]

RecipeOption = Annotated[
    Path | None,
    typer.Option("--recipe", help="The recipe's file (its lock beside it), where it is one's own."),
]


@dataclass(frozen=True, slots=True)
class Sources:
    """Cache folder, mirror, archive; None for what is usual."""

    cache: Path | None
    mirror: str | None
    archive: Path | None = None

    def store(self, *locked: Lock) -> "InputStore":
        """The store of these locks' inputs, filled from the archive where one is given. Raises ImageError."""
        # Building and auditing need what the extra `images` brings; booting and rehashing do not.
        from images import apt
        from images.input_store import InputStore, mirrors_from

        archives = sorted({deb.archive for lock in locked for deb in lock.debs})
        found = {} if self.mirror else apt.mirrors()
        store = InputStore(self.folder, mirrors_from(self.mirror, found, archives))
        if self.archive is not None:
            for lock in locked:
                store.unpack(lock, self.archive)
        return store

    @property
    def folder(self) -> Path:
        """The cache folder."""
        usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return self.cache or usual / "cloister" / "inputs"
