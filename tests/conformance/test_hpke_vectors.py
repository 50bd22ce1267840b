"""HPKE and X-Wing against published vectors and transcripts of other implementations."""

import json
from pathlib import Path
from typing import Any

import pytest

from ohttp import hpke, kem

Vector = dict[str, Any]


def read(vectors: Path, name: str, member: str) -> list[Vector]:
    """The cases of one file, with every hexadecimal string as bytes."""
    cases = json.loads((vectors / "ohttp" / name).read_text())[member]
    assert cases, name
    return [from_hex(case) for case in cases]


def from_hex(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: from_hex(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [from_hex(inner) for inner in value]
    if isinstance(value, str):
        try:
            return bytes.fromhex(value)
        except ValueError:
            return value
    return value


# What a case may name that is not here, and why. Anything else has to be.
ABSENT_KEMS = {
    0x0021: "X448 is for no suite of Oblivious HTTP",
    0x0040: "ML-KEM-512 is not offered by OpenSSL's Python package",
}
ABSENT_KDFS = {0x0012: "TurboSHAKE is not in hashlib", 0x0013: "TurboSHAKE is not in hashlib"}


def suite_of(vector: Vector) -> hpke.Suite:
    reason = ABSENT_KEMS.get(vector["kem_id"]) or ABSENT_KDFS.get(vector["kdf_id"])
    if reason:
        pytest.skip(reason)
    return hpke.suite(vector["kem_id"], vector["kdf_id"], vector["aead_id"])


def name(vector: Vector, position: int) -> str:
    mode = vector.get("mode", 0)
    return f"{position}: mode {mode} 0x{vector['kem_id']:04x}/{vector['kdf_id']}/{vector['aead_id']}"


def check_recipient(context: hpke.RecipientContext, vector: Vector) -> None:
    for position, encryption in enumerate(vector.get("encryptions", ())):
        skip_to(context, encryption.get("seq", position))
        assert context.open(encryption["ct"], encryption["aad"]) == encryption["pt"]
    for export in vector["exports"]:
        assert context.export(export["exporter_context"], export["L"]) == export["exported_value"]


def skip_to(context: hpke.Context, sequence: int) -> None:
    """The vectors leave messages out; the counter has to be where the next one was made."""
    messages = context._aead
    assert messages is not None
    messages._sequence = sequence


def psk_of(vector: Vector) -> hpke.Psk | None:
    return hpke.Psk(vector["psk"], vector["psk_id"]) if vector.get("mode") == 1 else None


@pytest.mark.parametrize("file", ["rfc9180_hpke.json", "hpke_pq.json"])
def test_recipient(vectors: Path, subtests: pytest.Subtests, file: str) -> None:
    for position, vector in enumerate(read(vectors, file, "vectors")):
        with subtests.test(name(vector, position)):
            suite = suite_of(vector)
            private_key = suite.kem.load(vector["skRm"])
            assert private_key.public_key == vector["pkRm"]
            assert private_key.decapsulate(vector["enc"]) == vector["shared_secret"]
            context = suite.setup_recipient(vector["enc"], private_key, vector["info"], psk=psk_of(vector))
            check_recipient(context, vector)
            check_schedule(suite, vector)


def check_schedule(suite: hpke.Suite, vector: Vector) -> None:
    """The secrets that the contexts keep to themselves."""
    secrets = suite.schedule.secrets(vector["shared_secret"], vector["info"], psk_of(vector))
    assert secrets == (vector["key"], vector["base_nonce"], vector["exporter_secret"])


def test_sender(vectors: Path, subtests: pytest.Subtests) -> None:
    for position, vector in enumerate(read(vectors, "rfc9180_hpke.json", "vectors")):
        with subtests.test(name(vector, position)):
            suite = suite_of(vector)
            context = suite.setup_sender(
                vector["pkRm"],
                vector["info"],
                psk=psk_of(vector),
                ephemeral=kem.Ephemeral(suite.kem.load(vector["skEm"])),
            )
            assert context.enc == vector["enc"]
            for encryption in vector["encryptions"]:
                skip_to(context, encryption["seq"])
                assert context.seal(encryption["pt"], encryption["aad"]) == encryption["ct"]
            for export in vector["exports"]:
                assert context.export(export["exporter_context"], export["L"]) == export["exported_value"]


def test_every_message_between_0_and_256(vectors: Path) -> None:
    """Counting, not jumping: the ciphertexts at 255 and 256 follow from sealing all before them."""
    for vector in read(vectors, "rfc9180_hpke.json", "vectors"):
        if vector["encryptions"] and vector["kem_id"] == kem.X25519:
            suite = hpke.suite(vector["kem_id"], vector["kdf_id"], vector["aead_id"])
            context = suite.setup_sender(
                vector["pkRm"],
                vector["info"],
                psk=psk_of(vector),
                ephemeral=kem.Ephemeral(suite.kem.load(vector["skEm"])),
            )
            expected = {encryption["seq"]: encryption for encryption in vector["encryptions"]}
            for sequence in range(257):
                encryption = expected.get(sequence, expected[0])
                ciphertext = context.seal(encryption["pt"], encryption["aad"])
                assert (ciphertext == encryption["ct"]) == (sequence in expected)


def test_xwing(vectors: Path) -> None:
    xwing = kem.kem(kem.MLKEM768_X25519)
    for vector in read(vectors, "xwing_draft.json", "vectors"):
        private_key = xwing.load(vector["seed"])
        assert private_key.public_key == vector["pk"]
        assert private_key.decapsulate(vector["ct"]) == vector["ss"]


def test_transcripts_of_another_implementation(vectors: Path, subtests: pytest.Subtests) -> None:
    for position, vector in enumerate(read(vectors, "interop_hpke_npm.json", "transcripts")):
        with subtests.test(name(vector, position)):
            suite = suite_of(vector)
            private_key = suite.kem.load(vector["skR"])
            assert private_key.public_key == vector["pkR"]
            context = suite.setup_recipient(vector["enc"], private_key, vector["info"])
            for message in vector["messages"]:
                assert context.open(message["ct"], message["aad"]) == message["pt"]
            assert context.export(vector["exporter_context"], vector["L"]) == vector["exported"]
