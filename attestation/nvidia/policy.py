"""What a relying party asks of GPUs: the ``[gpu]`` table of a policy."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from attestation.nvidia.chain import NVIDIA_DEVICE_ROOT_SHA256
from attestation.nvidia.claim_rules import ClaimRules
from attestation.nvidia.errors import GpuPolicyError
from attestation.nvidia.nras_keys import NRAS_AUTHORITIES_SHA256
from attestation.nvidia.opaque import Mode
from attestation.nvidia.rim import NVIDIA_RIM_ROOT_SHA256

Demand = Literal["required", "off"]
Revocation = Literal["required", "stapled", "off"]

_SHA256 = re.compile(r"[0-9a-f]{64}")
_FWID = re.compile(r"[0-9a-f]{96}")
_DRIVER = re.compile(r"[0-9]{1,5}(?:\.[0-9]{1,5}){1,3}")
_VBIOS = re.compile(r"[0-9A-F]{2}(?:\.[0-9A-F]{2}){4}")
_UEID = re.compile(r"[1-9][0-9]{0,48}")
_ARCHITECTURES = frozenset({"HOPPER", "BLACKWELL"})
_CLAIMS_VERSIONS = frozenset({"2.0", "3.0"})
_MAX_HOURS = 24 * 365
_MAX_COUNT = 255  # the count is one byte of the nonce that every GPU signs


@dataclass(frozen=True, slots=True)
class GpuPolicy:
    """Demands on a node's GPUs. The default is strict production.

    ``count``: exact number of GPUs, or None for one or more. ``architectures``, ``modes``: what is
    allowed. ``min_driver``: lowest driver version, compared number by number; ``min_vbios``: the lowest VBIOS of each
    line (the first of its numbers), where a line without a floor is refused. ``drivers``, ``vbios``,
    ``fwids``: allow-lists, empty for no restriction. ``blocked_ueids``: devices never accepted; ``identities``: the
    register of those accepted, by the SHA-256 that names a device whatever firmware it runs, empty for no restriction.
    ``pairs``: allowed pairs of driver and VBIOS version, empty for no restriction. ``require_fwid``: refuse
    reports without a firmware id. ``rim``, ``nras``: reference measurements, and NVIDIA's remote service.
    ``reject_uncovered``: refuse measurements that no reference value covers; ``strict_msr35``: compare
    measurement 35 even while its decoder is off. ``revocation``: ``required`` wants a good OCSP response for
    every certificate that has one, ``stapled`` judges those that are there, ``off`` none;
    ``allow_rim_cert_hold`` tolerates a manifest signer on hold; ``ocsp_max_age_hours`` bounds responses that
    state no next update. ``nras_claims``: versions that the service's claims may have; ``nras_rules``,
    ``claim_rules``: policy files of NVIDIA's tools, run over the service's claims and over our own.
    ``simulated_root``, ``simulated_rim_root``, ``simulated_nras``: SHA-256 of the root certificates of a
    simulated platform and of the key of its service, or None; only a policy that names one trusts it.
    """

    count: int | None = None
    architectures: frozenset[str] = _ARCHITECTURES
    modes: frozenset[Mode] = frozenset({Mode.SPT})
    min_driver: str | None = None
    min_vbios: frozenset[str] = frozenset()
    drivers: frozenset[str] = frozenset()
    vbios: frozenset[str] = frozenset()
    pairs: frozenset[tuple[str, str]] = frozenset()
    fwids: frozenset[bytes] = frozenset()
    blocked_ueids: frozenset[str] = frozenset()
    identities: frozenset[bytes] = frozenset()
    require_fwid: bool = True
    rim: Demand = "required"
    reject_uncovered: bool = False
    strict_msr35: bool = False
    revocation: Revocation = "required"
    allow_rim_cert_hold: bool = False
    ocsp_max_age_hours: int = 7 * 24
    nras: Demand = "off"
    nras_claims: frozenset[str] = _CLAIMS_VERSIONS
    nras_rules: ClaimRules | None = None
    claim_rules: ClaimRules | None = None
    simulated_root: str | None = None
    simulated_rim_root: str | None = None
    simulated_nras: str | None = None

    def __post_init__(self) -> None:
        if self.simulated_nras in NRAS_AUTHORITIES_SHA256:
            raise _invalid("simulated_nras", "an authority other than NVIDIA's", self.simulated_nras)
        for name in ("simulated_root", "simulated_rim_root"):
            if getattr(self, name) in (NVIDIA_DEVICE_ROOT_SHA256, NVIDIA_RIM_ROOT_SHA256):
                raise _invalid(name, "a root other than NVIDIA's", getattr(self, name))

    @property
    def roots(self) -> frozenset[str]:
        """SHA-256 (hexadecimal) of the device root certificates this policy trusts."""
        simulated = frozenset() if self.simulated_root is None else frozenset({self.simulated_root})
        return simulated | {NVIDIA_DEVICE_ROOT_SHA256}

    def rim_roots(self, *, simulated: bool) -> frozenset[str]:
        """SHA-256 of the reference-value roots for devices under the simulated root, or for real ones.

        They are kept apart, so that no simulated manifest vouches for a real device.
        """
        if not simulated:
            return frozenset({NVIDIA_RIM_ROOT_SHA256})
        return frozenset() if self.simulated_rim_root is None else frozenset({self.simulated_rim_root})

    def nras_authorities(self, *, simulated: bool) -> frozenset[str]:
        """SHA-256 of the keys of the service's authorities, for devices under the simulated root or real ones."""
        if not simulated:
            return NRAS_AUTHORITIES_SHA256
        return frozenset() if self.simulated_nras is None else frozenset({self.simulated_nras})

    @property
    def ocsp_max_age(self) -> timedelta:
        """``ocsp_max_age_hours`` as a duration."""
        return timedelta(hours=self.ocsp_max_age_hours)

    @classmethod
    def production(cls) -> "GpuPolicy":
        """The strict default: one real GPU or more, reference measurements and revocation required."""
        return cls()

    @classmethod
    def from_table(
        cls,
        table: Mapping[str, object],
        *,
        simulated_root: str | None = None,
        simulated_rim_root: str | None = None,
        simulated_nras: str | None = None,
    ) -> "GpuPolicy":
        """Read a ``[gpu]`` table; what it leaves out has the production value.

        ``simulated_root``, ``simulated_rim_root`` and ``simulated_nras`` are ``nvidia_root_sha256``,
        ``nvidia_rim_root_sha256`` and ``nvidia_nras_sha256`` of the ``[simulated]`` table. Raises `GpuPolicyError`
        (``policy_invalid``) for an unknown key or a value of the wrong kind.
        """
        unknown = sorted(str(key) for key in table.keys() - _READERS.keys())
        if unknown:
            raise _invalid("unknown key", sorted(_READERS), unknown)
        values = {name: _READERS[name](name, value) for name, value in table.items()}
        if simulated_root is not None:
            values["simulated_root"] = _text("nvidia_root_sha256", simulated_root, _SHA256)
        if simulated_rim_root is not None:
            values["simulated_rim_root"] = _text("nvidia_rim_root_sha256", simulated_rim_root, _SHA256)
        if simulated_nras is not None:
            values["simulated_nras"] = _text("nvidia_nras_sha256", simulated_nras, _SHA256)
        return cls(**values)  # type: ignore[arg-type]


