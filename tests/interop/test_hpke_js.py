"""HPKE contexts in both directions with npm's @hpke/core and its X-Wing, in base and PSK mode."""

import itertools
import os
from typing import Any

from node_peers import NodePeers

from ohttp import hpke, kem

SUITES = list(itertools.product((kem.X25519, kem.P256, kem.MLKEM768_X25519), (1, 3), (1, 2, 3)))
MESSAGES = [(b"", b""), (b"one", b"aad"), (os.urandom(3000), b""), (b"last", os.urandom(50))]
INFO = b"message/bhttp chunked request\x00"
PSK = hpke.Psk(b"s" * 32, b"name")


def question(ids: tuple[int, int, int], psk: hpke.Psk | None, **more: Any) -> dict[str, Any]:
    shared = {
        "kem": ids[0],
        "kdf": ids[1],
        "aead": ids[2],
        "info": INFO.hex(),
        "exportContext": "78",
        "L": 48,
    }
    known = {} if psk is None else {"psk": psk.secret.hex(), "pskId": psk.identity.hex()}
    return {**shared, **known, **more}


def test_it_opens_what_we_seal(node_peers: NodePeers) -> None:
    questions, exported = [], []
    for ids, psk in itertools.product(SUITES, (None, PSK)):
        suite = hpke.suite(*ids)
        # The key's own serialisation is what the other side loads.
        secret = os.urandom(31) + b"\x01" if ids[0] == kem.P256 else os.urandom(32)
        secret = b"\x00" + secret[1:]
        context = suite.setup_sender(suite.kem.load(secret).public_key, INFO, psk=psk)
        messages = [{"ct": context.seal(pt, aad).hex(), "aad": aad.hex()} for pt, aad in MESSAGES]
        exported.append(context.export(b"x", 48).hex())
        questions.append(
            question(ids, psk, op="open", privateKey=secret.hex(), enc=context.enc.hex(), messages=messages)
        )
    answers = node_peers.ask("hpke_peer.js", questions)
    for asked, answer, secret_exported in zip(questions, answers, exported, strict=True):
        assert "error" not in answer, (asked["kem"], asked["kdf"], asked["aead"], answer)
        assert answer == {"messages": [pt.hex() for pt, _ in MESSAGES], "exported": secret_exported}


def test_we_open_what_it_seals(node_peers: NodePeers) -> None:
    cases = list(itertools.product(SUITES, (None, PSK)))
    keys = [kem.kem(ids[0]).generate() for ids, _ in cases]
    messages = [{"pt": pt.hex(), "aad": aad.hex()} for pt, aad in MESSAGES]
    questions = [
        question(ids, psk, op="seal", publicKey=key.public_key.hex(), messages=messages)
        for (ids, psk), key in zip(cases, keys, strict=True)
    ]
    answers = node_peers.ask("hpke_peer.js", questions)
    for (ids, psk), key, answer in zip(cases, keys, answers, strict=True):
        assert "error" not in answer, (ids, answer)
        context = hpke.suite(*ids).setup_recipient(bytes.fromhex(answer["enc"]), key, INFO, psk=psk)
        opened = [
            context.open(bytes.fromhex(ct), aad)
            for ct, (_, aad) in zip(answer["messages"], MESSAGES, strict=True)
        ]
        assert opened == [pt for pt, _ in MESSAGES]
        assert context.export(b"x", 48).hex() == answer["exported"]
