"""The one form of XML signature that NVIDIA's reference manifests carry (W3C XML Signature 1.1), strictly.

Exactly one ``ds:Signature``, a direct child of the root; one Reference to the whole document, through the
enveloped-signature transform and Canonical XML 1.1; SHA-384 digests; ECDSA with SHA-384, r then s. KeyInfo
holds X.509 certificates and nothing else: the key is that of the path's leaf, and the path is judged by
whoever calls. Everything else is refused before any of it is computed.
"""

import base64
import binascii
import hashlib
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from attestation.certificate import MAX_CERTIFICATE
from attestation.nvidia.c14n import Element, canonical, malformed, outside_profile
from attestation.nvidia.errors import RimSignatureError

DSIG = "http://www.w3.org/2000/09/xmldsig#"
ENVELOPED = "http://www.w3.org/2000/09/xmldsig#enveloped-signature"
C14N_11 = "http://www.w3.org/2006/12/xml-c14n11"
SHA384 = "http://www.w3.org/2001/04/xmldsig-more#sha384"
ECDSA_SHA384 = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"

MAX_CERTIFICATES = 8
SIGNATURE_BYTES = 96
_DIGEST_BYTES = 48


@dataclass(frozen=True, slots=True)
class Envelope:
    """A signed document taken apart; nothing in it is verified before `verify`.

    ``content`` is the canonical document without its signature, ``signed`` the canonical SignedInfo,
    ``certificates`` the DER certificates of KeyInfo in their order.
    """

    content: bytes
    digest: bytes
    signed: bytes
    signature: bytes
    certificates: tuple[bytes, ...]

    def verify(self, key: ec.EllipticCurvePublicKey) -> None:
        """The document's digest is the signed one, and ``key`` made the signature.

        Raises `RimSignatureError` (``rim_signature_invalid``).
        """
        if hashlib.sha384(self.content).digest() != self.digest:
            raise _invalid("the document was changed after it was signed")
        half = SIGNATURE_BYTES // 2
        r = int.from_bytes(self.signature[:half], "big")
        s = int.from_bytes(self.signature[half:], "big")
        try:
            key.verify(encode_dss_signature(r, s), self.signed, ec.ECDSA(hashes.SHA384()))
        except InvalidSignature as error:
            raise _invalid("the signer's key did not sign this document") from error


def open_envelope(root: Element) -> Envelope:
    """Take a signed document apart. Raises `RimError`: ``rim_profile``, ``rim_malformed``."""
    signature = _only_signature(root)
    signed_info, value, key_info = _children(signature, "SignedInfo", "SignatureValue", "KeyInfo")
    digest = _signed_info(signed_info)
    return Envelope(
        content=canonical(root, without=signature),
        digest=digest,
        signed=canonical(signed_info),
        signature=_base64(value, SIGNATURE_BYTES, exactly=True),
        certificates=_certificates(key_info),
    )


def _only_signature(root: Element) -> Element:
    found: list[Element] = []
    waiting = [root]
    while waiting:
        element = waiting.pop()
        shape = element.shape
        if shape.local == "Signature" and shape.namespace == DSIG:
            found.append(element)
        if element.children:
            waiting += element.elements
    direct = [element for element in root.elements if element.namespace == DSIG]
    if len(found) != 1 or direct != found:
        raise outside_profile("not exactly one signature, as a child of the root element")
    _check_plain(found[0])
    return found[0]


def _check_plain(element: Element) -> None:
    """No comments where texts are read: they would leave no trace in what is signed."""
    if element.commented:
        raise malformed("a comment inside the signature")
    for child in element.elements:
        if child.namespace != DSIG:
            raise outside_profile("an element of another kind inside the signature")
        _check_plain(child)


def _signed_info(signed_info: Element) -> bytes:
    method, algorithm, reference = _children(
        signed_info, "CanonicalizationMethod", "SignatureMethod", "Reference"
    )
    _algorithm(method, C14N_11)
    _algorithm(algorithm, ECDSA_SHA384)
    if [(item.name, item.value) for item in reference.attributes] != [("URI", "")]:
        raise outside_profile("a reference to something else than the whole document")
    transforms, digest_method, digest_value = _children(
        reference, "Transforms", "DigestMethod", "DigestValue", attributes=True
    )
    enveloped, canonicalisation = _children(transforms, "Transform", "Transform")
    _algorithm(enveloped, ENVELOPED)
    _algorithm(canonicalisation, C14N_11)
    _algorithm(digest_method, SHA384)
    return _base64(digest_value, _DIGEST_BYTES, exactly=True)


def _certificates(key_info: Element) -> tuple[bytes, ...]:
    (data,) = _children(key_info, "X509Data")
    elements = data.elements
    if not 1 <= len(elements) <= MAX_CERTIFICATES:
        raise outside_profile(f"not 1 to {MAX_CERTIFICATES} certificates")
    _children(data, *["X509Certificate"] * len(elements))
    return tuple(_base64(element, MAX_CERTIFICATE, exactly=False) for element in elements)


def _children(parent: Element, *names: str, attributes: bool = False) -> list[Element]:
    """Exactly these child elements in this order, with no text between them."""
    children = parent.elements
    if [child.local for child in children] != list(names) or parent.text.strip(" \t\r\n"):
        raise outside_profile(f"{parent.local} does not hold {', '.join(names)}")
    if parent.attributes and not attributes:
        raise outside_profile(f"{parent.local} has attributes")
    return children


def _algorithm(element: Element, expected: str) -> None:
    if element.children or [(item.name, item.value) for item in element.attributes] != [
        ("Algorithm", expected)
    ]:
        raise outside_profile(f"{element.local} is not {expected}")


def _base64(element: Element, length: int, *, exactly: bool) -> bytes:
    if element.attributes or element.elements:
        raise outside_profile(f"{element.local} is not plain text")
    text = "".join(element.text.split())
    if len(text) > (length + 2) // 3 * 4:
        raise malformed(f"{element.local} is too long")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise malformed(f"{element.local} is not base64") from None
    if exactly and len(data) != length:
        raise malformed(f"{element.local} of {len(data)} bytes")
    return data


def _invalid(detail: str) -> RimSignatureError:
    return RimSignatureError(code="rim_signature_invalid", stage="gpu.measurements", detail=detail)
