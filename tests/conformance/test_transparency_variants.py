"""Cases of our own beside the vectors', along every dimension that the formats have: what each must say."""

import base64
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from measurements.audit import audit
from measurements.checkpoint import Checkpoint, open_checkpoint
from measurements.cosignature import cosign
from measurements.errors import Code, TransparencyError
from measurements.merkle import (
    EMPTY_ROOT,
    leaf_hash,
    prove_consistency,
    prove_inclusion,
    tree_hash,
    verify_consistency,
    verify_inclusion,
)
from measurements.note import COSIGNATURE_ED25519, Note, NoteSignature, VerifierKey
from measurements.signing_key import SigningKey
from measurements.strict_base64 import encode
from measurements.tiles import encode_bundle, tile_path
from measurements.tlog_policy import TlogPolicy
from measurements.tlog_proof import TlogProof
from measurements.views import Views, compare_views
from measurements.witness import VolatileWitnessStore, Witness, encode_request

LOG = SigningKey.generate("log.example/variants")
OTHER = SigningKey.generate("log.example/other")
WITNESSES = [SigningKey.generate(f"w{n}.example", COSIGNATURE_ED25519) for n in range(3)]
LEAVES = [b"leaf %d" % n for n in range(300)]
HASHES = [leaf_hash(leaf) for leaf in LEAVES]
NOW = 1_780_000_000


def node(level: int, at: int) -> bytes:
    return tree_hash(HASHES[at << level : (at + 1) << level])


def root(size: int) -> bytes:
    return tree_hash(HASHES[:size])


def checkpoint(size: int, **changes: Any) -> Checkpoint:
    return replace(Checkpoint(LOG.public.name, size, root(size)), **changes)


def signed(text: str, key: SigningKey = LOG) -> bytes:
    return Note(text, (key.sign_note(text),)).encode()


def verdict(check: Callable[[], object]) -> bool:
    try:
        check()
    except TransparencyError:
        return False
    return True


def test_every_proof_of_a_small_tree_and_every_change_of_it() -> None:
    for size in range(1, 18):
        for index in range(size):
            path = prove_inclusion(index, size, node)
            good = {"index": index, "size": size, "leaf": HASHES[index], "path": path, "root": root(size)}
            verify_inclusion(**good)
            wrong: list[dict[str, Any]] = [
                {"index": index + 1},
                {"index": index - 1},
                {"size": size * 2},
                {"leaf": HASHES[index + 1]},
                {"leaf": HASHES[index][:31]},
                {"root": root(size)[:31]},
                {"root": root(size + 1)},
                {"path": (*path, bytes(32))},
                {"path": (bytes(32), *path)},
                {"path": path[:-1]} if path else {"path": (root(size),)},
                {"path": path[::-1]} if len(set(path)) > 1 else {"size": 0},
                {"path": tuple(bytes(31) for _ in path)} if path else {"index": -1},
            ]
            for change in wrong:
                assert not verdict(lambda good=good, change=change: verify_inclusion(**{**good, **change})), (
                    size,
                    index,
                    change,
                )
    for old in range(1, 18):
        for new in range(old, 18):
            path = prove_consistency(old, new, node)
            good = {
                "old_size": old,
                "new_size": new,
                "old_root": root(old),
                "new_root": root(new),
                "path": path,
            }
            verify_consistency(**good)
            wrong = [
                {"old_root": bytes(32)},
                {"new_root": bytes(32)},
                {"old_root": root(new), "new_root": root(old)} if old != new else {"old_size": 0},
                {"path": (*path, bytes(32))},
                {"path": (root(old), *path)},
                {"path": path[:-1]} if path else {"new_size": new + 1},
                {"old_size": new + 1},
                {"old_size": 0},
            ]
            for change in wrong:
                assert not verdict(
                    lambda good=good, change=change: verify_consistency(**{**good, **change})
                ), (old, new, change)


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("o\n0\n" + encode(EMPTY_ROOT) + "\n", True),
        ("o\n9223372036854775807\n" + encode(bytes(32)) + "\n", True),
        ("o\n9223372036854775808\n" + encode(bytes(32)) + "\n", False),
        ("origin with spaces + plus\n1\n" + encode(bytes(32)) + "\n", True),
        ("ö/日本\n1\n" + encode(bytes(32)) + "\nextension\nanother\n", True),
        ("o\n1\n" + encode(bytes(32)) + "\n\n", False),
        ("o\n1\n" + encode(bytes(32)) + "\n\nextension\n", False),
        ("\no\n1\n" + encode(bytes(32)) + "\n", False),
        ("o\t\n1\n" + encode(bytes(32)) + "\n", False),
        ("o\r\n1\r\n" + encode(bytes(32)) + "\r\n", False),
        ("o\n1\n" + encode(bytes(32)), False),
        ("o\n1\n" + encode(bytes(31)) + "\n", False),
        ("o\n1\n" + encode(bytes(33)) + "\n", False),
        ("o\n1\n" + encode(bytes(32)).rstrip("=") + "\n", False),
        ("o\n1\n" + encode(bytes(32))[:-2] + "B=\n", False),
        ("o\n1\n" + base64.urlsafe_b64encode(b"\xff" * 32).decode() + "\n", False),
        *((f"o\n{size}\n" + encode(bytes(32)) + "\n", False)
          for size in ("", "+1", "-1", " 1", "1 ", "01", "1.0", "1e3", "1_0", "0x1", "१", "１", "∞", "9" * 20)),
    ],
)  # fmt: skip
def test_checkpoint_texts(text: str, good: bool) -> None:
    assert verdict(lambda: Checkpoint.parse(text)) is good


