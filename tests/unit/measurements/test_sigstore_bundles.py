"""Sigstore bundles of an instance of our own: identities, times, witnesses, and broken input of every kind."""

import base64
import hashlib
import json
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st
from mini_sigstore import AT, ISSUER, SUBJECT, Authority, MiniSigstore, new_key

from attestation.simulated.der_writer import integer, oid
from measurements.errors import Code, TransparencyError
from measurements.note import COSIGNATURE_ED25519
from measurements.signing_key import SigningKey
from measurements.sigstore.identity import IdentityRule, read_identity
from measurements.sigstore.policy import SigstorePolicy
from measurements.sigstore.root import TrustedRoot
from measurements.sigstore.verify import VerifiedStatement, verify_statement
from measurements.sigstore.witnessed import WitnessRule

PREDICATE = "https://example.org/predicate/v1"
DIGEST = hashlib.sha256(b"artifact").digest()
PAYLOAD = json.dumps(
    {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "a", "digest": {"sha256": DIGEST.hex()}}],
        "predicateType": PREDICATE,
        "predicate": {"n": 1.5},
    }
).encode()
RULE = IdentityRule(issuer=ISSUER, subject=SUBJECT)


@pytest.fixture(scope="module", params=[1, 2])
def instance(request: pytest.FixtureRequest) -> MiniSigstore:
    return MiniSigstore(request.param)


def check(instance: MiniSigstore, bundle: Any, **changes: Any) -> VerifiedStatement:
    data = bundle if isinstance(bundle, bytes) else json.dumps(bundle).encode()
    options: dict[str, Any] = {
        "root": TrustedRoot.parse(instance.root()),
        "signer": RULE,
        "at": AT,
        "predicate_types": [PREDICATE],
    }
    return verify_statement(data, **{**options, **changes})


def refused(work: Callable[[], object]) -> Code:
    with pytest.raises(TransparencyError) as caught:
        work()
    return caught.value.code


def test_a_good_bundle(instance: MiniSigstore) -> None:
    found = check(instance, instance.sign(PAYLOAD), artifact=DIGEST)
    assert found.payload == PAYLOAD
    assert found.subjects == (("a", DIGEST.hex()),)
    identity = found.signature.identity
    assert identity is not None
    assert (identity.subject, identity.issuer) == (SUBJECT, ISSUER)
    assert found.signature.signed_at == AT
    assert SUBJECT in found.signature.sentence()
    assert refused(lambda: check(instance, instance.sign(PAYLOAD), artifact=bytes(32))) == (
        Code.LOG_ENTRY_MISMATCH
    )


@pytest.mark.parametrize(
    "subject",
    [
        SUBJECT.upper(),
        SUBJECT.replace("acme", "Acme"),
        SUBJECT + "\n",
        SUBJECT + ".evil",
        SUBJECT[:-1],
        " " + SUBJECT,
        SUBJECT.replace("release.yml", "releasexyml"),
        SUBJECT.replace("tags", "heads"),
        "https://github.com/acme/node/.github/workflows/release.yml@refs/tags/v1.2.3@refs/tags/v1.2.3",
    ],
)
def test_only_the_very_identity(subject: str) -> None:
    instance = MiniSigstore(2)
    bundle = instance.sign(PAYLOAD, subject=subject)
    by_pattern = IdentityRule(
        issuer=ISSUER, workflow=SUBJECT.partition("@")[0], tags=r"v[0-9]+\.[0-9]+\.[0-9]+"
    )
    assert refused(lambda: check(instance, bundle)) == Code.IDENTITY_MISMATCH
    if not subject.startswith(SUBJECT[:-1]) or subject != SUBJECT[:-1]:
        assert refused(lambda: check(instance, bundle, signer=by_pattern)) == Code.IDENTITY_MISMATCH
    check(instance, bundle, signer=IdentityRule(issuer=ISSUER, subject=subject))


def test_a_pattern_speaks_of_the_whole_tag() -> None:
    instance = MiniSigstore(2)

    def rule(tags: str) -> IdentityRule:
        return IdentityRule(issuer=ISSUER, workflow=SUBJECT.partition("@")[0], tags=tags)

    bundle = instance.sign(PAYLOAD)
    for tags in ("v1", "1.2.3", "v1|v2", "v1.2.", "", "V1\\.2\\.3"):
        if tags:
            assert refused(lambda tags=tags: check(instance, bundle, signer=rule(tags))) == (  # type: ignore[misc]
                Code.IDENTITY_MISMATCH
            )
    check(instance, bundle, signer=rule(r"v1\..*|v2"))
    long = instance.sign(PAYLOAD, subject=SUBJECT + "1" * 200)
    assert refused(lambda: check(instance, long, signer=rule(r"v.*"))) == Code.IDENTITY_MISMATCH


