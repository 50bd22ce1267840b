"""Verification of a node's evidence bundle, and the one type that may hold a key to encrypt to.

The order is that of docs/protocol.md: shape, policy, CPU, GPUs, transparency, measured registers, keys. Every
row that can still be evaluated after a failure is reported; the first failure is the verdict.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from attestation.appraisal import VerifiedCpu, VerifiedGpus, appraise_bindings, appraise_cpu, appraise_gpus
from attestation.bundle import EvidenceBundle, bundle_digest
from attestation.claims import Claims
from attestation.cpu_memory import CpuMemory
from attestation.errors import AttestationError
from measurements.errors import Code, TransparencyError
from measurements.log_trust import require_trust
from measurements.rollback import RollbackMemory, Sighting
from measurements.staple import VerifiedRelease, check_staple
from measurements.statement import utc
from ohttp.errors import OhttpError
from ohttp.keyconfig import KeyConfig, parse_pinned_key_configs, preferred
from ohttp.private_token import Token
from ohttp.token_header import authorization

from .errors import VerificationRefused
from .exchange import Exchange, InnerRequest
from .policy import Policy
from .verify_rows import Recorder, Row
from .verify_runtime import VerifiedRuntime, appraise_runtime

MAX_NODE_LIFETIME: Final = timedelta(hours=1)
"""How long one verification may be used at most; release, its status, policy or key epoch may end it sooner."""


class VerifiedNode:
    """A node that proved everything the policy demands, until ``valid_until``.

    Only ``verify_bundle`` makes one, and only it can begin an exchange: there is no other way to a key that a
    prompt could be encrypted to. ``simulated`` is True where the evidence ends at a simulated root that the
    policy names: such a node proves nothing about hardware. ``model`` is the name that requests give, ``padding``
    the shape that the node's answers have, ``tokens`` which blind tokens it asks for, ``optimisations`` what its
    manifest says of leases, a draft model and how answers are computed.
    """

    __slots__ = (
        "_config",
        "bundle_digest",
        "cpu",
        "gpus",
        "model",
        "optimisations",
        "padding",
        "release",
        "simulated",
        "tokens",
        "valid_from",
        "valid_until",
    )

    def __init__(self, witness: object, config: KeyConfig, verified: "_Verified") -> None:
        if witness is not _WITNESS:
            raise TypeError("a VerifiedNode comes from verify_bundle() alone")
        self._config = config
        self.bundle_digest = verified.bundle_digest
        self.cpu = verified.cpu
        self.gpus = verified.gpus
        self.release = verified.release
        self.model = verified.runtime.model
        self.padding = verified.runtime.padding
        self.simulated = verified.simulated
        self.tokens = verified.runtime.tokens
        self.optimisations = verified.runtime.optimisations
        self.valid_from = verified.at
        self.valid_until = verified.valid_until

    def begin(
        self,
        request: InnerRequest,
        *,
        date: datetime,
        request_id: bytes,
        stated_date: datetime | None = None,
        token: Token | None = None,
    ) -> Exchange:
        """Encrypt ``request`` to this node at the time ``date``, with ``token`` where the node asks for one.

        ``stated_date`` is what the request says in its stead after the node corrected our clock; it never
        prolongs a verification. Raises VerificationRefused where the verification has run out.
        """
        if not self.valid_from <= date < self.valid_until:
            raise VerificationRefused(
                "verification_expired",
                "the node must be verified anew before anything is sent",
                stage="keys",
                expected=f"before {self.valid_until:%Y-%m-%dT%H:%M:%SZ}",
                found=f"{utc(date):%Y-%m-%dT%H:%M:%SZ}",
                retryable=True,
            )
        stated = stated_date or date
        return Exchange(
            self._config,
            self.bundle_digest,
            request,
            date=stated,
            request_id=request_id,
            profile=self.padding,
            authorization=None if token is None else authorization(token),
        )

    def __repr__(self) -> str:
        mark = " SIMULATED" if self.simulated else ""
        return f"<VerifiedNode{mark} {self.release.name} {self.release.version} until {self.valid_until:%H:%M:%SZ}>"


@dataclass(frozen=True, slots=True)
class _Verified:
    bundle_digest: bytes
    cpu: VerifiedCpu
    gpus: VerifiedGpus
    release: VerifiedRelease
    runtime: VerifiedRuntime
    simulated: bool
    at: datetime
    valid_until: datetime


_WITNESS: Final = object()


@dataclass(frozen=True, slots=True)
class Verification:
    """The outcome of ``verify_bundle``: every row, and either a node or the first failure, never both."""

    rows: tuple[Row, ...]
    error: VerificationRefused | None
    node: VerifiedNode | None
    simulated: bool
    policy_name: str
    policy_digest: bytes
    bundle_digest: bytes
    at: datetime

    def require(self) -> VerifiedNode:
        """The verified node. Raises VerificationRefused with the first failure's code."""
        if self.error is not None:
            raise self.error
        if self.node is None:
            raise VerificationRefused("internal", "no verdict was reached", stage="internal")
        return self.node

    def to_json(self) -> dict[str, object]:
        """The result as plain JSON types; ``verdict`` is ``verified`` or ``refused``."""
        error = self.error
        return {
            "verdict": "refused" if error else "verified",
            "simulated": self.simulated,
            "at": f"{self.at:%Y-%m-%dT%H:%M:%SZ}",
            "policy": {"name": self.policy_name, "sha256": self.policy_digest.hex()},
            "evidence": {"sha256": self.bundle_digest.hex()},
            "rows": [
                {"id": r.id, "outcome": r.outcome, "detail": r.detail, **({"code": r.code} if r.code else {})}
                for r in self.rows
            ],
            "runtime": None if self.node is None else self.node.optimisations.to_json(),
            "error": None
            if error is None
            else {
                "code": error.code,
                "stage": error.stage,
                "detail": error.detail,
                "expected": _plain(error.expected),
                "found": _plain(error.found),
                "retryable": error.retryable,
                **(
                    {"evidence": [note.decode("utf-8", "replace") for note in error.evidence]}
                    if error.evidence
                    else {}
                ),
            },
        }