def version_key(version: str) -> tuple[int, ...]:
    """A driver version as numbers, so that 570.9 sorts below 570.124."""
    return tuple(int(part) for part in version.split("."))


def vbios_key(version: str) -> tuple[int, ...]:
    """A VBIOS version as numbers; it is written in hexadecimal."""
    return tuple(int(part, 16) for part in version.split("."))


def _count(name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MAX_COUNT:
        raise _invalid(name, f"a whole number from 0 to {_MAX_COUNT}", value)
    return value


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise _invalid(name, "true or false", value)
    return value


def _demand(name: str, value: object) -> str:
    if value not in ("required", "off"):
        raise _invalid(name, '"required" or "off"', value)
    return str(value)


def _revocation(name: str, value: object) -> str:
    if value not in ("required", "stapled", "off"):
        raise _invalid(name, '"required", "stapled" or "off"', value)
    return str(value)


def _hours(name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MAX_HOURS:
        raise _invalid(name, f"a whole number from 1 to {_MAX_HOURS}", value)
    return value


def _floors(name: str, value: object) -> frozenset[str]:
    floors = _vbios(name, value)
    if len({floor.partition(".")[0] for floor in floors}) != len(floors):
        raise _invalid(name, "one floor for each line of VBIOS versions", sorted(floors))
    return floors


def _pairs(name: str, value: object) -> frozenset[tuple[str, str]]:
    pairs = set()
    for item in _some(name, value):
        if not isinstance(item, list) or len(item) != 2:
            raise _invalid(name, "pairs of driver and VBIOS version", item)
        driver, vbios = item
        vbios = vbios.upper() if isinstance(vbios, str) else vbios
        pairs.add((_text(name, driver, _DRIVER), _text(name, vbios, _VBIOS)))
    return frozenset(pairs)


def _rules(name: str, value: object) -> ClaimRules:
    if not isinstance(value, str):
        raise _invalid(name, "the text of a policy file of NVIDIA's tools", value)
    return ClaimRules.parse(value.encode("utf-8"))


def _text(name: str, value: object, form: re.Pattern[str]) -> str:
    if not isinstance(value, str) or not form.fullmatch(value):
        raise _invalid(name, f"text of the form {form.pattern}", value)
    return value


def _list(name: str, value: object) -> list[object]:
    if not isinstance(value, list):
        raise _invalid(name, "a list", value)
    return value


def _architectures(name: str, value: object) -> frozenset[str]:
    return frozenset(_one_of(name, item, _ARCHITECTURES) for item in _some(name, value))


def _modes(name: str, value: object) -> frozenset[Mode]:
    names = frozenset(mode.value for mode in Mode)
    return frozenset(Mode(_one_of(name, item, names)) for item in _some(name, value))


def _some(name: str, value: object) -> list[object]:
    items = _list(name, value)
    if not items:
        raise _invalid(name, "at least one", value)
    return items


def _one_of(name: str, value: object, allowed: frozenset[str]) -> str:
    if not isinstance(value, str) or value not in allowed:
        raise _invalid(name, sorted(allowed), value)
    return value


def _texts(form: re.Pattern[str]) -> Callable[[str, object], frozenset[str]]:
    return lambda name, value: frozenset(_text(name, item, form) for item in _list(name, value))


def _vbios(name: str, value: object) -> frozenset[str]:
    items = [item.upper() if isinstance(item, str) else item for item in _list(name, value)]
    return frozenset(_text(name, item, _VBIOS) for item in items)


_READERS: Mapping[str, Callable[[str, object], object]] = {
    "count": _count,
    "architectures": _architectures,
    "modes": _modes,
    "min_driver": lambda name, value: _text(name, value, _DRIVER),
    "min_vbios": lambda name, value: _floors(name, [value] if isinstance(value, str) else value),
    "drivers": _texts(_DRIVER),
    "vbios": _vbios,
    "pairs": _pairs,
    "fwids": lambda name, value: frozenset(map(bytes.fromhex, _texts(_FWID)(name, value))),
    "blocked_ueids": _texts(_UEID),
    "identities": lambda name, value: frozenset(map(bytes.fromhex, _texts(_SHA256)(name, value))),
    "require_fwid": _flag,
    "rim": _demand,
    "reject_uncovered": _flag,
    "strict_msr35": _flag,
    "revocation": _revocation,
    "allow_rim_cert_hold": _flag,
    "ocsp_max_age_hours": _hours,
    "nras": _demand,
    "nras_claims": lambda name, value: frozenset(
        _one_of(name, item, _CLAIMS_VERSIONS) for item in _some(name, value)
    ),
    "nras_rules": _rules,
    "claim_rules": _rules,
}


def _invalid(name: str, expected: object, found: object) -> GpuPolicyError:
    return GpuPolicyError(
        code="policy_invalid", stage="policy", detail=f"[gpu] {name}", expected=expected, found=found
    )
