"""Verification of Sigstore bundles, offline and at a stated time.

Everything that can be checked from the bundle and the root is checked here, with windows and identities
compared exactly; then ``sigstore`` judges the same bundle against a root narrowed to the keys that were
found, and both must agree. It contributes the certificate path and the SCT.

Two kinds are judged here alone, because that library does not know them: bundles under a key that the
verifier names instead of a certificate, and the retired ``intoto`` 0.0.2 entries, of which it still judges
the certificate.
"""

import hmac
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from sigstore.errors import CertValidationError
from sigstore.errors import Error as SigstoreError
from sigstore.hashes import Hashed
from sigstore.models import Bundle
from sigstore.models import TrustedRoot as LibraryRoot
from sigstore.verify import Verifier
from sigstore_models.common.v1 import HashAlgorithm
from sigstore_models.trustroot.v1 import TrustedRoot as RootModel

from ..errors import Code, TransparencyError
from ..statement import PAYLOAD_TYPE, STATEMENT_TYPE, instant_text, utc
from .bundle import MAX_BUNDLE, SigstoreBundle
from .entry_body import match_entry, signed_digest
from .identity import CertificateIdentity, IdentityRule, read_identity
from .log_entry import ProvedEntry, prove_entry
from .root import TrustedRoot, require_within
from .strict_json import parse_strict
from .verified_time import VerifiedTimes, require_certificate_valid, verify_times
from .witnessed import WitnessRule

T = TypeVar("T")

MAX_FUTURE_S: Final = 300
_HOSTILE: Final = (
    *(ValueError, TypeError, LookupError, OverflowError, RecursionError, UnsupportedAlgorithm),
    *(x509.DuplicateExtension, x509.ExtensionNotFound, x509.InvalidVersion, x509.UnsupportedGeneralNameType),
)
_STAGE: Final = "sigstore"


@dataclass(frozen=True, slots=True)
class ManagedKey:
    """A key that the verifier knows by itself: PEM of an ECDSA P-256 public key."""

    pem: bytes

    def load(self) -> ec.EllipticCurvePublicKey:
        """The key. Raises TransparencyError (TRUST_ROOT_INVALID)."""
        try:
            key = load_pem_public_key(self.pem)
        except ValueError as error:
            raise _error(Code.TRUST_ROOT_INVALID, "not a PEM public key") from error
        return _p256(key, Code.TRUST_ROOT_INVALID)


Signer = IdentityRule | ManagedKey
"""Who must have signed."""


@dataclass(frozen=True, slots=True)
class VerifiedSignature:
    """A bundle that passed: by whom, when (at the earliest that anybody vouches for), in which log.

    ``identity`` is None for a managed key.
    """

    identity: CertificateIdentity | None
    signed_at: datetime
    log: str
    log_index: int

    def sentence(self) -> str:
        """Who signed, when, and where that is noted, for people."""
        who = "a key that the policy names" if self.identity is None else self.identity.subject
        return f"signed by {who} at {instant_text(self.signed_at)}, {self.log} entry {self.log_index}"


@dataclass(frozen=True, slots=True)
class VerifiedStatement:
    """An in-toto statement that a bundle carries; ``payload`` are its bytes as signed."""

    signature: VerifiedSignature
    payload: bytes
    predicate_type: str
    subjects: tuple[tuple[str, str], ...]
    predicate: Any


def verify_statement(
    data: bytes,
    *,
    root: TrustedRoot,
    signer: Signer,
    at: datetime,
    predicate_types: Collection[str] = (),
    artifact: bytes | None = None,
    witnesses: WitnessRule | None = None,
    max_future_s: int = MAX_FUTURE_S,
) -> VerifiedStatement:
    """Verify a bundle around an in-toto Statement v1.

    ``artifact`` is a SHA-256 that one of the subjects must have, ``predicate_types`` the accepted kinds (empty:
    any, which the caller then judges). Subjects are (name, SHA-256 hex or "").

    Raises TransparencyError with the code of the first check that failed.
    """
    at = utc(at)
    return _guarded(
        lambda: _statement(
            data, root, signer, at, frozenset(predicate_types), artifact, witnesses, max_future_s
        )
    )


def verify_artifact(
    data: bytes,
    *,
    root: TrustedRoot,
    signer: Signer,
    at: datetime,
    sha256: bytes,
    witnesses: WitnessRule | None = None,
    max_future_s: int = MAX_FUTURE_S,
) -> VerifiedSignature:
    """Verify a bundle for an artifact: a signature over it, or a statement that has it as a subject.

    Raises TransparencyError with the code of the first check that failed.
    """
    at = utc(at)

    def work() -> VerifiedSignature:
        bundle = SigstoreBundle.parse(data)
        if bundle.payload is not None:
            return _statement(data, root, signer, at, frozenset(), sha256, witnesses, max_future_s).signature
        if bundle.message_digest is not None and not hmac.compare_digest(bundle.message_digest, sha256):
            raise _error(Code.LOG_ENTRY_MISMATCH, "the bundle states another digest than the artifact's")
        return _signature(bundle, root, signer, at, sha256, witnesses, max_future_s)

    return _guarded(work)