def verify_bundle(
    data: bytes,
    policy: Policy,
    *,
    at: datetime,
    memory: RollbackMemory,
    challenge: bytes | None = None,
    cpu_memory: CpuMemory | None = None,
) -> Verification:
    """Check the evidence bundle ``data`` (as served) against ``policy`` at the time ``at`` (aware).

    ``challenge`` is the 32-byte nonce that a fresh bundle must answer; without one the evidence must carry none.

    Pure but for ``memory``, which remembers the newest log state seen and is written only on success, and for
    ``cpu_memory``, which saves reading the same vendor's bytes twice and changes no verdict. Never
    raises for what a node sent: the verdict is in the result, whose ``require()`` raises.
    """
    at = utc(at)
    recorder = Recorder()
    digest = bundle_digest(data)
    node: VerifiedNode | None = None
    simulated = False
    try:
        bundle = EvidenceBundle.parse(data)
    except AttestationError as error:
        recorder.failed("bundle.shape", error)
    else:
        recorder.passed("bundle.shape", f"{len(data):,} bytes, tee {bundle.cpu.tee}")
        _check_policy(recorder, policy, at)
        node, simulated = _verify_parsed(
            recorder, bundle, digest, policy, at, memory, challenge or b"", cpu_memory
        )
    return Verification(
        rows=tuple(recorder.rows),
        error=recorder.error,
        node=node if recorder.error is None else None,
        simulated=simulated,
        policy_name=policy.name,
        policy_digest=policy.digest,
        bundle_digest=digest,
        at=at,
    )


def _check_policy(recorder: Recorder, policy: Policy, at: datetime) -> None:
    """Trust that is too old judges nothing: said first, whatever else is wrong."""
    try:
        if policy.transparency is not None:
            require_trust(policy.transparency, at, stage="policy")
    except TransparencyError as error:
        recorder.failed("policy", error)
    else:
        recorder.passed("policy", f"{policy.name} (sha256 {policy.digest.hex()[:16]}…)")


def _verify_parsed(
    recorder: Recorder,
    bundle: EvidenceBundle,
    digest: bytes,
    policy: Policy,
    at: datetime,
    memory: RollbackMemory,
    challenge: bytes,
    cpu_memory: CpuMemory | None,
) -> tuple[VerifiedNode | None, bool]:
    cpu = appraise_cpu(bundle, policy.attestation, at, cpu_memory)
    recorder.add(cpu.rows, cpu.error)
    claims = cpu.value.claims if cpu.value else None
    if claims is None:
        recorder.not_evaluated("claims.nonce", "needs verified CPU evidence")
    elif claims.nonce == challenge:
        recorder.passed(
            "claims.nonce", "answers our challenge" if challenge else "cached bundle, made for nobody"
        )
    else:
        recorder.failed(
            "claims.nonce",
            AttestationError(
                code="nonce_mismatch",
                stage="binding",
                expected=challenge.hex() or "none",
                found=claims.nonce.hex() or "none",
            ),
        )
    gpus = appraise_gpus(bundle, claims, policy.attestation, at)
    recorder.add(gpus.rows, gpus.error)
    held = _HeldMemory(memory)
    release = _check_release(recorder, bundle, policy, at, held)
    _match_measurements(recorder, cpu.value, gpus.value, release)
    bindings = appraise_bindings(bundle, claims, at)
    recorder.add(bindings.rows, bindings.error)
    config = _key_config(recorder, bundle.ohttp_keys, claims)

    simulated = cpu.simulated or gpus.simulated
    runtime = appraise_runtime(recorder, bundle.runtime, claims, policy)
    if recorder.error or not (cpu.value and gpus.value and release and config and runtime):
        return None, simulated
    try:
        held.commit()
    except TransparencyError as error:
        recorder.failed("log.rollback", error)
        return None, simulated
    verified = _Verified(
        bundle_digest=digest,
        cpu=cpu.value,
        gpus=gpus.value,
        release=release,
        runtime=runtime,
        simulated=simulated,
        at=at,
        valid_until=_valid_until(at, cpu.value.claims, release, policy),
    )
    return VerifiedNode(_WITNESS, config, verified), simulated


