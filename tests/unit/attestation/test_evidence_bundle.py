"""The evidence bundle: exact bytes in, exact bytes out, and nothing else accepted."""

import contextlib
import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.bundle import MAX_BUNDLE, CpuSection, EvidenceBundle, TransparencySection, bundle_digest
from attestation.errors import AttestationError, EvidenceMalformed

BUNDLE = EvidenceBundle(
    claims=b'{"v":1}',
    cpu=CpuSection("sev-snp", b"\x00report", {"vek": b"\x30", "ask": b"", "ark": b"\xff"}),
    gpus=b"[]",
    gpu_collateral={"rim:driver-590.12": b"<rim/>"},
    ohttp_keys=b"\x00\x01",
    runtime=b"{}",
    transparency=TransparencySection(b"proof", b"leaf", b"status proof", b"status leaf"),
    checkpoint=b"log\n1\n",
)


def test_a_bundle_survives_the_wire() -> None:
    data = BUNDLE.encode()
    assert EvidenceBundle.parse(data) == BUNDLE
    assert bundle_digest(data) == hashlib.sha256(data).digest()


def test_a_sigstore_bundle_is_carried() -> None:
    section = TransparencySection(b"", b"", b"", b"", sigstore=b"{}")
    bundle = EvidenceBundle(
        BUNDLE.claims, BUNDLE.cpu, b"", {}, BUNDLE.ohttp_keys, BUNDLE.runtime, section, BUNDLE.checkpoint
    )
    assert EvidenceBundle.parse(bundle.encode()) == bundle


def test_the_set_of_signers_is_carried() -> None:
    section = TransparencySection(b"", b"", b"", b"", signers_proof=b"proof", signers_leaf=b"leaf")
    bundle = EvidenceBundle(
        BUNDLE.claims, BUNDLE.cpu, b"", {}, BUNDLE.ohttp_keys, BUNDLE.runtime, section, BUNDLE.checkpoint
    )
    data = bundle.encode()
    assert EvidenceBundle.parse(data) == bundle
    for broken in (b'"signers":{"proof":"cHJvb2Y="}', b'"signers":"x"', b'"signers":{"proof":"!","leaf":""}'):
        with pytest.raises(EvidenceMalformed):
            EvidenceBundle.parse(data.replace(b'"signers":{"proof":"cHJvb2Y=","leaf":"bGVhZg=="}', broken))


def _set(*path: str, value: object) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        for name in path[:-1]:
            document = document[name]
        document[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (_set("v", value=2), "bundle_version"),
        (_set("v", value=True), "bundle_version"),
        (_set("extra", value=""), "bundle_malformed"),
        (_set("cpu", "extra", value=""), "bundle_malformed"),
        (_set("cpu", "tee", value="SEV SNP"), "bundle_malformed"),
        (_set("cpu", "collateral", value=[]), "bundle_malformed"),
        (_set("cpu", "collateral", "../x", value=""), "bundle_malformed"),
        (_set("cpu", "collateral", value={f"n{i}": "" for i in range(129)}), "bundle_malformed"),
        (_set("gpus", value=[]), "bundle_malformed"),
        (_set("runtime", value="e30"), "bundle_malformed"),
        (_set("runtime", value="e31="), "bundle_malformed"),
        (_set("runtime", value="e3 0="), "bundle_malformed"),
        (_set("runtime", value="\ud800"), "bundle_malformed"),
        (_set("claims", value="A" * 8192), "bundle_malformed"),
        (_set("transparency", "release", "proof", value=None), "bundle_malformed"),
    ],
)
def test_a_changed_member_is_refused(change: Callable[[Any], None], code: str) -> None:
    document = json.loads(BUNDLE.encode())
    change(document)
    with pytest.raises(EvidenceMalformed) as caught:
        EvidenceBundle.parse(json.dumps(document).encode())
    assert caught.value.code == code


def test_every_member_is_needed() -> None:
    for name in json.loads(BUNDLE.encode()):
        document = json.loads(BUNDLE.encode())
        del document[name]
        with pytest.raises(EvidenceMalformed):
            EvidenceBundle.parse(json.dumps(document).encode())


def test_a_member_that_occurs_twice_is_refused() -> None:
    data = BUNDLE.encode()
    with pytest.raises(EvidenceMalformed):
        EvidenceBundle.parse(b'{"v":1,' + data[1:])


def test_limits_hold_before_anything_is_parsed() -> None:
    with pytest.raises(EvidenceMalformed) as caught:
        EvidenceBundle.parse(b" " * (MAX_BUNDLE + 1))
    assert caught.value.found == MAX_BUNDLE + 1
    with pytest.raises(EvidenceMalformed):
        EvidenceBundle.parse(b"[" * 200_000)


def test_a_bundle_too_large_to_be_parsed_is_not_made() -> None:
    bundle = EvidenceBundle(
        BUNDLE.claims, BUNDLE.cpu, b"x" * MAX_BUNDLE, {}, b"", b"", BUNDLE.transparency, b""
    )
    with pytest.raises(EvidenceMalformed):
        bundle.encode()


def test_truncated_and_changed_bundles_stay_in_the_family() -> None:
    data = BUNDLE.encode()
    for end in range(len(data)):
        with pytest.raises(EvidenceMalformed):
            EvidenceBundle.parse(data[:end])
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 0x22
        with contextlib.suppress(AttestationError):
            EvidenceBundle.parse(bytes(changed))


@given(st.binary(max_size=400))
def test_random_bytes_stay_in_the_family(data: bytes) -> None:
    with pytest.raises(EvidenceMalformed):
        EvidenceBundle.parse(data)
