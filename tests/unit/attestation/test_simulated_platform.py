"""The simulated platform: what it measures, whom it answers, what it keeps."""

import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from attestation.device_socket import DeviceSocket, receive_message, send_message
from attestation.errors import PlatformFault
from attestation.sev_snp import SnpCollateral, verify
from attestation.sev_snp_policy import SnpPolicy
from attestation.sev_snp_report import parse_report
from attestation.simulated.amd import SimulatedAmd
from attestation.simulated.launch import measure_launch
from attestation.simulated.platform import Platform

AT = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
MEASUREMENT = b"\x42" * 48


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    root = tmp_path / "image"
    (root / "app" / "deep").mkdir(parents=True)
    (root / "app" / "main.py").write_text("print('hello')")
    (root / "app" / "deep" / "data").write_bytes(b"\0\1")
    (root / "app.txt").write_text("next to a folder of nearly the same name")
    return root


@pytest.fixture
def device(platform: Platform) -> Iterator[DeviceSocket]:
    ours, theirs = socket.socketpair()
    with theirs:
        platform.serve(ours, MEASUREMENT)
        yield DeviceSocket(theirs)


def test_prediction_equals_measurement(volume: Path, tmp_path: Path) -> None:
    prediction = pytest.importorskip("measurements.process_image")
    model = tmp_path / "model.gguf"
    model.write_bytes(b"weights")
    (volume / "app" / "main.py").chmod(0o755)
    expected = prediction.predict_launch_digest(
        prediction.hash_volume(volume), b"serve --port 1", prediction.hash_volume(model)
    )
    assert measure_launch(b"serve --port 1", {"model": model, "image": volume}) == expected


def test_every_part_of_a_launch_counts(volume: Path) -> None:
    def digest() -> bytes:
        return measure_launch(b"cmd", {"image": volume})

    before = digest()
    assert len(before) == 48
    assert digest() == before
    assert measure_launch(b"cmd2", {"image": volume}) != before
    assert measure_launch(b"cmd", {"other": volume}) != before
    main = volume / "app" / "main.py"
    main.chmod(0o755)
    assert digest() != before
    main.chmod(0o644)
    assert digest() == before
    main.rename(volume / "app" / "main2.py")
    assert digest() != before
    (volume / "app" / "main2.py").rename(main)
    (volume / "new").touch()
    assert digest() != before
    (volume / "new").unlink()
    main.write_text("print('hellO')")
    assert digest() != before


def test_links_and_special_files_are_refused(volume: Path) -> None:
    measure_launch(b"", {"image": volume})
    link = volume / "link"
    makes: list[Callable[[], None]] = [
        lambda: link.symlink_to("app.txt"),
        lambda: link.symlink_to("app"),
        lambda: os.mkfifo(link),
    ]
    for make in makes:
        make()
        with pytest.raises(PlatformFault) as caught:
            measure_launch(b"", {"image": volume})
        assert caught.value.code == "launch_not_measurable"
        link.unlink()
    with pytest.raises(PlatformFault):
        measure_launch(b"", {"image": volume / "absent"})


def test_evidence_over_the_device_verifies(device: DeviceSocket, amd: SimulatedAmd) -> None:
    section = device.report(b"\x07" * 64)
    assert section.tee == "sev-snp"
    collateral = SnpCollateral(**section.collateral)
    verified = verify(section.evidence, collateral, SnpPolicy(simulated_root=amd.root_sha256), AT)
    assert verified.simulated
    assert verified.report.measurement == MEASUREMENT
    assert verified.report.report_data == b"\x07" * 64
    assert device.count() == 2
    entries = json.loads(device.evidence(b"\x01" * 32))
    assert [entry["nonce"] for entry in entries] == ["01" * 32] * 2


def test_report_id_is_one_launchs_own(device: DeviceSocket, platform: Platform) -> None:
    first, again = (parse_report(device.report(bytes(64)).evidence).report_id for _ in range(2))
    assert first == again
    ours, theirs = socket.socketpair()
    with theirs:
        platform.serve(ours, MEASUREMENT)
        assert parse_report(DeviceSocket(theirs).report(bytes(64)).evidence).report_id != first


