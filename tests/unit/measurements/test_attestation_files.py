"""GitHub's and PyPI's attestations: taken apart, verified, refused; and the command line around them."""

import base64
import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pypi_record
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from mini_sigstore import AT, ISSUER, SUBJECT, MiniSigstore, Served

from measurements.errors import Code, TransparencyError
from measurements.sigstore.attestation import bundles_in, from_pypi
from measurements.sigstore.commands import register
from measurements.sigstore.identity import IdentityRule
from measurements.sigstore.root import TrustedRoot
from measurements.sigstore.verify import verify_statement

ARTIFACT = b"a file that was built"
PAYLOAD = json.dumps(
    {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "f", "digest": {"sha256": hashlib.sha256(ARTIFACT).hexdigest()}}],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {"builder": {"id": "x"}},
    }
).encode()
INSTANCE = MiniSigstore(1)
BUNDLE = INSTANCE.sign(PAYLOAD)


def pypi_form(bundle: dict[str, Any]) -> dict[str, Any]:
    """The same signature as a PyPI attestation."""
    material, envelope = bundle["verificationMaterial"], bundle["dsseEnvelope"]
    stamps = material.get("timestampVerificationData", {}).get("rfc3161Timestamps", [])
    made: dict[str, Any] = {
        "version": 1,
        "verification_material": {
            "certificate": material["certificate"]["rawBytes"],
            "transparency_entries": material["tlogEntries"],
        },
        "envelope": {"statement": envelope["payload"], "signature": envelope["signatures"][0]["sig"]},
    }
    if stamps:
        made["verification_material"]["timestamps"] = [stamp["signedTimestamp"] for stamp in stamps]
    return made


def test_a_published_attestation_of_pypi() -> None:
    """Real: under the pinned production root, with Rekor's own proof."""
    rule = IdentityRule(issuer=ISSUER, subject=pypi_record.SUBJECT)
    (bundle,) = bundles_in(pypi_record.provenance())
    arguments: dict[str, Any] = {
        "root": TrustedRoot.production(),
        "at": datetime(2026, 1, 1, tzinfo=UTC),
        "artifact": pypi_record.FILE_SHA256,
    }
    found = verify_statement(bundle, signer=rule, predicate_types=[pypi_record.PREDICATE_TYPE], **arguments)
    assert found.predicate is None
    assert found.signature.log_index == 153_454_663
    other = IdentityRule(issuer=ISSUER, subject=pypi_record.SUBJECT.replace("0.0.19", "0.0.18"))
    for signer, changes in (
        (other, {}),
        (rule, {"artifact": bytes(32)}),
        (rule, {"at": datetime(2024, 1, 1, tzinfo=UTC)}),
    ):
        with pytest.raises(TransparencyError):
            verify_statement(bundle, signer=signer, **{**arguments, **changes})


@pytest.mark.parametrize("version", [1, 2])
def test_every_form_holds_the_same_bundle(version: int) -> None:
    instance = MiniSigstore(version)
    bundle = instance.sign(PAYLOAD)
    forms: list[Any] = [
        bundle,
        {"attestations": [{"bundle": bundle, "repository_id": 1}]},
        pypi_form(bundle),
        {"version": 1, "attestation_bundles": [{"publisher": {}, "attestations": [pypi_form(bundle)]}]},
    ]
    rule = IdentityRule(issuer=ISSUER, subject=SUBJECT)
    for form in forms:
        (found,) = bundles_in(json.dumps(form).encode())
        verify_statement(found, root=TrustedRoot.parse(instance.root()), signer=rule, at=AT)
        (again,) = bundles_in(json.dumps(form, indent=1).encode())
        assert again == found
    lines = "\n".join(json.dumps(form) for form in (bundle, pypi_form(bundle)))
    assert len(bundles_in((lines + "\n").encode())) == 2


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"attestations": []}',
        b'{"attestations": [1]}',
        b'{"attestations": 1}',
        b'{"attestation_bundles": [{}]}',
        b'{"verification_material": 1}',
        b'{"mediaType": 1, "mediaType": 2}',
        json.dumps({**pypi_form(BUNDLE), "version": 2}).encode(),
        json.dumps({**pypi_form(BUNDLE), "version": True}).encode(),
        json.dumps({**pypi_form(BUNDLE), "version": 1.0}).encode(),
        json.dumps({**pypi_form(BUNDLE), "more": 2}).encode(),
        json.dumps({"attestations": [{"bundle": {}}] * 65}).encode(),
    ],
)
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(TransparencyError) as caught:
        bundles_in(data)
    assert caught.value.code is Code.PROOF_MALFORMED


def test_a_file_that_is_too_large() -> None:
    with pytest.raises(TransparencyError) as caught:
        bundles_in(b" " * (8 * 1024 * 1024 + 1))
    assert caught.value.code is Code.LIMIT_EXCEEDED


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150)
@given(value=JSON, name=st.sampled_from(["version", "verification_material", "envelope"]))
def test_any_value_in_a_pypi_attestation(value: Any, name: str) -> None:
    with suppress(TransparencyError):
        from_pypi({**pypi_form(BUNDLE), name: value})
    with suppress(TransparencyError):
        from_pypi(value)
    for key in ("attestations", "attestation_bundles"):
        with suppress(TransparencyError):
            bundles_in(json.dumps({key: value}).encode())


