"""What hardware must report for an image, predicted by ``measurements`` and written beside it.

``IMAGE_DIR/predictions/elements.json`` are the measurements that a release lists; every other file there is a launch
record, for ``cloister measure explain RECORD REPORTED``.
"""

import contextlib
import shutil
from pathlib import Path

import rfc8785

from images import snp_boot
from images.errors import InputUnavailable
from images.sources import Sources
from measurements.vm_image import read_vm_image
from measurements.vm_predictions import SEV_FIRMWARE, Predictions, predict

FOLDER = "predictions"


def write(image_dir: Path, sources: Sources) -> Predictions:
    """Predict and write everything; digests of SEV-SNP only where the firmware for it can be had.

    Raises ImageError, and that of measurements.
    """
    with contextlib.suppress(InputUnavailable):
        locked = snp_boot.firmware_lock()
        firmware = snp_boot.firmware(sources.store(locked), locked)
        (image_dir / "firmware" / SEV_FIRMWARE).write_bytes(firmware)
    described = read_vm_image(image_dir)
    assert described is not None
    found = predict(image_dir, described)
    folder = image_dir / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "elements.json").write_bytes(rfc8785.dumps([dict(element) for element in found.elements]))
    for name, record in found.records.items():
        (folder / f"{name}.json").write_bytes(record.encode())
    return found
