"""Reference integrity manifests (RIM): the measurements that NVIDIA says a driver, VBIOS or switch BIOS has.

A manifest is a SWID tag (ISO/IEC 19770-2) with TCG's RIM attributes and an XML signature. Order: shape and
signature profile, certificate path to the pinned reference-value root, signature, and only then what the
signed document says, read from the tree that was canonicalised and from nothing else.
"""

from collections.abc import Collection, Mapping, MutableMapping
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from types import MappingProxyType
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from attestation.certificate import Certificate
from attestation.errors import AttestationError
from attestation.nvidia.c14n import Element, malformed, outside_profile, parse_document
from attestation.nvidia.errors import RimChainError, RimError
from attestation.nvidia.once import Once
from attestation.nvidia.path import (
    check_extensions,
    check_issued,
    check_validity,
    earliest_end,
    p384,
    parse_certificate,
)
from attestation.nvidia.rim_id import RimKind, RimRequest
from attestation.nvidia.xmldsig import open_envelope

NVIDIA_RIM_ROOT_SHA256 = "12977b5115acb0381179279fffeb5a8c4d264971ebb32298023a465fa41df5d1"
"""SHA-256 of the DER of "NVIDIA CoRIM signing Root CA" (serial 45DAE3A00E5037BDDF875375ECB5E270)."""

SWID = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
SHA384_VALUES = "http://www.w3.org/2001/04/xmlenc#sha384"
CHAIN_LENGTH = 4
MAX_INDEX = 255
DIGEST_BYTES = 48

_ACTIVE = {"True": True, "False": False}
_NUMBERS: Final = {str(number): number for number in range(1000)}
_SIZE: Final = str(DIGEST_BYTES)
_SPACE = " \t\r\n"


@dataclass(frozen=True, slots=True)
class Rim:
    """A verified manifest.

    ``measurements`` maps the index of each active measurement, counted from zero, to its allowed digests.
    ``certificates`` is the signer's path, leaf first, root last.
    """

    version: str
    product: str
    edition: str
    measurements: Mapping[int, tuple[bytes, ...]]
    certificates: tuple[Certificate, ...]

    @property
    def expires(self) -> datetime:
        """When the first certificate of the signer's path runs out."""
        return earliest_end(self.certificates)


Paths = MutableMapping[tuple[bytes, ...], tuple[Certificate, ...]]
"""Certificate lists, as manifests carry them, that were verified to the same roots at the same time."""


def verify_rim(
    data: bytes,
    *,
    roots: Collection[str],
    at: datetime,
    paths: Paths | None = None,
    once: Once | None = None,
) -> Rim:
    """Verify a manifest to one of ``roots`` (SHA-256 of a DER certificate, lower-case hexadecimal).

    ``paths`` belongs to one appraisal, whose manifests mostly share their signer: a path found in it was
    verified before, and a new one is added. ``once`` is its memory.

    Raises `RimError` (``rim_malformed``, ``rim_profile``, ``rim_empty``), `RimChainError`
    (``rim_chain_malformed``, ``_length``, ``_algorithm``, ``_untrusted``, ``_not_ca``, ``_expired``) or
    `RimSignatureError` (``rim_signature_invalid``).
    """
    root = parse_document(data)
    envelope = open_envelope(root)
    path = None if paths is None else paths.get(envelope.certificates)
    if path is None:
        path = _trusted_path(envelope.certificates, roots, at, once or Once())
    envelope.verify(_key(path[0]))
    if len(envelope.certificates) != CHAIN_LENGTH:
        raise _fault("length", "number of certificates", CHAIN_LENGTH, len(envelope.certificates))
    if paths is not None:
        paths[envelope.certificates] = path
    return _read(root, path)


def check_rim(rim: Rim, request: RimRequest) -> None:
    """The manifest is of the version and the chip that the device reports.

    Raises `RimError`: ``rim_version_mismatch``, ``rim_product_mismatch``.
    """
    if rim.version.upper() != request.version.upper():
        raise RimError(
            code="rim_version_mismatch",
            stage="gpu.measurements",
            detail=f"{request.kind} manifest of another version",
            expected=request.version,
            found=rim.version,
        )
    edition = "SWITCH" if request.kind is RimKind.SWITCH_BIOS else "GPU"
    if (rim.product, rim.edition) != (request.product, edition):
        raise RimError(
            code="rim_product_mismatch",
            stage="gpu.measurements",
            detail=f"{request.kind} manifest of another device",
            expected=f"{request.product} ({edition})",
            found=f"{rim.product} ({rim.edition})",
        )


def _trusted_path(
    encodings: tuple[bytes, ...], roots: Collection[str], at: datetime, once: Once
) -> tuple[Certificate, ...]:
    """The certificates from the first to a pinned root, each issued by the next."""
    certificates = tuple(
        parse_certificate(encoding, position, _fault, once) for position, encoding in enumerate(encodings)
    )
    pinned = [place for place, item in enumerate(certificates) if item.sha256.hex() in roots]
    if not pinned:
        raise _fault("untrusted", "no pinned root", sorted(roots), certificates[-1].sha256.hex())
    path = certificates[: pinned[0] + 1]
    for position, (subject, issuer) in enumerate(pairwise(path)):
        if subject.issuer != issuer.subject:
            raise _fault("untrusted", f"certificate {position} was not issued by its successor", None, None)
        check_issued(subject, issuer, position, _fault, once)
    for position, certificate in enumerate(path):
        check_validity(certificate, position, at, _fault)
        check_extensions(certificate, position, _fault)
    return path