def line(key: VerifierKey, signature: bytes) -> str:
    return str(NoteSignature(key.name, key.id, signature))


def test_notes() -> None:
    text = checkpoint(5).text
    good = str(LOG.sign_note(text))
    stranger = line(OTHER.public, b"short")
    cases = {
        good: True,
        stranger + good: True,
        good + stranger: True,
        good * 2: True,
        good + stranger * 15: True,
        good + stranger * 64: False,
        stranger: False,
        good + line(LOG.public, bytes(64)): False,
        line(LOG.public, bytes(63)) + good: False,
        good.replace("— ", "—"): False,
        good.replace("— ", "—  "): False,
        good.replace("— ", " — "): False,
        good.replace("\n", " \n"): False,
        good.replace("\n", "\n\n"): False,
        good + "\n": False,
        good + "x\n": False,
        good.rstrip("\n"): False,
        good.replace(" log", " \u00a0log"): False,
        good.replace(" log", " \u2028log"): False,
        good.replace(" log", " +log"): False,
        good + "— " + "\n": False,
        good + "— name\n": False,
        good + "— name \n": False,
        good + "— name AAAA\n": False,
        good + "— name AAAAAAA=\n": True,
        good + "— name AAAAAA==\n": False,
        good + "— name AAAAAAB=\n": False,
        good + "\u2014 \u200bname AAAAAAA=\n": True,
        good + "\x7f": False,
        "": False,
    }
    for lines, accepted in cases.items():
        data = (text + "\n" + lines).encode()
        assert verdict(lambda data=data: open_checkpoint(data, [LOG.public])) is accepted, lines
    for data in (b"", b"\n", b"\n\n", text.encode(), (text + good).encode(), b"\xff" + signed(text)):
        assert not verdict(lambda data=data: open_checkpoint(data, [LOG.public]))


