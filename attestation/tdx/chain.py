"""Intel's keys for SGX and TDX: from the pinned root to a PCK, to the signer of TCB levels, and what is revoked.

Intel SGX Root CA  ──►  Intel SGX PCK Platform CA or Processor CA  ──►  Intel SGX PCK Certificate   one platform
                   └─►  Intel SGX TCB Signing   TCB Info and QE Identity

Every certificate under the root carries the root's word, so a role is held to its name: no other key of Intel's
may speak for it.
"""

import base64
import binascii
from collections.abc import Iterable
from datetime import datetime
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from ..certificate import (
    CRL_SIGN,
    KEY_CERT_SIGN,
    Certificate,
    PublicKey,
    RevocationList,
    key_name,
    permits,
)
from ..errors import CertificateMalformed, ChainUntrusted, RevocationFailed
from .intel_root import INTEL_ISSUERS, INTEL_ROOT
from .pck import PckPlatform, read_platform

MAX_CHAIN: Final = 16 * 1024
"""Bytes of a PEM chain at most; Intel's have less than 4 KiB."""

ROOT: Final = frozenset({"Intel SGX Root CA"})
PCK_CA: Final = frozenset({"Intel SGX PCK Platform CA", "Intel SGX PCK Processor CA"})
PCK: Final = frozenset({"Intel SGX PCK Certificate"})
TCB_SIGNER: Final = frozenset({"Intel SGX TCB Signing"})

_BEGIN: Final = b"-----BEGIN CERTIFICATE-----"
_END: Final = b"-----END CERTIFICATE-----"
_ECDSA_SHA256: Final = bytes.fromhex("300a06082a8648ce3d040302")
_SHA256_ECDSA: Final = ec.ECDSA(hashes.SHA256())
_UNDERSTOOD: Final = frozenset({"2.5.29.14", "2.5.29.15", "2.5.29.19", "2.5.29.31", "2.5.29.35"})
_INTEL: Final = {base64.b64encode(known.raw): known for known in (INTEL_ROOT, *INTEL_ISSUERS)}
"""Intel's own certificates, by their base64."""

_ISSUED_BY_INTEL: Final = frozenset((known.raw, INTEL_ROOT.raw) for known in INTEL_ISSUERS)


class PckChain(NamedTuple):
    """The chain that came with a quote, and what its first certificate says of the platform."""

    pck: Certificate
    ca: Certificate
    root: Certificate
    platform: PckPlatform

    def require_in_force(self, at: datetime) -> None:
        """Check the dates of all three. Raises ChainUntrusted: ``cert_not_yet_valid``, ``cert_expired``."""
        require_in_force((self.root, self.ca, self.pck), at)


class Signer(NamedTuple):
    """The key that signs TCB Info or QE Identity."""

    certificate: Certificate
    root: Certificate


