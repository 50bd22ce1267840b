"""X.509 certificates and revocation lists (RFC 5280) as hardware vendors issue them, read strictly.

The reader is our own because a VCEK has serial number 0, which RFC 5280 forbids and general readers are about
to refuse. Signatures and keys are ``cryptography``'s.
"""

import hashlib
import re
from datetime import datetime
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from . import der
from .errors import CertificateMalformed, ChainUntrusted
from .plain_certificate import read_plain, read_plain_list

MAX_CERTIFICATE: Final = 16 * 1024
"""Bytes of a certificate at most; AMD's have less than 2 KiB."""

MAX_REVOCATION_LIST: Final = 256 * 1024

OID_BASIC_CONSTRAINTS: Final = "2.5.29.19"
OID_KEY_USAGE: Final = "2.5.29.15"
KEY_CERT_SIGN: Final = 0x04
CRL_SIGN: Final = 0x02
"""Bits 5 and 6 of keyUsage, in its first byte."""

_OID_COMMON_NAME: Final = "2.5.4.3"
_COMMON_NAME: Final = 3
"""The last arc of it."""

_OID_RSASSA_PSS: Final = "1.2.840.113549.1.1.10"
_OID_MGF1: Final = "1.2.840.113549.1.1.8"
_OID_SHA384: Final = "2.16.840.1.101.3.4.2.2"
_SALT_LENGTH: Final = 48
_MAX_EXTENSIONS: Final = 64
_TEXTS: Final = {
    der.UTF8_STRING: "utf-8",
    der.PRINTABLE_STRING: "ascii",
    der.IA5_STRING: "ascii",
    der.TELETEX_STRING: "latin-1",
    der.UNIVERSAL_STRING: "utf-32-be",
    der.BMP_STRING: "utf-16-be",
}
_CURVES: Final[dict[int, tuple[ec.EllipticCurve, int]]] = {
    91: (ec.SECP256R1(), 65),
    120: (ec.SECP384R1(), 97),
}
"""Curve and length of the point by the length of a plain SubjectPublicKeyInfo."""


def _plain_entry(length: int, rest: bytes) -> bytes:
    """A pattern of revoked certificates with serial numbers of this length: who, when, and ``rest``."""
    whole = 2 + length + 15 + (14 if rest else 0)
    number = rb"(?:[\x01-\x7f].|\x00[\x80-\xff])" + rb".{%d}" % (length - 2)
    return re.escape(bytes((0x30, whole, 0x02, length))) + number + rb"\x17\x0d[0-9]{12}Z" + rest


_REASON: Final = rb"\x30\x0c\x30\x0a\x06\x03\x55\x1d\x15\x04\x03\x0a\x01[\x00-\x0a]"
_PLAIN_ENTRIES: Final = re.compile(
    rb"(?:%s)*+" % rb"|".join(_plain_entry(n, rest) for n in (20, 21, 19, 18) for rest in (_REASON, b"")),
    re.DOTALL,
)
"""Entries as they nearly always are: a long serial number, a date, and perhaps a reason, which is not critical."""

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


class Extension(NamedTuple):
    """One extension: dotted OID, criticality, and the content of its OCTET STRING."""

    oid: str
    critical: bool
    value: bytes


