"""Certificates of the simulated NVIDIA-format authorities, and the files in which their keys are kept.

Every key is P-384, every signature ECDSA with SHA-384. Private keys are OpenSSL objects in memory and
PKCS #8 files of mode 0600.
"""

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from attestation.simulated.state_folder import damaged, read_file, write_file

BEGIN = datetime(2023, 1, 1, tzinfo=UTC)
END = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
"""When a simulated certificate is valid, unless it is made otherwise."""

Extensions = tuple[tuple[x509.ExtensionType, bool], ...]
"""Extensions, each with whether it is critical."""

_ORGANISATION = "Cloister simulated platform (not NVIDIA)"


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate and its key, which issues the certificates below it."""

    key: ec.EllipticCurvePrivateKey = field(repr=False)
    certificate: x509.Certificate

    @property
    def sha256(self) -> str:
        """SHA-256 of the certificate's DER, in lower-case hexadecimal: what a policy names of a root."""
        return hashlib.sha256(self.certificate.public_bytes(Encoding.DER)).hexdigest()

    def issue(
        self,
        public_key: ec.EllipticCurvePublicKey,
        subject: x509.Name,
        *extensions: tuple[x509.ExtensionType, bool],
    ) -> x509.Certificate:
        """Issue a certificate for ``public_key``; extensions are given with whether they are critical."""
        return certificate_for(public_key, subject, self.certificate.subject, self.key, extensions)


def self_signed(common_name: str) -> Authority:
    """A new root."""
    key, name = new_key(), name_of(common_name)
    return Authority(key, certificate_for(key.public_key(), name, name, key, CA))


def below(issuer: Authority, common_name: str) -> Authority:
    """A new authority that ``issuer`` certifies."""
    key = new_key()
    return Authority(key, issuer.issue(key.public_key(), name_of(common_name), *CA))


def new_key() -> ec.EllipticCurvePrivateKey:
    """A new key on P-384."""
    return ec.generate_private_key(ec.SECP384R1())


def name_of(common_name: str, *attributes: x509.NameAttribute[str]) -> x509.Name:
    """A name in the simulated organisation."""
    return x509.Name(
        [
            *attributes,
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, _ORGANISATION),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def certificate_for(
    public_key: ec.EllipticCurvePublicKey,
    subject: x509.Name,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    extensions: Extensions,
    *,
    begin: datetime = BEGIN,
    end: datetime = END,
) -> x509.Certificate:
    """A certificate that ``issuer`` signs, with key identifiers added."""
    builder = x509.CertificateBuilder(
        subject_name=subject,
        issuer_name=issuer,
        public_key=public_key,
        serial_number=x509.random_serial_number(),
        not_valid_before=begin,
        not_valid_after=end,
    )
    identifiers: Extensions = (
        (x509.SubjectKeyIdentifier.from_public_key(public_key), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), False),
    )
    for extension, critical in (*extensions, *identifiers):
        builder = builder.add_extension(extension, critical)
    return builder.sign(issuer_key, hashes.SHA384())


def usage(*, digital_signature: bool = False, certificates: bool = False) -> x509.KeyUsage:
    """keyUsage of a certificate that signs evidence, or other certificates."""
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certificates,
        crl_sign=certificates,
        encipher_only=False,
        decipher_only=False,
    )


CA: Extensions = (
    (x509.BasicConstraints(ca=True, path_length=None), True),
    (usage(certificates=True), True),
)
"""The extensions of an authority."""


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key as it is kept."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Read a kept key. Raises PlatformFault (``simulated_state``)."""
    try:
        key = load_pem_private_key(read_file(path), password=None)
    except (ValueError, TypeError) as error:
        raise damaged(path, "holds no key") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise damaged(path, "holds a key of another kind")
    return key


def save_authority(folder: Path, name: str, authority: Authority) -> None:
    """Write an authority's key, then its certificate."""
    write_file(folder / f"{name}.key", private_pem(authority.key))
    write_file(folder / f"{name}.pem", authority.certificate.public_bytes(Encoding.PEM))


def load_authority(folder: Path, name: str) -> Authority:
    """Read what `save_authority` wrote. Raises PlatformFault (``simulated_state``)."""
    path = folder / f"{name}.pem"
    try:
        certificate = x509.load_pem_x509_certificate(read_file(path))
    except ValueError as error:
        raise damaged(path, "holds no certificate") from error
    return Authority(load_key(folder / f"{name}.key"), certificate)
