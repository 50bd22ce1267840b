"""The files in which others hand out Sigstore bundles: GitHub's attestations and PyPI's (PEP 740).

They are taken apart into bundles here; nothing is verified.
"""

import json
from typing import Any, Final

from ..errors import Code, TransparencyError
from ..statement import PAYLOAD_TYPE
from .bundle import MAX_BUNDLE
from .strict_json import parse_strict

MAX_FILE: Final = 8 * 1024 * 1024
MAX_ATTESTATIONS: Final = 64
_STAGE: Final = "attestation"


def bundles_in(data: bytes) -> tuple[bytes, ...]:
    """The Sigstore bundles in a file (at most 8 MiB): a bundle itself, one on each line (``gh attestation
    download``), an answer of GitHub's API (``{"attestations": [{"bundle": …}]}``), a PyPI attestation, or a PyPI
    provenance object.

    Raises TransparencyError (PROOF_MALFORMED, LIMIT_EXCEEDED).
    """
    if len(data) > MAX_FILE:
        raise TransparencyError(Code.LIMIT_EXCEEDED, "attestations", stage=_STAGE, expected=f"≤ {MAX_FILE} B")
    lines = [line for line in data.split(b"\n") if line.strip()]
    if len(lines) > 1 and all(line.lstrip()[:1] == b"{" and line.rstrip()[-1:] == b"}" for line in lines):
        documents = [_parse(line) for line in lines]
    else:
        documents = [_parse(data)]
    found = [bundle for document in documents for bundle in _bundles(document)]
    if not 0 < len(found) <= MAX_ATTESTATIONS:
        raise _malformed(f"{len(found)} attestations, where 1 to {MAX_ATTESTATIONS} are expected")
    return tuple(json.dumps(bundle, separators=(",", ":")).encode() for bundle in found)


def from_pypi(attestation: Any) -> dict[str, Any]:
    """The bundle that says the same as a PyPI attestation of version 1. Raises TransparencyError."""
    try:
        if (
            set(attestation) != {"version", "verification_material", "envelope"}
            or type(attestation["version"]) is not int
            or attestation["version"] != 1
        ):
            raise _malformed("not a PyPI attestation of version 1")
        material, envelope = attestation["verification_material"], attestation["envelope"]
        known = {"certificate", "transparency_entries"}
        if set(material) - {"timestamps"} != known or set(envelope) != {"statement", "signature"}:
            raise _malformed("a PyPI attestation with unknown members")
        stamps = [{"signedTimestamp": stamp} for stamp in material.get("timestamps", ())]
        return {
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {
                "certificate": {"rawBytes": material["certificate"]},
                "tlogEntries": material["transparency_entries"],
                **({"timestampVerificationData": {"rfc3161Timestamps": stamps}} if stamps else {}),
            },
            "dsseEnvelope": {
                "payload": envelope["statement"],
                "payloadType": PAYLOAD_TYPE,
                "signatures": [{"sig": envelope["signature"]}],
            },
        }
    except (TypeError, KeyError, AttributeError) as error:
        raise _malformed("not a PyPI attestation of version 1") from error


def _bundles(document: Any) -> list[Any]:
    if not isinstance(document, dict):
        raise _malformed("not an object")
    if "mediaType" in document:
        return [document]
    if "verification_material" in document:
        return [from_pypi(document)]
    try:
        if "attestations" in document:
            return [entry["bundle"] for entry in document["attestations"]]
        if "attestation_bundles" in document:
            return [
                from_pypi(attestation)
                for bundle in document["attestation_bundles"]
                for attestation in bundle["attestations"]
            ]
    except (TypeError, KeyError) as error:
        raise _malformed("a list of attestations in an unknown form") from error
    raise _malformed("neither a Sigstore bundle nor a GitHub or PyPI attestation")


def _parse(data: bytes) -> Any:
    return parse_strict(data, limit=MAX_BUNDLE * 4, code=Code.PROOF_MALFORMED, what="attestation")


def _malformed(why: str) -> TransparencyError:
    return TransparencyError(Code.PROOF_MALFORMED, why, stage=_STAGE)
