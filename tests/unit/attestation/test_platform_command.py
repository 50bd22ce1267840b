"""The simulated platform as a program: what it measured is what its evidence says, to whoever is connected."""

import hashlib
import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

from attestation.device_socket import DeviceSocket
from attestation.sev_snp_report import parse_report
from attestation.simulated.launch import measure_launch


def test_evidence_over_its_socket_shows_what_was_launched(tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("kernel", "initrd", "cmdline")}
    for name, path in files.items():
        path.write_bytes(name.encode() * 100)
    listen = tmp_path / "socket"
    words = ["platform", "--state", str(tmp_path / "state"), "--socket", str(listen)]
    words += ["--cmdline", str(files["cmdline"])]
    for name in ("kernel", "initrd"):
        words += ["--measure", f"{name}={files[name]}"]
    command = [sys.executable, "-m", "client_sdk", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            said = json.loads(process.stdout.readline())
            volumes = {name: files[name] for name in ("kernel", "initrd")}
            assert said["measurement"] == measure_launch(files["cmdline"].read_bytes(), volumes).hex()
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as machine:
                machine.connect(str(listen))
                device = DeviceSocket(machine)
                data = hashlib.sha512(b"claims").digest()
                report = parse_report(device.report(data).evidence)
            assert report.report_data == data
            assert report.measurement.hex() == said["measurement"]
        finally:
            process.send_signal(signal.SIGTERM)
    assert process.returncode == 0
    assert not listen.exists()
