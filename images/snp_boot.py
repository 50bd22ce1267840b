"""Booting as SEV-SNP does, without SEV: firmware that compares what it loads with hashes found in memory.

Under SEV the hypervisor puts a table with the hashes of kernel, initial RAM disk and command line into a page of
the firmware, and that page is part of the launch digest. Here QEMU's loader puts the table of the image's own hashes
there, so the firmware makes the same comparison; nothing is measured or encrypted. One thing differs: outside SEV
QEMU fills in the kernel's setup header, so the table is of the kernel as it stands then.
"""

from pathlib import Path

from images import deb, lock, recipe
from images.errors import RecipeError
from images.input_store import InputStore
from images.lock import Lock
from measurements.launch.firmware import Firmware
from measurements.launch.snp import DirectBoot, kernel_hash_page
from measurements.launch.tdx_rtmr import patched_kernel

LOCK = "snp-firmware"
PACKAGE = "ovmf-amdsev"
SUITE = "sid"
"""The package is newer than the release that the images are made from."""
FIRMWARE = "usr/share/ovmf/OVMF.amdsev.fd"
MODEL = "pc-q35-7.1"
"""The newest of QEMU's machines that adds no random seed to the kernel it hands to firmware."""

_TABLE_SIZE = 18 + 3 * 50


def firmware_lock() -> Lock:
    """The lock of the SEV firmware. Raises RecipeError."""
    return lock.read(recipe.LOCKS / f"{LOCK}.json")


def firmware(store: InputStore, locked: Lock) -> bytes:
    """The firmware, fetched where it is not kept. Raises InputUnavailable, InputError, RecipeError."""
    package = locked.deb(PACKAGE)
    store.fetch_one(package)
    for member in deb.read_package(store.path(package)):
        if member.path == FIRMWARE:
            return member.data
    raise RecipeError("package_lacks", f"{PACKAGE} has no {FIRMWARE}")


def hash_table(image_dir: Path, cmdline: str, firmware_image: bytes, memory: int) -> tuple[int, bytes]:
    """Where the table of an image's hashes lies in the guest, and its bytes; ``memory`` in MiB.

    Raises ImageError of measurements.
    """
    initrd = (image_dir / "initrd").read_bytes()
    kernel = patched_kernel((image_dir / "vmlinuz").read_bytes(), len(initrd), memory << 20)
    page = kernel_hash_page(DirectBoot(kernel, initrd, cmdline), 0)
    return Firmware.parse(firmware_image).kernel_hashes_gpa, page[:_TABLE_SIZE]
