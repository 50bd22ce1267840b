"""Why a reported launch differs from a predicted one: the first event or page that differs, or the one input.

A report holds final registers alone. Against an event log, or another prediction, the difference is found
event by event; against a bare launch digest of SEV-SNP, by trying which other machine gives that digest.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

from .cpu_models import CPU_SIGNATURES
from .event_log import LoggedEvent, replay
from .record import Event, LaunchRecord, malformed
from .snp import REGISTER, Page, read_page, replay_pages
from .tdx_mrtd import ONE_PASS, TWO_PASS
from .uki import BANKS
from .vmsa import BSP_EIP, Vmm, vmsa_page

_MAX_VCPUS_TRIED: Final = 512
_FEATURES_TRIED: Final = (0x1, 0x21, 0x9, 0x29)


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference: the register, where in it, and what was expected and found (hexadecimal, or words)."""

    register: str
    where: str
    expected: str
    found: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """``matches`` is True where every register that both sides name is equal, and there is at least one."""

    compared: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def matches(self) -> bool:
        """Whether nothing differs."""
        return bool(self.compared) and not self.findings


def explain_record(predicted: LaunchRecord, reported: LaunchRecord) -> Explanation:
    """Compare two predictions, register by register and event by event. Raises ImageError."""
    if predicted.kind != reported.kind:
        raise malformed(f"a launch of {predicted.kind} cannot be compared with one of {reported.kind}")
    compared, findings = [], []
    for name, value in predicted.registers.items():
        if name not in reported.registers:
            continue
        compared.append(name)
        if reported.registers[name] != value:
            found = _first_difference(name, predicted.of(name), reported.of(name))
            findings.append(found or _final(name, value, reported.registers[name]))
    _require_common(compared)
    return Explanation(tuple(compared), tuple(findings))


def explain_log(predicted: LaunchRecord, log: tuple[LoggedEvent, ...]) -> Explanation:
    """Compare a prediction with an event log: CCEL for ``tdx``, a TPM's for ``uki``. Raises ImageError."""
    compared, findings = [], []
    for name, value in predicted.registers.items():
        place = _place_in_log(predicted.kind, name)
        if place is None:
            continue
        index, bank = place
        logged = [
            Event(name, event.name, event.digests[bank])
            for event in log
            if event.index == index and event.extends and bank in event.digests
        ]
        if not logged and any(predicted.of(name)):
            continue
        compared.append(name)
        found = replay(log, bank).get(index, bytes(len(value)))
        if found != value:
            difference = _first_difference(name, predicted.of(name), logged)
            findings.append(difference or _final(name, value, found))
    _require_common(compared)
    return Explanation(tuple(compared), tuple(findings))


def explain_registers(predicted: LaunchRecord, reported: Mapping[str, bytes]) -> Explanation:
    """Compare a prediction with final registers. Raises ImageError where they have none in common."""
    compared, findings = [], []
    for name, value in predicted.registers.items():
        if name not in reported or name == TWO_PASS:
            continue
        compared.append(name)
        found = reported[name]
        if found == value:
            continue
        if name == ONE_PASS and predicted.registers.get(TWO_PASS) == found:
            continue
        cause = _other_machine(predicted, found) if name == REGISTER else ""
        where = cause or "the whole register: an event log, or a second prediction, would show the event"
        findings.append(Finding(name, where, value.hex(), found.hex()))
    _require_common(compared)
    return Explanation(tuple(compared), tuple(findings))


def _first_difference(name: str, expected: Sequence[Event], found: Sequence[Event]) -> Finding | None:
    for number, (left, right) in enumerate(zip(expected, found, strict=False)):
        if left.digest != right.digest or (name == REGISTER and left.what != right.what):
            where = f"event {number}: {left.what}"
            if right.what != left.what:
                where += f" (reported as {right.what})"
            return Finding(name, where, left.digest.hex(), right.digest.hex())
    common = min(len(expected), len(found))
    if len(expected) > common:
        return Finding(
            name, f"event {common}: {expected[common].what}", expected[common].digest.hex(), "missing"
        )
    if len(found) > common:
        return Finding(
            name, f"event {common}: {found[common].what}", "nothing more", found[common].digest.hex()
        )
    return None


def _final(name: str, expected: bytes, found: bytes) -> Finding:
    return Finding(name, "all events agree, the register does not", expected.hex(), found.hex())


def _place_in_log(kind: str, name: str) -> tuple[int, str] | None:
    if kind == "tdx" and name.startswith("rtmr"):
        return int(name.removeprefix("rtmr")) + 1 if name[4:].isdigit() else 0, "sha384"
    if kind == "uki" and name.startswith("pcr"):
        number, _, bank = name.removeprefix("pcr").partition(".")
        return (int(number), bank) if number.isdigit() and bank in BANKS else None
    return None


def _require_common(compared: Sequence[str]) -> None:
    if not compared:
        raise malformed("what was reported has no register in common with the prediction")


def _other_machine(predicted: LaunchRecord, wanted: bytes) -> str:
    """Which number of vCPUs, processor, features or hypervisor would give the digest; empty where none does."""
    inputs = predicted.inputs
    try:
        vmm, eip = Vmm(str(inputs["vmm"])), int(inputs["ap_eip"])
        vcpus, cpu, features = (int(inputs[name]) for name in ("vcpus", "cpu_signature", "guest_features"))
        start = bytes.fromhex(str(inputs.get("firmware_digest", "00" * 48)))
        pages = [read_page(event) for event in predicted.of(REGISTER)]
    except (KeyError, ValueError):
        return ""
    before = [page for page in pages if page.kind != "vCPU state"]
    processors = {cpu: "the same processor", **{value: name for name, value in CPU_SIGNATURES.items()}}
    for other, without_hashes in product(Vmm, (False, True)):
        sections = _as_by(other, vmm, before)
        if without_hashes:
            sections = [page.emptied() if page.name == "kernel_hashes" else page for page in sections]
        base = replay_pages(start, sections)
        for signature, bits in product(processors, dict.fromkeys((features, *_FEATURES_TRIED))):
            changed = {
                f"hypervisor {other.value} instead of {vmm.value}": other is not vmm,
                "no kernel booted directly": without_hashes,
                f"processor {processors[signature]}": signature != cpu,
                f"guest features 0x{bits:x} instead of 0x{features:x}": bits != features,
            }
            count = _vcpus_for(base, wanted, other, eip, signature, bits)
            if count:
                changed[f"{count} vCPUs instead of {vcpus}"] = count != vcpus
                return "as reported with " + ", ".join(text for text, is_so in changed.items() if is_so)
    return ""


def _vcpus_for(base: bytes, wanted: bytes, vmm: Vmm, eip: int, signature: int, features: int) -> int:
    value = base
    for number in range(_MAX_VCPUS_TRIED if eip else 1):
        if number < 2:
            state = vmsa_page(vmm, eip if number else BSP_EIP, signature, features)
            page = Page("vCPU", "vCPU state", 0xFFFFFFFFF000, hashlib.sha384(state).digest())
        value = replay_pages(value, [page])
        if value == wanted:
            return number + 1
    return 0


def _as_by(other: Vmm, vmm: Vmm, pages: list[Page]) -> list[Page]:
    """The pages before the vCPUs as another hypervisor would launch them."""
    if other is vmm:
        return pages
    kind = "unmeasured page" if other is Vmm.GCE else "zero page"
    changed = [page.of_kind(kind) if page.name == "sec_mem" else page for page in pages]
    if other is Vmm.EC2:
        changed.sort(key=lambda page: page.kind == "CPUID page")
    return changed
