"""Appraisals as an EAT Attestation Result (EAR): one JSON object that other relying parties can read.

Claims follow the EAR profile ``tag:github.com,2023:veraison/ear`` (draft-fv-rats-ear) and RFC 9711; members
that begin with ``cloister.`` are ours. A result is what one verifier found: unsigned, it is worth as much as
the channel it came by; signed, as much as its signer.
"""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from .errors import NotAvailable
from .results import Appraisal, Outcome, Row
from .sev_snp import VerifiedSnp
from .tees import SEV_SNP, TDX
from .trustworthiness import status, trustworthiness

PROFILE: Final = "tag:github.com,2023:veraison/ear"
DEVELOPER: Final = "https://cloister.example"
MEDIA_TYPE: Final = "eat+jwt"

# Private enterprise numbers (IANA), which RFC 9711 §4.2.3.3 takes for a manufacturer.
_MANUFACTURERS: Final = {SEV_SNP: 3704, TDX: 343}
_UEID_RANDOM: Final = b"\x01"

SigningKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


@dataclass(frozen=True, slots=True)
class Facts:
    """What verified evidence says of its machine; only evidence that passed has any.

    ``chip`` identifies the machine and is only ever told as a digest. ``state`` is Intel's word for its TCB.
    ``debug`` is None where the evidence does not say; ``approved`` says that what was launched is something
    that the policy, or a release, names.
    """

    chip: bytes | None = None
    model: str = ""
    registers: Mapping[str, str] = field(default_factory=dict)
    state: str = ""
    debug: bool | None = None
    secure_boot: bool | None = None
    approved: bool = False


@dataclass(frozen=True, slots=True)
class Submodule:
    """One attester: its kind of evidence, the rows of its appraisal, and what it was judged by.

    ``evidence`` are its bytes; ``collateral`` its pieces by name, ``expires`` when the first of them does.
    """

    kind: str
    rows: tuple[Row, ...]
    accepted: bool
    simulated: bool
    evidence: bytes
    collateral: Mapping[str, bytes] = field(default_factory=dict)
    expires: datetime | None = None
    facts: Facts = field(default_factory=Facts)

    @classmethod
    def of(
        cls,
        kind: str,
        appraisal: Appraisal[Any],
        evidence: bytes,
        *,
        collateral: Mapping[str, bytes] | None = None,
        expires: datetime | None = None,
        facts: Facts | None = None,
    ) -> "Submodule":
        """An attester by its appraisal; ``facts`` count only where it was accepted, but for ``state``."""
        accepted = appraisal.error is None and appraisal.value is not None
        given = facts or Facts()
        return cls(
            kind,
            appraisal.rows,
            accepted,
            appraisal.simulated,
            evidence,
            dict(collateral or {}),
            expires,
            given if accepted else Facts(state=given.state),
        )


def snp_facts(verified: VerifiedSnp, *, approved: bool = False) -> Facts:
    """What a verified SEV-SNP report says."""
    report = verified.report
    return Facts(
        chip=verified.chip_id,
        model=verified.product.capitalize(),
        registers={"launchDigest": report.measurement.hex()},
        debug="debug" in report.guest_policy or "migration_agent" in report.guest_policy,
        approved=approved,
    )


def attestation_result(
    submodules: Mapping[str, Submodule],
    *,
    at: datetime,
    build: str,
    policy_digest: bytes,
    nonce: bytes = b"",
    lifetime: timedelta | None = None,
) -> dict[str, Any]:
    """The result at the time ``at`` (aware): ``submodules`` by name (``cpu``, ``vtpm``, ``gpu``).

    ``build`` names this program's version, ``policy_digest`` is SHA-256 of the policy that was applied,
    ``nonce`` the challenge that was answered, where there was one.
    """
    document: dict[str, Any] = {
        "eat_profile": PROFILE,
        "iat": int(at.timestamp()),
        "ear.verifier-id": {"developer": DEVELOPER, "build": build},
    }
    if lifetime is not None:
        document["exp"] = int((at + lifetime).timestamp())
    if nonce:
        document["eat_nonce"] = _base64url(nonce)
    document["submods"] = {
        name: _submodule(submodule, policy_digest) for name, submodule in submodules.items()
    }
    return document


def sign(result: Mapping[str, Any], key: SigningKey, *, key_id: str = "") -> str:
    """The result as a JWT (RFC 7519), by ES256, ES384 or EdDSA as the key has it.

    Raises NotAvailable where the package pyjwt is not installed, or the key is of another curve.
    """
    try:
        import jwt  # here, since only whoever signs needs it
    except ImportError:
        raise NotAvailable("signing of results", detail="the package pyjwt is not installed") from None
    headers = {"typ": MEDIA_TYPE, **({"kid": key_id} if key_id else {})}
    return jwt.encode(dict(result), key, algorithm=_algorithm(key), headers=headers)


def _submodule(submodule: Submodule, policy_digest: bytes) -> dict[str, Any]:
    facts = submodule.facts
    vector = trustworthiness(
        submodule.rows, state=facts.state, visible=bool(facts.debug), approved=facts.approved
    )
    found: dict[str, Any] = {
        "ear.status": status(vector, submodule.rows).value,
        "ear.trustworthiness-vector": vector,
        "ear.appraisal-policy-id": f"sha-256:{policy_digest.hex()}",
        "cloister.verdict": "accept" if submodule.accepted else "reject",
        "cloister.tee": submodule.kind,
        "cloister.checks": [_check(row) for row in submodule.rows],
        "cloister.evidence-digest": f"sha-256:{hashlib.sha256(submodule.evidence).hexdigest()}",
        "cloister.collateral": _collateral(submodule),
    }
    if submodule.simulated:
        found["cloister.simulated"] = True
    return {**found, **_identity(submodule.kind, facts)}


def _identity(kind: str, facts: Facts) -> dict[str, Any]:
    """RFC 9711 §4.2: identity, model and debug state of a machine."""
    found: dict[str, Any] = {}
    if facts.chip is not None:
        # A digest, so that a result does not tell which chip it is to whoever does not know that already.
        found["ueid"] = _base64url(_UEID_RANDOM + hashlib.sha256(facts.chip).digest())
    if facts.model:
        found["hwmodel"] = _base64url(facts.model.encode())
        if kind in _MANUFACTURERS:
            found["oemid"] = _MANUFACTURERS[kind]
    if facts.debug is not None:
        found["dbgstat"] = "enabled" if facts.debug else "disabled-since-boot"
    if facts.secure_boot is not None:
        found["oemboot"] = facts.secure_boot
    if facts.registers:
        found["cloister.registers"] = dict(facts.registers)
    if facts.state:
        found["cloister.tcb-status"] = facts.state
    return found


def _check(row: Row) -> dict[str, str]:
    found = {"id": row.id, "outcome": row.outcome.value, "detail": row.detail}
    if row.outcome is Outcome.FAIL and row.code:
        found["code"] = row.code
    return found


def _collateral(submodule: Submodule) -> dict[str, Any]:
    digests = {name: f"sha-256:{hashlib.sha256(d).hexdigest()}" for name, d in submodule.collateral.items()}
    found: dict[str, Any] = {"digests": digests}
    if submodule.expires is not None:
        found["earliest-expiry"] = int(submodule.expires.timestamp())
    return found


def _algorithm(key: SigningKey) -> str:
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "EdDSA"
    by_curve = {"secp256r1": "ES256", "secp384r1": "ES384"}
    if key.curve.name not in by_curve:
        raise NotAvailable("signing of results", detail=f"no algorithm for the curve {key.curve.name}")
    return by_curve[key.curve.name]


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
