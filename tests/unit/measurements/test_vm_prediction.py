"""What is predicted for a virtual-machine image: registers of a measured boot, and everything a release lists."""

import hashlib
import json
from pathlib import Path

import pytest
import rfc8785
from executables import executable, linux
from hypothesis import given
from hypothesis import strategies as st

from images import recipe, uki
from measurements.errors import ImageError
from measurements.launch.cpu_models import signature_of
from measurements.launch.portable_executable import Image
from measurements.launch.tpm_boot import predict_uki_boot
from measurements.launch.uki import read_uki
from measurements.process_image import launch_digest
from measurements.vm_image import LAUNCHED, parse_vm_image, read_vm_image
from measurements.vm_predictions import predict

UKI = {"linux": linux(), "osrel": b"ID=x\n", "cmdline": b"ro", "initrd": b"disk" * 100}


def stub(version: str = "252.39") -> bytes:
    magic = f"#### LoaderInfo: systemd-stub {version} ####".encode()
    return executable({".text": b"stub code" * 50, ".sdmagic": magic, ".sbat": b"sbat,1\n"})


def unified(version: str = "252.39", **changed: bytes) -> bytes:
    return uki.assemble(stub(version), {**UKI, **changed})


def extend(*measured: bytes) -> str:
    value = bytes(32)
    for digest in measured:
        value = hashlib.sha256(value + digest).digest()
    return value.hex()


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def registers(image: bytes, **options: bool) -> dict[str, str]:
    return {name: value.hex() for name, value in predict_uki_boot(image, **options).registers.items()}


def test_an_assembled_image_holds_its_sections_and_the_stubs() -> None:
    sections = read_uki(unified())
    assert {name: sections[name] for name in UKI} == UKI
    assert sections["sbat"] == b"sbat,1\n"
    assert Image.parse(unified()).authenticode("sha256") != Image.parse(unified(cmdline=b"rw")).authenticode(
        "sha256"
    )


def test_registers_are_extended_as_the_specification_says() -> None:
    image = unified()
    found = registers(image)
    whole, inner = Image.parse(image).authenticode("sha256"), Image.parse(linux()).authenticode("sha256")
    action, separator = sha(b"Calling EFI Application from Boot Option"), sha(bytes(4))
    assert found["pcr4.sha256"] == extend(whole, action, separator, inner)
    assert registers(image, from_partition=True)["pcr4.sha256"] == extend(action, separator, whole, inner)
    assert found["pcr9.sha256"] == extend(sha("ro\0".encode("utf-16-le")), sha(UKI["initrd"]))
    assert found["pcr12.sha256"] == found["pcr13.sha256"] == "00" * 32
    eleven = [
        sha(part)
        for name in ("linux", "osrel", "cmdline", "initrd")
        for part in (f".{name}\0".encode(), UKI[name])
    ]
    assert found["pcr11.sha256"] == extend(*eleven)


def test_newer_stubs_measure_their_own_sbat_too() -> None:
    assert registers(unified("255.1"))["pcr11.sha256"] != registers(unified("252.1"))["pcr11.sha256"]


@pytest.mark.parametrize("part", ["linux", "initrd", "cmdline"])
def test_every_part_moves_register_11_and_one_of_4_and_9(part: str) -> None:
    before = registers(unified())
    changed = executable({".text": b"other"}) if part == "linux" else UKI[part] + b"x"
    after = registers(unified(**{part: changed}))
    assert before["pcr11.sha256"] != after["pcr11.sha256"]
    assert before["pcr4.sha256"] != after["pcr4.sha256"]
    assert (before["pcr9.sha256"] != after["pcr9.sha256"]) == (part != "linux")


def described(folder: Path) -> bytes:
    """An image folder with everything that predictions are made from but firmware; its ``image.json``."""
    content = {"vmlinuz": linux(), "initrd": UKI["initrd"], "image.efi": unified(), "cmdline": b"ro"}
    for name, data in content.items():
        (folder / name).write_bytes(data)
    document = {
        "v": 1,
        "kind": "vm",
        "cmdline": "ro",
        "artifacts": {name: {"size": len(data), "sha256": sha(data).hex()} for name, data in content.items()},
        "platforms": {
            "simulated": True,
            "tpm": True,
            "vcpus": [1],
            "cpu_types": ["EPYC-v4"],
            "guest_features": 1,
        },
        "policy": {"volumes": [{"name": "model", "root_hash": "ab" * 32}]},
        "files": [],
    }
    data = rfc8785.dumps(document)
    (folder / "image.json").write_bytes(data)
    return data


def test_a_release_lists_every_way_to_launch_an_image(tmp_path: Path) -> None:
    described(tmp_path)
    image = read_vm_image(tmp_path)
    assert image is not None
    elements = predict(tmp_path, image).elements
    assert [element["tee"] for element in elements] == ["sev-snp", "tpm"]
    volumes = {name: [image.artifacts[file]] for name, file in LAUNCHED.items()}
    assert elements[0]["launchDigest"] == launch_digest(b"ro", volumes).hex()
    assert elements[1]["pcr9"] == registers(unified())["pcr9.sha256"]


def test_recipes_name_processors_whose_digests_can_be_predicted() -> None:
    for name in recipe.names():
        platforms = recipe.load(name).platforms
        assert all(signature_of(cpu) for cpu in platforms["cpu_types"]), name
        assert bool(platforms["vcpus"]) == bool(platforms["cpu_types"]) == (name != "h100-tdx")


def test_a_file_that_is_not_the_listed_one_predicts_nothing(tmp_path: Path) -> None:
    described(tmp_path)
    image = read_vm_image(tmp_path)
    assert image is not None
    (tmp_path / "initrd").write_bytes(b"another")
    with pytest.raises(ImageError):
        predict(tmp_path, image)


def test_a_description_damaged_anywhere_stays_in_the_family_of_errors(tmp_path: Path) -> None:
    good = described(tmp_path)
    for at in range(len(good)):
        for data in (good[:at], good[:at] + bytes([good[at] ^ 0x15]) + good[at + 1 :]):
            try:
                found = parse_vm_image(data)
            except ImageError:
                continue
            assert found is None or found.sha256 != hashlib.sha256(good).digest()


@given(st.binary(max_size=200))
def test_random_bytes_are_no_description(data: bytes) -> None:
    with pytest.raises(ImageError):
        parse_vm_image(b"\xff" + data)


def test_a_process_image_is_none(tmp_path: Path) -> None:
    assert parse_vm_image(json.dumps({"v": 1}, separators=(",", ":")).encode()) is None
