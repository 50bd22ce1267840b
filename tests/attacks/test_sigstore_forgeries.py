"""Attempts to pass off a Sigstore bundle that does not say what the client asked for. Each stands beside a control
that succeeds once the one defence is taken away.

Where ``sigstore`` would notice too, the control leaves its verdict out: one defence is shown at a time.
"""

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from mini_sigstore import AT, ISSUER, SUBJECT, MiniSigstore
from release_world import World

from measurements.dsse import Envelope
from measurements.errors import Code, TransparencyError
from measurements.results import Appraisal
from measurements.rollback import VolatileMemory
from measurements.sigstore import log_entry, release_bundle, strict_json, verified_time, verify
from measurements.sigstore.identity import CertificateIdentity, IdentityRule
from measurements.sigstore.policy import SigstorePolicy
from measurements.sigstore.root import TrustedRoot
from measurements.staple import Staple, check_staple
from measurements.verified_release import VerifiedRelease

RULE = IdentityRule(issuer=ISSUER, subject=SUBJECT)


class Scene:
    """An honest release in a log, and an instance that signs whatever it is asked to."""

    def __init__(self, version: int = 2) -> None:
        self.world = World()
        self.instance = MiniSigstore(version)
        self.leaf = self.world.release()
        self.staple = self.world.staple(self.leaf, self.world.status([self.leaf]))
        self.root = self.instance.root()
        self.rule = RULE

    @property
    def payload(self) -> bytes:
        return Envelope.parse(self.leaf).payload

    def check(self, bundle: Any, *, profile: str = "tlog+sigstore") -> Appraisal[VerifiedRelease]:
        stapled = replace(self.staple, sigstore=json.dumps(bundle).encode())
        policy = self.world.policy(profile=profile, sigstore=SigstorePolicy(self.rule, self.root))
        return check_staple(
            **{name: getattr(stapled, name) for name in Staple.__dataclass_fields__},
            policy=policy,
            at=AT,
            memory=VolatileMemory(),
        )


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only our own checks: the library's verdict is left out, but for the identity."""
    monkeypatch.setattr(
        verify, "_second_opinion", lambda bundle, _root, judge, _artifact: judge.verify(bundle.certificate)
    )


def refused(appraisal: Appraisal[VerifiedRelease], code: Code) -> None:
    assert appraisal.value is None
    assert appraisal.error is not None
    assert appraisal.error.code is code
    assert next(row.id for row in appraisal.rows if row.outcome == "fail") == "log.sigstore"


