"""Recipes: what an image is made of and how it is launched, as TOML (``images/recipes/NAME.toml``)."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv4Address
from pathlib import Path
from typing import Any

from images.errors import RecipeError

FOLDER = Path(__file__).resolve().parent / "recipes"
LOCKS = Path(__file__).resolve().parent / "locks"
MAX_RECIPE = 64 * 1024

_NAME = re.compile(r"[a-z][a-z0-9-]{0,63}")
_TABLES = {
    "debian": {"closure", "exact"},
    "python": {"version", "project", "extra", "rooms", "left_out"},
    "kernel": {"package", "build", "modules", "tolerated", "absent", "cmdline"},
    "guest": {
        *("console", "user", "address", "prefix", "gateway", "port", "metrics_port"),
        *("staple_bytes", "staple_pause_s"),
    },
    "platforms": {"simulated", "tpm", "vcpus", "cpu_types", "guest_features"},
    "census": {"programs", "denied_paths", "denied_options", "required_options", "denied_words"},
}
_DRIVER = {"modules", "firmware", "libraries"}
_TOP = {"name", "description", "needs", "gpu_kernels"}


@dataclass(frozen=True, slots=True)
class Recipe:
    """One recipe. Every table is as the file has it, checked for its members and their types.

    ``needs`` says, in words, what a build takes that registries do not have; empty where they have everything.
    ``gpu_kernels`` is the shape of model that kernels for GPUs are compiled for; empty where there are none.
    ``driver`` is a table of its own that only recipes with GPUs have: what is carried of their driver.
    """

    name: str
    description: str
    needs: str
    gpu_kernels: str
    debian: Mapping[str, Any]
    python: Mapping[str, Any]
    kernel: Mapping[str, Any]
    guest: Mapping[str, Any]
    platforms: Mapping[str, Any]
    census: Mapping[str, Any]
    driver: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> "Recipe":
        """Read a recipe. Raises RecipeError."""
        if len(text) > MAX_RECIPE:
            raise _malformed(f"longer than {MAX_RECIPE} characters")
        try:
            document = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise _malformed(str(error)[:200]) from error
        if odd := sorted(set(document) - _TOP - set(_TABLES) - {"driver"}):
            raise _malformed(f"unknown: {odd[0]}")
        for where, members in (_TABLES | ({"driver": _DRIVER} if "driver" in document else {})).items():
            table = document.get(where)
            if not isinstance(table, dict) or set(table) != members:
                odd = sorted(set(table or {}) ^ members) if isinstance(table, dict) else [where]
                raise _malformed(f"[{where}]: missing or unknown: {', '.join(odd)[:200]}")
            for member, value in table.items():
                _check(where, member, value)
        name, description = document.get("name"), document.get("description")
        if not isinstance(name, str) or not _NAME.fullmatch(name) or not isinstance(description, str):
            raise _malformed("a recipe has a name and a description")
        needs, gpu_kernels = document.get("needs", ""), document.get("gpu_kernels", "")
        if not isinstance(needs, str) or not isinstance(gpu_kernels, str):
            raise _malformed("needs and gpu_kernels are text")
        driver = document.get("driver", {})
        return cls(
            name,
            description,
            needs,
            gpu_kernels,
            **{table: document[table] for table in _TABLES},
            driver=driver,
        )


def names() -> tuple[str, ...]:
    """The recipes that come with the package."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


def load(name: str) -> Recipe:
    """A recipe by its name, or by a path to its file. Raises RecipeError."""
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if path.parent == FOLDER and name not in names():
        raise RecipeError(
            "recipe_unknown", f"there is no recipe {name!r}; there are: process, {', '.join(names())}"
        )
    try:
        return Recipe.parse(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeError) as error:
        raise RecipeError("recipe_unknown", f"{path} cannot be read") from error


def lock_path(recipe: Recipe, loaded_by: str = "") -> Path:
    """Where the lock of a recipe lies: beside its file, where that is what it was loaded by, else in the package."""
    return (
        Path(loaded_by).with_suffix(".json") if loaded_by.endswith(".toml") else LOCKS / f"{recipe.name}.json"
    )


_TEXTS = {"version", "project", "extra", "package", "build", "cmdline", "address", "gateway"}
_FLAGS = {"console", "simulated", "tpm"}
_NUMBERS = {
    "user": (1, 65533),
    "prefix": (1, 32),
    "port": (1, 65535),
    "metrics_port": (1, 65535),
    "staple_bytes": (0, 1 << 20),
    "staple_pause_s": (1, 86_400),
    "guest_features": (0, 2**64 - 1),
}


def _check(table: str, member: str, value: object) -> None:
    where = f"[{table}] {member}"
    if member in _TEXTS:
        if not isinstance(value, str) or not value.isprintable():
            raise _malformed(f"{where} is text")
        if member in ("address", "gateway") and (value or member == "address"):
            try:
                IPv4Address(value)
            except AddressValueError as error:
                raise _malformed(f"{where} is an IPv4 address") from error
    elif member in _FLAGS:
        if not isinstance(value, bool):
            raise _malformed(f"{where} is true or false")
    elif member in _NUMBERS:
        least, most = _NUMBERS[member]
        if type(value) is not int or not least <= value <= most:
            raise _malformed(f"{where} is a number from {least} to {most}")
    elif member == "vcpus":
        if not isinstance(value, list) or not all(type(n) is int and 0 < n <= 512 for n in value):
            raise _malformed(f"{where} is a list of numbers from 1 to 512")
    elif not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise _malformed(f"{where} is a list of texts")


def _malformed(why: str) -> RecipeError:
    return RecipeError("recipe_malformed", f"not a recipe: {why}")
