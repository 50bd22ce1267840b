"""The NVLink topology of a board in protected PCIe mode: eight GPUs and four NVSwitches, and nothing else.

In that mode NVLink is not encrypted, so every device on it must be inside the trust boundary. Each GPU
reports the id (PDI) of the switch at each of its links, each switch its own id and those of the GPUs it sees.
GPUs write a switch's id with its bytes in the reverse order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from attestation.nvidia.errors import FieldError, TopologyError
from attestation.nvidia.opaque import OpaqueType

GPUS, SWITCHES = 8, 4
PDI_BYTES = 8
LINKS = 18
_GPU_PDI_FIELD = GPUS * PDI_BYTES + 64  # eight ids, and for each port the place of its GPU
_NO_LINK = bytes(PDI_BYTES)


@dataclass(frozen=True, slots=True)
class SwitchLinks:
    """A switch's own id, and the ids of the GPUs that it sees, both in the switch's byte order."""

    own: bytes
    gpus: frozenset[bytes]


def gpu_links(opaque: Mapping[int, bytes]) -> frozenset[bytes]:
    """The ids of the switches at a GPU's links, in the switches' byte order.

    Raises `FieldError`: ``field_missing``, ``field_invalid``.
    """
    data = _field(opaque, OpaqueType.SWITCH_PDI, LINKS * PDI_BYTES)
    ids = (data[place : place + PDI_BYTES] for place in range(0, len(data), PDI_BYTES))
    return frozenset(pdi[::-1] for pdi in ids if pdi != _NO_LINK)


def switch_links(opaque: Mapping[int, bytes]) -> SwitchLinks:
    """What a switch says of itself and its GPUs. Raises `FieldError`: ``field_missing``, ``field_invalid``."""
    own = _field(opaque, OpaqueType.SWITCH_PDI, PDI_BYTES)
    data = _field(opaque, OpaqueType.SWITCH_GPU_PDIS, _GPU_PDI_FIELD)
    ids = (data[place : place + PDI_BYTES] for place in range(0, GPUS * PDI_BYTES, PDI_BYTES))
    return SwitchLinks(own, frozenset(pdi for pdi in ids if pdi != _NO_LINK))


def check_topology(gpus: Sequence[frozenset[bytes]], switches: Sequence[SwitchLinks]) -> None:
    """All GPUs and switches of one board are there, and see each other and nothing else.

    Raises `TopologyError` (``topology``).
    """
    if (len(gpus), len(switches)) != (GPUS, SWITCHES):
        raise _error(
            "devices of the board",
            f"{GPUS} GPUs and {SWITCHES} switches",
            f"{len(gpus)} GPUs and {len(switches)} switches",
        )
    own = {switch.own for switch in switches}
    if len(own) != SWITCHES or _NO_LINK in own:
        raise _error("switches do not have an id each", SWITCHES, len(own))
    for place, links in enumerate(gpus):
        if links != own:
            raise _error(f"switches that GPU {place} is linked to", _list(own), _list(links))
    seen = switches[0].gpus
    if len(seen) != GPUS:
        raise _error("GPUs that the switches are linked to", GPUS, len(seen))
    for place, switch in enumerate(switches):
        if switch.gpus != seen:
            raise _error(f"GPUs that switch {place} is linked to", _list(seen), _list(switch.gpus))


def _field(opaque: Mapping[int, bytes], kind: OpaqueType, length: int) -> bytes:
    data = opaque.get(kind)
    if data is None:
        raise FieldError(code="field_missing", stage="gpu.topology", expected=kind.name)
    if len(data) != length:
        raise FieldError(
            code="field_invalid",
            stage="gpu.topology",
            expected=f"{kind.name}: {length} bytes",
            found=f"{len(data)} bytes",
        )
    return data


def _list(ids: frozenset[bytes] | set[bytes]) -> str:
    return " ".join(sorted(pdi.hex() for pdi in ids))


def _error(detail: str, expected: object, found: object) -> TopologyError:
    return TopologyError(code="topology", stage="gpu.topology", detail=detail, expected=expected, found=found)
