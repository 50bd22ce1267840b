"""Sigstore bundles with known verdicts: the conformance suite, a local instance's, and other projects' releases.

Every case of every manifest in these folders is run, whoever put it there.
"""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from measurements.errors import Code, TransparencyError
from measurements.sigstore.identity import IdentityRule
from measurements.sigstore.root import TrustedRoot
from measurements.sigstore.verify import ManagedKey, Signer, verify_artifact, verify_statement

AT = datetime(2030, 1, 1, tzinfo=UTC)
FOLDERS = ("sigstore-conformance", "mini-sigstore", "peers")
MINI_PREDICATE = "https://example.org/predicate/cvm-release/v1"
# Which of two defects is met first is a matter of order: the other code would be as right.
ALSO_RIGHT = {("CERT_UNTRUSTED", Code.LOG_UNKNOWN)}


def cases(folder: Path, name: str) -> list[dict[str, Any]]:
    manifest = folder / "transparency" / name / "manifest.json"
    if not manifest.is_file():
        pytest.skip(f"{name} is not among the vectors")
    found: list[dict[str, Any]] = json.loads(manifest.read_text())
    assert found
    return found


def judge(folder: Path, case: dict[str, Any]) -> None:
    def read(member: str) -> bytes:
        return (folder / "transparency" / case[member]).read_bytes()

    root = TrustedRoot.parse(read("trusted_root"))
    signer: Signer
    if "key" in case:
        signer = ManagedKey(read("key"))
    else:
        # A case that names no identity asks for a key, and gives none: nobody's signature will do.
        signer = IdentityRule(
            issuer=case.get("issuer", "https://nobody.example"), subject=case.get("identity", "nobody")
        )
    if "artifact" in case:
        sha256 = hashlib.sha256(read("artifact")).digest()
        verify_artifact(read("bundle"), root=root, signer=signer, at=AT, sha256=sha256)
        return
    predicate = case.get("predicateType", MINI_PREDICATE)
    verify_statement(read("bundle"), root=root, signer=signer, at=AT, predicate_types=[predicate])


@pytest.mark.parametrize("name", FOLDERS)
def test_every_verdict(vectors: Path, name: str) -> None:
    wrong = []
    for case in cases(vectors, name):
        found, code = "accept", None
        try:
            judge(vectors, case)
        except TransparencyError as error:
            found, code = "reject", error.code
        if found != case["expect"]:
            wrong.append((case["name"], case["expect"], code))
        suggested = case.get("suggested_code")
        if suggested and code != suggested and (suggested, code) not in ALSO_RIGHT:
            wrong.append((case["name"], suggested, code))
    assert not wrong


def test_the_pinned_root_is_the_stored_production_root(vectors: Path) -> None:
    stored = (vectors / "transparency" / "trusted-roots" / "sigstore-production.json").read_bytes()
    assert TrustedRoot.production().sha256 == hashlib.sha256(stored).digest()


def test_a_build_of_a_pull_request_is_no_release(vectors: Path) -> None:
    """A rule for tags refuses what was built from anything else, whatever its pattern lets through."""
    case = next((case for case in cases(vectors, "peers") if "/pull/" in case["identity"]), None)
    if case is None:
        pytest.skip("no such case among these vectors")
    workflow = case["identity"].partition("@")[0]
    arguments: dict[str, Any] = {
        "root": TrustedRoot.parse((vectors / "transparency" / case["trusted_root"]).read_bytes()),
        "at": AT,
    }
    data = (vectors / "transparency" / case["bundle"]).read_bytes()
    rule = IdentityRule(issuer=case["issuer"], workflow=workflow, tags=".*")
    with pytest.raises(TransparencyError) as caught:
        verify_statement(data, signer=rule, **arguments)
    assert caught.value.code is Code.IDENTITY_MISMATCH
    verify_statement(data, signer=IdentityRule(issuer=case["issuer"], subject=case["identity"]), **arguments)
