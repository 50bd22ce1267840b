"""OCSP responses read strictly (RFC 6960 section 4.2.1, DER): what they say, with nothing judged yet."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from attestation import der
from attestation.certificate import Certificate, Extension
from attestation.errors import CertificateMalformed
from attestation.nvidia.errors import RevocationError
from attestation.nvidia.once import Once
from attestation.nvidia.plain_ocsp import PlainResponse, read_plain_response

MAX_RESPONSE: Final = 16 * 1024
"""Bytes of a response at most; NVIDIA's have about 1 kB."""

MAX_ENTRIES: Final = 8
"""Entries, certificates and extensions in a response at most, each."""

DIGESTS: Final[dict[str, Callable[[bytes], Any]]] = {
    # In a certificate id the digest only names; what it names is checked by signature.
    "1.3.14.3.2.26": lambda data: hashlib.sha1(data, usedforsecurity=False),
    "2.16.840.1.101.3.4.2.1": hashlib.sha256,
    "2.16.840.1.101.3.4.2.2": hashlib.sha384,
    "2.16.840.1.101.3.4.2.3": hashlib.sha512,
}
"""Digests of a certificate id, by OID."""

_ENUMERATED: Final = 0x0A
_BASIC: Final = "1.3.6.1.5.5.7.48.1.1"
_NONCE: Final = "1.3.6.1.5.5.7.48.1.2"
_STATUS_NAMES: Final = {
    1: "malformed request",
    2: "internal error",
    3: "try later",
    5: "signature required",
    6: "unauthorized",
}


class Reason(StrEnum):
    """Why a certificate was revoked (RFC 5280 section 5.3.1)."""

    UNSPECIFIED = "unspecified"
    KEY_COMPROMISE = "key_compromise"
    CA_COMPROMISE = "ca_compromise"
    AFFILIATION_CHANGED = "affiliation_changed"
    SUPERSEDED = "superseded"
    CESSATION_OF_OPERATION = "cessation_of_operation"
    CERTIFICATE_HOLD = "certificate_hold"
    REMOVE_FROM_CRL = "remove_from_crl"
    PRIVILEGE_WITHDRAWN = "privilege_withdrawn"
    AA_COMPROMISE = "aa_compromise"


_REASONS: Final = dict(zip((0, 1, 2, 3, 4, 5, 6, 8, 9, 10), Reason, strict=True))


@dataclass(frozen=True, slots=True)
class Single:
    """What a response says of one certificate; ``status`` is good, revoked or unknown."""

    digest: str
    name_hash: bytes
    key_hash: bytes
    serial: int
    status: str
    reason: Reason | None
    this_update: datetime
    next_update: datetime | None


@dataclass(frozen=True, slots=True)
class Response:
    """A parsed response; nothing in it is verified."""

    signed: bytes
    algorithm: bytes
    signature: bytes
    responder_key_hash: bytes | None
    responder_name: bytes | None
    singles: tuple[Single, ...]
    nonce: bytes | None
    certificates: tuple[Certificate, ...]


def parse_response(data: bytes, once: Once | None = None) -> Response:
    """Read a response. ``once`` is the memory of an appraisal.

    Raises `RevocationError` (``revocation_missing``) where it cannot be read, or the responder refused.
    """
    if len(data) > MAX_RESPONSE:
        raise ocsp_error("revocation_missing", f"response of {len(data)} bytes, at most {MAX_RESPONSE}")
    once = once or Once()
    data = bytes(data)
    known = once.responses.get(data)
    if known is not None:
        return known
    plain = read_plain_response(data)
    try:
        found = once.responses[data] = _read(data, once) if plain is None else _taken(plain, once)
    except (der.DerError, CertificateMalformed) as error:
        raise ocsp_error("revocation_missing", f"the response cannot be read: {error.detail}") from None
    return found


def _taken(plain: PlainResponse, once: Once) -> Response:
    single = Single(
        digest=plain.digest,
        name_hash=plain.name_hash,
        key_hash=plain.key_hash,
        serial=plain.serial,
        status="good",
        reason=None,
        this_update=plain.this_update,
        next_update=plain.next_update,
    )
    return Response(
        signed=plain.signed,
        algorithm=plain.algorithm,
        signature=plain.signature,
        responder_key_hash=plain.responder_key_hash,
        responder_name=None,
        singles=(single,),
        nonce=None,
        certificates=() if plain.certificate is None else (once.certificate(plain.certificate),),
    )


def _read(data: bytes, once: Once) -> Response:
    outer = der.Reader(data)
    fields = outer.inside()
    outer.end()
    status = fields.element(_ENUMERATED).content
    if status != b"\0":
        name = _STATUS_NAMES.get(status[0] if len(status) == 1 else -1, "an unknown status")
        raise ocsp_error("revocation_missing", f"the responder answered: {name}")
    wrapper = fields.inside(der.context(0))
    fields.end()
    typed = wrapper.inside()
    wrapper.end()
    if typed.oid() != _BASIC:
        raise der.DerError("not a basic OCSP response")
    basic = der.Reader(typed.octets())
    typed.end()
    body = basic.inside()
    basic.end()
    signed = body.element(der.SEQUENCE)
    algorithm = body.element(der.SEQUENCE).raw
    signature = body.bits()
    certificates = _certificates(body.inside(der.context(0)), once) if body.more else ()
    body.end()
    return _read_signed(signed, algorithm, signature, certificates)