class Trust:
    """Reads chains and checks them up to a pinned root; what it has read or checked once, it need not again.

    ``roots`` are SHA-256 digests in hexadecimal. ``known`` are (subject, issuer) pairs that an earlier check
    under one of these roots found to be rightly signed.
    """

    def __init__(self, roots: frozenset[str], known: Iterable[tuple[Certificate, Certificate]] = ()) -> None:
        self._roots = roots
        self._chains: dict[bytes, tuple[Certificate, ...]] = {}
        self._read: dict[bytes, Certificate] = {}
        self._issued: set[tuple[bytes, bytes]] = set()
        self._pinned: set[bytes] = set()
        for subject, issuer in known:
            if (subject.raw, issuer.raw) not in _ISSUED_BY_INTEL:
                self._read[base64.b64encode(subject.raw)] = subject
                self._read[base64.b64encode(issuer.raw)] = issuer
                self._issued.add((subject.raw, issuer.raw))

    def pck_chain(self, pem: bytes) -> PckChain:
        """The chain PCK, PCK CA, root; dates are ``PckChain.require_in_force``'s.

        Raises ChainUntrusted: ``chain_malformed``, ``chain_untrusted``, ``chain_wrong_role``,
        ``cert_key_type`` or ``cert_signature_algorithm``; EndorsementMismatch (``pck_extension_malformed``).
        """
        chain = self._chain(pem)
        if len(chain) != 3:
            raise ChainUntrusted(code="chain_untrusted", expected="3 certificates", found=len(chain))
        pck, ca, root = chain
        require_role(pck, PCK)
        self._require_root(root)
        self._require_issued(ca, root, PCK_CA)
        self._require_issued(pck, ca, PCK)
        return PckChain(pck, ca, root, read_platform(pck))

    def pck_ca(self, pem: bytes) -> Signer:
        """The issuer of a PCK revocation list, from the chain PCK CA, root. Raises as ``pck_chain``."""
        return self._two(pem, PCK_CA)

    def tcb_signer(self, pem: bytes) -> Signer:
        """The signer of TCB levels, from the chain signer, root. Raises as ``pck_chain``."""
        return self._two(pem, TCB_SIGNER)

    def _two(self, pem: bytes, role: frozenset[str]) -> Signer:
        chain = self._chain(pem)
        require_role(chain[0], role)
        if len(chain) != 2:
            raise ChainUntrusted(code="chain_untrusted", expected="2 certificates", found=len(chain))
        subject, root = chain
        self._require_root(root)
        self._require_issued(subject, root, role)
        return Signer(subject, root)

    def _chain(self, pem: bytes) -> tuple[Certificate, ...]:
        if pem in self._chains:
            return self._chains[pem]
        chain = []
        for text in _split_pem(pem):
            certificate = _INTEL.get(text) or self._read.get(text)
            if certificate is None:
                try:
                    certificate = self._read[text] = Certificate.parse(_decode(text))
                except CertificateMalformed as error:
                    raise ChainUntrusted(code="chain_malformed", detail=error.detail) from None
            chain.append(certificate)
        found = self._chains[pem] = tuple(chain)
        return found

    def _require_root(self, root: Certificate) -> None:
        if root.raw in self._pinned:
            return
        found = root.sha256.hex()
        if found not in self._roots:
            raise ChainUntrusted(
                code="chain_untrusted",
                expected=", ".join(sorted(self._roots)),
                found=found,
                detail="the root certificate is not pinned",
            )
        require_role(root, ROOT)
        self._pinned.add(root.raw)

    def _require_issued(self, subject: Certificate, issuer: Certificate, role: frozenset[str]) -> None:
        require_role(subject, role)
        pair = (subject.raw, issuer.raw)
        if pair in _ISSUED_BY_INTEL or pair in self._issued:
            return
        if subject.issuer != issuer.subject:
            raise ChainUntrusted(
                code="chain_untrusted", detail=f"{issuer.common_name} did not issue {subject.common_name}"
            )
        for extension in subject.extensions:
            if extension.critical and extension.oid not in _UNDERSTOOD:
                raise ChainUntrusted(
                    code="chain_untrusted", detail=f"critical extension {extension.oid} is not understood"
                )
        verify_p256(issuer.public_key, subject.algorithm, subject.signature, subject.signed)
        _p256(subject.public_key)  # what it signs in its turn is checked by that curve alone
        self._issued.add(pair)


class Revocations(NamedTuple):
    """The root's revocation list and that of one PCK CA, each rightly signed."""

    root: RevocationList
    pck: RevocationList
    pck_ca: Certificate

    def of_issuer(self, pck_ca: Certificate) -> bool:
        """Whether the PCK list is this CA's: by name and by key, since a CA may be certified anew."""
        same_key = _p256(self.pck_ca.public_key) == _p256(pck_ca.public_key)
        return self.pck.issuer == pck_ca.subject and same_key

    def check(self, chain: PckChain, signers: Iterable[Signer], at: datetime) -> None:
        """Check that both lists are in force and of this chain, and that they name none of these keys.

        Raises RevocationFailed: ``crl_issuer_mismatch``, ``crl_not_yet_valid``, ``crl_expired``,
        ``cert_revoked``.
        """
        if not self.of_issuer(chain.ca):
            raise RevocationFailed(
                code="crl_issuer_mismatch", expected=chain.ca.common_name, found=self.pck_ca.common_name
            )
        for name, crl in (("root", self.root), ("PCK", self.pck)):
            if at < crl.this_update:
                raise RevocationFailed(
                    code="crl_not_yet_valid", expected=crl.this_update, found=at, detail=name, retryable=True
                )
            if at > crl.next_update:
                raise RevocationFailed(
                    code="crl_expired", expected=crl.next_update, found=at, detail=name, retryable=True
                )
        if self.pck.revokes(chain.pck.serial):
            raise RevocationFailed(code="cert_revoked", found=chain.pck.common_name)
        for certificate in (chain.ca, *(signer.certificate for signer in signers)):
            if self.root.revokes(certificate.serial):
                raise RevocationFailed(code="cert_revoked", found=certificate.common_name)