def test_the_bundle_of_another_release(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its builder signed it, but what is stapled beside it is another statement."""
    other = Envelope.parse(scene.world.release("ee" * 48, sequence=2)).payload
    bundle = scene.instance.sign(other)
    refused(scene.check(bundle), Code.LOG_ENTRY_MISMATCH)
    scene.check(scene.instance.sign(scene.payload)).require()

    plain = release_bundle.verify_release_bundle
    monkeypatch.setattr(
        release_bundle,
        "verify_release_bundle",
        lambda *args, **options: plain(*args, **{**options, "payload": None}),
    )
    scene.check(bundle).require()


def test_the_bundle_left_out(scene: Scene) -> None:
    refused(_without(scene), Code.PROOF_MISSING)
    _without(scene, profile="tlog").require()


def _without(scene: Scene, profile: str = "tlog+sigstore") -> Appraisal[VerifiedRelease]:
    sigstore = SigstorePolicy(scene.rule, scene.root) if profile != "tlog" else None
    return scene.world.check(scene.staple, policy=scene.world.policy(profile=profile, sigstore=sigstore))


def test_a_name_that_only_looks_right(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else's workflow, branch or fork, whose name begins, ends or reads like the right one."""
    names = [
        SUBJECT + "-evil",
        SUBJECT.replace("github.com", "github.com.evil.example"),
        SUBJECT.replace("refs/tags/", "refs/heads/refs/tags/"),
        SUBJECT.replace("acme", "ACME"),
        SUBJECT.replace("release.yml", "release-yml"),
    ]
    bundles = [scene.instance.sign(scene.payload, subject=name) for name in names]
    for bundle in bundles:
        refused(scene.check(bundle), Code.IDENTITY_MISMATCH)
    scene.rule = IdentityRule(issuer=ISSUER, workflow=SUBJECT.partition("@")[0], tags=r"v1\.2\.3")
    for bundle in bundles:
        refused(scene.check(bundle), Code.IDENTITY_MISMATCH)
    scene.check(scene.instance.sign(scene.payload)).require()
    monkeypatch.setattr(IdentityRule, "check", lambda *_: None)
    for bundle in bundles:
        scene.check(bundle).require()


def test_the_right_name_by_another_provider(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider where anybody may call themselves anything."""
    bundle = scene.instance.sign(scene.payload, issuer="https://anybody.example")
    refused(scene.check(bundle), Code.IDENTITY_MISMATCH)

    def careless(rule: IdentityRule, found: CertificateIdentity) -> None:
        assert found.subject == rule.subject

    monkeypatch.setattr(IdentityRule, "check", careless)
    scene.check(bundle).require()


def test_somebody_elses_log_entry(scene: Scene, monkeypatch: pytest.MonkeyPatch, alone: None) -> None:
    """A stolen, expired certificate's signature, beside a log entry that is genuine but of something else."""
    bundle, other = scene.instance.sign(scene.payload), scene.instance.sign(b"{}")
    bundle["verificationMaterial"]["tlogEntries"] = other["verificationMaterial"]["tlogEntries"]
    refused(scene.check(bundle), Code.LOG_ENTRY_MISMATCH)
    monkeypatch.setattr(verify, "match_entry", lambda *_: None)
    scene.check(bundle).require()


def test_a_signature_after_the_certificate_ended(monkeypatch: pytest.MonkeyPatch, alone: None) -> None:
    """A key is stolen an hour after its ten minutes; the log notes the true time."""
    for version in (1, 2):
        scene = Scene(version)
        bundle = scene.instance.sign(scene.payload, begin=AT - timedelta(hours=1), at=AT)
        refused(scene.check(bundle), Code.TIME_INVALID)
        with monkeypatch.context() as patch:
            patch.setattr(verify, "require_certificate_valid", lambda *_: None)
            scene.check(bundle).require()


def test_a_log_key_that_was_retired(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retired keys leak: what they sign later does not count."""
    scene = Scene(2)
    bundle = scene.instance.sign(scene.payload)
    scene.root = scene.instance.root(log={"start": "2025-01-01T00:00:00Z", "end": "2026-01-01T00:00:00Z"})
    refused(scene.check(bundle), Code.TRUST_ROOT_VALIDITY)
    monkeypatch.setattr(verified_time, "require_within", lambda *_: None)
    scene.check(bundle).require()


def test_a_ct_log_and_a_ca_that_were_retired(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = {"start": "2025-01-01T00:00:00Z", "end": "2026-01-01T00:00:00Z"}
    bundle = scene.instance.sign(scene.payload)
    scene.root = scene.instance.root(ct=ended)
    refused(scene.check(bundle), Code.TRUST_ROOT_VALIDITY)
    with monkeypatch.context() as patch:
        patch.setattr(verify, "require_within", lambda *_: None)
        scene.check(bundle).require()
    scene.root = scene.instance.root(ca=ended)
    refused(scene.check(bundle), Code.TRUST_ROOT_VALIDITY)
    monkeypatch.setattr(TrustedRoot, "authorities", lambda root, _: tuple(root.model.certificate_authorities))
    scene.check(bundle).require()


def test_the_checkpoint_of_another_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log's key signs for a private tree under another name; who watches the log never sees it."""
    scene = Scene(2)
    genuine = scene.instance.checkpoint
    monkeypatch.setattr(
        scene.instance, "checkpoint", lambda size, root: genuine(size, root, "private.log.test")
    )
    bundle = scene.instance.sign(scene.payload)
    refused(scene.check(bundle), Code.LOG_UNKNOWN)
    monkeypatch.setattr(log_entry, "_check_origin", lambda *_, **__: None)
    scene.check(bundle).require()


@pytest.mark.parametrize("version", [1, 2])
def test_numbers_that_nobody_signed(version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tree size, or an index, of the forger's choice, where an auditor will look for the entry in vain."""
    scene = Scene(version)
    # A path of three hashes leads to entry 4 of five as well as of six to eight: the size is not told by it.
    scene.instance.entries += [b"more"] * 2
    bundle = scene.instance.sign(scene.payload)
    entry = bundle["verificationMaterial"]["tlogEntries"][0]
    size = entry["inclusionProof"]["treeSize"]
    entry["inclusionProof"]["treeSize"] = str(int(size) + 1)
    refused(scene.check(bundle), Code.INCLUSION_INVALID)
    entry["inclusionProof"]["treeSize"] = size
    scene.check(bundle).require()
    if version == 2:
        entry["logIndex"] = "999"
        refused(scene.check(bundle), Code.INCLUSION_INVALID)
        monkeypatch.setattr(log_entry, "V2_KINDS", frozenset())
        monkeypatch.setattr(log_entry, "V1_KINDS", frozenset({("hashedrekord", "0.0.2")}))
        scene.check(bundle).require()


def test_a_statement_that_reads_in_two_ways(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """One member twice: a reviewer's tool shows the first, a client would take the last."""
    honest = scene.payload
    twice = honest[:-1] + b',"predicateType":"https://cloister.example/predicate/cvm-release/v1"}'
    arguments: dict[str, Any] = {"root": TrustedRoot.parse(scene.root), "signer": RULE, "at": AT}
    data = json.dumps(scene.instance.sign(twice)).encode()
    with pytest.raises(TransparencyError) as caught:
        verify.verify_statement(data, **arguments)
    assert caught.value.code is Code.STATEMENT_MALFORMED
    strict = strict_json.parse_strict

    def lenient(value: bytes, **options: Any) -> Any:
        return json.loads(value) if options["what"] == "statement" else strict(value, **options)

    monkeypatch.setattr(verify, "parse_strict", lenient)
    assert verify.verify_statement(data, **arguments).payload == twice


def test_a_payload_of_another_type(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signature that was made for another protocol, over bytes that happen to read like a release."""
    bundle = scene.instance.sign(scene.payload, payload_type="application/vnd.example+json")
    refused(scene.check(bundle), Code.STATEMENT_MALFORMED)
    monkeypatch.setattr(verify, "PAYLOAD_TYPE", "application/vnd.example+json")
    scene.check(bundle).require()


def test_sigstore_alone_is_never_silent(scene: Scene) -> None:
    """A policy that gives up the listing gets its verdict, and is told so in the rows."""
    appraisal = scene.check(scene.instance.sign(scene.payload), profile="sigstore-only")
    assert not appraisal.require().listed
    assert any("NOT LISTED" in row.detail for row in appraisal.rows)
    assert all("NOT LISTED" not in row.detail for row in scene.check(scene.instance.sign(scene.payload)).rows)
