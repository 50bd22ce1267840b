"""Everything that hardware must report for a virtual-machine image, from its ``image.json`` and the files it names.

One record for each way to launch it: TPM registers of the unified image, TDX registers, and SEV-SNP digests for each
number of vCPUs and each processor that the image's recipe lists. Files are read only after their digests were found
to be those of ``image.json``; firmware for SEV-SNP is whatever file is given, since its bytes are part of the digest.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .launch.cpu_models import signature_of
from .launch.firmware import MAX_FIRMWARE, Firmware
from .launch.record import LaunchRecord, malformed
from .launch.snp import REGISTER, DirectBoot, SnpLaunch, predict_snp
from .launch.tdx_mrtd import predict_mrtd
from .launch.tdx_rtmr import MAX_KERNEL, TdxBoot, predict_rtmrs
from .launch.tpm_boot import PREDICTED, predict_uki_boot
from .vm_image import VmImage

TPM_BANK: Final = "sha256"
TDX_MEMORY: Final = 2 << 30
"""Bytes of memory for which RTMR1 is predicted: QEMU writes an address into the kernel that depends on it."""

SEV_FIRMWARE: Final = "OVMF.amdsev.fd"
_MAX_LAUNCHES: Final = 48


@dataclass(frozen=True, slots=True)
class Predictions:
    """``elements`` are a release's measurements; ``records`` name every event behind each of them."""

    elements: tuple[Mapping[str, Any], ...]
    records: Mapping[str, LaunchRecord]


def predict(image_dir: Path, image: VmImage) -> Predictions:
    """All predictions for an image. Raises ImageError."""
    platforms = image.platforms
    elements: list[dict[str, Any]] = []
    records: dict[str, LaunchRecord] = {}
    if platforms.get("simulated"):
        elements.append({"tee": "sev-snp", "launchDigest": image.launch_digest().hex()})
    if platforms.get("tpm"):
        record = predict_uki_boot(_file(image_dir, image, "image.efi"), banks=(TPM_BANK,))
        records["tpm"] = record
        values = {f"pcr{n}": record.registers[f"pcr{n}.{TPM_BANK}"].hex() for n in PREDICTED}
        elements.append({"tee": "tpm", **values})
    boot = DirectBoot(_file(image_dir, image, "vmlinuz"), _file(image_dir, image, "initrd"), image.cmdline)
    if "firmware/OVMF.fd" in image.artifacts:
        firmware = Firmware.parse(_file(image_dir, image, "firmware/OVMF.fd"))
        launched = predict_mrtd(firmware)
        running = predict_rtmrs(TdxBoot(boot.kernel, boot.initrd, boot.cmdline, TDX_MEMORY), firmware)
        records["tdx"] = LaunchRecord(
            "tdx",
            {**launched.registers, **running.registers},
            launched.events + running.events,
            {**launched.inputs, **running.inputs},
        )
    sev = image_dir / "firmware" / SEV_FIRMWARE
    if sev.is_file():
        for name, record in _snp(Firmware.parse(_read(sev, MAX_FIRMWARE)), boot, platforms):
            records[name] = record
            digest = record.registers[REGISTER].hex()
            elements.append({"tee": "sev-snp", "launchDigest": digest, "machine": name.removeprefix("snp-")})
    return Predictions(tuple(elements), records)


def _snp(
    firmware: Firmware, boot: DirectBoot, platforms: Mapping[str, Any]
) -> list[tuple[str, LaunchRecord]]:
    vcpus, cpus, features = (platforms.get(name) for name in ("vcpus", "cpu_types", "guest_features"))
    if not isinstance(vcpus, list) or not isinstance(cpus, list) or type(features) is not int:
        raise malformed("image.json does not say for which processors it is")
    if len(vcpus) * len(cpus) > _MAX_LAUNCHES or not all(type(count) is int for count in vcpus):
        raise malformed(f"image.json lists more than {_MAX_LAUNCHES} ways to launch it")
    found = []
    for cpu in cpus:
        for count in vcpus:
            launch = SnpLaunch(firmware, count, signature_of(str(cpu)), features, boot=boot)
            found.append((f"snp-{cpu}-{count}", predict_snp(launch)))
    return found


def _file(image_dir: Path, image: VmImage, name: str) -> bytes:
    listed = image.artifacts.get(name)
    if listed is None:
        raise malformed(f"image.json lists no {name}")
    data = _read(image_dir / name, MAX_KERNEL)
    if hashlib.sha256(data).digest() != listed.sha256:
        raise malformed(f"{name} is not the file that image.json lists")
    return data


def _read(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise malformed(f"{path}: {error.strerror}") from error
    if len(data) > limit:
        raise malformed(f"{path} has more than {limit} bytes")
    return data
