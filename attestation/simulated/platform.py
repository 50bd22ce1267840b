"""The simulated platform: it measures what it launches, and gives the launched process evidence of that alone.

It stands where a confidential VM's hardware and hypervisor stand. It proves nothing about hardware, and every
result that rests on its roots says so; but the verifier that judges its evidence is the one for real evidence.

What a process reads after its launch is not measured again: whoever can write to the volumes of a running
process is outside of what a simulation on one machine can keep out.
"""

import logging
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from threading import Thread
from typing import IO, Final

from attestation.bundle import CpuSection
from attestation.device_socket import PLATFORM_FD, answer_all
from attestation.errors import AttestationError, PlatformFault
from attestation.sev_snp_report import REPORT_DATA_LENGTH

from .amd import ReportSettings, SimulatedAmd
from .launch import measure_launch, start_command
from .nvidia import SimulatedGpus

_log = logging.getLogger(__name__)

Stream = IO[bytes] | int | None


@dataclass(frozen=True, slots=True)
class Launched:
    """A launched process and the 48-byte launch digest that evidence of it will show."""

    process: subprocess.Popen[bytes]
    measurement: bytes


class Platform:
    """One simulated machine: a processor of AMD's Genoa line and some GPUs of the Hopper architecture."""

    def __init__(self, amd: SimulatedAmd, gpus: SimulatedGpus) -> None:
        self._amd = amd
        self._gpus = gpus

    @classmethod
    def open(cls, state_dir: Path, now: Callable[[], datetime], gpu_count: int = 1) -> "Platform":
        """The platform kept in ``state_dir``; roots and devices are made at first start, which takes seconds.

        ``now`` gives aware times. Raises PlatformFault (``simulated_state``) where the folder is damaged.
        """
        return cls(SimulatedAmd.open(state_dir, now), SimulatedGpus.open(state_dir, gpu_count))

    @property
    def roots(self) -> dict[str, str]:
        """SHA-256 of the root certificates, under the keys of a policy's ``[simulated]`` table."""
        return {
            "amd_root_sha256": self._amd.root_sha256,
            "nvidia_root_sha256": self._gpus.root_sha256,
            "nvidia_rim_root_sha256": self._gpus.rim_root_sha256,
        }

    def policy_table(self) -> str:
        """The ``[simulated]`` table, as TOML, of a policy that trusts this platform's roots."""
        lines = [f'{name} = "{digest}"' for name, digest in self.roots.items()]
        return "\n".join(("[simulated]", *lines, ""))

    def launch(
        self,
        *,
        volumes: Mapping[str, Path],
        cmdline: bytes,
        env: Mapping[str, str],
        stdout: Stream = None,
        stderr: Stream = None,
        extra_fds: Sequence[int] = (),
    ) -> Launched:
        """Measure the volumes and the command line, then start what they say, with a device of its own.

        The volume ``image`` holds ``start.json``, a list of strings in which ``{root}`` stands for the volume's
        place; the command line follows as the last argument. So the program, its arguments and everything it
        loads are measured. ``env`` may hold variables whose names begin with ``CLOISTER_``, and LC_ALL=C: others tell
        the dynamic loader or the interpreter to take in code that nobody measured.

        The device's descriptor has the number in the variable CLOISTER_PLATFORM_FD. Raises PlatformFault for
        another variable (``launch_environment``), or where something cannot be measured
        (``launch_not_measurable``) or started (``launch_failed``).
        """
        for name, value in env.items():
            if not name.startswith("CLOISTER_") and (name, value) != ("LC_ALL", "C"):
                raise PlatformFault(code="launch_environment", found=name)
        measurement = measure_launch(cmdline, volumes)
        argv: list[str | bytes] = [*start_command(volumes), cmdline]
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            try:
                process = subprocess.Popen(
                    argv,
                    env={**env, PLATFORM_FD: str(theirs.fileno())},
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=stderr,
                    pass_fds=(theirs.fileno(), *extra_fds),
                )
            except (OSError, ValueError) as error:
                ours.close()
                raise PlatformFault(code="launch_failed", detail=f"{argv[0]!r}: {error}") from error
        self.serve(ours, measurement)
        return Launched(process, measurement)

    def serve(self, sock: socket.socket, measurement: bytes) -> None:
        """Answer requests on ``sock`` with evidence of one launch digest, until the other end closes."""
        settings = self._amd.settings(measurement)
        Thread(target=self._answer_all, args=(sock, settings), name="simulated-platform", daemon=True).start()

    def _answer_all(self, sock: socket.socket, settings: ReportSettings) -> None:
        with sock:
            try:
                answer_all(sock, _Processor(self._amd, settings), self._gpus)
            except (AttestationError, OSError):
                _log.debug("a simulated device was closed")


class _Processor:
    """The CPU device of one launch."""

    data_length: Final = REPORT_DATA_LENGTH

    def __init__(self, amd: SimulatedAmd, settings: ReportSettings) -> None:
        self._amd = amd
        self._settings = settings

    def report(self, report_data: bytes) -> CpuSection:
        if len(report_data) != self.data_length:
            raise PlatformFault(code="platform_request", expected=self.data_length, found=len(report_data))
        return self._amd.section(report_data, self._settings)
