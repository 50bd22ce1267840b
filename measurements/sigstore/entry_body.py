"""What a log entry says was signed, compared with what was: the same bytes, signature and signer.

Without this a valid entry for something else could vouch for this signature's time (CVE-2022-36056).
"""

import hashlib
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

from .. import strict_base64
from ..dsse import pre_authentication
from ..errors import Code, TransparencyError
from .bundle import MAX_BUNDLE, SigstoreBundle
from .strict_json import parse_strict

_STAGE: Final = "sigstore.entry"


def match_entry(bundle: SigstoreBundle, key: PublicKeyTypes, digest: bytes) -> None:
    """Compare the body of ``bundle``'s log entry with the signature it carries.

    ``key`` made the signature; ``digest`` is the SHA-256 of what was signed: an artifact, or a DSSE
    envelope's pre-authentication encoding. Raises TransparencyError (LOG_ENTRY_MISMATCH).
    """
    body = parse_strict(
        bundle.entry.canonicalized_body, limit=MAX_BUNDLE, code=Code.LOG_ENTRY_MISMATCH, what="log entry"
    )
    kind, version = bundle.entry.kind_version.kind, bundle.entry.kind_version.version
    try:
        if (body["kind"], body["apiVersion"]) != (kind, version):
            raise _mismatch("kind")
        spec = body["spec"]
        match kind, version:
            case "hashedrekord", "0.0.1":
                _hashedrekord_v1(spec, bundle, key, digest)
            case "hashedrekord", "0.0.2":
                _hashedrekord_v2(spec["hashedRekordV002"], bundle, key, digest)
            case "dsse", "0.0.1":
                _dsse(spec, bundle, key)
            case "intoto", "0.0.2":
                _intoto(spec["content"], bundle, key)
            case _:
                raise _mismatch("kind")
    except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
        raise _mismatch("shape") from error


def _hashedrekord_v1(spec: Any, bundle: SigstoreBundle, key: PublicKeyTypes, digest: bytes) -> None:
    if bundle.payload is not None:
        raise _mismatch("kind")
    _equal("digest", spec["data"]["hash"], {"algorithm": "sha256", "value": digest.hex()})
    _equal("signature", spec["signature"]["content"], strict_base64.encode(bundle.signature))
    _signer(_pem(spec["signature"]["publicKey"]["content"]), bundle, key)


def _hashedrekord_v2(spec: Any, bundle: SigstoreBundle, key: PublicKeyTypes, digest: bytes) -> None:
    _equal("digest", spec["data"], {"algorithm": "SHA2_256", "digest": strict_base64.encode(digest)})
    _equal("signature", spec["signature"]["content"], strict_base64.encode(bundle.signature))
    verifier = spec["signature"]["verifier"]
    field = "publicKey" if bundle.certificate is None else "x509Certificate"
    if set(verifier) != {field, "keyDetails"}:
        raise _mismatch("signer")
    _signer(strict_base64.decode(verifier[field]["rawBytes"]), bundle, key)


def _dsse(spec: Any, bundle: SigstoreBundle, key: PublicKeyTypes) -> None:
    if bundle.payload is None:
        raise _mismatch("kind")
    value = hashlib.sha256(bundle.payload).hexdigest()
    _equal("payload", spec["payloadHash"], {"algorithm": "sha256", "value": value})
    (signature,) = spec["signatures"]
    _equal("signature", signature["signature"], strict_base64.encode(bundle.signature))
    _signer(_pem(signature["verifier"]), bundle, key)


def _intoto(content: Any, bundle: SigstoreBundle, key: PublicKeyTypes) -> None:
    if bundle.payload is None:
        raise _mismatch("kind")
    value = hashlib.sha256(bundle.payload).hexdigest()
    _equal("payload", content["payloadHash"], {"algorithm": "sha256", "value": value})
    _equal("payload type", content["envelope"]["payloadType"], bundle.payload_type)
    (signature,) = content["envelope"]["signatures"]
    # This kind of entry encodes the encoded signature once more.
    once = strict_base64.encode(bundle.signature).encode()
    _equal("signature", signature["sig"], strict_base64.encode(once))
    _signer(_pem(signature["publicKey"]), bundle, key)


def signed_digest(bundle: SigstoreBundle, artifact: bytes | None) -> bytes:
    """SHA-256 of what the signature covers: the envelope's encoding, or the artifact of that digest."""
    if bundle.payload is None:
        assert artifact is not None
        return artifact
    assert bundle.payload_type is not None
    return hashlib.sha256(pre_authentication(bundle.payload_type, bundle.payload)).digest()


def _signer(found: bytes, bundle: SigstoreBundle, key: PublicKeyTypes) -> None:
    """``found`` is DER of the very certificate, or of the key where there is no certificate."""
    if bundle.certificate is not None:
        expected = bundle.certificate.public_bytes(Encoding.DER)
    else:
        expected = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if found != expected:
        raise _mismatch("signer")


def _pem(encoded: str) -> bytes:
    text = strict_base64.decode(encoded)
    if text.startswith(b"-----BEGIN CERTIFICATE-----"):
        return x509.load_pem_x509_certificate(text).public_bytes(Encoding.DER)
    return load_pem_public_key(text).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _equal(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise _mismatch(what)


def _mismatch(what: str) -> TransparencyError:
    return TransparencyError(
        Code.LOG_ENTRY_MISMATCH, f"the log entry is for another signature: {what} differs", stage=_STAGE
    )