def _read_signed(
    signed: der.Element, algorithm: bytes, signature: bytes, certificates: tuple[Certificate, ...]
) -> Response:
    fields = der.Reader(signed.content)
    if fields.next_is(der.context(0)) and fields.inside(der.context(0)).integer() != 0:
        raise der.DerError("not a version 1 response")
    name, key_hash = None, None
    if fields.next_is(der.context(1)):
        named = fields.inside(der.context(1))
        name = named.element(der.SEQUENCE).raw
        named.end()
    else:
        keyed = fields.inside(der.context(2))
        key_hash = keyed.octets()
        keyed.end()
    _time(fields)  # when it was produced, which may be later than what it tells of
    entries = fields.inside()
    singles: list[Single] = []
    while entries.more:
        if len(singles) == MAX_ENTRIES:
            raise der.DerError("too many entries")
        singles.append(_single(entries.inside()))
    nonce = None
    for extension in _extensions(fields.inside(der.context(1))) if fields.more else ():
        if extension.oid == _NONCE:
            nonce = der.Reader(extension.value).octets()
        elif extension.critical:
            raise der.DerError("a critical extension that is not understood")
    fields.end()
    return Response(signed.raw, algorithm, signature, key_hash, name, tuple(singles), nonce, certificates)


def _single(fields: der.Reader) -> Single:
    identity = fields.inside()
    algorithm = identity.inside()
    digest = algorithm.oid()
    if digest not in DIGESTS:
        raise der.DerError("certificate id by an unknown digest")
    if algorithm.more and algorithm.element(der.NULL).content:
        raise der.DerError("NULL has content")
    algorithm.end()
    name_hash, key_hash, serial = identity.octets(), identity.octets(), identity.integer()
    identity.end()
    status, reason = _status(fields)
    this_update = _time(fields)
    next_update = None
    if fields.next_is(der.context(0)):
        wrapper = fields.inside(der.context(0))
        next_update = _time(wrapper)
        wrapper.end()
    if fields.more:
        for extension in _extensions(fields.inside(der.context(1))):
            if extension.critical:
                raise der.DerError("a critical extension that is not understood")
    fields.end()
    return Single(digest, name_hash, key_hash, serial, status, reason, this_update, next_update)


def _status(fields: der.Reader) -> tuple[str, Reason | None]:
    element = fields.element()
    if element.tag in (0x80, 0x82):  # [0] good and [2] unknown, both IMPLICIT NULL
        if element.content:
            raise der.DerError("NULL has content")
        return ("good" if element.tag == 0x80 else "unknown"), None
    if element.tag != der.context(1):
        raise der.DerError("no certificate status")
    revoked = der.Reader(element.content)
    _time(revoked)
    reason = Reason.UNSPECIFIED
    if revoked.more:
        wrapper = revoked.inside(der.context(0))
        code = wrapper.element(_ENUMERATED).content
        wrapper.end()
        if len(code) != 1 or code[0] not in _REASONS:
            raise der.DerError("no such reason")
        reason = _REASONS[code[0]]
    revoked.end()
    return "revoked", reason


def _certificates(wrapper: der.Reader, once: Once) -> tuple[Certificate, ...]:
    sequence = wrapper.inside()
    wrapper.end()
    certificates: list[Certificate] = []
    while sequence.more:
        if len(certificates) == MAX_ENTRIES:
            raise der.DerError("too many certificates")
        certificates.append(once.certificate(sequence.element(der.SEQUENCE).raw))
    return tuple(certificates)


def _extensions(wrapper: der.Reader) -> list[Extension]:
    sequence = wrapper.inside()
    wrapper.end()
    extensions: list[Extension] = []
    while sequence.more:
        if len(extensions) == MAX_ENTRIES:
            raise der.DerError("too many extensions")
        fields = sequence.inside()
        oid = fields.oid()
        critical = fields.boolean() if fields.next_is(der.BOOLEAN) else False
        extensions.append(Extension(oid, critical, fields.octets()))
        fields.end()
    if len({extension.oid for extension in extensions}) != len(extensions):
        raise der.DerError("an extension occurs twice")
    return extensions


def _time(fields: der.Reader) -> datetime:
    if not fields.next_is(der.GENERALIZED_TIME):
        raise der.DerError("not a GeneralizedTime")
    return fields.time()


def ocsp_error(code: str, detail: str, expected: object = None, found: object = None) -> RevocationError:
    """An error of the revocation check."""
    return RevocationError(
        code=code,
        stage="gpu.revocation",
        detail=detail,
        expected=expected,
        found=found,
        retryable=code in ("revocation_missing", "revocation_stale", "revocation_unknown"),
    )