def test_verifier_keys() -> None:
    good = str(LOG.public)
    name, identifier, material = good.split("+", 2)
    assert str(VerifierKey.parse(good)) == good
    urlsafe = base64.urlsafe_b64encode(b"\x01" + b"\xff" * 32).decode()
    for vkey in (
        "", "+", "++", name, f"{name}+{identifier}", f"+{identifier}+{material}", f"{name}+{identifier}+",
        f"{name}+{identifier.upper() if identifier.upper() != identifier else 'g' * 8}+{material}",
        f"{name}+0{identifier}+{material}", f"{name}+{identifier[1:]}+{material}", f"{good}\n", f" {good}", f"{good} ",
        f"{name}x+{identifier}+{material}", f"{name}\u3000+{identifier}+{material}", f"{good}=",
        good.replace("+A", "+B", 1),
        f"{name}+{identifier}+{urlsafe}",
    ):  # fmt: skip
        if vkey != good:
            assert not verdict(lambda vkey=vkey: VerifierKey.parse(vkey)), vkey
    for kind, length in ((0, 32), (1, 31), (1, 33), (2, 32), (3, 32), (4, 31), (6, 32), (6, 1311), (255, 32)):
        key = VerifierKey("n.example", kind, bytes(length))
        assert not verdict(lambda key=key: VerifierKey.parse(str(key))), (kind, length)


def cosigned(times: list[int | None], *, extra: tuple[NoteSignature, ...] = (), text: str = "") -> bytes:
    text = text or checkpoint(5).text
    lines = [cosign(key, text, time) for key, time in zip(WITNESSES, times, strict=False) if time is not None]
    return Note(text, (LOG.sign_note(text), *lines, *extra)).encode()


@pytest.mark.parametrize(
    ("times", "code"),
    [
        ([NOW, NOW, None], None),
        ([NOW - 3600, NOW + 300, None], None),
        ([NOW - 3601, NOW, None], Code.WITNESS_STALE),
        ([NOW + 301, NOW, None], Code.WITNESS_STALE),
        ([NOW - 3601, NOW, NOW], None),
        ([NOW, None, None], Code.WITNESS_QUORUM),
        ([None, None, None], Code.WITNESS_QUORUM),
        ([0, NOW, None], Code.WITNESS_STALE),
        ([2**63 - 1, NOW, None], Code.WITNESS_STALE),
    ],
)
def test_times_of_cosignatures(times: list[int | None], code: Code | None) -> None:
    policy = TlogPolicy.threshold(LOG.public, [key.public for key in WITNESSES], 2)
    at = datetime.fromtimestamp(NOW, UTC)

    def check(data: bytes) -> Code | None:
        try:
            policy.check_witnesses(policy.open(data), at=at, max_age_s=3600, max_future_s=300)
        except TransparencyError as error:
            return error.code
        return None

    assert check(cosigned(times)) == code


def test_forged_lines_of_witnesses() -> None:
    policy = TlogPolicy.threshold(LOG.public, [key.public for key in WITNESSES], 2)
    at = datetime.fromtimestamp(NOW, UTC)
    one = WITNESSES[0]
    good = cosign(one, checkpoint(5).text, NOW)
    other_tree = cosign(one, checkpoint(6).text, NOW)
    renamed = NoteSignature(WITNESSES[1].public.name, WITNESSES[1].public.id, good.signature)
    later = replace(good, signature=(NOW + 1).to_bytes(8, "big") + good.signature[8:])
    huge = replace(good, signature=(2**63).to_bytes(8, "big") + good.signature[8:])
    for extra in (
        (good,),
        (good, good),
        (good, cosign(one, checkpoint(5).text, NOW - 1)),
        (good, renamed),
        (good, other_tree),
        (good, later),
        (good, huge),
        (good, replace(good, signature=good.signature[:-1])),
        (good, replace(good, signature=good.signature + b"\0")),
        (good, LOG.sign_note(checkpoint(5).text)),
    ):
        data = cosigned([None, None, None], extra=extra)
        with pytest.raises(TransparencyError) as caught:
            policy.check_witnesses(policy.open(data), at=at, max_age_s=None, max_future_s=300)
        assert caught.value.code is Code.WITNESS_QUORUM
    # An extension line is signed by an Ed25519 witness too.
    extended = checkpoint(5, extensions=("note",)).text
    policy.check_witnesses(
        policy.open(cosigned([NOW, NOW, None], text=extended)), at=at, max_age_s=None, max_future_s=0
    )