class Certificate(NamedTuple):
    """A parsed certificate. ``issuer`` and ``subject`` are names in DER, ``key_info`` the SubjectPublicKeyInfo.

    ``common_name`` is the subject's, empty where it has none. ``is_ca`` is what basicConstraints says: whether
    this certificate may issue others.
    """

    raw: bytes
    signed: bytes
    serial: int
    algorithm: bytes
    issuer: bytes
    subject: bytes
    common_name: str
    not_before: datetime
    not_after: datetime
    key_info: bytes
    public_key: PublicKey | None
    extensions: tuple[Extension, ...]
    is_ca: bool
    signature: bytes

    @property
    def sha256(self) -> bytes:
        """SHA-256 of the whole certificate, by which roots are pinned."""
        return hashlib.sha256(self.raw).digest()

    @classmethod
    def parse(cls, data: bytes) -> "Certificate":
        """Read one DER certificate.

        Raises CertificateMalformed: ``cert_extension`` for an extension that occurs twice, else
        ``cert_malformed``.
        """
        if len(data) > MAX_CERTIFICATE:
            raise der.DerError("certificate is too large")
        data = bytes(data)
        plain = read_plain(data)
        if plain is not None:
            extensions = tuple(map(Extension._make, plain.extensions))
            return cls(
                data,
                *plain[:9],
                _plain_key(plain.key),
                extensions,
                _is_ca(extensions),
                plain.signature,
            )
        return cls._parse(data)

    @classmethod
    def _parse(cls, data: bytes) -> "Certificate":
        signed, algorithm, signature = _signed(data)
        fields = der.Reader(signed.content)
        version = fields.inside(der.context(0))
        if version.integer() != 2:
            raise der.DerError("not an X.509 version 3 certificate")
        version.end()
        serial = fields.integer()
        if fields.element(der.SEQUENCE).raw != algorithm:
            raise der.DerError("the two signature algorithms differ")
        issuer = fields.element(der.SEQUENCE).raw
        validity = fields.inside()
        not_before, not_after = validity.time(), validity.time()
        validity.end()
        subject = fields.element(der.SEQUENCE).raw
        key = fields.element(der.SEQUENCE).raw
        extensions = _extensions(fields.inside(der.context(3))) if fields.more else ()
        fields.end()
        return cls(
            raw=data,
            signed=signed.raw,
            serial=serial,
            algorithm=algorithm,
            issuer=issuer,
            subject=subject,
            common_name=_common_name(subject),
            not_before=not_before,
            not_after=not_after,
            key_info=key,
            public_key=_public_key(key),
            extensions=extensions,
            is_ca=_is_ca(extensions),
            signature=signature,
        )


class RevocationList(NamedTuple):
    """A parsed certificate revocation list of ``issuer``; ``entries`` are well-formed DER, one after the other."""

    signed: bytes
    algorithm: bytes
    issuer: bytes
    this_update: datetime
    next_update: datetime
    entries: bytes
    signature: bytes

    @property
    def revoked(self) -> frozenset[int]:
        """All serial numbers that are revoked."""
        return _serials(der.Reader(self.entries))

    def revokes(self, serial: int) -> bool:
        """Whether this serial number is revoked."""
        length = serial.bit_length() // 8 + 1
        # Whoever is in the list has these bytes in it; only then is it worth reading in full.
        return serial.to_bytes(length, "big", signed=True) in self.entries and serial in self.revoked

    @classmethod
    def parse(cls, data: bytes) -> "RevocationList":
        """Read one DER revocation list. Raises CertificateMalformed (``crl_malformed``)."""
        try:
            return cls._parse(data)
        except der.DerError as error:
            raise CertificateMalformed(code="crl_malformed", detail=error.detail) from None

    @classmethod
    def _parse(cls, data: bytes) -> "RevocationList":
        if len(data) > MAX_REVOCATION_LIST:
            raise der.DerError("revocation list is too large")
        data = bytes(data)
        plain = read_plain_list(data)
        if plain is not None and _PLAIN_ENTRIES.fullmatch(plain.entries):
            return cls(*plain)
        return cls._parse_in_full(data)

    @classmethod
    def _parse_in_full(cls, data: bytes) -> "RevocationList":
        signed, algorithm, signature = _signed(data)
        fields = der.Reader(signed.content)
        if fields.next_is(der.INTEGER) and fields.integer() != 1:
            raise der.DerError("not a version 2 revocation list")
        if fields.element(der.SEQUENCE).raw != algorithm:
            raise der.DerError("the two signature algorithms differ")
        issuer = fields.element(der.SEQUENCE).raw
        # nextUpdate is optional in X.509, yet a list without one would be in force forever.
        this_update, next_update = fields.time(), fields.time()
        entries = fields.content(der.SEQUENCE) if fields.next_is(der.SEQUENCE) else b""
        if not _PLAIN_ENTRIES.fullmatch(entries):
            _check_entries(der.Reader(entries))
        if fields.more:
            for extension in _extensions(fields.inside(der.context(0))):
                if extension.critical:
                    raise der.DerError(f"critical extension {extension.oid} is not understood")
        fields.end()
        return cls(signed.raw, algorithm, issuer, this_update, next_update, entries, signature)