def _key(certificate: Certificate) -> ec.EllipticCurvePublicKey:
    return p384(certificate, 0, _fault)


def _read(root: Element, path: tuple[Certificate, ...]) -> Rim:
    if (root.namespace, root.local) != (SWID, "SoftwareIdentity"):
        raise outside_profile("the root is not a software identity tag")
    if root.text.strip(_SPACE):
        raise malformed("text between the parts of the tag")
    parts: dict[str, list[Element]] = {"Entity": [], "Meta": [], "Payload": []}
    for child in root.elements:
        if child.namespace != SWID:
            continue  # the signature, which is the only other child there may be
        if child.local not in parts:
            raise outside_profile("an unknown part of the tag")
        parts[child.local].append(child)
    if len(root.elements) != sum(map(len, parts.values())) + 1:
        raise outside_profile("an unknown part of the tag")
    if len(parts["Meta"]) != 1 or len(parts["Payload"]) != 1:
        raise malformed("not exactly one Meta and one Payload")
    meta = parts["Meta"][0]
    return Rim(
        version=_text(meta, "colloquialVersion"),
        product=_text(meta, "product"),
        edition=_text(meta, "edition"),
        measurements=_measurements(parts["Payload"][0]),
        certificates=path,
    )


def _measurements(payload: Element) -> Mapping[int, tuple[bytes, ...]]:
    if payload.text.strip(_SPACE):
        raise malformed("text between measurements")
    active: dict[int, tuple[bytes, ...]] = {}
    seen: set[int] = set()
    plans: dict[int, _Plan] = {}  # by shape, which the elements keep alive
    for resource in payload.elements:
        plan = plans.get(id(resource.shape))
        if plan is None:
            plan = plans[id(resource.shape)] = _plan(resource)
        values = resource.values
        if resource.children:
            raise malformed("something else than a Resource in the Payload")
        if values[plan.kind] != "Measurement" or values[plan.size] != _SIZE:
            raise malformed(f"a Resource that is no measurement of {DIGEST_BYTES} bytes")
        index = _NUMBERS.get(values[plan.index])
        if index is None:
            raise malformed("index is not a number")
        if index in seen or index > MAX_INDEX:
            raise malformed(f"index {index} occurs twice or is out of range")
        seen.add(index)
        # As many as there are of that namespace, and each under a name of its own: no value is left unread.
        if _NUMBERS.get(values[plan.alternatives]) != len(plan.digests):
            raise malformed("alternatives and their values differ in number")
        digests = tuple([_digest(values[place]) for place in plan.digests])
        is_active = _ACTIVE.get(values[plan.active])
        if is_active is None:
            raise malformed(f"measurement {index} is neither active nor inactive")
        if is_active:
            if not digests:
                raise malformed(f"measurement {index} is active and has no value")
            active[index] = digests
    if not active:
        raise RimError(code="rim_empty", stage="gpu.measurements", detail="no active measurement")
    return MappingProxyType(active)


@dataclass(frozen=True, slots=True)
class _Plan:
    """Where among the values of measurements of one shape their attributes are; ``kind`` is their type."""

    kind: int
    size: int
    index: int
    alternatives: int
    active: int
    digests: tuple[int, ...]


def _plan(resource: Element) -> _Plan:
    shape = resource.shape
    if shape.local != "Resource" or shape.namespace != SWID:
        raise malformed("something else than a Resource in the Payload")
    digests = [
        shape.places.get((SHA384_VALUES, f"Hash{place}")) for place in range(resource.count(SHA384_VALUES))
    ]
    if None in digests:
        raise malformed("alternatives and their values differ in number")
    names = ("type", "size", "index", "alternatives", "active")
    missing = [name for name in names if ("", name) not in shape.places]
    if missing:
        raise malformed(f"Resource has no {missing[0]}")
    kind, size, index, alternatives, active = [shape.places["", name] for name in names]
    hashes = tuple(place for place in digests if place is not None)
    return _Plan(kind, size, index, alternatives, active, hashes)


def _digest(text: str) -> bytes:
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        digest = b""
    # Space between the digits would pass above, but not leave this many of them.
    if len(text) != 2 * DIGEST_BYTES or len(digest) != DIGEST_BYTES:
        raise malformed("a value that is not a SHA-384 digest")
    return digest


def _text(element: Element, name: str) -> str:
    value = element.attribute(name)
    if value is None:
        raise malformed(f"{element.local} has no {name}")
    return value


def _fault(code: str, detail: str, expected: object, found: object) -> AttestationError:
    return RimChainError(
        code=f"rim_chain_{code}", stage="gpu.measurements", detail=detail, expected=expected, found=found
    )