def test_self_contained_proofs() -> None:
    data = TlogProof(3, prove_inclusion(3, 5, node), signed(checkpoint(5).text)).encode().decode()
    header, rest = data.split("\n", 1)
    alone = TlogProof(0, (), signed(checkpoint(1).text)).encode()

    def check(text: bytes, index: int = 3) -> None:
        proof = TlogProof.parse(text)
        proof.verify_leaf(HASHES[index], open_checkpoint(proof.checkpoint, [LOG.public]).checkpoint)

    check(data.encode())
    check(alone, 0)
    check(f"{header}\nextra \n{rest}".encode())
    check(f"{header}\nextra AAAA\n{rest}".encode())
    for text in (
        "", header, f"{header}\n", f"\n{data}", f" {data}", data.replace("v1", "v2"), data.replace("\n", "\r\n"),
        data.replace("index 3", "index 03"), data.replace("index 3", "index  3"), data.replace("index 3", "index 3 "),
        data.replace("index 3", "index +3"), data.replace("index 3", "Index 3"), data.replace("index 3\n", ""),
        data.replace("index 3", "index 9223372036854775808"), data.replace("index 3", "index 3\nindex 3"),
        data.replace("index 3", "index 3\nextra AAAA"), f"{header}\nextra AAAA\nextra AAAA\n{rest}",
        f"{header}\nextra AAA\n{rest}", f"{header}\nextra\n{rest}", f"{header}\nextra ä\n{rest}", data[:-1],
        data + "\n", data.replace("\n\n", "\n", 1), data.replace("\n\n", "\n\n\n", 1), f"{data}{data}",
    ):  # fmt: skip
        assert not verdict(lambda text=text: check(text.encode())), text


@pytest.mark.parametrize(
    ("lines", "good"),
    [
        ("quorum none", True),
        ("quorum none\n\n  # comment\t\n", True),
        ("\tquorum \t none  ", True),
        ("quorum none extra", False),
        ("quorum None", False),
        ("quorum", False),
        ("", False),
        ("QUORUM none", False),
        ("witness none {w0}\nquorum none", False),
        ("witness a {w0}\nquorum a", True),
        ("quorum a\nwitness a {w0}", False),
        ("witness a {w0} https://w.example\nquorum a", True),
        ("witness a {w0} https://w.example more\nquorum a", False),
        ("witness a {w0}\nwitness a {w1}\nquorum a", False),
        ("witness a {w0}\ngroup a 1 a\nquorum a", False),
        ("witness a {w0}\nwitness b {w1}\ngroup g 2 a b\nquorum g", True),
        ("witness a {w0}\nwitness b {w1}\ngroup g 02 a b\nquorum g", False),
        ("witness a {w0}\nwitness b {w1}\ngroup g +2 a b\nquorum g", False),
        ("witness a {w0}\nwitness b {w1}\ngroup g 3 a b\nquorum g", False),
        ("witness a {w0}\nwitness b {w1}\ngroup g 0 a b\nquorum g", False),
        ("witness a {w0}\nwitness b {w1}\ngroup g -1 a b\nquorum g", False),
        ("witness a {w0}\ngroup g any\nquorum g", False),
        ("witness a {w0}\ngroup g all a\ngroup h all g\nquorum h", True),
        ("witness a {w0}\ngroup g all a\ngroup h all a\nquorum h", False),
        ("witness a {w0}\ngroup g all g\nquorum g", False),
        ("witness a {w0}\nwitness b {w0}\nquorum a", False),
        ("witness all {w0}\nwitness any {w1}\ngroup 1 1 all any\nquorum 1", True),
        ("log {log}\nquorum none", True),
        ("log {log}\nlog {log}\nquorum none", False),
        ("log {w0}\nquorum none", False),
        ("witness a {log}\nquorum a", False),
        ("log {log} https://l.example\nquorum none", True),
        ("log {log} https://l.example x\nquorum none", False),
        ("log\nquorum none", False),
        ("witness K {w0}\nwitness \u212a {w1}\ngroup g 2 K \u212a\nquorum g", True),
        ("witness a {w0}\x0b\nquorum a", False),
        ("witness a {w0}\x7f\nquorum a", False),
        ("witness a {w0}\nquorum a\nquorum a", False),
    ],
)
def test_policies(lines: str, good: bool) -> None:
    text = lines.format(w0=WITNESSES[0].public, w1=WITNESSES[1].public, log=LOG.public)
    assert verdict(lambda: TlogPolicy.parse(text.encode())) is good
    assert verdict(lambda: TlogPolicy.parse(text.encode() + b"\n")) is good


