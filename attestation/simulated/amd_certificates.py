"""Certificates and revocation lists in AMD's format, under a root that is not AMD's."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestation import der
from attestation.sev_snp_certificates import OID_HWID, OID_PRODUCT_NAME, OID_STRUCT_VERSION, TCB_OIDS
from attestation.sev_snp_report import Product, Tcb

from . import der_writer as write

ORGANISATION: Final = "Cloister simulated platform (not AMD)"
CA_LIFETIME: Final = timedelta(days=25 * 365)
VCEK_LIFETIME: Final = timedelta(days=7 * 365)

_ARC_RESERVED: Final = tuple(f"1.3.6.1.4.1.3704.1.3.{number}" for number in (4, 5, 6, 7))
_OID_CRL_NUMBER: Final = "2.5.29.20"
_OID_BASIC_CONSTRAINTS: Final = "2.5.29.19"
_OID_KEY_USAGE: Final = "2.5.29.15"
_NAME: Final = (
    ("2.5.4.11", "Engineering"),
    ("2.5.4.6", "US"),
    ("2.5.4.7", "Nowhere"),
    ("2.5.4.8", "--"),
    ("2.5.4.10", ORGANISATION),
)
_SIGN_CERTIFICATES_AND_LISTS: Final = b"\x01\x06"  # keyCertSign and cRLSign, one unused bit


def sign_authority(
    common_name: str,
    key: rsa.RSAPublicKey,
    issuer_name: str,
    issuer_key: rsa.RSAPrivateKey,
    *,
    serial: int,
    not_before: datetime,
) -> bytes:
    """An ARK (its own issuer) or an ASK."""
    extensions = (
        _extension(
            _OID_KEY_USAGE, write.element(der.BIT_STRING, _SIGN_CERTIFICATES_AND_LISTS), critical=True
        ),
        _extension(_OID_BASIC_CONSTRAINTS, write.sequence(write.boolean(True)), critical=True),
    )
    return _certificate(
        common_name, key, issuer_name, issuer_key, serial, not_before, not_before + CA_LIFETIME, extensions
    )


def sign_vcek(
    key: ec.EllipticCurvePublicKey,
    issuer_name: str,
    issuer_key: rsa.RSAPrivateKey,
    *,
    product: Product,
    tcb: Tcb,
    hwid: bytes,
    not_before: datetime,
) -> bytes:
    """A VCEK for one chip at one TCB version; its serial number is 0, as AMD's are."""
    levels = [
        (oid, getattr(tcb, part))
        for oid, part in TCB_OIDS.items()
        if part != "fmc" or product is Product.TURIN
    ]
    reserved = _ARC_RESERVED[1:] if product is Product.TURIN else _ARC_RESERVED
    extensions = (
        _extension(OID_STRUCT_VERSION, write.integer(0)),
        _extension(OID_PRODUCT_NAME, write.text(product.capitalize(), der.IA5_STRING)),
        *(_extension(oid, write.integer(level)) for oid, level in (*levels, *((oid, 0) for oid in reserved))),
        _extension(OID_HWID, hwid),
    )
    return _certificate(
        "SEV-VCEK", key, issuer_name, issuer_key, 0, not_before, not_before + VCEK_LIFETIME, extensions
    )


def sign_revocation_list(
    issuer_name: str,
    issuer_key: rsa.RSAPrivateKey,
    *,
    number: int,
    revoked: Sequence[int],
    this_update: datetime,
    next_update: datetime,
) -> bytes:
    """The root's revocation list, naming serial numbers of intermediates."""
    entries = [write.sequence(write.integer(serial), write.time(this_update)) for serial in revoked]
    signed = write.sequence(
        write.integer(1),
        write.PSS_SHA384,
        _name(issuer_name),
        write.time(this_update),
        write.time(next_update),
        *([write.sequence(*entries)] if entries else []),
        write.explicit(0, write.sequence(_extension(_OID_CRL_NUMBER, write.integer(number)))),
    )
    return _signed(signed, issuer_key)


def _certificate(
    common_name: str,
    key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey,
    issuer_name: str,
    issuer_key: rsa.RSAPrivateKey,
    serial: int,
    not_before: datetime,
    not_after: datetime,
    extensions: Sequence[bytes],
) -> bytes:
    signed = write.sequence(
        write.explicit(0, write.integer(2)),
        write.integer(serial),
        write.PSS_SHA384,
        _name(issuer_name),
        write.sequence(write.time(not_before), write.time(not_after)),
        _name(common_name),
        key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        write.explicit(3, write.sequence(*extensions)),
    )
    return _signed(signed, issuer_key)


def _signed(signed: bytes, key: rsa.RSAPrivateKey) -> bytes:
    signature = key.sign(signed, padding.PSS(padding.MGF1(hashes.SHA384()), 48), hashes.SHA384())
    return write.sequence(signed, write.PSS_SHA384, write.bit_string(signature))


def _extension(oid: str, value: bytes, *, critical: bool = False) -> bytes:
    marks = (write.boolean(True),) if critical else ()
    return write.sequence(write.oid(oid), *marks, write.octet_string(value))


def _name(common_name: str) -> bytes:
    attributes = (*_NAME, ("2.5.4.3", common_name))
    return write.sequence(
        *(
            write.element(der.SET, write.sequence(write.oid(oid), write.text(value, der.UTF8_STRING)))
            for oid, value in attributes
        )
    )
