"""Launch measurements: every published or computed case, and logs and quotes of real machines."""

import base64
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from measurements.launch.event_log import parse_event_log, replay
from measurements.launch.firmware import Firmware
from measurements.launch.reported import registers_of
from measurements.launch.snp import REGISTER, DirectBoot, SnpLaunch, predict_snp
from measurements.launch.tdx_mrtd import ONE_PASS, TWO_PASS, predict_mrtd
from measurements.launch.tdx_rtmr import NO_SECURE_BOOT, Machine, extend, kernel_events, machine_events
from measurements.launch.uki import predict_pcr11, register
from measurements.launch.vmsa import Vmm


def cases(path: Path) -> list[dict[str, Any]]:
    found = json.loads(path.read_text())
    assert isinstance(found, list)
    assert found
    return found


def snp_launch(case: dict[str, Any], folder: Path) -> SnpLaunch:
    boot = None
    if case["kernel_b64"] is not None:
        kernel, initrd = (base64.b64decode(case[name] or "") for name in ("kernel_b64", "initrd_b64"))
        boot = DirectBoot(kernel, initrd, case["cmdline"] or "")
    return SnpLaunch(
        firmware=Firmware.parse((folder / case["ovmf"]).read_bytes()),
        vcpus=case["vcpus"],
        cpu_signature=case["vcpu_sig"] or 0,
        guest_features=case["guest_features"],
        vmm=Vmm(case["vmm"].lower()),
        boot=boot,
        firmware_digest=bytes.fromhex(case["ovmf_hash"]) if case["ovmf_hash"] else None,
    )


def test_snp_launch_digests(vectors: Path) -> None:
    folder = vectors / "measure"
    for number, case in enumerate(cases(folder / "snp_launch_digest.json")):
        found = predict_snp(snp_launch(case, folder)).registers[REGISTER].hex()
        assert found == case["launch_digest"], f"case {number}, {case['origin']}"


def test_snp_launch_digests_against_an_independent_program(vectors: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("sevsnpmeasure") is None:
        pytest.skip("the package sev-snp-measure is not installed (it is needed by this comparison alone)")
    from sevsnpmeasure.guest import calc_launch_digest  # type: ignore[import-untyped, unused-ignore]
    from sevsnpmeasure.sev_mode import SevMode  # type: ignore[import-untyped, unused-ignore]
    from sevsnpmeasure.vmm_types import VMMType  # type: ignore[import-untyped, unused-ignore]

    folder = vectors / "measure"
    for case in cases(folder / "snp_launch_digest.json"):
        launch = snp_launch(case, folder)
        kernel = initrd = ""
        if launch.boot is not None:
            (tmp_path / "kernel").write_bytes(launch.boot.kernel)
            (tmp_path / "initrd").write_bytes(launch.boot.initrd)
            kernel, initrd = str(tmp_path / "kernel"), str(tmp_path / "initrd")
        theirs = calc_launch_digest(
            SevMode.SEV_SNP,
            launch.vcpus,
            launch.cpu_signature,
            str(folder / case["ovmf"]),
            kernel,
            initrd,
            "" if launch.boot is None else launch.boot.cmdline,
            launch.guest_features,
            case["ovmf_hash"] or "",
            VMMType[case["vmm"]],
        )
        assert predict_snp(launch).registers[REGISTER] == theirs


def test_mrtd_in_both_page_orders(vectors: Path) -> None:
    for case in cases(vectors / "measure/tdx_mrtd.json"):
        firmware = Firmware.parse(base64.b64decode(case["firmware_b64"]))
        assert [
            {
                "data_offset": section.data_offset,
                "raw_size": section.raw_size,
                "gpa": section.gpa,
                "mem_size": section.memory_size,
                "type": section.type,
                "attributes": int(section.attributes),
            }
            for section in firmware.tdx_sections()
        ] == case["sections"]
        registers = predict_mrtd(firmware).registers
        assert registers[ONE_PASS].hex() == case["mrtd_single_pass"], case["id"]
        assert registers[TWO_PASS].hex() == case["mrtd_two_pass"], case["id"]


def test_pcr_11_of_unified_kernel_images_at_every_phase(vectors: Path) -> None:
    for case in cases(vectors / "measure/uki_pcr11.json"):
        sections = {name: base64.b64decode(data) for name, data in case["sections"].items()}
        for bank, entries in case["pcr11"].items():
            for entry in entries:
                record = predict_pcr11(sections, entry["phase"].split(":"), [bank])
                assert record.registers[register(bank)].hex() == entry["hash"], case["id"]


def test_event_logs_replay_to_the_registers_known_for_them(vectors: Path) -> None:
    for case in cases(vectors / "tpm/eventlogs/cases.json"):
        events = parse_event_log((vectors / "tpm" / case["file"]).read_bytes())
        assert len(events) == case["events"], case["id"]
        for bank, registers in case.get("expect_replay", {}).items():
            found = {str(index): value.hex() for index, value in replay(events, bank).items()}
            assert {index: found.get(index) for index in registers} == registers, case["id"]
        if "expect_rtmr" in case:
            found = {str(index - 1): value.hex() for index, value in replay(events, "sha384").items()}
            assert found == case["expect_rtmr"], case["id"]


def test_a_ccel_replays_to_the_registers_of_the_quote_beside_it(vectors: Path) -> None:
    for case in cases(vectors / "tpm/eventlogs/cases.json"):
        if "quote" not in case:
            continue
        quoted = registers_of((vectors / case["quote"]).read_bytes())
        assert quoted is not None
        events = parse_event_log((vectors / "tpm" / case["file"]).read_bytes())
        replayed = {
            f"rtmr{index - 1}": extend(
                event.digests["sha384"] for event in events if event.extends and event.index == index
            )
            for index in (1, 2, 3)
        }
        agrees = all(quoted[name] == value for name, value in replayed.items())
        assert agrees == (case["expect"]["verdict"] == "accept"), case["id"]


def test_what_guests_booted_directly_log_is_what_is_predicted_for_their_machines(vectors: Path) -> None:
    """The order of events, Secure Boot's absent variables and the boot actions, against real machines' registers."""
    known = {case["id"]: case for case in cases(vectors / "tpm/eventlogs/cases.json")}
    for id in ("ccel_dstack", "ccel_live_match"):
        log = parse_event_log((vectors / "tpm" / known[id]["file"]).read_bytes())
        digests = {event.name: event.digests["sha384"] for event in log if event.extends}
        volume, kernel = (
            digests[f"EV_EFI_{name}"] for name in ("PLATFORM_FIRMWARE_BLOB2", "BOOT_SERVICES_APPLICATION")
        )
        rtmr0 = machine_events(Machine.of_log(log), volume, NO_SECURE_BOOT)
        assert extend(event.digest for event in rtmr0).hex() == known[id]["expect_rtmr"]["0"]
        rtmr1 = kernel_events(kernel)
        assert extend(event.digest for event in rtmr1).hex() == known[id]["expect_rtmr"]["1"]
