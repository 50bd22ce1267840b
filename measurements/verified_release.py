"""A release that has passed every check, and its comparison with what hardware measured."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from .errors import Code, TransparencyError
from .release import CPU_REGISTERS, GPU, Release, registers_of
from .statement import Subject


@dataclass(frozen=True, slots=True)
class VerifiedRelease:
    """Signed, logged, witnessed, listed as active and not rolled back at the time of the check.

    ``leaf_hash`` is the Merkle leaf hash, ``index`` its place in the log; ``status_expires_at`` bounds how
    long this verdict may be used. Where ``listed`` is False (profile sigstore-only) there is no such log and no
    status: ``log`` and ``index`` are of Sigstore's log, ``leaf_hash`` is the leaf hash of the bare statement, and
    the release's own end bounds the verdict.
    """

    name: str
    version: str
    channel: str
    sequence: int
    not_before: datetime
    not_after: datetime
    subjects: tuple[Subject, ...]
    measurements: tuple[Mapping[str, Any], ...]
    materials: Mapping[str, Any]
    leaf_hash: bytes
    index: int
    log: str
    tree_size: int
    status_sequence: int
    status_issued_at: datetime
    status_expires_at: datetime
    listed: bool = True

    def match_cpu(
        self, tee: str, registers: Mapping[str, str], tcb: Mapping[str, int] | None = None
    ) -> Mapping[str, Any]:
        """The element whose registers *all* equal the measured ones (hex, from verified evidence).

        An element with TCB floors also needs ``tcb``, every component at its floor or above. Raises
        TransparencyError (MEASUREMENT_MISMATCH).
        """
        for element in self.measured_as(tee, registers):
            if _tcb_holds(element, tcb):
                return element
        candidates = self._elements_of(tee)
        names = dict.fromkeys(name for element in candidates for name in registers_of(element))
        raise TransparencyError(
            Code.MEASUREMENT_MISMATCH,
            f"no {tee} element of {self.name} {self.version} equals what was measured",
            stage="log.measurement",
            expected=[[element[name] for name in registers_of(element)] for element in candidates],
            found=[registers.get(name, "").lower() for name in names or CPU_REGISTERS.get(tee, ())],
        )

    def measured_as(self, tee: str, registers: Mapping[str, str]) -> Iterator[Mapping[str, Any]]:
        """The elements whose registers *all* equal the given ones, whatever TCB they ask for."""
        for element in self._elements_of(tee):
            if all(registers.get(name, "").lower() == element[name] for name in registers_of(element)):
                yield element

    def _elements_of(self, tee: str) -> list[Mapping[str, Any]]:
        if tee not in CPU_REGISTERS:
            return []
        return [element for element in self.measurements if element.get("tee") == tee]

    def match_gpu(self, *, arch: str, driver: str, vbios: str, mode: str = "on") -> Mapping[str, Any]:
        """The element that allows this GPU architecture, driver, VBIOS and CC mode (from verified evidence).

        Raises TransparencyError (MEASUREMENT_MISMATCH).
        """
        for element in self.measurements:
            if (
                element.get("tee") == GPU
                and (element["arch"], element["ccMode"]) == (arch, mode)
                and driver in element["driver"]
                and vbios in element["vbios"]
            ):
                return element
        raise TransparencyError(
            Code.MEASUREMENT_MISMATCH,
            f"no GPU element of {self.name} {self.version} allows this GPU",
            stage="log.gpu",
            expected=[
                [element["arch"], element["ccMode"], element["driver"], element["vbios"]]
                for element in self.measurements
                if element.get("tee") == GPU
            ],
            found=[arch, mode, driver, vbios],
        )


def verified(release: Release, **facts: Any) -> VerifiedRelease:
    """Join a release with the facts of its verification; for the checks of a staple only."""
    return VerifiedRelease(
        name=release.name,
        version=release.version,
        channel=release.channel,
        sequence=release.sequence,
        not_before=release.not_before,
        not_after=release.not_after,
        subjects=release.subjects,
        measurements=release.measurements,
        materials=release.materials,
        **facts,
    )


def _tcb_holds(element: Mapping[str, Any], tcb: Mapping[str, int] | None) -> bool:
    floors: Mapping[str, int] = element.get("minTcb", {})
    return all(tcb is not None and tcb.get(name, -1) >= floor for name, floor in floors.items())
