"""A simulated attestation service: tokens and key sets in the form of NVIDIA's, under an authority of its own.

It signs whatever it is told to, so that answers can be minted that no verifier should take. Nothing trusts
its authority but a policy that names the SHA-256 of its key.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from attestation.nvidia.claim_rules import GPU
from attestation.nvidia.nras import ISSUER, SUBJECT

_ORGANISATION = "Cloister simulated platform (not NVIDIA)"
_AUTHORITY_YEARS = timedelta(days=4 * 365)
_TOKEN_LIFE = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class ServiceSigner:
    """One key of the service: its id, and the certificate that the authority issued to it."""

    kid: str
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    certificate: x509.Certificate
    authority: x509.Certificate

    def web_key(self) -> dict[str, Any]:
        """The key as a member of a key set (RFC 7517), with its certificates."""
        numbers = self.key.public_key().public_numbers()
        chain = (self.certificate, self.authority)
        return {
            "kty": "EC",
            "crv": "P-384",
            "kid": self.kid,
            "x": _base64url(numbers.x.to_bytes(48, "big")),
            "y": _base64url(numbers.y.to_bytes(48, "big")),
            "x5c": [base64.b64encode(one.public_bytes(Encoding.DER)).decode("ascii") for one in chain],
        }

    def sign(self, claims: Mapping[str, Any], header: Mapping[str, Any] | None = None) -> str:
        """A compact token over ``claims``; members of ``header`` replace those of the usual one."""
        head = {"kid": self.kid, "alg": "ES384", **(header or {})}
        signed = f"{_json_part(head)}.{_json_part(claims)}"
        r, s = decode_dss_signature(self.key.sign(signed.encode("ascii"), ec.ECDSA(hashes.SHA384())))
        return f"{signed}.{_base64url(r.to_bytes(48, 'big') + s.to_bytes(48, 'big'))}"


@dataclass(frozen=True, slots=True)
class SimulatedService:
    """The service: an authority, and the one key that it issued for signing tokens."""

    authority_key: ec.EllipticCurvePrivateKey = field(repr=False)
    authority: x509.Certificate
    signer: ServiceSigner

    @classmethod
    def create(
        cls, at: datetime, name: str = "Simulated Attestation Service Intermediate"
    ) -> "SimulatedService":
        """Make an authority, and a key in force for a day around ``at``."""
        key = ec.generate_private_key(ec.SECP384R1())
        subject = _name(name)
        life = (at - timedelta(days=365), at + _AUTHORITY_YEARS)
        authority = _certificate(key.public_key(), subject, subject, key, life, ca=True)
        return cls(key, authority, cls._issue(key, authority, "sim-key-1", at))

    @property
    def authority_sha256(self) -> str:
        """SHA-256 of the authority's key (SubjectPublicKeyInfo), hexadecimal: what a policy names."""
        spki = self.authority_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return hashlib.sha256(spki).hexdigest()

    def issue(self, kid: str, at: datetime) -> ServiceSigner:
        """Another key of the service, in force for a day around ``at``."""
        return self._issue(self.authority_key, self.authority, kid, at)

    def key_set(self, *others: ServiceSigner) -> bytes:
        """The service's key set, with ``others`` too."""
        return json.dumps({"keys": [key.web_key() for key in (self.signer, *others)]}).encode("ascii")

    def answer(
        self, devices: Sequence[Mapping[str, Any]], nonce: bytes, at: datetime, **overall: Any
    ) -> bytes:
        """An answer about ``devices``, each given by its claims; ``overall`` replaces claims of the whole.

        A claim given as None by name in ``overall`` is left out.
        """
        tokens = {
            f"GPU-{place}": self.signer.sign({**standing_claims(nonce, at), **claims})
            for place, claims in enumerate(devices)
        }
        return encode_answer(self.signer.sign(overall_claims(tokens, nonce, at, **overall)), tokens)

    @staticmethod
    def _issue(
        key: ec.EllipticCurvePrivateKey, authority: x509.Certificate, kid: str, at: datetime
    ) -> ServiceSigner:
        own = ec.generate_private_key(ec.SECP384R1())
        life = (at - timedelta(hours=12), at + timedelta(hours=12))
        subject = _name("Simulated Attestation Service GPU")
        certificate = _certificate(own.public_key(), subject, authority.subject, key, life, ca=False)
        return ServiceSigner(kid, own, certificate, authority)


