"""A second opinion on the XML signatures of reference manifests: signxml, over lxml.

It is given the signer's certificate, which our own check has led up to the pinned root. So it speaks of digest,
canonical form and signature alone: of two verdicts, ours may be the stricter one, for the reasons named here.
"""

import base64
import hashlib
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.errors import AttestationError
from attestation.nvidia.c14n import canonical, parse_document
from attestation.nvidia.rim import NVIDIA_RIM_ROOT_SHA256, verify_rim
from attestation.nvidia.xmldsig import open_envelope

signxml = pytest.importorskip("signxml")
etree = pytest.importorskip("lxml.etree")

STRICTER = {
    # Not the form that NVIDIA signs, whatever is signed.
    "rim_profile",
    # What is signed does not read as measurements, or names none.
    "rim_malformed",
    "rim_empty",
    # signxml is told whom to trust.
    "rim_chain_untrusted",
    "rim_chain_expired",
    "rim_chain_not_ca",
    "rim_chain_algorithm",
    "rim_chain_malformed",
    "rim_chain_order",
}


def manifests(nvidia: Path) -> Iterator[tuple[Path, str]]:
    """Every stored manifest, with the root it is to end at."""
    for path in [*(nvidia / "rims").glob("*.xml"), *(nvidia / "evidence").glob("*/*rim.xml")]:
        yield path, NVIDIA_RIM_ROOT_SHA256
    pem = (nvidia / "synthetic" / "test_rim_root.pem").read_bytes()
    root = hashlib.sha256(x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)).hexdigest()
    for path in (nvidia / "synthetic" / "rims").glob("*.xml"):
        yield path, root


def signer(data: bytes) -> x509.Certificate | None:
    """The first certificate in a manifest, if there is one that can be read."""
    found = re.search(rb"X509Certificate[^>]*>([^<]+)<", data)
    try:
        return x509.load_der_x509_certificate(base64.b64decode(found[1])) if found else None
    except ValueError:
        return None


def their_word(data: bytes, certificate: x509.Certificate) -> bool:
    """Whether signxml finds the signature good, in the signer's own time and by the algorithms of the profile."""
    methods: Any = signxml
    configuration = methods.SignatureConfiguration(
        signature_methods=frozenset({methods.SignatureMethod.ECDSA_SHA384}),
        digest_algorithms=frozenset({methods.DigestAlgorithm.SHA384}),
        verification_time=certificate.not_valid_before_utc,
    )
    try:
        methods.XMLVerifier().verify(data, x509_cert=certificate, expect_config=configuration)
    except Exception:  # whatever its parser and it itself say against a document
        return False
    return True


def our_code(data: bytes, root: str, at: datetime) -> str:
    try:
        verify_rim(data, roots={root}, at=at)
    except AttestationError as error:
        return error.code
    return ""


def test_signxml_agrees_on_every_manifest(vectors: Path) -> None:
    both = theirs_alone = neither = 0
    for path, root in manifests(vectors / "nvidia"):
        data = path.read_bytes()
        certificate = signer(data)
        if certificate is None:
            assert our_code(data, root, datetime(2026, 3, 1, tzinfo=UTC)) != "", path.name
            continue
        moments = (certificate.not_valid_before_utc, datetime(2026, 3, 1, tzinfo=UTC))
        codes = {our_code(data, root, at) for at in moments}
        accepted, agreed = "" in codes, their_word(data, certificate)
        assert agreed or not accepted, f"{path.name}: accepted here alone"
        if accepted:
            both += 1
        elif agreed:
            assert codes & STRICTER, f"{path.name}: {codes}"
            theirs_alone += 1
        else:
            neither += 1
    assert both
    assert neither
    assert theirs_alone


def test_the_canonical_form_is_lxmls(vectors: Path) -> None:
    """Canonical XML 1.1 as here, and 1.0 as in lxml, are one for documents of this profile."""
    count = 0
    for path, _ in manifests(vectors / "nvidia"):
        data = path.read_bytes()
        try:
            root = parse_document(data)
            content = open_envelope(root).content
        except AttestationError:
            continue
        tree = etree.fromstring(data)
        assert canonical(root) == etree.tostring(tree, method="c14n", with_comments=False), path.name
        signature = tree.find("{http://www.w3.org/2000/09/xmldsig#}Signature")
        parent, tail = signature.getparent(), signature.tail or ""
        previous = signature.getprevious()
        if previous is not None:
            previous.tail = (previous.tail or "") + tail
        else:
            parent.text = (parent.text or "") + tail
        parent.remove(signature)
        assert content == etree.tostring(tree, method="c14n", with_comments=False), path.name
        count += 1
    assert count