def test_further_claims(instance: MiniSigstore) -> None:
    bundle = instance.sign(PAYLOAD, claims={11: "github-hosted", 15: "123"})
    good = {"source_repository_id": "123", "runner_environment": "github-hosted"}
    check(instance, bundle, signer=IdentityRule(issuer=ISSUER, subject=SUBJECT, **good))
    for name, value in (
        ("source_repository_id", "1234"),
        ("runner_environment", "self-hosted"),
        ("build_trigger", "push"),
    ):
        rule = IdentityRule(issuer=ISSUER, subject=SUBJECT, **{**good, name: value})
        assert refused(lambda rule=rule: check(instance, bundle, signer=rule)) == (  # type: ignore[misc]
            Code.IDENTITY_MISMATCH
        )


@pytest.mark.parametrize("length", [0, 1, 127, 128, 255, 256, 5000])
def test_claims_of_every_length(length: int) -> None:
    certificate = GOOD[2].issue(new_key().public_key(), claims={15: "7" * length})
    assert read_identity(certificate).claims == {"source_repository_id": "7" * length}


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\x0c",
        b"123",
        b"\x0c\x02a",
        b"\x0c\x01ab",
        b"\x13\x01a",
        b"\x0c\x81\x01a",
        b"\x0c\x82\x00\x80" + b"a" * 128,
        b"\x0c\x83\x00\x00\x01a",
        b"\x0c\x80a",
        b"\x0c\x01\xff",
    ],
)
def test_claims_that_are_no_der_text(value: bytes) -> None:
    certificate = GOOD[2].issue(new_key().public_key(), claims={15: value})
    assert refused(lambda: read_identity(certificate)) == Code.IDENTITY_MISMATCH


def test_two_names_or_two_issuers() -> None:
    two = GOOD[2].issue(new_key().public_key(), issuer=ISSUER)
    assert read_identity(two).issuer == ISSUER
    other = GOOD[2].issue(new_key().public_key(), raw_issuer="https://another.example")
    assert refused(lambda: read_identity(other)) == Code.IDENTITY_MISMATCH
    crowd = GOOD[2].issue(new_key().public_key(), further_name="https://another.example/x")
    assert refused(lambda: read_identity(crowd)) == Code.IDENTITY_MISMATCH


@pytest.mark.parametrize(
    "members",
    [
        {"subject": "s"},
        {"issuer": "i"},
        {"issuer": "i", "subject": "s", "workflow": "w", "tags": "t"},
        {"issuer": "i", "workflow": "w"},
        {"issuer": "i", "tags": "t"},
        {"issuer": "i", "workflow": "w@x", "tags": "t"},
        {"issuer": "i", "workflow": "w", "tags": "("},
        {"issuer": "i", "subject": ""},
        {"issuer": "i", "subject": 1},
        {"issuer": "i", "subject": "s", "unknown": "x"},
        {"issuer": "i", "subject": "s", "root": "staging"},
        {"issuer": "i", "subject": "s", "root_json": "[1, 1"},
        {"issuer": "i", "subject": "s", "root": "production", "root_json": "{}"},
        {"issuer": "i", "subject": "s", "quorum": 1},
        {"issuer": "i", "subject": "s", "witnesses": ["x"]},
        {"issuer": "i", "subject": "s", "witnesses": "x"},
        {"issuer": "i", "subject": "s", "quorum": True},
        "not a table",
        None,
    ],
)
def test_a_policy_that_could_mean_more_than_it_says(members: Any) -> None:
    assert refused(lambda: SigstorePolicy.from_table(members)) == Code.TRUST_ROOT_INVALID