def _guarded(work: Callable[[], T]) -> T:
    """Run ``work``. What third-party parsers raise on hostile bytes is a refusal too, of this room's family."""
    try:
        return work()
    except _HOSTILE as error:
        raise _error(Code.PROOF_MALFORMED, f"the bundle cannot be read ({type(error).__name__})") from error


def _statement(
    data: bytes,
    root: TrustedRoot,
    signer: Signer,
    at: datetime,
    predicate_types: frozenset[str],
    artifact: bytes | None,
    witnesses: WitnessRule | None,
    max_future_s: int,
) -> VerifiedStatement:
    bundle = SigstoreBundle.parse(data)
    if bundle.payload is None:
        raise _error(Code.STATEMENT_MALFORMED, "a signature over an artifact carries no statement")
    signature = _signature(bundle, root, signer, at, None, witnesses, max_future_s)
    if bundle.payload_type != PAYLOAD_TYPE:
        raise _error(Code.STATEMENT_MALFORMED, "not an in-toto payload", PAYLOAD_TYPE, bundle.payload_type)
    statement = _read_statement(bundle.payload, signature)
    if predicate_types and statement.predicate_type not in predicate_types:
        raise _error(
            Code.PREDICATE_TYPE,
            "another kind of statement",
            sorted(predicate_types),
            statement.predicate_type,
        )
    if artifact is not None and artifact.hex() not in (digest for _, digest in statement.subjects):
        raise _error(
            Code.LOG_ENTRY_MISMATCH,
            "the statement is about other artifacts",
            artifact.hex(),
            statement.subjects,
        )
    return statement


def _signature(
    bundle: SigstoreBundle,
    root: TrustedRoot,
    signer: Signer,
    at: datetime,
    artifact: bytes | None,
    witnesses: WitnessRule | None,
    max_future_s: int,
) -> VerifiedSignature:
    if bundle.certificate is None:
        if not isinstance(signer, ManagedKey):
            raise _error(Code.IDENTITY_MISMATCH, "signed by a bare key, where an identity is asked for")
        key = signer.load()
    else:
        if not isinstance(signer, IdentityRule):
            raise _error(Code.IDENTITY_MISMATCH, "signed under a certificate, where one key is asked for")
        key = _p256(bundle.certificate.public_key(), Code.CERT_UNTRUSTED)
    entry = prove_entry(bundle.entry, root)
    if witnesses is not None:
        witnesses.check(entry, at=at, max_future_s=max_future_s)
    digest = signed_digest(bundle, artifact)
    try:
        key.verify(bundle.signature, digest, ec.ECDSA(Prehashed(SHA256())))
    except InvalidSignature as error:
        raise _error(Code.SIGNATURE_INVALID, "the signature does not verify") from error
    match_entry(bundle, key, digest)
    judged_again = bundle.certificate is not None
    times = verify_times(bundle, entry, root, at=at, max_future_s=max_future_s, judged_again=judged_again)
    identity = None
    if bundle.certificate is not None:
        assert isinstance(signer, IdentityRule)
        identity = _judge_certificate(bundle, bundle.certificate, root, signer, entry, times, artifact)
    return VerifiedSignature(identity, times.signed_at, entry.checkpoint.origin, entry.index)


def _judge_certificate(
    bundle: SigstoreBundle,
    certificate: x509.Certificate,
    root: TrustedRoot,
    rule: IdentityRule,
    entry: ProvedEntry,
    times: VerifiedTimes,
    artifact: bytes | None,
) -> CertificateIdentity:
    require_certificate_valid(certificate, times)
    sct = _sct(certificate)
    ct_log = root.ct_log(sct.log_id)
    require_within(ct_log.public_key.valid_for, sct.timestamp.replace(tzinfo=UTC), "CT log")
    authorities = root.authorities(times.times)
    if not authorities:
        raise _error(Code.TRUST_ROOT_VALIDITY, "the trusted root trusts no CA at that time")
    judge = _IdentityJudge(rule)
    narrowed = root.narrowed(entry.log, ct_log, authorities, times.stampers)
    try:
        _second_opinion(bundle, narrowed, judge, artifact)
    except TransparencyError:
        raise
    except SigstoreError as error:
        raise _translated(error) from error
    except Exception as error:
        # Whatever else the library raises on bytes that it did not expect is no acceptance.
        raise _error(Code.PROOF_MALFORMED, f"the bundle cannot be judged ({type(error).__name__})") from error
    if judge.identity is None:
        raise _error(Code.IDENTITY_MISMATCH, "no identity was judged")
    return judge.identity


