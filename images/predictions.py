"""What hardware must report for an image, predicted by ``measurements`` from the image's files alone."""

from pathlib import Path
from typing import Any

import rfc8785

from images.recipe import Recipe
from measurements.vm_image import read_vm_image

FILE = "predictions.json"


def predict(image_dir: Path, recipe: Recipe) -> dict[str, Any]:
    """Every prediction, by the kind of hardware. Raises ImageError of measurements."""
    described = read_vm_image(image_dir)
    assert described is not None
    found: dict[str, Any] = {"v": 1, "image": described.sha256.hex()}
    if recipe.platforms["simulated"]:
        found["simulated"] = {"launchDigest": described.launch_digest().hex()}
    return found


def write(image_dir: Path, recipe: Recipe) -> dict[str, Any]:
    """Write ``predictions.json`` beside ``image.json``."""
    found = predict(image_dir, recipe)
    (image_dir / FILE).write_bytes(rfc8785.dumps(found))
    return found