def test_times_and_windows(instance: MiniSigstore) -> None:
    bundle = instance.sign(PAYLOAD)
    assert refused(lambda: check(instance, bundle, at=AT - timedelta(seconds=301))) == Code.TIME_INVALID
    check(instance, bundle, at=AT - timedelta(seconds=300))
    late = instance.sign(PAYLOAD, begin=AT, at=AT + timedelta(seconds=601))
    assert refused(lambda: check(instance, late, at=AT + timedelta(hours=1))) == Code.TIME_INVALID
    check(
        instance, instance.sign(PAYLOAD, begin=AT, at=AT + timedelta(seconds=600)), at=AT + timedelta(hours=1)
    )
    ended = {"start": "2025-01-01T00:00:00Z", "end": "2026-06-01T11:59:59Z"}
    to_the_second = {"start": "2026-06-01T12:00:00Z", "end": "2026-06-01T12:00:00Z"}
    for part in ("log", "ca", "ct") + (("tsa",) if instance.version == 2 else ()):
        root = TrustedRoot.parse(instance.root(**{part: ended}))
        assert refused(lambda root=root: check(instance, bundle, root=root)) == (  # type: ignore[misc]
            Code.TRUST_ROOT_VALIDITY
        ), part
        check(instance, bundle, root=TrustedRoot.parse(instance.root(**{part: to_the_second})))


def test_other_authorities(instance: MiniSigstore) -> None:
    stranger = MiniSigstore(instance.version)
    for part in ("ca", "ct_key", "tsa") if instance.version == 2 else ("ca", "ct_key"):
        mixed = MiniSigstore(instance.version)
        for name in ("ca", "tsa", "ct_key", "log_key", "log_key_v1"):
            setattr(mixed, name, getattr(stranger if name == part else instance, name))
        code = refused(lambda mixed=mixed: check(instance, mixed.sign(PAYLOAD)))  # type: ignore[misc]
        assert code == {"ca": Code.CERT_UNTRUSTED, "ct_key": Code.SCT_INVALID, "tsa": Code.TIME_INVALID}[part]
    assert refused(lambda: check(instance, stranger.sign(PAYLOAD))) == Code.LOG_UNKNOWN
    assert refused(lambda: check(instance, instance.sign(PAYLOAD, sct=False))) == Code.SCT_INVALID


def test_a_time_stamp_outside_its_authoritys_window_beside_a_good_one() -> None:
    """Every stamp of an authority in the root is judged: a good one beside it makes none of them better."""
    instance, second = MiniSigstore(2), Authority("tsa.second.test", ExtendedKeyUsageOID.TIME_STAMPING)
    bundle = instance.sign(PAYLOAD)
    signature = base64.b64decode(bundle["dsseEnvelope"]["signatures"][0]["sig"])
    stamp = instance.stamp(hashlib.sha256(signature).digest(), authority=second)
    stamps = bundle["verificationMaterial"]["timestampVerificationData"]["rfc3161Timestamps"]
    stamps.append({"signedTimestamp": base64.b64encode(stamp).decode()})
    for end, code in (("2026-06-01T12:00:00Z", None), ("2026-06-01T11:59:59Z", Code.TRUST_ROOT_VALIDITY)):
        document = json.loads(instance.root())
        window = {"start": "2025-01-01T00:00:00Z", "end": end}
        document["timestampAuthorities"].append(second.entry("https://second", window))
        root = TrustedRoot.parse(json.dumps(document).encode())
        if code is None:
            check(instance, bundle, root=root)
        else:
            assert refused(lambda root=root: check(instance, bundle, root=root)) == code  # type: ignore[misc]


def test_only_p256_signs(instance: MiniSigstore) -> None:
    bundle = instance.sign(PAYLOAD)
    other = instance.issue(ec.generate_private_key(ec.SECP384R1()).public_key())
    bundle["verificationMaterial"]["certificate"]["rawBytes"] = base64.b64encode(
        other.public_bytes(Encoding.DER)
    ).decode()
    assert refused(lambda: check(instance, bundle)) == Code.CERT_UNTRUSTED