def request(old: int, size: int, *, path: tuple[bytes, ...] | None = None, **changes: Any) -> bytes:
    steps = prove_consistency(old, size, node) if path is None and 0 <= old <= size else path or ()
    return encode_request(old, steps, signed(checkpoint(size, **changes).text))


def test_witness_requests() -> None:
    stranger = Checkpoint(OTHER.public.name, 9, root(9)).text
    good = request(5, 9)
    steps: list[tuple[bytes, int]] = [
        (request(0, 5, path=(bytes(32),)), 422),
        (request(1, 5), 409),
        (request(0, 5), 200),
        (request(0, 5), 409),
        (request(0, 0), 409),
        (request(5, 5), 200),
        (request(5, 5, path=(bytes(32),)), 422),
        (request(5, 5, root=bytes(32)), 422),
        (request(5, 5, extensions=("another line",)), 200),
        (request(5, 4, path=()), 400),
        (request(9, 5, path=()), 400),
        (request(4, 9), 409),
        (request(6, 9), 409),
        (good.replace(b"old 5", b"old 05"), 400),
        (good.replace(b"old 5", b"old +5"), 400),
        (good.replace(b"old 5", b"old 5 "), 400),
        (good.replace(b"old 5", b"old  5"), 400),
        (good.replace(b"old 5", b"OLD 5"), 400),
        (good.replace(b"old 5", b"old 5\r"), 400),
        (good.replace(b"old 5", b"old 9223372036854775808"), 400),
        (good.replace(b"old 5\n", b""), 400),
        (good.replace(b"old 5\n", b"old 5\nold 5\n"), 400),
        (b"\n" + good, 400),
        (good[:-1], 400),
        (good + b"\n", 400),
        (good.replace(b"\n\n", b"\n", 1), 400),
        (good.replace("—".encode(), b"-"), 400),
        (b"", 400),
        (b"\xff" * 50, 400),
        (encode_request(5, (bytes(32),) * 64, signed(checkpoint(9).text)), 400),
        (encode_request(5, (bytes(32),) * 63, signed(checkpoint(9).text)), 422),
        (encode_request(5, (bytes(31),), signed(checkpoint(9).text)), 400),
        (encode_request(5, (), signed(checkpoint(9).text)), 422),
        (encode_request(5, prove_consistency(5, 9, node)[::-1], signed(checkpoint(9).text)), 422),
        (encode_request(5, prove_consistency(5, 9, node), signed(stranger, OTHER)), 404),
        (encode_request(99, (), signed(stranger, OTHER)), 404),
        (encode_request(5, prove_consistency(5, 9, node), signed(checkpoint(9).text, OTHER)), 403),
        (encode_request(99, (), signed(checkpoint(9).text, OTHER)), 403),
        (good, 200),
        (good, 409),
        (request(9, 256), 200),
        (request(256, 257), 200),
        (request(257, 300), 200),
    ]
    witness = Witness(WITNESSES[0], [LOG.public], VolatileWitnessStore(), lambda: NOW)
    for number, (body, status) in enumerate(steps):
        response = witness.add_checkpoint(body)
        assert response.status == status, (number, body[:80])
        if status == 409:
            assert response.content_type == "text/x.tlog.size"
        elif status != 200:
            assert response.body == b""


