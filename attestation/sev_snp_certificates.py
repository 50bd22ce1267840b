"""AMD's keys for SEV-SNP (AMD 57230): from a pinned ARK to a VCEK or VLEK, and what that key endorses.

ARK-<Product>  ──►  SEV-<Product> (ASK)         ──►  SEV-VCEK   one chip at one TCB version
               └─►  SEV-VLEK-<Product> (ASVK)   ──►  SEV-VLEK   one cloud provider at one TCB version
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from . import der
from .certificate import (
    CRL_SIGN,
    KEY_CERT_SIGN,
    Certificate,
    RevocationList,
    key_name,
    permits,
    require_pss_sha384,
    verify_pss_sha384,
)
from .errors import ChainUntrusted, EndorsementMismatch, RevocationFailed
from .sev_snp_report import Product, Tcb

AMD_ROOTS_SHA256: Final[Mapping[Product, str]] = {
    # SHA-256 of the DER of the self-signed ARK certificates at AMD's key distribution service,
    # kdsintf.amd.com/vcek/v1/<Product>/cert_chain.
    Product.MILAN: "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd",
    Product.GENOA: "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1",
    Product.TURIN: "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a",
}

_ARC: Final = "1.3.6.1.4.1.3704.1"
OID_STRUCT_VERSION: Final = f"{_ARC}.1"
OID_PRODUCT_NAME: Final = f"{_ARC}.2"
OID_HWID: Final = f"{_ARC}.4"
OID_CSP_ID: Final = f"{_ARC}.5"
TCB_OIDS: Final[Mapping[str, str]] = {
    f"{_ARC}.3.1": "bl",
    f"{_ARC}.3.2": "tee",
    f"{_ARC}.3.3": "snp",
    f"{_ARC}.3.8": "ucode",
    f"{_ARC}.3.9": "fmc",
}
RESERVED_TCB_OIDS: Final = tuple(f"{_ARC}.3.{number}" for number in (4, 5, 6, 7))
"""Levels of parts that no product has so far."""

_UNDERSTOOD: Final = frozenset(
    {
        *("2.5.29.14", "2.5.29.15", "2.5.29.19", "2.5.29.35", "2.5.29.31"),
        *(OID_STRUCT_VERSION, OID_PRODUCT_NAME, OID_HWID, OID_CSP_ID),
        *TCB_OIDS,
        *RESERVED_TCB_OIDS,
    }
)
_HWID_LENGTH: Final = {Product.MILAN: 64, Product.GENOA: 64, Product.TURIN: 8}


class KeyKind(StrEnum):
    """Which kind of key signed a report."""

    VCEK = "vcek"
    VLEK = "vlek"


_SUBJECT: Final = {KeyKind.VCEK: "SEV-VCEK", KeyKind.VLEK: "SEV-VLEK"}
_ISSUER: Final = {KeyKind.VCEK: "SEV-{}", KeyKind.VLEK: "SEV-VLEK-{}"}


@dataclass(frozen=True, slots=True)
class Endorsement:
    """What a VCEK or VLEK certificate says: firmware levels, and the chip (VCEK) or the provider (VLEK).

    ``reserved`` are the levels of parts without a name, in the order of the TCB_VERSION's bytes.
    """

    tcb: Tcb
    reserved: bytes
    hwid: bytes | None
    csp_id: str | None


def certified_product(certificate: Certificate) -> Product:
    """The processor line that a VCEK or VLEK is for, from its product name ("Milan-B0", "Genoa").

    Raises EndorsementMismatch (``cert_extension``) or ChainUntrusted (``product_unknown``).
    """
    for extension in certificate.extensions:
        if extension.oid == OID_PRODUCT_NAME:
            name = _ia5(extension.oid, extension.value)
            line = name.partition("-")[0]
            for product in Product:
                if line == product.capitalize():
                    return product
            raise ChainUntrusted(code="product_unknown", found=name[:40])
    raise _missing(OID_PRODUCT_NAME)


def verify_chain(
    vek: Certificate,
    ask: Certificate,
    ark: Certificate,
    *,
    kind: KeyKind,
    product: Product,
    roots: Mapping[Product, frozenset[str]],
    at: datetime,
) -> None:
    """Check that ``vek`` is a key of this kind and product, issued under a root pinned for the product.

    ``roots`` holds SHA-256 digests in hexadecimal. Raises ChainUntrusted: ``cert_kind``, ``cert_key_type``,
    ``cert_signature_algorithm``, ``chain_untrusted``, ``cert_expired`` or ``cert_not_yet_valid``.
    """
    if vek.common_name != _SUBJECT[kind]:
        raise ChainUntrusted(code="cert_kind", expected=_SUBJECT[kind], found=vek.common_name)
    for certificate in (vek, ask, ark):
        require_pss_sha384(certificate.algorithm)
    if not isinstance(vek.public_key, ec.EllipticCurvePublicKey) or vek.public_key.curve.name != "secp384r1":
        raise ChainUntrusted(code="cert_key_type", expected="secp384r1", found=key_name(vek.public_key))
    if ark.sha256.hex() not in roots.get(product, frozenset()):
        raise ChainUntrusted(
            code="chain_untrusted",
            expected=", ".join(sorted(roots.get(product, frozenset()))) or f"no root for {product}",
            found=ark.sha256.hex(),
            detail="the root certificate is not pinned",
        )
    name = product.capitalize()
    _require_role(ark, f"ARK-{name}")
    _require_role(ask, _ISSUER[kind].format(name))
    for subject, issuer in ((ask, ark), (vek, ask)):
        if subject.issuer != issuer.subject:
            raise ChainUntrusted(
                code="chain_untrusted", detail=f"{issuer.common_name} did not issue {subject.common_name}"
            )
        verify_pss_sha384(issuer.public_key, subject.algorithm, subject.signature, subject.signed)
    for certificate in (ark, ask, vek):
        _require_in_force(certificate, at)


def verify_not_revoked(ask: Certificate, ark: Certificate, crl: bytes, at: datetime) -> RevocationList:
    """Check the ARK's revocation list, and that it names neither the intermediate nor the ARK itself.

    Raises RevocationFailed: ``crl_issuer_mismatch``, ``crl_signature``, ``crl_not_yet_valid``,
    ``crl_expired`` or ``cert_revoked``; CertificateMalformed (``crl_malformed``).
    """
    revocations = RevocationList.parse(crl)
    if revocations.issuer != ark.subject:
        raise RevocationFailed(code="crl_issuer_mismatch", detail=f"not a list of {ark.common_name}")
    if not permits(ark, CRL_SIGN):
        raise RevocationFailed(code="crl_signature", detail=f"{ark.common_name} may sign no list")
    try:
        verify_pss_sha384(ark.public_key, revocations.algorithm, revocations.signature, revocations.signed)
    except ChainUntrusted as error:
        raise RevocationFailed(code="crl_signature", detail=str(error)) from None
    if at < revocations.this_update:
        raise RevocationFailed(
            code="crl_not_yet_valid", expected=revocations.this_update, found=at, retryable=True
        )
    if at > revocations.next_update:
        raise RevocationFailed(code="crl_expired", expected=revocations.next_update, found=at, retryable=True)
    for certificate in (ask, ark):
        if revocations.revokes(certificate.serial):
            raise RevocationFailed(code="cert_revoked", found=certificate.common_name)
    return revocations


def read_endorsement(vek: Certificate, kind: KeyKind, product: Product) -> Endorsement:
    """Read the extensions of a VCEK or VLEK, of which none may be absent, doubled or of another type.

    Raises EndorsementMismatch (``cert_extension``).
    """
    values: dict[str, bytes] = {}
    for extension in vek.extensions:
        known = extension.oid in TCB_OIDS or extension.oid in RESERVED_TCB_OIDS
        if extension.oid.startswith(f"{_ARC}.3.") and not known:
            # A level of a part that we do not know of cannot be compared, and must not go by unseen.
            raise EndorsementMismatch(code="cert_extension", found=extension.oid, detail="unknown TCB part")
        if extension.critical and extension.oid not in _UNDERSTOOD:
            raise EndorsementMismatch(
                code="cert_extension", found=extension.oid, detail="critical, not understood"
            )
        values[extension.oid] = extension.value
    _integer(OID_STRUCT_VERSION, values)
    levels = {
        part: _integer(oid, values)
        for oid, part in TCB_OIDS.items()
        if part != "fmc" or product is Product.TURIN or oid in values
    }
    if levels.get("fmc") is not None and product is not Product.TURIN:
        raise EndorsementMismatch(code="cert_extension", detail=f"{product} has no fmc")
    reserved = _reserved(values, product)
    expected, forbidden = (OID_HWID, OID_CSP_ID) if kind is KeyKind.VCEK else (OID_CSP_ID, OID_HWID)
    if expected not in values:
        raise _missing(expected)
    if forbidden in values:
        raise EndorsementMismatch(code="cert_extension", found=forbidden, detail=f"not for a {kind.upper()}")
    if kind is KeyKind.VLEK:
        return Endorsement(Tcb(**levels), reserved, None, _ia5(OID_CSP_ID, values[OID_CSP_ID]))
    return Endorsement(Tcb(**levels), reserved, _hwid(values[OID_HWID], _HWID_LENGTH[product]), None)


def _require_role(certificate: Certificate, name: str) -> None:
    if certificate.common_name != name or not certificate.is_ca or not permits(certificate, KEY_CERT_SIGN):
        raise ChainUntrusted(
            code="chain_untrusted",
            expected=f"{name}, a CA",
            found=certificate.common_name,
            detail="wrong role",
        )


def _require_in_force(certificate: Certificate, at: datetime) -> None:
    name = certificate.common_name
    if at < certificate.not_before:
        raise ChainUntrusted(
            code="cert_not_yet_valid", expected=certificate.not_before, found=at, detail=name, retryable=True
        )
    if at > certificate.not_after:
        raise ChainUntrusted(
            code="cert_expired", expected=certificate.not_after, found=at, detail=name, retryable=True
        )


def _reserved(values: Mapping[str, bytes], product: Product) -> bytes:
    levels = [_integer(oid, values) if oid in values else 0 for oid in RESERVED_TCB_OIDS]
    if product is not Product.TURIN:
        return bytes(levels)
    # Turin's fmc has pushed the bytes on by one, so that there is none for the first of these.
    if levels[0]:
        raise EndorsementMismatch(code="cert_extension", found=RESERVED_TCB_OIDS[0], detail="not of Turin")
    return bytes(levels[1:])


def _integer(oid: str, values: Mapping[str, bytes]) -> int:
    if oid not in values:
        raise _missing(oid)
    try:
        reader = der.Reader(values[oid])
        number = reader.integer()
        reader.end()
    except der.DerError as error:
        raise EndorsementMismatch(code="cert_extension", found=oid, detail=error.detail) from None
    if not 0 <= number <= 255:
        raise EndorsementMismatch(code="cert_extension", found=oid, detail="not a byte")
    return number


def _ia5(oid: str, value: bytes) -> str:
    try:
        reader = der.Reader(value)
        text = reader.element(der.IA5_STRING).content.decode("ascii")
        reader.end()
    except (der.DerError, UnicodeDecodeError):
        raise EndorsementMismatch(code="cert_extension", found=oid, detail="not an IA5String") from None
    return text


def _hwid(value: bytes, length: int) -> bytes:
    # The key service writes the bare bytes; some certificates wrap them in an OCTET STRING.
    if len(value) == length + 2 and value[:2] == bytes([der.OCTET_STRING, length]):
        value = value[2:]
    if len(value) != length:
        raise EndorsementMismatch(
            code="cert_extension", expected=f"{length} bytes", found=len(value), detail="hardware id"
        )
    return value


def _missing(oid: str) -> EndorsementMismatch:
    return EndorsementMismatch(code="cert_extension", expected=oid, detail="the extension is missing")
