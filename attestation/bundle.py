"""The evidence bundle: what a node serves at ``/attestation`` (docs/protocol.md §3).

One JSON object; every section is base64 of its exact bytes, so that nothing is written anew before it is
hashed. All of it is untrusted transport until the CPU vouches for the claims, and the claims for the rest.
"""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from .claims import MAX_CLAIMS
from .errors import EvidenceMalformed
from .strict_json import base64_bytes, exact_members, load_object

MEDIA_TYPE: Final = "application/vnd.cloister.evidence+json"
MAX_BUNDLE: Final = 4 * 1024 * 1024
"""Bytes of an encoded bundle at most."""

MAX_COLLATERAL_PIECES: Final = 128
"""Pieces of collateral in a section at most; a board of eight GPUs and four switches needs up to about 60."""

_VERSION: Final = 1
_MALFORMED: Final = "bundle_malformed"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/-]{0,127}\Z")
_TEE: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,31}\Z")
_SMALL: Final = 64 * 1024
_MEMBERS: Final = (
    "v",
    "claims",
    "cpu",
    "gpus",
    "gpu_collateral",
    "ohttp_keys",
    "runtime",
    "transparency",
    "checkpoint",
)


@dataclass(frozen=True, slots=True)
class CpuSection:
    """Evidence of the CPU: ``tee`` names its kind (``sev-snp``), ``collateral`` what it takes to check it.

    For ``sev-snp`` the evidence is the report of 1184 bytes, and the collateral is ``vek`` (VCEK or VLEK),
    ``ask`` (ASK or ASVK), ``ark`` and, where there is one, ``crl``, all DER.
    """

    tee: str
    evidence: bytes
    collateral: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class TransparencySection:
    """Inclusion proofs of the release and its status, with their leaves; ``measurements`` reads them.

    ``sigstore`` is a Sigstore bundle, ``signers_proof`` and ``signers_leaf`` are the set of release signers; None and
    empty where there is none.
    """

    release_proof: bytes
    release_leaf: bytes
    status_proof: bytes
    status_leaf: bytes
    sigstore: bytes | None = None
    signers_proof: bytes = b""
    signers_leaf: bytes = b""


@dataclass(frozen=True, slots=True)
class EvidenceBundle:
    """A parsed bundle; ``gpus`` holds the bytes of a JSON list in NVIDIA's wire form, none without GPUs."""

    claims: bytes
    cpu: CpuSection
    gpus: bytes
    gpu_collateral: Mapping[str, bytes]
    ohttp_keys: bytes
    runtime: bytes
    transparency: TransparencySection
    checkpoint: bytes

    def encode(self) -> bytes:
        """The bundle's bytes. Raises EvidenceMalformed where they would not parse again, size included."""
        section = self.transparency
        transparency: dict[str, object] = {
            "release": {"proof": _text(section.release_proof), "leaf": _text(section.release_leaf)},
            "status": {"proof": _text(section.status_proof), "leaf": _text(section.status_leaf)},
        }
        if section.sigstore is not None:
            transparency["sigstore"] = _text(section.sigstore)
        if section.signers_leaf or section.signers_proof:
            transparency["signers"] = {
                "proof": _text(section.signers_proof),
                "leaf": _text(section.signers_leaf),
            }
        document: dict[str, object] = {
            "v": _VERSION,
            "claims": _text(self.claims),
            "cpu": {
                "tee": self.cpu.tee,
                "evidence": _text(self.cpu.evidence),
                "collateral": {name: _text(data) for name, data in self.cpu.collateral.items()},
            },
            "gpus": _text(self.gpus),
            "gpu_collateral": {name: _text(data) for name, data in self.gpu_collateral.items()},
            "ohttp_keys": _text(self.ohttp_keys),
            "runtime": _text(self.runtime),
            "transparency": transparency,
            "checkpoint": _text(self.checkpoint),
        }
        data = json.dumps(document, separators=(",", ":")).encode("ascii")
        EvidenceBundle.parse(data)
        return data

    @classmethod
    def parse(cls, data: bytes) -> "EvidenceBundle":
        """Read a bundle as served. Raises EvidenceMalformed: nothing unknown, double, missing or too big."""
        document = load_object(data, limit=MAX_BUNDLE, code=_MALFORMED)
        version = document.get("v")
        if type(version) is not int or version != _VERSION:
            raise EvidenceMalformed(code="bundle_version", expected=_VERSION, found=version)
        members = exact_members(document, _MEMBERS, code=_MALFORMED, where="the bundle")
        return cls(
            claims=_bytes(members["claims"], "claims", MAX_CLAIMS),
            cpu=_cpu(members["cpu"]),
            gpus=_bytes(members["gpus"], "gpus"),
            gpu_collateral=_collateral(members["gpu_collateral"], "gpu_collateral"),
            ohttp_keys=_bytes(members["ohttp_keys"], "ohttp_keys", _SMALL),
            runtime=_bytes(members["runtime"], "runtime"),
            transparency=_transparency(members["transparency"]),
            checkpoint=_bytes(members["checkpoint"], "checkpoint", _SMALL),
        )


def bundle_digest(data: bytes) -> bytes:
    """SHA-256 of a bundle as served: what a request names to say which evidence it was sent on."""
    return hashlib.sha256(data).digest()


def _cpu(value: object) -> CpuSection:
    members = exact_members(value, ("tee", "evidence", "collateral"), code=_MALFORMED, where="cpu")
    tee = members["tee"]
    if not isinstance(tee, str) or not _TEE.match(tee):
        raise EvidenceMalformed(code=_MALFORMED, detail="cpu.tee is not the name of a kind of evidence")
    return CpuSection(
        tee=tee,
        evidence=_bytes(members["evidence"], "cpu.evidence"),
        collateral=_collateral(members["collateral"], "cpu.collateral"),
    )


def _transparency(value: object) -> TransparencySection:
    where = "transparency"
    optional = ("sigstore", "signers")
    members = exact_members(value, ("release", "status"), optional, code=_MALFORMED, where=where)
    release, status, signers = (
        exact_members(members[name], ("proof", "leaf"), code=_MALFORMED, where=f"{where}.{name}")
        if name in members
        else {"proof": "", "leaf": ""}
        for name in ("release", "status", "signers")
    )
    return TransparencySection(
        release_proof=_bytes(release["proof"], "transparency.release.proof"),
        release_leaf=_bytes(release["leaf"], "transparency.release.leaf"),
        status_proof=_bytes(status["proof"], "transparency.status.proof"),
        status_leaf=_bytes(status["leaf"], "transparency.status.leaf"),
        sigstore=_bytes(members["sigstore"], "transparency.sigstore") if "sigstore" in members else None,
        signers_proof=_bytes(signers["proof"], "transparency.signers.proof"),
        signers_leaf=_bytes(signers["leaf"], "transparency.signers.leaf"),
    )


def _collateral(value: object, where: str) -> dict[str, bytes]:
    if not isinstance(value, dict) or len(value) > MAX_COLLATERAL_PIECES:
        raise EvidenceMalformed(
            code=_MALFORMED, detail=f"{where} is not an object of at most {MAX_COLLATERAL_PIECES} members"
        )
    for name in value:
        if not _NAME.match(name):
            raise EvidenceMalformed(code=_MALFORMED, detail=f"{where} has a member with an odd name")
    return {name: _bytes(data, f"{where}.{name}") for name, data in value.items()}


def _bytes(value: object, where: str, limit: int = MAX_BUNDLE) -> bytes:
    return base64_bytes(value, limit=limit, code=_MALFORMED, where=where)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