def _signed(data: bytes) -> tuple[der.Element, bytes, bytes]:
    """What is signed, the algorithm in DER, and the signature: the frame of certificates and revocation lists alike."""
    outer = der.Reader(data)
    body = outer.inside()
    outer.end()
    signed = body.element(der.SEQUENCE)
    algorithm = body.element(der.SEQUENCE).raw
    signature = body.bits()
    body.end()
    return signed, algorithm, signature


def permits(certificate: Certificate, usage: int) -> bool:
    """Whether a key may be used so: KEY_CERT_SIGN or CRL_SIGN (RFC 5280 §4.2.1.3, §6.1.4 n, §6.3.3 f).

    A certificate without keyUsage permits all; one that cannot be read permits nothing.
    """
    for extension in certificate.extensions:
        if extension.oid == OID_KEY_USAGE:
            try:
                bits = der.Reader(extension.value).content(der.BIT_STRING)
            except der.DerError:
                return False
            return len(bits) > 1 and bits[1] & usage != 0
    return True


def verify_pss_sha384(key: PublicKey | None, algorithm: bytes, signature: bytes, signed: bytes) -> None:
    """Check a signature by RSASSA-PSS with SHA-384, MGF1 with SHA-384 and 48 bytes of salt (RFC 4055 §3.1).

    Raises ChainUntrusted: ``cert_signature_algorithm`` for any other algorithm or parameter,
    ``cert_key_type`` for a key that is not RSA of 4096 bits, ``chain_untrusted`` for a wrong signature.
    """
    require_pss_sha384(algorithm)
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size != 4096:
        raise ChainUntrusted(code="cert_key_type", expected="RSA-4096", found=key_name(key))
    mask = padding.MGF1(hashes.SHA384())
    try:
        key.verify(signature, signed, padding.PSS(mask, _SALT_LENGTH), hashes.SHA384())
    except InvalidSignature:
        raise ChainUntrusted(code="chain_untrusted", detail="a certificate's signature is wrong") from None


def require_pss_sha384(algorithm: bytes) -> None:
    """Raises ChainUntrusted (``cert_signature_algorithm``) unless the algorithm is PSS with SHA-384."""
    try:
        _read_pss_sha384(algorithm)
    except der.DerError as error:
        raise _algorithm_refused(f"other parameters ({error.detail})") from None


def key_name(key: PublicKey | None) -> str:
    """What kind of key this is, in words."""
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA-{key.key_size}"
    return key.curve.name if isinstance(key, ec.EllipticCurvePublicKey) else "unknown"


def _read_pss_sha384(algorithm: bytes) -> None:
    fields = der.Reader(algorithm).inside()
    name = fields.oid()
    if name != _OID_RSASSA_PSS or not fields.more:
        raise _algorithm_refused(name)
    parameters = fields.inside()
    fields.end()
    if not _is_sha384(parameters.inside(der.context(0))):
        raise _algorithm_refused("PSS with another hash")
    mask = parameters.inside(der.context(1)).inside()
    if mask.oid() != _OID_MGF1 or not _is_sha384(mask):
        raise _algorithm_refused("PSS with another mask")
    if parameters.inside(der.context(2)).integer() != _SALT_LENGTH:
        raise _algorithm_refused("PSS with another salt length")
    # AMD writes the trailer field's default value 1 out, which DER would leave out.
    if parameters.more and parameters.inside(der.context(3)).integer() != 1:
        raise _algorithm_refused("PSS with another trailer")
    parameters.end()