def read_revocations(root_crl: bytes, pck_crl: bytes, root: Certificate, pck_ca: Certificate) -> Revocations:
    """Read both lists, each signed by its issuer; dates are ``Revocations.check``'s.

    Raises CertificateMalformed (``crl_malformed``), RevocationFailed (``crl_issuer_mismatch``,
    ``crl_signature``).
    """
    lists = []
    for data, issuer in ((root_crl, root), (pck_crl, pck_ca)):
        crl = RevocationList.parse(data)
        if crl.issuer != issuer.subject:
            raise RevocationFailed(code="crl_issuer_mismatch", detail=f"not a list of {issuer.common_name}")
        if not permits(issuer, CRL_SIGN):
            raise RevocationFailed(code="crl_signature", detail=f"{issuer.common_name} may sign no list")
        try:
            verify_p256(issuer.public_key, crl.algorithm, crl.signature, crl.signed)
        except ChainUntrusted as error:
            raise RevocationFailed(code="crl_signature", detail=str(error)) from None
        lists.append(crl)
    return Revocations(lists[0], lists[1], pck_ca)


def read_pem(text: bytes) -> list[bytes]:
    """The certificates of a PEM text in their order, DER; line ends may be LF or CRLF, NULs may follow.

    Raises ChainUntrusted (``chain_malformed``): one certificate at least, and nothing between them.
    """
    return [_decode(block) for block in _split_pem(text)]


def _split_pem(text: bytes) -> list[bytes]:
    """The base64 of each certificate, without line ends."""
    if len(text) > MAX_CHAIN:
        raise ChainUntrusted(code="chain_malformed", expected=f"at most {MAX_CHAIN} bytes", found=len(text))
    before, *blocks = text.rstrip(b"\0").split(_BEGIN)
    found = []
    for block in blocks:
        body, end, after = block.partition(_END)
        if not end or after.strip():
            raise ChainUntrusted(code="chain_malformed", detail="not a sequence of PEM certificates")
        found.append(body.translate(None, b"\r\n"))
    if not found or before.strip():
        raise ChainUntrusted(code="chain_malformed", detail="not a sequence of PEM certificates")
    return found


def _decode(text: bytes) -> bytes:
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, ValueError):
        raise ChainUntrusted(code="chain_malformed", detail="PEM is not base64") from None


def require_role(certificate: Certificate, role: frozenset[str]) -> None:
    """Check that a certificate is of this role: its name, and whether it may issue others.

    Raises ChainUntrusted: ``chain_wrong_role``, or ``chain_untrusted`` for a CA that is none.
    """
    if certificate.common_name not in role:
        raise ChainUntrusted(
            code="chain_wrong_role", expected=" or ".join(sorted(role)), found=certificate.common_name
        )
    must_issue = role in (ROOT, PCK_CA)
    if certificate.is_ca and not must_issue:
        raise ChainUntrusted(code="chain_wrong_role", expected="no CA", found=certificate.common_name)
    if must_issue and not (certificate.is_ca and permits(certificate, KEY_CERT_SIGN)):
        raise ChainUntrusted(code="chain_untrusted", expected="a CA", found=certificate.common_name)


def require_in_force(certificates: Iterable[Certificate], at: datetime) -> None:
    """Check that certificates are valid at ``at``, both ends included.

    Raises ChainUntrusted: ``cert_not_yet_valid`` or ``cert_expired``.
    """
    for certificate in certificates:
        name = certificate.common_name
        if at < certificate.not_before:
            raise ChainUntrusted(
                code="cert_not_yet_valid",
                expected=certificate.not_before,
                found=at,
                detail=name,
                retryable=True,
            )
        if at > certificate.not_after:
            raise ChainUntrusted(
                code="cert_expired", expected=certificate.not_after, found=at, detail=name, retryable=True
            )


def verify_p256(key: PublicKey | None, algorithm: bytes, signature: bytes, signed: bytes) -> None:
    """Check a DER signature by ECDSA on P-256 with SHA-256.

    Raises ChainUntrusted: ``cert_signature_algorithm``, ``cert_key_type`` or ``chain_untrusted``.
    """
    if algorithm != _ECDSA_SHA256:
        raise ChainUntrusted(code="cert_signature_algorithm", expected="ECDSA with SHA-256")
    try:
        _p256(key).verify(signature, signed, _SHA256_ECDSA)
    except InvalidSignature:
        raise ChainUntrusted(code="chain_untrusted", detail="a signature is wrong") from None


def _p256(key: PublicKey | None) -> ec.EllipticCurvePublicKey:
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise ChainUntrusted(code="cert_key_type", expected="secp256r1", found=key_name(key))
    return key
