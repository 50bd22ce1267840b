"""The bill of materials of an image, in CycloneDX 1.6 JSON, canonical: no serial number and no time of building."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import rfc8785

from images.lock import Lock
from images.recipe import Recipe
from images.vm_manifest import InnerFile


def encode(recipe: Recipe, lock: Lock, files: Sequence[InnerFile]) -> bytes:
    """Every locked input with its digest, and how many files of the image came from it."""
    counts: dict[str, int] = {}
    for file in files:
        counts[file.package] = counts.get(file.package, 0) + 1
    components: list[dict[str, Any]] = []
    for deb in lock.debs:
        reference = f"pkg:deb/debian/{quote(deb.name)}@{quote(deb.version)}?arch=amd64"
        components.append(_component(deb.name, deb.version, reference, deb.sha256, counts))
    for wheel in lock.wheels:
        reference = f"pkg:pypi/{quote(wheel.name)}@{quote(wheel.version)}"
        components.append(_component(wheel.name, wheel.version, reference, wheel.sha256, counts))
    document: dict[str, Any] = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "operating-system", "name": recipe.name, "bom-ref": recipe.name}},
        "components": sorted(components, key=lambda component: str(component["purl"])),
    }
    return rfc8785.dumps(document)


def _component(name: str, version: str, purl: str, sha256: str, counts: dict[str, int]) -> dict[str, Any]:
    files = counts.get(f"{name} {version}", 0)
    return {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
        "hashes": [{"alg": "SHA-256", "content": sha256}],
        "properties": [{"name": "cloister:files", "value": str(files)}],
    }
