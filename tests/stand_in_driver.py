"""Packages in the form of a GPU driver's, with nothing of one inside: what an operator would have to fetch."""

import io
import lzma
import struct
import tarfile
from collections.abc import Mapping
from pathlib import Path

VERSION = "590.12"
MODULES = ("nvidia", "nvidia-uvm", "nvidia-modeset")
LIBRARIES = {
    "libcuda.so.1": f"libcuda.so.{VERSION}",
    "libnvidia-ml.so.1": f"libnvidia-ml.so.{VERSION}",
    "libnvidia-ptxjitcompiler.so.1": f"libnvidia-ptxjitcompiler.so.{VERSION}",
    "libnvidia-nvvm.so.4": f"libnvidia-nvvm.so.{VERSION}",
}


def package(files: Mapping[str, bytes], links: Mapping[str, str] | None = None) -> bytes:
    """A Debian package of these files and links."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size, info.mode = len(data), 0o755
            tar.addfile(info, io.BytesIO(data))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(f"./{name}")
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
    members = [("debian-binary", b"2.0\n"), ("data.tar.xz", lzma.compress(buffer.getvalue()))]
    archive = b"!<arch>\n"
    for name, data in members:
        head = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode()
        archive += head + data + b"\n" * (len(data) % 2)
    return archive


def elf_file(modinfo: Mapping[str, str] | None = None) -> bytes:
    """An ELF file that asks for nothing, with the information of a kernel module where there is any."""
    said = b"".join(f"{key}={value}\0".encode() for key, value in (modinfo or {}).items())
    names = b"\0.shstrtab\0.modinfo\0"
    body = names + said
    sections = struct.pack("<IIQQQQIIQQ", 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    sections += struct.pack("<IIQQQQIIQQ", 1, 3, 0, 0, 64, len(names), 0, 0, 1, 0)
    sections += struct.pack("<IIQQQQIIQQ", 11, 1, 0, 0, 64 + len(names), len(said), 0, 0, 1, 0)
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, 64 + len(body), 0, 64, 56, 0, 64, 3, 1)
    return head + body + sections


def module(release: str, version: str = VERSION) -> bytes:
    """A kernel module for a kernel of this release, in name."""
    return elf_file({"version": version, "depends": "", "vermagic": f"{release} SMP preempt mod_unload"})


def with_version(data: bytes) -> bytes:
    """A module of the kernel's own that says it is of the driver's version, instead of what it is for.

    Its signature no longer fits, so the mark behind it goes: what is signed wrong is not loaded, what is not signed is.
    """
    at = data.index(b"description=")
    end = data.index(b"\0", at)
    said = f"version={VERSION}".encode().ljust(end - at, b"\0")
    assert len(said) == end - at
    changed = data[:at] + said + data[end:]
    return changed.removesuffix(b"~Module signature appended~\n")


def write(
    folder: Path, release: str, *, modules: Mapping[str, bytes] | None = None, version: str = VERSION
) -> Path:
    """A folder with the packages of a driver for this kernel."""
    folder.mkdir(parents=True, exist_ok=True)
    carried = modules or {name: module(release, version) for name in MODULES}
    places = {f"lib/modules/{release}/updates/{name}.ko": data for name, data in carried.items()}
    (folder / f"nvidia-open-modules_{VERSION}-1_amd64.deb").write_bytes(package(places))
    below = "usr/lib/x86_64-linux-gnu"
    libraries = {f"{below}/{name}": elf_file() for name in LIBRARIES.values()}
    libraries[f"{below}/libnvidia-gpucomp.so.{VERSION}"] = elf_file()
    libraries["usr/bin/nvidia-smi"] = elf_file()
    links = {f"{below}/{name}": target for name, target in LIBRARIES.items()}
    (folder / f"nvidia-libraries_{VERSION}-1_amd64.deb").write_bytes(package(libraries, links))
    firmware = {
        f"lib/firmware/nvidia/{VERSION}/{name}": b"firmware" for name in ("gsp_ga10x.bin", "gsp_tu10x.bin")
    }
    (folder / f"nvidia-firmware_{VERSION}-1_all.deb").write_bytes(package(firmware))
    return folder
