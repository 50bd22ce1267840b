"""Platform configuration registers: which of them a quote covers, and that the values beside it are those.

A quote signs one digest over all selected PCRs; the values travel beside it and prove nothing by themselves.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Final

from ..errors import BindingMismatch, EvidenceMalformed, PolicyRejected
from .attest import Attest
from .structures import DIGEST_LENGTHS, PCR_COUNT

PcrValues = Mapping[str, Mapping[int, bytes]]
"""Values of PCRs by bank ("sha256") and index."""

_DYNAMIC: Final = range(17, 23)


def reset_value(bank: str, index: int) -> bytes:
    """What a PCR holds before anything is extended (PC Client Platform TPM Profile §4.6.2)."""
    return (b"\xff" if index in _DYNAMIC else b"\0") * DIGEST_LENGTHS[bank]


def extend(bank: str, value: bytes, digest: bytes) -> bytes:
    """The value of a PCR of ``bank`` after ``digest`` is extended into it."""
    return hashlib.new(bank, value + digest).digest()


def named_values(values: PcrValues) -> Mapping[str, str]:
    """The PCRs as ``pcr<index>``, in hexadecimal; those of SHA-384 where there are any, else of SHA-256."""
    bank = next((bank for bank in ("sha384", "sha256") if values.get(bank)), None)
    return {f"pcr{n}": value.hex() for n, value in sorted(values[bank].items())} if bank else {}


def check_values(attest: Attest, values: PcrValues, digest_hash: str) -> None:
    """Check that exactly the quoted PCRs are given, with the values that the quote signs.

    ``digest_hash``: the hash of the signature, by which a TPM also digests the PCRs (part 3 §18.4). Raises
    BindingMismatch: ``pcr_selection_mismatch`` or ``pcr_digest_mismatch``.
    """
    quoted = {s.bank: s.indices for s in attest.selections if s.indices}
    given = {bank: tuple(sorted(pcrs)) for bank, pcrs in values.items() if pcrs}
    if quoted != given:
        raise BindingMismatch(
            code="pcr_selection_mismatch",
            expected=_selection_text(quoted),
            found=_selection_text(given),
            detail="the values are not those of the quoted PCRs",
        )
    digest = hashlib.new(digest_hash)
    for selection in attest.selections:
        for index in selection.indices:
            digest.update(values[selection.bank][index])
    if digest.digest() != attest.pcr_digest:
        raise BindingMismatch(
            code="pcr_digest_mismatch",
            expected=attest.pcr_digest,
            found=digest.digest(),
            detail="the quote signs other PCR values",
        )


def check_banks(values: PcrValues, accepted: frozenset[str]) -> None:
    """Check that no PCR was quoted from a bank that is not accepted. Raises PolicyRejected (``pcr_bank``)."""
    unwanted = sorted(bank for bank, pcrs in values.items() if pcrs and bank not in accepted)
    if unwanted:
        raise PolicyRejected(code="pcr_bank", expected=", ".join(sorted(accepted)), found=", ".join(unwanted))


def check_required(values: PcrValues, required: Mapping[str, frozenset[int]]) -> None:
    """Check that the required PCRs are among those given.

    Raises PolicyRejected (``pcr_required_missing``).
    """
    for bank, indices in required.items():
        missing = sorted(indices - values.get(bank, {}).keys())
        if missing:
            raise PolicyRejected(
                code="pcr_required_missing",
                expected=f"{bank}: {_indices_text(sorted(indices))}",
                found=f"without {_indices_text(missing)}",
                detail="the quote does not cover a required PCR",
            )


def read_values(document: Mapping[object, object]) -> PcrValues:
    """PCR values as evidence carries them: by bank name and decimal index, in lower-case hexadecimal.

    Raises EvidenceMalformed (``pcr_malformed``).
    """
    found: dict[str, dict[int, bytes]] = {}
    for bank, pcrs in document.items():
        length = DIGEST_LENGTHS.get(str(bank))
        if length is None or not isinstance(pcrs, Mapping):
            raise EvidenceMalformed(code="pcr_malformed", detail="not a bank of PCRs")
        found[str(bank)] = {_index(index): _value(value, length) for index, value in pcrs.items()}
    return found


def _index(text: object) -> int:
    for index in range(PCR_COUNT):
        if text == str(index):
            return index
    raise EvidenceMalformed(code="pcr_malformed", detail="not the number of a PCR")


def _value(text: object, length: int) -> bytes:
    if isinstance(text, str) and len(text) == 2 * length and text.isascii() and text == text.lower():
        try:
            value = bytes.fromhex(text)
        except ValueError:
            value = b""
        if len(value) == length:
            return value
    raise EvidenceMalformed(code="pcr_malformed", expected=f"{2 * length} hexadecimal digits")


def _selection_text(selection: Mapping[str, tuple[int, ...]]) -> str:
    return "; ".join(f"{bank}: {_indices_text(pcrs)}" for bank, pcrs in sorted(selection.items())) or "none"


def _indices_text(indices: Iterable[int]) -> str:
    return " ".join(map(str, indices))
