"""What a node asks of its own staples, where its measured configuration says by which log.

``transparency`` in the configuration is the table ``[transparency]`` of a client's policy (``measurements.policy``).
A node that has one runs the client's own check on the staple that it boots with, and on every one that the host hands
over later: log, witnesses, signers, status, release, listed, not rolled back; and the release has to list what this
machine measured as. It saves users nothing, since they check all of it again; it keeps a host from replacing a good
staple by one that every user would refuse. The time is the node's own clock, which a host may set: it can so make a
node refuse, and never accept what the log's keys did not sign.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

from attestation.bundle import CpuSection, EvidenceBundle
from attestation.errors import AttestationError
from attestation.stated_registers import stated_registers
from enclave_runtime.errors import ConfigurationError, NodeError
from enclave_runtime.exit_codes import ExitCode
from enclave_runtime.staple_feed import StapleRefused, parsed, require_consistent
from measurements.errors import Code, TransparencyError
from measurements.policy import TLOG, TransparencyPolicy
from measurements.rollback import Sighting, VolatileMemory
from measurements.staple import Staple, check_staple


def staple_policy(table: Mapping[str, Any]) -> TransparencyPolicy | None:
    """The policy of a configuration's ``transparency``; None for an empty one.

    Raises ConfigurationError (``config_transparency``).
    """
    if not table:
        return None
    try:
        policy = TransparencyPolicy.from_table(table)
    except TransparencyError as error:
        raise ConfigurationError("config_transparency", str(error)) from None
    if policy.profile != TLOG:
        # What judges a Sigstore bundle would have to be loaded behind the seal.
        raise ConfigurationError("config_transparency", f"a node checks by profile {TLOG} alone")
    return policy


def check_of(table: Mapping[str, Any], bundle: bytes, now: Callable[[], float]) -> "StapleCheck | None":
    """The check that a configuration asks for, for the machine whose own ``bundle`` this is. Raises NodeError."""
    policy = staple_policy(table)
    return None if policy is None else StapleCheck(policy, EvidenceBundle.parse(bundle).cpu, now)


class StapleCheck:
    """Checks staples by ``policy``, for the machine whose own evidence is ``cpu``. ``now`` gives POSIX seconds.

    Raises NodeError where this machine's evidence cannot be read.
    """

    def __init__(self, policy: TransparencyPolicy, cpu: CpuSection, now: Callable[[], float]) -> None:
        try:
            self._registers = stated_registers(cpu)
        except AttestationError as error:
            raise NodeError(error.code, ExitCode.PLATFORM, error.detail) from None
        self._tee, self._policy, self._now = cpu.tee, policy, now
        self._memory = VolatileMemory()

    def at_boot(self, staple: Staple) -> None:
        """Raises NodeError (``staple_refused``) where the staple is not this machine's, by the policy."""
        try:
            self._check(staple)
        except TransparencyError as error:
            raise NodeError("staple_refused", ExitCode.STAPLE, f"{error.code}: {error}") from None

    def successor(self, before: Staple, file: bytes) -> Staple:
        """The staple in ``file``, if it may take the place of ``before``: it may be about a newer entry of the log
        for the same image. Raises StapleRefused.
        """
        staple = parsed(file)
        require_consistent(before, staple)
        try:
            self._check(staple)
        except TransparencyError:
            raise StapleRefused("log") from None
        return staple

    def _check(self, staple: Staple) -> None:
        at = datetime.fromtimestamp(self._now(), UTC)
        members = {field.name: getattr(staple, field.name) for field in fields(staple)}
        asked = _Asked(self._memory)
        found = check_staple(**members, policy=self._policy, at=at, memory=asked).require()
        # Not `match_cpu`: which TCB it runs on, a machine does not judge of itself.
        if not any(found.measured_as(self._tee, self._registers)):
            raise TransparencyError(
                Code.MEASUREMENT_MISMATCH,
                f"{found.name} {found.version} does not list what this machine measured as",
                stage="log.measurement",
            )
        self._memory.advance(asked.seen[-1])


class _Asked:
    """A memory that is asked and not written: of a staple that is refused nothing is remembered."""

    def __init__(self, memory: VolatileMemory) -> None:
        self.check = memory.check
        self.seen: list[Sighting] = []

    def advance(self, sighting: Sighting) -> None:
        """Judge it, and keep it for whoever takes the staple."""
        self.check(sighting)
        self.seen.append(sighting)
