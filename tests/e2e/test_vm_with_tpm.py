"""A measured boot: what a TPM signs is what was predicted from the image's files, and a client accepts nothing else."""

import base64
import http.client
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from vm_world import PATIENCE_S, VmRelease, cloister, require

from client_sdk.demo.processes import Listening, listening
from client_sdk.demo.processes import cloister as command
from enclave_runtime.metrics_schema import DEFAULT
from images import virtual_tpm
from measurements.staple import Staple


@dataclass(frozen=True)
class Measured:
    """A released image, a TPM to boot it with, and a policy that trusts both."""

    release: VmRelease
    tpm: Path
    policy: Path

    @property
    def predicted(self) -> dict[str, str]:
        elements = json.loads((self.release.image / "predictions" / "elements.json").read_bytes())
        return next(element for element in elements if element["tee"] == "tpm")


@pytest.fixture(scope="module")
def measured(vm_release: VmRelease, tmp_path_factory: pytest.TempPathFactory) -> Measured:
    require("swtpm", "swtpm")
    require("swtpm_setup", "swtpm-tools")
    laboratory = virtual_tpm.create(tmp_path_factory.mktemp("tpm") / "tpm", lambda: datetime.now(UTC))
    return Measured(vm_release, laboratory.folder, vm_release.policy_for(laboratory.root_sha256))


def bundle_of(port: int) -> dict[str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", "/node/attestation")
        found: dict[str, Any] = json.load(connection.getresponse())
    finally:
        connection.close()
    return found


def metrics_of(port: int) -> str:
    """What the machine shows to whoever asks."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()
    finally:
        connection.close()


@contextmanager
def booted(measured: Measured, *more: str) -> Iterator[tuple[int, Listening]]:
    """The relay's port, and the machine as it said that it listens."""
    release = measured.release
    words = ["image", "boot", str(release.image), "--tpm", str(measured.tpm), "--staple", str(release.staple)]
    boot = command(*words, "--accelerator", "tcg", "--patience", str(PATIENCE_S), *more)
    with listening("the virtual machine", boot, patience_s=PATIENCE_S) as machine:
        node = f"node=http://127.0.0.1:{machine.port}"
        with listening("the relay", command("relay", "--target", node, "--port", "0", "--json")) as relay:
            yield relay.port, machine


@pytest.fixture(scope="module")
def running(measured: Measured) -> Iterator[tuple[int, Listening]]:
    """One boot for all tests that leave the machine as it is."""
    with booted(measured) as found:
        yield found


def test_a_signed_quote_has_the_predicted_registers_and_a_client_is_answered(
    measured: Measured, running: tuple[int, Listening], tmp_path: Path
) -> None:
    predicted = measured.predicted
    port, machine = running
    url = f"http://127.0.0.1:{port}/node"
    bundle = bundle_of(port)
    asked = cloister("chat", "--relay", url, "--policy", measured.policy, "--max-tokens", 4, "Hello?")
    shown = metrics_of(machine.event["metrics_port"])
    assert asked.returncode == 0, asked.stdout + asked.stderr
    assert shown.endswith("# EOF\n")
    assert {metric.name for metric in DEFAULT.metrics} == set(re.findall(r"^(\w+)[ {]", shown, re.MULTILINE))
    pieces = {row["piece"]: row["state"] for row in machine.event["seal"]}
    assert pieces["memory.locked"] == "in force"
    assert set(pieces.values()) == {"in force"}
    quote = json.loads(base64.b64decode(bundle["cpu"]["evidence"]))
    for number in (4, 9, 11, 12):
        assert quote["pcrs"]["sha256"][str(number)] == predicted[f"pcr{number}"], number
    log = tmp_path / "eventlog"
    log.write_bytes(base64.b64decode(bundle["cpu"]["collateral"]["eventlog"]))
    explained = cloister("measure", "explain", measured.release.image / "predictions" / "tpm.json", log)
    assert explained.returncode == 0, explained.stdout
    assert explained.stdout.count("agrees") == 5


def test_a_running_machine_takes_a_fresh_staple_and_no_other(
    measured: Measured, running: tuple[int, Listening]
) -> None:
    """What the host puts in the staple's file reaches the node: one of nothing changes nothing, a fresh one does."""
    port, release = running[0], measured.release
    before, first = bundle_of(port), Staple.parse(release.staple.read_bytes())
    release.staple.write_bytes(replace(first, checkpoint=b"none").encode())
    time.sleep(3)  # time for the host to see it; what follows comes behind it
    published = release.publish()
    assert published.returncode == 0, published.stderr
    fresh = Staple.parse(release.staple.read_bytes())
    deadline = time.monotonic() + PATIENCE_S
    while (after := bundle_of(port)) == before:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert fresh.checkpoint != first.checkpoint
    assert base64.b64decode(after["checkpoint"]) == fresh.checkpoint
    assert after["ohttp_keys"] == before["ohttp_keys"]
    url = f"http://127.0.0.1:{port}/node"
    asked = cloister("verify", "--relay", url, "--policy", measured.policy)
    assert asked.returncode == 0, asked.stdout + asked.stderr


@pytest.mark.exhaustive
def test_a_command_line_of_the_hosts_moves_registers_9_and_12_and_is_refused(
    measured: Measured, tmp_path: Path
) -> None:
    """The control stands in the same evidence: PCRs 4 and 11 are as released, so whoever pins those alone accepts."""
    line = (measured.release.image / "cmdline").read_text()
    predicted = measured.predicted
    with booted(measured, "--append", f"{line} init_on_free=0") as (port, _):
        url = f"http://127.0.0.1:{port}/node"
        bundle = bundle_of(port)
        asked = cloister("chat", "--relay", url, "--policy", measured.policy, "--max-tokens", 4, "Hello?")
    assert asked.returncode == 3
    assert "MEASUREMENT_MISMATCH" in asked.stderr
    found = json.loads(base64.b64decode(bundle["cpu"]["evidence"]))["pcrs"]["sha256"]
    same = {number: found[str(number)] == predicted[f"pcr{number}"] for number in (4, 9, 11, 12)}
    assert same == {4: True, 9: False, 11: True, 12: False}
    log = tmp_path / "eventlog"
    log.write_bytes(base64.b64decode(bundle["cpu"]["collateral"]["eventlog"]))
    explained = cloister("measure", "explain", measured.release.image / "predictions" / "tpm.json", log)
    assert explained.returncode == 3
    assert "command line" in explained.stdout