@settings(max_examples=60)
@given(data=st.binary(max_size=200))
def test_random_bytes(data: bytes) -> None:
    with suppress(TransparencyError):
        bundles_in(data)


def test_every_truncation_and_changed_byte() -> None:
    good = json.dumps(pypi_form(BUNDLE)).encode()
    for at in range(0, len(good), 3):
        for data in (good[:at], good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]):
            with suppress(TransparencyError):
                bundles_in(data)


def run(*arguments: str) -> int:
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    status: int = app(list(arguments), standalone_mode=False)
    return status


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str, bytes], str]:
    def write(name: str, data: bytes) -> str:
        (tmp_path / name).write_bytes(data)
        return str(tmp_path / name)

    return write


def test_the_command_line(written: Callable[[str, bytes], str], capsys: pytest.CaptureFixture[str]) -> None:
    file = written("a.json", json.dumps({"attestations": [{"bundle": BUNDLE}]}).encode())
    common = [
        "attestation",
        file,
        "--root",
        written("root.json", INSTANCE.root()),
        "--at",
        "2026-06-01T12:00:00Z",
    ]
    good = written("built", ARTIFACT)
    by_tag = ["--workflow", SUBJECT.partition("@")[0], "--tags", r"v\d+\.\d+\.\d+"]
    assert run(*common, "--subject", SUBJECT, "--artifact", good) == 0
    assert SUBJECT in capsys.readouterr().out
    assert run(*common, *by_tag, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["verdict"] == "verified"
    assert result["attestations"][0]["subjects"] == [["f", hashlib.sha256(ARTIFACT).hexdigest()]]
    for refused in (
        [*common, "--subject", SUBJECT + "4"],
        [*common, *by_tag, "--artifact", written("other", b"other")],
        [*common, *by_tag, "--predicate-type", "https://slsa.dev/provenance/v0.2"],
        [*common[:2], *by_tag],
    ):
        assert run(*refused) == 3
    capsys.readouterr()
    assert run(*common, "--subject", "x", "--json") == 3
    assert json.loads(capsys.readouterr().out)["code"] == "IDENTITY_MISMATCH"
    assert run(*common) == 1, "no identity was named"
    assert run("attestation", file + ".none", "--subject", "x") == 1


def test_control_characters_of_a_statement_do_not_reach_the_terminal(
    written: Callable[[str, bytes], str], capsys: pytest.CaptureFixture[str]
) -> None:
    nasty = PAYLOAD.replace(b'"name": "f"', b'"name": "\\u001b[2Jverified"')
    assert nasty != PAYLOAD
    file = written("a.json", json.dumps(INSTANCE.sign(nasty)).encode())
    root = written("root.json", INSTANCE.root())
    assert run("attestation", file, "--root", root, "--at", "2026-06-01T12:00:00Z", "--subject", SUBJECT) == 0
    assert "\x1b" not in capsys.readouterr().out
    assert base64.b64decode(BUNDLE["dsseEnvelope"]["payload"]) == PAYLOAD


def test_a_newer_trusted_root_is_fetched_and_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the network gave, verified by TUF, is stood in for: a root with one log more and one CA less."""
    from sigstore.models import ClientTrustConfig

    from measurements.sigstore import sign
    from measurements.sigstore.root import production_root

    with Served(MiniSigstore(2)) as served:
        config = json.loads(served.config)
    root = json.loads(production_root())
    root["tlogs"].append({**json.loads(MiniSigstore(2).root())["tlogs"][0], "baseUrl": "https://new.example"})
    del root["certificateAuthorities"][0]
    config["trustedRoot"] = root
    found = ClientTrustConfig.from_json(json.dumps(config))
    monkeypatch.setattr(sign.ClientTrustConfig, "production", lambda: found)
    assert sign.Instance.public().root_json is not None
    assert run("trusted-root", str(tmp_path / "root.json"), "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert [name.partition(" ")[0] for name in result["added"]] == ["https://new.example"]
    assert len(result["gone"]) == 1
    assert TrustedRoot.parse((tmp_path / "root.json").read_bytes()).sha256.hex() == result["sha256"]
    assert run("trusted-root", str(tmp_path / "root.json")) == 0
    assert "new      https://new.example" in capsys.readouterr().out

    config["trustedRoot"] = json.loads(production_root())
    found = ClientTrustConfig.from_json(json.dumps(config))
    assert sign.Instance.public().root_json is None

    def unreachable() -> ClientTrustConfig:
        raise ConnectionError

    monkeypatch.setattr(sign.ClientTrustConfig, "production", unreachable)
    assert run("trusted-root", str(tmp_path / "root.json")) == 2