def _is_sha384(reader: der.Reader) -> bool:
    fields = reader.inside()
    reader.end()
    name = fields.oid()
    if fields.more and fields.element(der.NULL).content:
        raise der.DerError("NULL has content")
    fields.end()
    return name == _OID_SHA384


def _algorithm_refused(found: str) -> ChainUntrusted:
    return ChainUntrusted(code="cert_signature_algorithm", expected="RSASSA-PSS with SHA-384", found=found)


def _extensions(wrapper: der.Reader) -> tuple[Extension, ...]:
    sequence = wrapper.inside()
    wrapper.end()
    found: dict[str, Extension] = {}
    while sequence.more:
        fields = sequence.inside()
        oid = fields.oid()
        critical = fields.boolean() if fields.next_is(der.BOOLEAN) else False
        value = fields.octets()
        fields.end()
        if oid in found:
            raise der.DerError(f"extension {oid} occurs twice", code="cert_extension")
        if len(found) == _MAX_EXTENSIONS:
            raise der.DerError("too many extensions")
        found[oid] = Extension(oid, critical, value)
    return tuple(found.values())


def _check_entries(entries: der.Reader) -> None:
    while entries.more:
        fields = entries.inside()
        fields.integer()
        fields.time()
        _check_extensions_of_entry(fields)


def _serials(entries: der.Reader) -> frozenset[int]:
    serials: set[int] = set()
    while entries.more:
        serials.add(entries.inside().integer())
    return frozenset(serials)


def _check_extensions_of_entry(fields: der.Reader) -> None:
    if not fields.more:
        return
    extensions = fields.inside()
    fields.end()
    while extensions.more:
        extension = extensions.inside()
        oid = extension.oid()
        critical = extension.boolean() if extension.next_is(der.BOOLEAN) else False
        extension.octets()
        extension.end()
        if critical:
            raise der.DerError(f"critical extension {oid} is not understood")


def _is_ca(extensions: tuple[Extension, ...]) -> bool:
    for extension in extensions:
        if extension.oid == OID_BASIC_CONSTRAINTS:
            fields = der.Reader(extension.value).inside()
            return fields.next_is(der.BOOLEAN) and fields.boolean()
    return False


def _common_name(name: bytes) -> str:
    found = []
    relative_names = der.Reader(name).inside()
    while relative_names.more:
        if relative_names.skip_attribute_other_than(_COMMON_NAME):
            continue
        attributes = relative_names.inside(der.SET)
        while attributes.more:
            attribute = attributes.inside()
            oid = attribute.oid()
            if oid == _OID_COMMON_NAME:
                found.append(_text(attribute.element()))
            else:
                attribute.skip()
            attribute.end()
    if not found:
        return ""  # RFC 5280 §4.1.2.6: a subject may be named by its alternative name alone
    if len(found) != 1:
        raise der.DerError("more than one common name")
    return found[0]


def _text(value: der.Element) -> str:
    """A DirectoryString (RFC 5280 §4.1.2.4), or the IA5String that some vendors write in its place."""
    encoding = _TEXTS.get(value.tag)
    if encoding is None:
        raise der.DerError("common name is not text")
    try:
        return value.content.decode(encoding)
    except UnicodeDecodeError:
        raise der.DerError("common name cannot be read") from None


def _plain_key(spki: bytes) -> PublicKey:
    curve, length = _CURVES[len(spki)]
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(curve, spki[-length:])
    except ValueError:
        raise der.DerError("public key cannot be read") from None


def _public_key(data: bytes) -> PublicKey | None:
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    try:
        key = load_der_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        raise der.DerError("public key cannot be read") from None
    return key if isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey) else None
