"""What a relying party asks of SEV-SNP: the ``[cpu.snp]`` table of a policy."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from .errors import PolicyMalformed
from .policy_table import PolicyTable
from .sev_snp_bulletins import AMD_BULLETINS, BULLETIN_IDS, Bulletin
from .sev_snp_certificates import AMD_ROOTS_SHA256, KeyKind
from .sev_snp_report import GUEST_POLICY_FLAGS, PLATFORM_FLAGS, Product, Tcb

_ALL_PRODUCTS: Final = frozenset(Product)
_REQUIRABLE: Final = ("single_socket", "aes256_xts", "rapl_dis", "ciphertext_hiding", "page_swap_disable")
_U64: Final = (1 << 64) - 1
_PINS: Final = {
    "measurement": 48,
    "report_data": 64,
    "host_data": 32,
    "image_id": 16,
    "family_id": 16,
    "chip_id": 64,
}


def amd_roots() -> Mapping[Product, frozenset[str]]:
    """AMD's own roots: SHA-256 of the ARK certificate of each processor line."""
    return {product: frozenset({digest}) for product, digest in AMD_ROOTS_SHA256.items()}


@dataclass(frozen=True, slots=True)
class SnpPolicy:
    """Demands on an SEV-SNP guest and its platform. Every default is the strict production value.

    ``roots``: SHA-256 of the ARK certificates trusted for each product; ``simulated_root`` is trusted
    besides, for all products, where it is named. ``bulletins``: floors for firmware
    (``sev_snp_bulletins``); ``min_tcb`` and ``min_launch_tcb`` add to them. ``pins``: accepted values of a
    report's fields, by field name. ``require_platform``, ``forbid_platform`` name bits of PLATFORM_INFO,
    ``require_guest_policy`` bits of the guest policy. ``min_abi`` is (major, minor), ``min_firmware``
    (major, minor, build). Mitigation vectors are sets of bits that must be there.
    """

    roots: Mapping[Product, frozenset[str]] = field(default_factory=amd_roots)
    simulated_root: str | None = None
    products: frozenset[Product] = _ALL_PRODUCTS
    signing_keys: frozenset[KeyKind] = frozenset(KeyKind)
    csp_ids: frozenset[str] | None = None
    require_crl: bool = True
    min_report_version: int = 3
    vmpl: frozenset[int] = frozenset({0})
    allow_debug: bool = False
    allow_migration_agent: bool = False
    allow_smt: bool = True
    allow_cxl: bool = False
    require_guest_policy: frozenset[str] = frozenset()
    require_platform: frozenset[str] = frozenset()
    forbid_platform: frozenset[str] = frozenset()
    strict_platform_bits: bool = False
    bulletins: tuple[Bulletin, ...] = AMD_BULLETINS
    min_tcb: Mapping[Product, Tcb] = field(default_factory=dict)
    min_launch_tcb: Mapping[Product, Tcb] = field(default_factory=dict)
    permit_provisional_firmware: bool = False
    min_firmware: tuple[int, ...] = (0, 0, 0)
    min_abi: tuple[int, ...] = (0, 0)
    min_guest_svn: int = 0
    min_launch_mitigation_vector: int = 0
    min_current_mitigation_vector: int = 0
    trusted_id_key_digests: frozenset[bytes] | None = None
    trusted_author_key_digests: frozenset[bytes] | None = None
    require_author_key: bool = False
    pins: Mapping[str, frozenset[bytes]] = field(default_factory=dict)

    @property
    def trusted_roots(self) -> Mapping[Product, frozenset[str]]:
        """All roots trusted for each product, the simulated one among them where it is named."""
        extra = frozenset() if self.simulated_root is None else frozenset({self.simulated_root})
        return {product: self.roots.get(product, frozenset()) | extra for product in Product}

    @classmethod
    def from_table(cls, table: PolicyTable, *, simulated_root: str | None = None) -> "SnpPolicy":
        """Read ``[cpu.snp]``; what it leaves out has the production value. Raises PolicyMalformed."""
        strict = cls()
        waived = table.names("waive_bulletins", (), allowed=BULLETIN_IDS)
        policy = cls(
            simulated_root=simulated_root,
            products=frozenset(map(Product, table.names("products", _ALL_PRODUCTS, allowed=_ALL_PRODUCTS))),
            signing_keys=frozenset(
                map(KeyKind, table.names("signing_keys", strict.signing_keys, allowed=frozenset(KeyKind)))
            ),
            csp_ids=table.texts("csp_ids"),
            require_crl=table.flag("require_crl", strict.require_crl),
            min_report_version=table.number("min_report_version", strict.min_report_version, highest=5),
            vmpl=frozenset(table.numbers("vmpl", (0,), highest=3)),
            allow_debug=table.flag("allow_debug", strict.allow_debug),
            allow_migration_agent=table.flag("allow_migration_agent", strict.allow_migration_agent),
            allow_smt=table.flag("allow_smt", strict.allow_smt),
            allow_cxl=table.flag("allow_cxl", strict.allow_cxl),
            require_guest_policy=frozenset(
                name
                for name in _REQUIRABLE
                if name in GUEST_POLICY_FLAGS and table.flag(f"require_{name}", False)
            ),
            require_platform=table.names("require_platform", (), allowed=PLATFORM_FLAGS),
            forbid_platform=table.names("forbid_platform", (), allowed=PLATFORM_FLAGS),
            strict_platform_bits=table.flag("strict_platform_bits", strict.strict_platform_bits),
            bulletins=tuple(bulletin for bulletin in AMD_BULLETINS if bulletin.id not in waived),
            min_tcb=_tcbs(table.table("min_tcb")),
            min_launch_tcb=_tcbs(table.table("min_launch_tcb")),
            permit_provisional_firmware=table.flag("permit_provisional_firmware", False),
            min_firmware=_dotted(table, "min_firmware", (0, 0, 0)),
            min_abi=_dotted(table, "min_abi", (0, 0)),
            min_guest_svn=table.number("min_guest_svn", 0, highest=(1 << 32) - 1),
            min_launch_mitigation_vector=table.number("min_launch_mitigation_vector", 0, highest=_U64),
            min_current_mitigation_vector=table.number("min_current_mitigation_vector", 0, highest=_U64),
            trusted_id_key_digests=table.digests("trusted_id_key_digests", 48),
            trusted_author_key_digests=table.digests("trusted_author_key_digests", 48),
            require_author_key=table.flag("require_author_key", False),
            pins={name: pins for name, length in _PINS.items() if (pins := table.digests(name, length))},
        )
        table.end()
        return policy


def _tcbs(table: PolicyTable) -> dict[Product, Tcb]:
    floors = {}
    for name in table.names_left():
        if name not in _ALL_PRODUCTS:
            break  # end() names it
        parts = table.table(name)
        floors[Product(name)] = Tcb(
            **{part: parts.number(part, 0, highest=255) for part in ("fmc", "bl", "tee", "snp", "ucode")}
        )
        parts.end()
    table.end()
    return floors


def _dotted(table: PolicyTable, key: str, default: tuple[int, ...]) -> tuple[int, ...]:
    pattern = r"\.".join([r"[0-9]{1,3}"] * len(default))
    text = table.text(key, pattern, f"{len(default)} numbers with dots between")
    if text is None:
        return default
    numbers = tuple(int(part) for part in text.split("."))
    if max(numbers) > 255:
        raise PolicyMalformed(code="policy_invalid", detail=key, expected="numbers up to 255", found=text)
    return numbers