def _second_opinion(
    bundle: SigstoreBundle, narrowed: RootModel, judge: "_IdentityJudge", artifact: bytes | None
) -> None:
    """The library's verdict. Raises its exceptions, or the judge's TransparencyError."""
    verifier = Verifier(trusted_root=LibraryRoot(narrowed))
    if bundle.entry.kind_version.kind == "intoto":
        # Path, SCT, identity and time by an authority's stamp; the library refuses this kind's promise and body,
        # which have been verified above. It has no public name for this part (bounds: sigstore <5).
        entry = bundle.entry.model_copy(update={"inclusion_promise": None, "integrated_time": None})
        material = bundle.model.verification_material.model_copy(update={"tlog_entries": [entry]})
        model = bundle.model.model_copy(update={"verification_material": material})
        verifier._verify_common_signing_cert(Bundle(model), judge)
        return
    parsed = Bundle.from_json(bundle.raw)
    if bundle.payload is None:
        assert artifact is not None
        verifier.verify_artifact(Hashed(algorithm=HashAlgorithm.SHA2_256, digest=artifact), parsed, judge)
        return
    seen = verifier.verify_dsse(parsed, judge)
    if seen != (bundle.payload_type, bundle.payload):
        raise _error(Code.STATEMENT_MALFORMED, "two readings of one envelope")


class _IdentityJudge:
    """The library's notion of a policy: called with the certificate once its path and SCT are verified."""

    def __init__(self, rule: IdentityRule) -> None:
        self._rule = rule
        self.identity: CertificateIdentity | None = None

    def verify(self, cert: x509.Certificate) -> None:
        """Raises TransparencyError (IDENTITY_MISMATCH)."""
        identity = read_identity(cert)
        self._rule.check(identity)
        self.identity = identity


def _sct(certificate: x509.Certificate) -> x509.certificate_transparency.SignedCertificateTimestamp:
    try:
        stamps = certificate.extensions.get_extension_for_class(
            x509.PrecertificateSignedCertificateTimestamps
        )
    except x509.ExtensionNotFound as error:
        raise _error(Code.SCT_INVALID, "the certificate carries no SCT") from error
    found = list(stamps.value)
    if len(found) != 1:
        raise _error(Code.SCT_INVALID, "SCTs in the certificate", 1, len(found))
    sct: x509.certificate_transparency.SignedCertificateTimestamp = found[0]
    return sct


def _read_statement(payload: bytes, signature: VerifiedSignature) -> VerifiedStatement:
    """Other builders' statements are not canonical, but they are in-toto v1 and say one thing only."""
    value = parse_strict(payload, limit=MAX_BUNDLE, code=Code.STATEMENT_MALFORMED, what="statement")
    if not isinstance(value, dict) or value.get("_type") != STATEMENT_TYPE:
        raise _error(Code.STATEMENT_MALFORMED, "not an in-toto Statement v1")
    if set(value) - {"_type", "subject", "predicateType", "predicate"}:
        raise _error(Code.STATEMENT_MALFORMED, "a statement with unknown members")
    kind, subjects = value.get("predicateType"), value.get("subject")
    if not isinstance(kind, str) or not kind or not isinstance(subjects, list) or not subjects:
        raise _error(Code.STATEMENT_MALFORMED, "a statement without a kind or a subject")
    found = []
    for subject in subjects:
        digests = subject.get("digest") if isinstance(subject, dict) else None
        if not isinstance(digests, dict) or not digests:
            raise _error(Code.STATEMENT_MALFORMED, "a subject without a digest")
        name, sha256 = subject.get("name", ""), digests.get("sha256", "")
        if not isinstance(name, str) or not isinstance(sha256, str):
            raise _error(Code.STATEMENT_MALFORMED, "a subject's name and digest are strings")
        found.append((name, sha256))
    return VerifiedStatement(signature, payload, kind, tuple(found), value.get("predicate"))


_TRANSLATIONS: Final = (
    ("failed to verify SCT", Code.SCT_INVALID),
    ("not enough sources of verified time", Code.TIME_INVALID),
    ("expired at time of signing", Code.TIME_INVALID),
    ("invalid log entry", Code.INCLUSION_INVALID),
    ("invalid signature", Code.SIGNATURE_INVALID),
    ("Key usage", Code.CERT_UNTRUSTED),
    ("Extended usage", Code.CERT_UNTRUSTED),
)


def _translated(error: SigstoreError) -> TransparencyError:
    """The library has few types of error: its words choose the code, never the verdict."""
    if isinstance(error, CertValidationError):
        return _error(Code.CERT_UNTRUSTED, "no path from the certificate to a CA of the trusted root")
    words = str(error)
    code = next((code for start, code in _TRANSLATIONS if start in words), Code.PROOF_MALFORMED)
    return _error(code, words[:200])


def _p256(key: object, code: Code) -> ec.EllipticCurvePublicKey:
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _error(code, "not an ECDSA P-256 key")
    return key


def _error(code: Code, why: str, expected: object = None, found: object = None) -> TransparencyError:
    return TransparencyError(code, why, stage=_STAGE, expected=expected, found=found)
