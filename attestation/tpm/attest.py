"""What a TPM signs: TPMS_ATTEST of TPM2_Quote, and the signature over it (TPM 2.0 Library, part 2 §10.12, §11.3).

The signature is checked over the bytes as they came, before anything in them is read.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from ..errors import EvidenceMalformed, SignatureInvalid
from .structures import HASH_NAMES, PCR_COUNT, SHA256, SHA384, SHA512, TpmReader

MAX_ATTEST: Final = 2048
"""Bytes of a TPMS_ATTEST at most; a quote of four banks has less than 300."""

_GENERATED: Final = b"\xffTCG"
_ATTEST_QUOTE: Final = 0x8018
_MALFORMED: Final = "attest_malformed"
_MAX_NAME: Final = 66
_MAX_DATA: Final = 66
_MAX_SELECTIONS: Final = 16
_MAX_RSA: Final = 512
_MAX_SCALAR: Final = 66
_MIN_RSA_BITS: Final = 2048
_CURVES: Final = ("secp256r1", "secp384r1", "secp521r1")
_HASHES: Final = {SHA256: hashes.SHA256(), SHA384: hashes.SHA384(), SHA512: hashes.SHA512()}

AkKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


class Scheme(StrEnum):
    """How a TPM signs."""

    RSASSA = "rsassa"
    RSAPSS = "rsapss"
    ECDSA = "ecdsa"


SCHEMES: Final = {0x0014: Scheme.RSASSA, 0x0016: Scheme.RSAPSS, 0x0018: Scheme.ECDSA}


@dataclass(frozen=True, slots=True)
class PcrSelection:
    """PCRs of one bank that a quote covers, ascending. ``bank`` names the bank's hash."""

    bank: str
    indices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Attest:
    """A parsed quote. ``clock`` is in milliseconds; ``extra_data`` is the challenger's qualifying data.

    ``qualified_signer`` is the qualified name of the key that signed, ``selections`` stand in quoted order.
    """

    qualified_signer: bytes
    extra_data: bytes
    clock: int
    reset_count: int
    restart_count: int
    safe: bool
    firmware_version: int
    selections: tuple[PcrSelection, ...]
    pcr_digest: bytes


@dataclass(frozen=True, slots=True)
class TpmSignature:
    """A parsed TPMT_SIGNATURE. ``values`` is one value for RSA, r and s for ECDSA."""

    scheme: Scheme
    hash: str
    values: tuple[bytes, ...]


def parse_attest(data: bytes) -> Attest:
    """Read a TPMS_ATTEST, to its last byte.

    Raises EvidenceMalformed: ``attest_type`` for another kind of attestation, else ``attest_malformed``.
    """
    if len(data) > MAX_ATTEST:
        raise EvidenceMalformed(code=_MALFORMED, expected=f"at most {MAX_ATTEST} bytes", found=len(data))
    reader = TpmReader(data, code=_MALFORMED)
    if reader.take(4) != _GENERATED:
        raise reader.malformed("not made inside a TPM: the magic value is missing")
    kind = reader.number(2)
    if kind != _ATTEST_QUOTE:
        raise EvidenceMalformed(code="attest_type", expected=f"{_ATTEST_QUOTE:#x}", found=f"{kind:#x}")
    attest = Attest(
        qualified_signer=reader.sized(_MAX_NAME),
        extra_data=reader.sized(_MAX_DATA),
        clock=reader.number(8),
        reset_count=reader.number(4),
        restart_count=reader.number(4),
        safe=_yes_no(reader),
        firmware_version=reader.number(8),
        selections=_selections(reader),
        pcr_digest=reader.sized(64),
    )
    reader.end()
    return attest


def parse_signature(data: bytes) -> TpmSignature:
    """Read a TPMT_SIGNATURE, to its last byte. Raises SignatureInvalid (``signature``)."""
    reader = TpmReader(data, code="signature")
    try:
        scheme = SCHEMES.get(reader.number(2))
        hash_name = HASH_NAMES.get(reader.number(2))
        if scheme is None or hash_name not in _HASHES:
            raise reader.malformed("a scheme or hash that is not accepted")
        values = (
            (reader.sized(_MAX_SCALAR), reader.sized(_MAX_SCALAR))
            if scheme is Scheme.ECDSA
            else (reader.sized(_MAX_RSA),)
        )
        reader.end()
    except EvidenceMalformed as error:
        raise SignatureInvalid(code="signature", detail=error.detail) from None
    return TpmSignature(scheme, hash_name, values)


def verify_signature(key: AkKey, signature: TpmSignature, message: bytes) -> None:
    """Check that ``key`` signed ``message``. Raises SignatureInvalid (``signature``)."""
    algorithm = _HASHES[signature.hash]
    try:
        if signature.scheme is Scheme.ECDSA:
            if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _CURVES:
                raise _not_signed("an ECDSA signature needs an AK on a NIST curve")
            r, s = (int.from_bytes(value, "big") for value in signature.values)
            key.verify(encode_dss_signature(r, s), message, ec.ECDSA(algorithm))
            return
        if not isinstance(key, rsa.RSAPublicKey) or key.key_size < _MIN_RSA_BITS:
            raise _not_signed(f"an RSA signature needs an RSA AK of at least {_MIN_RSA_BITS} bits")
        # A TPM salts as much as fits or as long as the hash, by its vendor's choice (part 1 §B.7).
        scheme = (
            padding.PKCS1v15()
            if signature.scheme is Scheme.RSASSA
            else padding.PSS(padding.MGF1(algorithm), padding.PSS.AUTO)
        )
        key.verify(signature.values[0], message, scheme, algorithm)
    except InvalidSignature:
        raise _not_signed("the quote was not signed by this AK") from None


def _selections(reader: TpmReader) -> tuple[PcrSelection, ...]:
    count = reader.number(4)
    if count > _MAX_SELECTIONS:
        raise reader.malformed(f"{count} selections of PCRs")
    found: dict[str, PcrSelection] = {}
    for _ in range(count):
        algorithm = reader.number(2)
        bank = HASH_NAMES.get(algorithm, f"{algorithm:#06x}")
        bits = int.from_bytes(reader.take(reader.number(1)), "little")
        if bits >> PCR_COUNT:
            raise reader.malformed("a PCR that does not exist is selected")
        if bank in found:
            raise reader.malformed(f"the bank {bank} is selected twice")
        found[bank] = PcrSelection(bank, tuple(n for n in range(PCR_COUNT) if bits >> n & 1))
    return tuple(found.values())


def _yes_no(reader: TpmReader) -> bool:
    value = reader.number(1)
    if value > 1:
        raise reader.malformed("a yes or no that is neither")
    return value == 1


def _not_signed(detail: str) -> SignatureInvalid:
    return SignatureInvalid(code="signature", detail=detail)