def test_bad_requests_are_refused_and_the_device_lives_on(platform: Platform) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        platform.serve(ours, MEASUREMENT)
        device = DeviceSocket(theirs)
        with pytest.raises(PlatformFault) as caught:
            device.report(b"short")
        assert caught.value.code == "platform_request"
        for kind, body in ((9, b""), (1, b"short"), (2, b"x"), (3, b"")):
            send_message(theirs, kind, body)
            reply = receive_message(theirs)
            assert reply == (1, b"platform_request")
        assert device.count() == 2


def test_a_platform_that_is_gone_is_a_named_fault() -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    with theirs, pytest.raises(PlatformFault) as caught:
        DeviceSocket(theirs).count()
    assert caught.value.code == "platform_unreachable"


@pytest.mark.parametrize(
    "reply", [b"\0", b"\0\xff\xff\xff\xff", b"\0\0\0\0\5ab", b"\0\0\0\0\2\0\0", b"\1\0\0\0\0"]
)
def test_garbage_from_the_platform_is_a_named_fault(reply: bytes) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        ours.sendall(reply)
        ours.shutdown(socket.SHUT_WR)
        with ours, pytest.raises(PlatformFault):
            DeviceSocket(theirs).report(bytes(64))


_ASK_FOR_EVIDENCE = """
import os, sys
from attestation.device_socket import PLATFORM_FD, DeviceSocket
device = DeviceSocket.from_fd(int(os.environ[PLATFORM_FD]))
sys.stdout.buffer.write(device.report(b"\\x01" * 64).evidence)
"""


def test_a_launched_process_gets_evidence_of_its_own_measurement(platform: Platform, volume: Path) -> None:
    volumes = {"image": volume}
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[3])!r})" + _ASK_FOR_EVIDENCE
    (volume / "start.json").write_text(json.dumps([sys.executable, "-c", code]))
    launched = platform.launch(volumes=volumes, cmdline=b"cmd", env={"LC_ALL": "C"}, stdout=subprocess.PIPE)
    evidence, _ = launched.process.communicate(timeout=60)
    assert launched.process.returncode == 0
    assert launched.measurement == measure_launch(b"cmd", volumes)
    assert parse_report(evidence).measurement == launched.measurement


def test_a_program_that_cannot_start_is_a_named_fault(platform: Platform, volume: Path) -> None:
    (volume / "start.json").write_text('["{root}/absent"]')
    with pytest.raises(PlatformFault) as caught:
        platform.launch(volumes={"image": volume}, cmdline=b"", env={})
    assert caught.value.code == "launch_failed"


@pytest.mark.parametrize("content", [None, "", "{}", "[]", "[1]", "[" * 100_000, '"x"', "x" * 70_000])
def test_an_image_that_does_not_say_what_to_start_is_a_named_fault(
    platform: Platform, tmp_path: Path, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "start.json").write_text(content)
    with pytest.raises(PlatformFault) as caught:
        platform.launch(volumes={"image": tmp_path}, cmdline=b"", env={})
    assert caught.value.code == "launch_not_startable"


def test_another_program_or_argument_is_another_measurement(platform: Platform, volume: Path) -> None:
    show = [sys.executable, "-c", "import sys; print(sys.argv[1:])"]
    seen = set()
    for start, cmdline in ((show, b"one"), (show, b"two"), ([*show, "more"], b"one")):
        (volume / "start.json").write_text(json.dumps(start))
        launched = platform.launch(volumes={"image": volume}, cmdline=cmdline, env={}, stdout=subprocess.PIPE)
        said, _ = launched.process.communicate(timeout=60)
        assert said.decode().strip() == str([*start[3:], cmdline.decode()])
        seen.add(launched.measurement)
    assert len(seen) == 3


def test_keys_are_kept_for_their_owner_alone(platform_state: Path, amd: SimulatedAmd) -> None:
    kept = list((platform_state / "amd").iterdir())
    assert {stat.S_IMODE(path.stat().st_mode) for path in kept} == {0o600}
    assert SimulatedAmd.open(platform_state, lambda: AT).root_sha256 == amd.root_sha256


def test_damaged_state_is_a_named_fault(platform_state: Path, tmp_path: Path) -> None:
    for name in ("ark.der", "vcek.key", "chip-id"):
        copy = tmp_path / name / "amd"
        copy.mkdir(parents=True)
        for path in (platform_state / "amd").iterdir():
            (copy / path.name).write_bytes(b"damaged" if path.name == name else path.read_bytes())
        with pytest.raises(PlatformFault) as caught:
            SimulatedAmd.open(copy.parent, lambda: AT)
        assert caught.value.code == "simulated_state"