def standing_claims(nonce: bytes, at: datetime) -> dict[str, Any]:
    """What every token of the service says, made a minute before ``at`` and good for an hour."""
    made = int((at - timedelta(minutes=1)).timestamp())
    end = made + int(_TOKEN_LIFE.total_seconds())
    return {"iss": ISSUER, "eat_nonce": nonce.hex(), "iat": made, "nbf": made, "exp": end}


def overall_claims(tokens: Mapping[str, str], nonce: bytes, at: datetime, **changed: Any) -> dict[str, Any]:
    """Claims of a whole answer with these device tokens; a claim changed to None is left out."""
    digests = {name: hashlib.sha256(token.encode("ascii")).hexdigest() for name, token in tokens.items()}
    claims = {
        **standing_claims(nonce, at),
        "sub": SUBJECT,
        "x-nvidia-ver": "3.0",
        "x-nvidia-overall-att-result": True,
        "submods": {name: ["DIGEST", ["SHA-256", digest]] for name, digest in digests.items()},
        **changed,
    }
    return {name: value for name, value in claims.items() if value is not None}


def good_gpu(ueid: str, driver: str = "590.12", vbios: str = "96.00.A5.00.01") -> dict[str, Any]:
    """Claims (version 3.0) of a GPU about which there is nothing to say but good."""
    chain = {
        "x-nvidia-cert-status": "valid",
        "x-nvidia-cert-ocsp-status": "good",
        "x-nvidia-cert-expiration-date": "9999-12-31T23:59:59Z",
        "x-nvidia-cert-revocation-reason": None,
    }
    checks = f"x-nvidia-{GPU}-"
    claims: dict[str, Any] = {
        "measres": "success",
        "secboot": True,
        "dbgstat": "disabled",
        "hwmodel": "GH100 A01 GSP BROM",
        "ueid": ueid,
        "oemid": "5703",
        "x-nvidia-attestation-warning": None,
        f"{checks}driver-version": driver,
        f"{checks}vbios-version": vbios,
    }
    for path in ("attestation-report", "driver-rim", "vbios-rim"):
        claims[f"{checks}{path}-cert-chain"] = chain
    for flag in (
        "arch-check",
        "attestation-report-cert-chain-fwid-match",
        "attestation-report-parsed",
        "attestation-report-nonce-match",
        "attestation-report-signature-verified",
        "vbios-index-no-conflict",
        *(
            f"{manifest}-rim-{flag}"
            for manifest in ("driver", "vbios")
            for flag in (
                "fetched",
                "schema-validated",
                "signature-verified",
                "version-match",
                "measurements-available",
            )
        ),
    ):
        claims[checks + flag] = True
    return claims


def encode_answer(overall: str, tokens: Mapping[str, str]) -> bytes:
    """An answer as the service gives it."""
    return json.dumps([["JWT", overall], dict(tokens)]).encode("ascii")


def _json_part(members: Mapping[str, Any]) -> str:
    return _base64url(json.dumps(members, separators=(",", ":")).encode("utf-8"))


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, _ORGANISATION),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _certificate(
    public_key: ec.EllipticCurvePublicKey,
    subject: x509.Name,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    life: tuple[datetime, datetime],
    *,
    ca: bool,
) -> x509.Certificate:
    usage = x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        x509.CertificateBuilder(
            subject_name=subject,
            issuer_name=issuer,
            public_key=public_key,
            serial_number=x509.random_serial_number(),
            not_valid_before=life[0],
            not_valid_after=life[1],
        )
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .sign(issuer_key, hashes.SHA384())
    )