def _valid_until(at: datetime, claims: Claims, release: VerifiedRelease, policy: Policy) -> datetime:
    ends = [at + MAX_NODE_LIFETIME, claims.not_after, release.status_expires_at, release.not_after]
    trust = None if policy.transparency is None else policy.transparency.not_after
    return min([*ends, trust] if trust is not None else ends)


class _HeldMemory:
    """Judges by ``memory`` at once, and writes to it only at ``commit``: a node that is refused leaves no trace.

    Otherwise whoever hands out evidence could mark a client with a log state, needing no node of their own, and know
    it again later by what it refuses.
    """

    def __init__(self, memory: RollbackMemory) -> None:
        self._memory = memory
        self._held: Sighting | None = None

    def check(self, sighting: Sighting) -> None:
        """See RollbackMemory."""
        self._memory.check(sighting)

    def advance(self, sighting: Sighting) -> None:
        """See RollbackMemory; remembered at ``commit``."""
        self._memory.check(sighting)
        self._held = sighting

    def commit(self) -> None:
        """Remember what was held, judged once more. Raises TransparencyError."""
        if self._held is not None:
            self._memory.advance(self._held)


def _check_release(
    recorder: Recorder, bundle: EvidenceBundle, policy: Policy, at: datetime, memory: RollbackMemory
) -> VerifiedRelease | None:
    if policy.transparency is None:
        why = "the policy names no transparency log: add a [transparency] table"
        recorder.failed("log.signature", TransparencyError(Code.LOG_UNKNOWN, why, stage="log.signature"))
        return None
    section = bundle.transparency
    staple = check_staple(
        release_proof=section.release_proof,
        release_leaf=section.release_leaf,
        status_proof=section.status_proof,
        status_leaf=section.status_leaf,
        checkpoint=bundle.checkpoint,
        policy=policy.transparency,
        at=at,
        memory=memory,
        sigstore=section.sigstore or b"",
        signers_proof=section.signers_proof,
        signers_leaf=section.signers_leaf,
    )
    recorder.add(staple.rows, staple.error)
    return staple.value


def _match_measurements(
    recorder: Recorder, cpu: VerifiedCpu | None, gpus: VerifiedGpus | None, release: VerifiedRelease | None
) -> None:
    """Registers from the *verified* evidence must equal one element of the *verified* release."""
    if cpu is None or release is None:
        recorder.not_evaluated("log.measurement", "needs verified CPU evidence and a verified release")
    else:
        measurement = cpu.measurement.hex()
        try:
            release.match_cpu(cpu.tee, cpu.registers, cpu.tcb)
        except TransparencyError as error:
            recorder.failed("log.measurement", error)
        else:
            recorder.passed(
                "log.measurement",
                f"{measurement[:16]}… is {release.name} {release.version}, "
                + (f"leaf {release.index}" if release.listed else "not listed"),
            )
    if gpus is None or release is None:
        recorder.not_evaluated("log.gpu", "needs verified GPU evidence and a verified release")
        return
    for gpu in gpus.gpus:
        try:
            release.match_gpu(arch=gpu.arch, driver=gpu.driver_version, vbios=gpu.vbios_version)
        except TransparencyError as error:
            recorder.failed("log.gpu", error)
            return
    if gpus.gpus:
        found = gpus.gpus[0]
        recorder.passed(
            "log.gpu", f"{len(gpus.gpus)} × {found.arch}, driver {found.driver_version}, as released"
        )
    else:
        recorder.add([Row("log.gpu", "not required", "the policy asks for no GPU")], None)


def _key_config(recorder: Recorder, ohttp_keys: bytes, claims: Claims | None) -> KeyConfig | None:
    if claims is None:
        recorder.not_evaluated("keys.config", "needs verified CPU evidence")
        return None
    try:
        config = preferred(parse_pinned_key_configs(ohttp_keys, claims.ohttp_keys))
    except OhttpError as error:
        recorder.failed("keys.config", error)
        return None
    recorder.passed("keys.config", f"key {config.key_id}, KEM 0x{config.kem_id:04x}")
    return config


def _plain(value: object) -> object:
    if isinstance(value, bytes | bytearray):
        return value.hex()
    if value is None or isinstance(value, str | int | bool):
        return value
    return str(value)