def test_witnesses_of_the_log() -> None:
    instance = MiniSigstore(2)
    witness, other = (SigningKey.generate(f"w{n}.example", COSIGNATURE_ED25519) for n in range(2))
    bare = instance.sign(PAYLOAD)
    instance.witnesses = [witness]
    bundle = instance.sign(PAYLOAD)
    check(instance, bundle, witnesses=WitnessRule([witness.public, other.public], 1))
    for asked, given_bundle in (
        (WitnessRule([witness.public, other.public], 2), bundle),
        (WitnessRule([other.public], 1), bundle),
        (WitnessRule([witness.public], 1), bare),
    ):
        assert refused(lambda a=asked, b=given_bundle: check(instance, b, witnesses=a)) == (  # type: ignore[misc]
            Code.WITNESS_QUORUM
        )
    old = MiniSigstore(1)
    assert (
        refused(lambda: check(old, old.sign(PAYLOAD), witnesses=WitnessRule([witness.public], 1)))
        == Code.WITNESS_QUORUM
    )


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"", Code.STATEMENT_MALFORMED),
        (b"{}", Code.STATEMENT_MALFORMED),
        (PAYLOAD.replace(b"Statement/v1", b"Statement/v0.1"), Code.STATEMENT_MALFORMED),
        (PAYLOAD[:-1] + b',"more":1}', Code.STATEMENT_MALFORMED),
        (PAYLOAD[:-1] + b',"predicateType":"' + PREDICATE.encode() + b'"}', Code.STATEMENT_MALFORMED),
        (PAYLOAD.replace(b"1.5", b"NaN"), Code.STATEMENT_MALFORMED),
        (PAYLOAD.replace(b"predicate/v1", b"predicate/v1/"), Code.PREDICATE_TYPE),
        (PAYLOAD.replace(b'[{"name"', b'[{"nam"'), None),
        (PAYLOAD + b" ", None),
        (b"\xef\xbb\xbf" + PAYLOAD, Code.STATEMENT_MALFORMED),
    ],
)
def test_statements(instance: MiniSigstore, payload: bytes, code: Code | None) -> None:
    bundle = instance.sign(payload) if payload else {**instance.sign(b"x")}
    if not payload:
        bundle["dsseEnvelope"]["payload"] = ""
        assert refused(lambda: check(instance, bundle)) in (Code.SIGNATURE_INVALID, code)
    elif code is None:
        check(instance, bundle)
    else:
        assert refused(lambda: check(instance, bundle)) == code


def test_another_payload_type(instance: MiniSigstore) -> None:
    bundle = instance.sign(PAYLOAD, payload_type="application/vnd.in-toto+JSON")
    assert refused(lambda: check(instance, bundle)) == Code.STATEMENT_MALFORMED


GOOD = {version: MiniSigstore(version) for version in (1, 2)}
BUNDLES = {
    version: json.dumps(made.sign(PAYLOAD), separators=(",", ":")).encode() for version, made in GOOD.items()
}


@pytest.mark.parametrize("version", [1, 2])
def test_no_changed_byte_and_no_truncation_is_accepted(version: int) -> None:
    """One spelling of every bundle: whatever byte is changed, the bundle is refused with a named error."""
    good, step = BUNDLES[version], 11
    check(GOOD[version], good)
    for at in range(0, len(good), step):
        refused(lambda at=at: check(GOOD[version], good[:at]))  # type: ignore[misc]
        changed = good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
        if not _unsigned(changed, good):
            refused(lambda changed=changed: check(GOOD[version], changed))  # type: ignore[misc]


@pytest.mark.exhaustive
@pytest.mark.parametrize("version", [1, 2])
def test_no_changed_byte_at_any_place(version: int) -> None:
    good = BUNDLES[version]
    for at in range(len(good)):
        refused(lambda at=at: check(GOOD[version], good[:at]))  # type: ignore[misc]
        for value in (good[at] ^ 1, 0x00, 0xFF, 0x20, 0x41):
            if value != good[at]:
                changed = good[:at] + bytes([value]) + good[at + 1 :]
                if _unsigned(changed, good):
                    continue
                refused(lambda changed=changed: check(GOOD[version], changed))  # type: ignore[misc]


def _unsigned(changed: bytes, good: bytes) -> bool:
    """What nobody signed in a time stamp (RFC 5652 §5.1, §5.3), and nobody reads: the two versions of its structures,
    and the name of the signer's algorithm, since the key alone decides how it is verified.
    """
    with suppress(ValueError, KeyError):
        documents = [json.loads(changed), json.loads(good)]
        one, two = (
            bytearray(
                base64.b64decode(
                    document["verificationMaterial"]["timestampVerificationData"]["rfc3161Timestamps"][0].pop(
                        "signedTimestamp"
                    )
                )
            )
            for document in documents
        )
        name = oid("1.2.840.10045.4.3.2")
        spans = (
            (two.index(integer(3)) + 2, 1),
            (two.rindex(integer(1) + b"\x30") + 2, 1),
            (two.rindex(name), len(name)),
        )
        for start, length in spans:
            one[start : start + length] = two[start : start + length]
        return documents[0] == documents[1] and one == two
    return False


@settings(max_examples=80)
@given(data=st.binary(max_size=200))
def test_random_bytes(data: bytes) -> None:
    refused(lambda: check(GOOD[2], data))
    refused(lambda: TrustedRoot.parse(data))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just("AAAA"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150)
