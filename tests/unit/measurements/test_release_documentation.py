"""docs/releases.md shows one example of every kind of statement, word for word as the code makes it."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from measurements.key_listing import KeyListing
from measurements.node_list import ListedNode, NodeList
from measurements.note import ED25519, VerifierKey
from measurements.policy import TransparencyPolicy
from measurements.release import Release, Revocation, Status
from measurements.revocation import RevocationNotice
from measurements.signer_set import SignerSet
from measurements.statement import Statement, Subject, canonical
from measurements.statement_kinds import KINDS, kind_name, parse_kind

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "releases.md"
AT = datetime(2026, 6, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
LEAF = "3b" * 32


def vkey(name: str, byte: int) -> VerifierKey:
    return VerifierKey(name, ED25519, bytes([byte]) * 32)


EXAMPLES: dict[str, Any] = {
    "node-list": NodeList(
        channel="prod",
        sequence=17,
        issued_at=AT,
        expires_at=AT + DAY,
        nodes=(ListedNode("node-a", b"\x0a" * 32), ListedNode("node-b", b"\x0b" * 32)),
        previous="9c" * 32,
    ),
    "cvm-release": Release(
        name="acme/node",
        channel="prod",
        version="1.4.2",
        sequence=42,
        not_before=AT,
        not_after=AT + 90 * DAY,
        subjects=(Subject("image", "1f" * 32), Subject("model-signing:llama-3.1-8b", "2e" * 32)),
        measurements=(
            {"tee": "sev-snp", "launchDigest": "4c" * 48, "minTcb": {"snp": 27}},
            {
                "tee": "nvidia-gpu",
                "arch": "HOPPER",
                "ccMode": "on",
                "driver": ["590.12"],
                "vbios": ["96.00.A5"],
            },
        ),
        previous="5d" * 32,
        materials={"source": {"uri": "https://git.example/acme/node", "digest": {"gitCommit": "6e" * 20}}},
    ),
    "cvm-status": Status(
        "prod", 97, AT, AT + 2 * DAY, 41, (LEAF,), (Revocation("7f" * 32, "parser overflow"),)
    ),
    "cvm-revocation": RevocationNotice("prod", "7f" * 32, "parser overflow; see advisory 12", AT, 97),
    "ohttp-keys": KeyListing("prod", "tokens.acme.example", 3, AT, AT + 7 * DAY, bytes(range(41))),
    "signer-set": SignerSet(
        "prod",
        2,
        2,
        (vkey("alice.example", 1), vkey("bob.example", 2), vkey("carol.example", 3)),
        AT,
        AT + 30 * DAY,
        previous="8a" * 32,
    ),
}


def block(kind: str) -> str:
    """The statement as the document shows it: canonical order, indented."""
    return json.dumps(json.loads(EXAMPLES[kind].statement().raw), indent=1, ensure_ascii=False)


@pytest.mark.parametrize("kind", EXAMPLES)
def test_the_example_is_what_the_code_makes(kind: str) -> None:
    text = DOCUMENT.read_text()
    shown = re.search(rf"### `{kind}`\n.*?```json\n(.*?)\n```", text, re.DOTALL)
    assert shown is not None
    assert shown.group(1) == block(kind)
    again = parse_kind(Statement.parse(canonical(json.loads(shown.group(1)))))
    assert again == EXAMPLES[kind]


def test_every_kind_has_an_example() -> None:
    assert {kind_name(kind) for kind in KINDS} == set(EXAMPLES)


def test_the_policy_tables_are_read() -> None:
    import tomllib

    tables = re.findall(r"```toml\n(.*?)\n```", DOCUMENT.read_text(), re.DOTALL)
    assert len(tables) == 3
    for table in tables:
        filled = table
        for name, byte in (("log", 9), ("root1", 10), ("root2", 11), ("signer", 12)):
            filled = filled.replace(f'"{name}.example+…"', f'"{vkey(f"{name}.example", byte)}"')
        filled = filled.replace('["witness.example+…"]', "[]").replace("quorum = 1", "quorum = 0")
        TransparencyPolicy.from_table(tomllib.loads(filled)["transparency"])