def test_a_log_with_two_keys_for_its_origin() -> None:
    """Both are trusted: one good signature is enough, a bad one under either refuses the request."""
    second = SigningKey.generate(LOG.public.name)
    text = checkpoint(3).text
    for lines, status in (
        ((second.sign_note(text),), 200),
        ((LOG.sign_note(text), second.sign_note(text)), 200),
        ((LOG.sign_note(text), NoteSignature(second.public.name, second.public.id, bytes(64))), 403),
    ):
        witness = Witness(WITNESSES[0], [LOG.public, second.public], VolatileWitnessStore(), lambda: NOW)
        assert witness.add_checkpoint(encode_request(0, (), Note(text, lines).encode())).status == status


def test_two_views() -> None:
    honest = [checkpoint(size) for size in (0, 5, 9)]
    fork = [checkpoint(5, root=bytes(32)), checkpoint(9, root=bytes(32)), checkpoint(0, root=bytes(32))]
    path = prove_consistency(5, 9, node)
    for first, second, proof, expected in (
        (honest[1], honest[2], path, Views.CONSISTENT),
        (honest[2], honest[1], path, Views.OLDER),
        (honest[1], honest[1], (), Views.CONSISTENT),
        (honest[0], honest[2], (), Views.CONSISTENT),
        (honest[2], honest[0], (), Views.OLDER),
        (honest[0], honest[0], (), Views.CONSISTENT),
        (honest[1], fork[0], (), Views.SPLIT),
        (honest[0], fork[2], (), Views.SPLIT),
        (honest[1], fork[0], path, Views.SPLIT),
        (honest[1], fork[1], path, Views.INCONSISTENT),
        (fork[0], honest[2], path, Views.INCONSISTENT),
        (honest[2], fork[0], path, Views.INCONSISTENT),
        (honest[1], honest[2], (), Views.INCONSISTENT),
        (honest[1], honest[2], path[:-1], Views.INCONSISTENT),
        (fork[2], honest[1], (), Views.INCONSISTENT),
    ):
        assert compare_views(first, second, proof) is expected


def test_an_auditor_and_every_way_to_change_a_file() -> None:
    files = {
        tile_path(None, 0): encode_bundle(LEAVES[:256]),
        tile_path(None, 1, 44): encode_bundle(LEAVES[256:]),
        tile_path(0, 0): b"".join(HASHES[:256]),
        tile_path(0, 1, 44): b"".join(HASHES[256:]),
        tile_path(1, 0, 1): tree_hash(HASHES[:256]),
    }

    def check(name: str, data: bytes | None) -> None:
        def read(wanted: str) -> bytes:
            found = data if wanted == name else files.get(wanted)
            if found is None:
                raise FileNotFoundError(wanted)
            return found

        audit(read, checkpoint(300))

    check("", None)
    for name, data in files.items():
        changed: list[bytes | None] = [
            None,
            b"",
            data[:-1],
            data + b"\0",
            data + bytes(32),
            data[32:],
            data[:-32],
        ]
        changed += [
            data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] for at in (0, 1, len(data) // 2, len(data) - 1)
        ]
        changed.append(data + encode_bundle([b"one more"]))
        for other in changed:
            assert not verdict(lambda name=name, other=other: check(name, other)), name
    # A log that has moved on may have deleted the partial tile: the full one stands for it.
    grown = {**files, tile_path(0, 1): b"".join(HASHES[256:]) + bytes(32 * 212)}
    del grown[tile_path(0, 1, 44)]
    audit(
        lambda name: grown[name] if name in grown else (_ for _ in ()).throw(FileNotFoundError(name)),
        checkpoint(300),
    )
