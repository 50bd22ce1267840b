"""A Sigstore instance of our own for tests: CA, CT log, time stamping authority and log (Rekor v1 or v2).

What it makes has the real formats, so that the verifier cannot tell it from another instance; every method takes
what a dishonest party would change. ``Served`` puts the three endpoints that signing talks to on the loopback.
"""

import base64
import hashlib
import json
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import rfc8785
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from attestation.simulated.der_writer import element, integer, octet_string, oid, sequence
from measurements.checkpoint import Checkpoint
from measurements.cosignature import cosign
from measurements.dsse import pre_authentication
from measurements.merkle import leaf_hash, prove_inclusion, tree_hash
from measurements.note import Note, NoteSignature
from measurements.signing_key import SigningKey
from measurements.statement import PAYLOAD_TYPE

AT = datetime(2026, 6, 1, 12, tzinfo=UTC)
SUBJECT = "https://github.com/acme/node/.github/workflows/release.yml@refs/tags/v1.2.3"
ISSUER = "https://token.actions.githubusercontent.com"
LOG = "log.local.test"
SECRET = "the identity provider's key, known to the CA alone"
_FULCIO = "1.3.6.1.4.1.57264.1"
_SCT = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
_SPKI = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def instant(value: datetime) -> str:
    return f"{value:%Y-%m-%dT%H:%M:%SZ}"


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@dataclass
class Authority:
    """A root and one certificate under it."""

    name: str
    usage: x509.ObjectIdentifier | None
    root_key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP384R1())
    )
    key: ec.EllipticCurvePrivateKey = field(default_factory=new_key)

    def __post_init__(self) -> None:
        root = _name(f"{self.name} root")
        self.root = self._builder(root, root, self.root_key, ca=True).sign(self.root_key, SHA384())
        builder = self._builder(_name(self.name), root, self.key, ca=self.usage is None)
        if self.usage is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([self.usage]), critical=True)
        self.certificate = builder.sign(self.root_key, SHA384())

    def _builder(
        self, subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, *, ca: bool
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(datetime(2025, 1, 1))
            .not_valid_after(datetime(2040, 1, 1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(_usage(sign=not ca, ca=ca), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.root_key.public_key()), critical=False
            )
        )

    def entry(self, uri: str, window: Mapping[str, str]) -> dict[str, Any]:
        chain = [{"rawBytes": b64(c.public_bytes(Encoding.DER))} for c in (self.certificate, self.root)]
        return {
            "subject": {"organization": "test", "commonName": self.name},
            "uri": uri,
            "certChain": {"certificates": chain},
            "validFor": dict(window),
        }


class MiniSigstore:
    """One instance; ``version`` is Rekor's. ``now`` gives aware UTC times."""

    def __init__(self, version: int = 2, now: Callable[[], datetime] = lambda: AT) -> None:
        self.version = version
        self.now = now
        self.ca = Authority("ca.local.test", None)
        self.tsa = Authority("tsa.local.test", ExtendedKeyUsageOID.TIME_STAMPING)
        self.ct_key = new_key()
        self.log_key = SigningKey.generate(LOG)
        self.log_key_v1 = new_key()
        self.entries: list[bytes] = [b"an entry before", b"and another"]
        self.witnesses: list[SigningKey] = []

    # ── the trusted root ──

    def root(self, **windows: Mapping[str, str]) -> bytes:
        """The instance's trusted root; ``log``, ``ct``, ``ca`` and ``tsa`` change the windows of their keys."""
        always = {"start": "2025-01-01T00:00:00Z"}
        log_spki = (
            self.log_key_v1.public_key().public_bytes(*_SPKI) if self.version == 1 else self._log_spki()
        )
        kind = "PKIX_ECDSA_P256_SHA_256" if self.version == 1 else "PKIX_ED25519"
        ct_spki = self.ct_key.public_key().public_bytes(*_SPKI)
        return json.dumps(
            {
                "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
                "tlogs": [_log(f"https://{LOG}", kind, log_spki, self.log_id(), windows.get("log", always))],
                "certificateAuthorities": [self.ca.entry("https://ca", windows.get("ca", always))],
                "ctlogs": [
                    _log(
                        "https://ct",
                        "PKIX_ECDSA_P256_SHA_256",
                        ct_spki,
                        hashlib.sha256(ct_spki).digest(),
                        windows.get("ct", always),
                    )
                ],
                "timestampAuthorities": [self.tsa.entry("https://tsa", windows.get("tsa", always))],
            }
        ).encode()

    def log_id(self) -> bytes:
        if self.version == 1:
            return hashlib.sha256(self.log_key_v1.public_key().public_bytes(*_SPKI)).digest()
        key = self.log_key.public
        return hashlib.sha256(key.name.encode() + b"\n\x01" + key.public_key).digest()

    def _log_spki(self) -> bytes:
        return bytes.fromhex("302a300506032b6570032100") + self.log_key.public.public_key

    # ── certificates ──

    def issue(
        self,
        key: Any,
        *,
        subject: str = SUBJECT,
        issuer: str = ISSUER,
        claims: Mapping[int, str | bytes] = {},
        begin: datetime | None = None,
        ct_key: ec.EllipticCurvePrivateKey | None = None,
        sct: bool = True,
        raw_issuer: str = "",
        further_name: str = "",
    ) -> x509.Certificate:
        """A certificate of ten minutes for ``key``; ``claims`` are Fulcio's extensions by number, bytes as they are."""
        begin = begin or self.now().replace(microsecond=0)
        names = [x509.UniformResourceIdentifier(name) for name in (subject, further_name) if name]
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.ca.certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin.replace(tzinfo=None))
            .not_valid_after((begin + timedelta(minutes=10)).replace(tzinfo=None))
            .add_extension(_usage(sign=True, ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.ca.key.public_key()), critical=False
            )
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
            .add_extension(_unknown(f"{_FULCIO}.1", (raw_issuer or issuer).encode()), critical=False)
            .add_extension(_unknown(f"{_FULCIO}.8", element(0x0C, issuer.encode())), critical=False)
        )
        for number, value in claims.items():
            der = value if isinstance(value, bytes) else element(0x0C, value.encode())
            builder = builder.add_extension(_unknown(f"{_FULCIO}.{number}", der), critical=False)
        if not sct:
            return builder.sign(self.ca.key, SHA256())
        before = builder.sign(self.ca.key, SHA256()).tbs_certificate_bytes
        stamps = octet_string(self._sct(before, begin, ct_key or self.ct_key))
        return builder.add_extension(_unknown(_SCT.dotted_string, stamps), critical=False).sign(
            self.ca.key, SHA256()
        )

    def _sct(self, tbs: bytes, at: datetime, key: ec.EllipticCurvePrivateKey) -> bytes:
        """An SCT list of one (RFC 6962 §3.2, §3.3) over the certificate without it."""
        milliseconds = int(at.timestamp() * 1000)
        issuer = hashlib.sha256(self.ca.key.public_key().public_bytes(*_SPKI)).digest()
        signed = struct.pack(">BBQH", 0, 0, milliseconds, 1) + issuer + len(tbs).to_bytes(3, "big") + tbs
        signature = key.sign(signed + b"\0\0", ec.ECDSA(SHA256()))
        log = hashlib.sha256(key.public_key().public_bytes(*_SPKI)).digest()
        sct = b"\0" + log + struct.pack(">QHBBH", milliseconds, 0, 4, 3, len(signature)) + signature
        return struct.pack(">HH", len(sct) + 2, len(sct)) + sct

    # ── time stamps ──

    def stamp(
        self,
        message_hash: bytes,
        *,
        at: datetime | None = None,
        nonce: int | None = None,
        authority: Authority | None = None,
    ) -> bytes:
        """A TimeStampResp (RFC 3161) over a SHA-256."""
        authority = authority or self.tsa
        sha256 = sequence(oid("2.16.840.1.101.3.4.2.1"))
        info = sequence(
            integer(1),
            oid("1.3.6.1.4.1.57264.2"),
            sequence(sha256, octet_string(message_hash)),
            integer(1),
            element(0x18, f"{at or self.now():%Y%m%d%H%M%SZ}".encode()),
            *([] if nonce is None else [integer(nonce)]),
        )
        der = authority.certificate.public_bytes(Encoding.DER)
        certificate_id = sequence(sequence(sequence(octet_string(hashlib.sha256(der).digest()))))
        attributes = sorted(
            sequence(oid(kind), element(0x31, value))
            for kind, value in (
                ("1.2.840.113549.1.9.3", oid("1.2.840.113549.1.9.16.1.4")),
                ("1.2.840.113549.1.9.4", octet_string(hashlib.sha256(info).digest())),
                ("1.2.840.113549.1.9.16.2.47", certificate_id),
            )
        )
        signature = authority.key.sign(element(0x31, *attributes), ec.ECDSA(SHA256()))
        certificate = authority.certificate
        signer = sequence(
            integer(1),
            sequence(certificate.issuer.public_bytes(), integer(certificate.serial_number)),
            sha256,
            element(0xA0, *attributes),
            sequence(oid("1.2.840.10045.4.3.2")),
            octet_string(signature),
        )
        signed = sequence(
            integer(3),
            element(0x31, sha256),
            sequence(oid("1.2.840.113549.1.9.16.1.4"), element(0xA0, octet_string(info))),
            element(0xA0, der),
            element(0x31, signer),
        )
        token = sequence(oid("1.2.840.113549.1.7.2"), element(0xA0, signed))
        return sequence(sequence(integer(0)), token)

    # ── the log ──

    def append(self, body: bytes, *, kind: str, version: str, at: datetime | None = None) -> dict[str, Any]:
        """Log ``body`` and return the TransparencyLogEntry."""
        self.entries.append(body)
        return self.entry(len(self.entries) - 1, kind=kind, version=version, at=at)

    def entry(self, index: int, *, kind: str, version: str, at: datetime | None = None) -> dict[str, Any]:
        hashes = [leaf_hash(entry) for entry in self.entries]

        def node(level: int, place: int) -> bytes:
            return tree_hash(hashes[place << level : (place + 1) << level])

        root = tree_hash(hashes)
        entry: dict[str, Any] = {
            "logIndex": str(index),
            "logId": {"keyId": b64(self.log_id())},
            "kindVersion": {"kind": kind, "version": version},
            "inclusionProof": {
                "logIndex": str(index),
                "rootHash": b64(root),
                "treeSize": str(len(hashes)),
                "hashes": [b64(value) for value in prove_inclusion(index, len(hashes), node)],
                "checkpoint": {"envelope": self.checkpoint(len(hashes), root)},
            },
            "canonicalizedBody": b64(self.entries[index]),
        }
        if self.version == 1:
            seconds = int((at or self.now()).timestamp())
            promise = rfc8785.dumps(
                {
                    "body": entry["canonicalizedBody"],
                    "integratedTime": seconds,
                    "logID": self.log_id().hex(),
                    "logIndex": index,
                }
            )
            signature = self.log_key_v1.sign(promise, ec.ECDSA(SHA256()))
            entry["integratedTime"] = str(seconds)
            entry["inclusionPromise"] = {"signedEntryTimestamp": b64(signature)}
        return entry

    def checkpoint(self, size: int, root: bytes, origin: str = LOG) -> str:
        text = Checkpoint(origin, size, root).text
        if self.version == 1:
            signature = self.log_key_v1.sign(text.encode(), ec.ECDSA(SHA256()))
            lines = [NoteSignature(LOG, self.log_id()[:4], signature)]
        else:
            lines = [self.log_key.sign_note(text)]
        lines += [cosign(witness, text, int(self.now().timestamp())) for witness in self.witnesses]
        return Note(text, tuple(lines)).encode().decode()

    # ── whole bundles ──

    def sign(
        self,
        payload: bytes,
        *,
        payload_type: str = PAYLOAD_TYPE,
        at: datetime | None = None,
        begin: datetime | None = None,
        **certificate: Any,
    ) -> dict[str, Any]:
        """A v0.3 bundle around a DSSE envelope, signed under a new certificate and logged at ``at``."""
        key = new_key()
        leaf = self.issue(key.public_key(), begin=begin or at, **certificate)
        encoded = pre_authentication(payload_type, payload)
        signature = key.sign(encoded, ec.ECDSA(SHA256()))
        if self.version == 1:
            body = _dsse_body(payload, signature, leaf)
            entry = self.append(body, kind="dsse", version="0.0.1", at=at)
        else:
            body = hashedrekord_body(hashlib.sha256(encoded).digest(), signature, leaf)
            entry = self.append(body, kind="hashedrekord", version="0.0.2")
        material: dict[str, Any] = {
            "certificate": {"rawBytes": b64(leaf.public_bytes(Encoding.DER))},
            "tlogEntries": [entry],
        }
        if self.version == 2:
            stamp = self.stamp(hashlib.sha256(signature).digest(), at=at)
            material["timestampVerificationData"] = {"rfc3161Timestamps": [{"signedTimestamp": b64(stamp)}]}
        return {
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": material,
            "dsseEnvelope": {
                "payload": b64(payload),
                "payloadType": payload_type,
                "signatures": [{"sig": b64(signature)}],
            },
        }


