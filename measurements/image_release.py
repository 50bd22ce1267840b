"""From an image and a model on the disk to what a release says about them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import Code, ImageError
from .model_manifest import ModelManifest
from .process_image import hash_volume, predict_launch_digest, read_image, volume_digest
from .publish import ReleaseDraft
from .release import GPU
from .statement import Subject
from .vm_image import read_vm_image
from .vm_predictions import predict


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """The GPUs that an image may run on, in the words of their verified evidence; all values are exact."""

    arch: str
    drivers: tuple[str, ...]
    vbioses: tuple[str, ...]
    mode: str = "on"

    def element(self) -> dict[str, Any]:
        """The element of a release's measurements."""
        return {
            "tee": GPU,
            "arch": self.arch,
            "ccMode": self.mode,
            "driver": list(self.drivers),
            "vbios": list(self.vbioses),
        }


@dataclass(frozen=True, slots=True)
class MeasuredImage:
    """A predicted launch: the digest, and what went into it.

    ``model`` is the volume's digest (of a virtual machine: its verity root), ``model_signing`` the digest of the
    same files as model signers state it; None where there is no volume, or it is not at hand. ``elements`` are a
    virtual machine's predicted measurements; a process image has its launch digest alone.
    """

    launch_digest: bytes
    image: bytes
    image_files: int
    model: bytes | None
    model_files: int
    model_signing: bytes | None = None
    elements: tuple[Mapping[str, Any], ...] = ()


def measure_image(image_dir: Path, *, model: Path | None = None, cmdline: bytes = b"") -> MeasuredImage:
    """Predict the launch digest of ``IMAGE_DIR/image.json`` with a model volume. Raises ImageError.

    A virtual-machine image has its model and its node's command line inside: ``model`` and ``cmdline`` belong
    to process images.
    """
    machine = read_vm_image(image_dir)
    if machine is not None:
        if model is not None or cmdline:
            raise ImageError(
                Code.IMAGE_MALFORMED,
                "this image holds its model and its command line itself",
                stage="measure",
            )
        return MeasuredImage(
            machine.launch_digest(),
            machine.sha256,
            machine.inner_files,
            machine.volumes.get("model"),
            1,
            elements=predict(image_dir, machine).elements,
        )
    described = read_image(image_dir)
    files = None if model is None else hash_volume(model)
    return MeasuredImage(
        predict_launch_digest(described.files, cmdline, files),
        described.sha256,
        len(described.files),
        None if files is None else volume_digest(files),
        len(files or ()),
        None if model is None or files is None else ModelManifest.of(files, single=model.is_file()).digest,
    )


def draft_release(
    measured: MeasuredImage,
    *,
    name: str,
    version: str,
    channel: str,
    model_name: str = "model",
    gpus: tuple[GpuFacts, ...] = (),
) -> ReleaseDraft:
    """What to publish about a measured image."""
    subjects = [Subject("image", measured.image.hex())]
    if measured.model is not None:
        subjects.append(Subject(f"weights:{model_name}", measured.model.hex()))
    if measured.model_signing is not None:
        subjects.append(Subject(f"model-signing:{model_name}", measured.model_signing.hex()))
    cpu: tuple[Mapping[str, Any], ...] = measured.elements or (
        {"tee": "sev-snp", "launchDigest": measured.launch_digest.hex()},
    )
    return ReleaseDraft(name, version, channel, tuple(subjects), (*cpu, *(gpu.element() for gpu in gpus)))
