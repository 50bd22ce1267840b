"""A device's measurements against its reference manifests: NVIDIA's comparison rule.

The active entries of all manifests together name what must be; each such measurement must equal one of its
alternatives. Indices count from zero (SPDM block ``i + 1``). Index 35 is of the video decoder's firmware, and
NVIDIA's rule leaves it out while that decoder is off.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from attestation.nvidia.errors import MeasurementError, RimError
from attestation.nvidia.rim import Rim
from attestation.nvidia.spdm import DIGEST_BYTES

NVDEC_INDEX = 35


@dataclass(frozen=True, slots=True)
class Comparison:
    """Indices that matched, that were left out (index 35), and that no manifest covers though not zero."""

    matched: tuple[int, ...]
    left_out: tuple[int, ...]
    uncovered: tuple[int, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader of the result should know."""
        found = []
        if self.left_out:
            found.append(f"measurement {_list(self.left_out)} differs and is left out: its decoder is off")
        if self.uncovered:
            found.append(f"no reference value covers measurement {_list(self.uncovered)}")
        return tuple(found)


def check_digests(measurements: Sequence[bytes]) -> None:
    """Every measurement is a SHA-384 digest. Raises `MeasurementError` (``measurement_mismatch``)."""
    for index, digest in enumerate(measurements):
        if len(digest) != DIGEST_BYTES:
            raise _error("measurement_mismatch", f"length of measurement {index}", DIGEST_BYTES, len(digest))


def compare(
    measurements: Sequence[bytes], rims: Sequence[Rim], *, leave_out_nvdec: bool, reject_uncovered: bool
) -> Comparison:
    """Compare measurements with the manifests that apply to the device.

    ``leave_out_nvdec``: index 35 does not count (decoder off, and the policy is not strict about it).
    Raises `RimError` (``rim_index_conflict``) or `MeasurementError` (``measurement_missing``,
    ``measurement_mismatch``, ``measurement_uncovered``).
    """
    check_digests(measurements)
    references: dict[int, tuple[bytes, ...]] = {}
    for rim in rims:
        for index, digests in rim.measurements.items():
            if index in references:
                raise RimError(
                    code="rim_index_conflict",
                    stage="gpu.measurements",
                    detail=f"measurement {index} is active in two manifests",
                )
            references[index] = digests
    matched, left_out = [], []
    for index in sorted(references):
        if index >= len(measurements):
            raise _error(
                "measurement_missing", f"measurement {index}", "reported by the device", "not reported"
            )
        if measurements[index] in references[index]:
            matched.append(index)
        elif index == NVDEC_INDEX and leave_out_nvdec:
            left_out.append(index)
        else:
            raise _error(
                "measurement_mismatch",
                f"measurement {index} (of {len(references[index])} allowed)",
                references[index][0].hex(),
                measurements[index].hex(),
            )
    uncovered = tuple(
        index for index, digest in enumerate(measurements) if index not in references and any(digest)
    )
    if uncovered and reject_uncovered:
        raise _error("measurement_uncovered", f"no reference value covers measurement {_list(uncovered)}")
    return Comparison(tuple(matched), tuple(left_out), uncovered)


def _list(indices: Sequence[int]) -> str:
    return ", ".join(map(str, indices))


def _error(code: str, detail: str, expected: object = None, found: object = None) -> MeasurementError:
    return MeasurementError(
        code=code, stage="gpu.measurements", detail=detail, expected=expected, found=found
    )