def hashedrekord_body(digest: bytes, signature: bytes, leaf: x509.Certificate) -> bytes:
    verifier = {
        "keyDetails": "PKIX_ECDSA_P256_SHA_256",
        "x509Certificate": {"rawBytes": b64(leaf.public_bytes(Encoding.DER))},
    }
    spec: Any = {
        "data": {"algorithm": "SHA2_256", "digest": b64(digest)},
        "signature": {"content": b64(signature), "verifier": verifier},
    }
    return rfc8785.dumps({"apiVersion": "0.0.2", "kind": "hashedrekord", "spec": {"hashedRekordV002": spec}})


def _dsse_body(payload: bytes, signature: bytes, leaf: x509.Certificate) -> bytes:
    spec: Any = {
        "envelopeHash": {"algorithm": "sha256", "value": "00" * 32},
        "payloadHash": {"algorithm": "sha256", "value": hashlib.sha256(payload).hexdigest()},
        "signatures": [{"signature": b64(signature), "verifier": b64(leaf.public_bytes(Encoding.PEM))}],
    }
    return rfc8785.dumps({"apiVersion": "0.0.1", "kind": "dsse", "spec": spec})


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _usage(*, sign: bool, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(sign, False, False, False, False, ca, ca, False, False)


def _unknown(dotted: str, value: bytes) -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(x509.ObjectIdentifier(dotted), value)


def _log(url: str, kind: str, spki: bytes, log_id: bytes, window: Mapping[str, str]) -> dict[str, Any]:
    return {
        "baseUrl": url,
        "hashAlgorithm": "SHA2_256",
        "publicKey": {"rawBytes": b64(spki), "keyDetails": kind, "validFor": dict(window)},
        "logId": {"keyId": b64(log_id)},
    }


# ── the endpoints that signing talks to ──


def identity_token(now: datetime, subject: str = SUBJECT) -> str:
    """A token as a continuous-integration service hands it to a job."""
    seconds = int(now.timestamp())
    claims = {"iss": ISSUER, "aud": "sigstore", "sub": subject, "iat": seconds, "exp": seconds + 300}
    return jwt.encode({**claims, "nbf": seconds - 5, "job_workflow_ref": subject}, SECRET * 2, "HS256")


class Served:
    """``instance`` (Rekor v2) behind HTTP on the loopback; ``config`` is what its operator would hand out."""

    def __init__(self, instance: MiniSigstore) -> None:
        self.instance = instance
        self.tokens: list[str] = []
        served = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                answer, kind = served.answer(self.path, body, self.headers.get("Authorization", ""))
                self.send_response(201 if answer else 403)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> "Served":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def config(self) -> bytes:
        """A ClientTrustConfig: the trusted root, and where the services are."""
        url = f"http://127.0.0.1:{self._server.server_port}"

        def service(path: str, version: int) -> list[dict[str, Any]]:
            window = {"start": "2025-01-01T00:00:00Z"}
            return [{"url": url + path, "majorApiVersion": version, "validFor": window, "operator": "test"}]

        return json.dumps(
            {
                "mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
                "trustedRoot": json.loads(self.instance.root()),
                "signingConfig": {
                    "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
                    "caUrls": service("", 1),
                    "oidcUrls": service("/oidc", 1),
                    "rekorTlogUrls": service("", 2),
                    "tsaUrls": service("/api/v1/timestamp", 1),
                    "rekorTlogConfig": {"selector": "ANY"},
                    "tsaConfig": {"selector": "ANY"},
                },
            }
        ).encode()

    def answer(self, path: str, body: bytes, authorization: str) -> tuple[bytes, str]:
        if path == "/api/v1/timestamp":
            # TimeStampReq: version, message imprint with a SHA-256, nonce, …
            start = body.index(b"\x04\x20") + 2
            digest, rest = body[start : start + 32], body[start + 32 :]
            nonce = int.from_bytes(rest[2 : 2 + rest[1]], "big")
            return self.instance.stamp(digest, nonce=nonce), "application/timestamp-reply"
        value = json.loads(body)
        if path == "/api/v2/signingCert":
            return self._certificate(value, authorization.removeprefix("Bearer ")), "application/json"
        assert path == "/api/v2/log/entries"
        request = value["hashedRekordRequestV002"]
        raw = base64.b64decode(request["signature"]["verifier"]["x509Certificate"]["rawBytes"])
        leaf = x509.load_der_x509_certificate(raw)
        signature = base64.b64decode(request["signature"]["content"])
        logged = hashedrekord_body(base64.b64decode(request["digest"]), signature, leaf)
        entry = self.instance.append(logged, kind="hashedrekord", version="0.0.2")
        return json.dumps(entry).encode(), "application/json"

    def _certificate(self, value: dict[str, Any], token: str) -> bytes:
        try:
            claims = jwt.decode(token, SECRET * 2, ["HS256"], audience="sigstore")
        except jwt.InvalidTokenError:
            return b""
        self.tokens.append(token)
        request = x509.load_pem_x509_csr(base64.b64decode(value["certificateSigningRequest"]))
        assert request.is_signature_valid
        spki = request.public_key().public_bytes(*_SPKI)
        leaf = self.instance.issue(load_der_public_key(spki), subject=claims["sub"])
        chain = [leaf, self.instance.ca.certificate, self.instance.ca.root]
        pem = [certificate.public_bytes(Encoding.PEM).decode() for certificate in chain]
        return json.dumps({"signedCertificateEmbeddedSct": {"chain": {"certificates": pem}}}).encode()