@given(value=JSON, at=st.integers(0, 60), version=st.sampled_from([1, 2]))
def test_any_value_in_any_place(value: Any, at: int, version: int) -> None:
    document = json.loads(BUNDLES[version])
    places = list(_places(document))
    holder, key = places[at % len(places)]
    before = holder[key]
    holder[key] = value
    if value != before:
        # An absent member may be spelled as null.
        refused(lambda: check(GOOD[version], document))
    root = json.loads(GOOD[version].root())
    places = list(_places(root))
    holder, key = places[at % len(places)]
    holder[key] = value
    with suppress(TransparencyError):
        check(GOOD[version], BUNDLES[version], root=TrustedRoot.parse(json.dumps(root).encode()))


def _places(value: Any) -> Any:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from _places(inner)


def test_limits() -> None:
    assert refused(lambda: check(GOOD[2], b" " * (1024 * 1024 + 1))) == Code.LIMIT_EXCEEDED
    assert refused(lambda: TrustedRoot.parse(b" " * (256 * 1024 + 1))) == Code.LIMIT_EXCEEDED
    document = json.loads(BUNDLES[2])
    stamps = document["verificationMaterial"]["timestampVerificationData"]["rfc3161Timestamps"]
    for crowd in (stamps * 2, [{"signedTimestamp": "AAAA"}] * 9):
        document["verificationMaterial"]["timestampVerificationData"]["rfc3161Timestamps"] = crowd
        assert refused(lambda: check(GOOD[2], document)) == Code.PROOF_MALFORMED


def test_several_signatures_and_several_entries(instance: MiniSigstore) -> None:
    bundle = instance.sign(PAYLOAD)
    bundle["dsseEnvelope"]["signatures"] *= 2
    assert refused(lambda: check(instance, bundle)) == Code.PROOF_MALFORMED
    bundle = instance.sign(PAYLOAD)
    bundle["verificationMaterial"]["tlogEntries"] *= 2
    assert refused(lambda: check(instance, bundle)) == Code.PROOF_MALFORMED


def test_a_bundle_without_a_log_entry_proves_nothing(instance: MiniSigstore) -> None:
    for path in (["tlogEntries"], ["tlogEntries", 0, "inclusionProof"]):
        bundle = instance.sign(PAYLOAD)
        holder: Any = bundle["verificationMaterial"]
        for step in path[:-1]:
            holder = holder[step]
        del holder[path[-1]]
        assert refused(lambda bundle=bundle: check(instance, bundle)) == Code.PROOF_MISSING  # type: ignore[misc]
    bundle = instance.sign(PAYLOAD)
    del bundle["verificationMaterial"]["tlogEntries"][0]["inclusionProof"]["checkpoint"]
    assert refused(lambda: check(instance, bundle)) == Code.PROOF_MISSING


def test_a_promise_is_no_proof_and_a_time_no_promise() -> None:
    instance = MiniSigstore(1)
    bundle = instance.sign(PAYLOAD)
    del bundle["verificationMaterial"]["tlogEntries"][0]["inclusionPromise"]
    assert refused(lambda: check(instance, bundle)) == Code.TIME_INVALID
    bundle = instance.sign(PAYLOAD)
    bundle["verificationMaterial"]["tlogEntries"][0]["integratedTime"] = str(int(AT.timestamp()) + 1)
    assert refused(lambda: check(instance, bundle)) == Code.TIME_INVALID


def test_the_clock_is_not_read(instance: MiniSigstore) -> None:
    """The instance began long after the machine's present, as far as it goes: only ``at`` counts."""
    future = datetime(2036, 1, 1, tzinfo=AT.tzinfo)
    later = MiniSigstore(instance.version, lambda: future)
    window = {"start": "2035-01-01T00:00:00Z"}
    root = TrustedRoot.parse(later.root(log=window, ca=window, ct=window, tsa=window))
    check(later, later.sign(PAYLOAD), root=root, at=future)


def test_policies_and_clients_load_nothing_of_sigstore() -> None:
    script = (
        "import sys, client_sdk.client, client_sdk.cli, measurements.staple, measurements.sigstore.policy\n"
        "client_sdk.cli.build_app()\n"
        "bad = {'sigstore', 'sigstore_models', 'rfc3161_client', 'tuf', 'requests', 'pydantic'}\n"
        "print(sorted(bad & {name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_nothing_is_asked_of_anybody(instance: MiniSigstore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle is judged from its bytes: a look-up would tell a log who is talking to which node."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a socket")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    check(instance, instance.sign(PAYLOAD))
