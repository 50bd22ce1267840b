"""SentencePiece vocabularies of GGUF files: the tokens that SentencePiece itself gives, or a refusal by name."""

import heapq
import json
from pathlib import Path
from typing import Any

import gguf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enclave_runtime.engine.errors import ModelError, ModelMalformed, UnsupportedModel
from enclave_runtime.engine.gguf_file import GgufMetadata, parse_gguf
from enclave_runtime.engine.gguf_tokenizer import tokenizer_from_gguf
from enclave_runtime.engine.tokenizer import Tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
MARKERS = ["<unk>", "<s>", "</s>", "[INST]", "<tool>"]
MARKER_TYPES = [UNKNOWN, CONTROL, CONTROL, CONTROL, USER_DEFINED]

RECORDED = json.loads(Path(__file__).with_name("sentencepiece_cases.json").read_text())


def metadata(pieces: dict[str, float], **changes: Any) -> GgufMetadata:
    tokens = [*MARKERS, *BYTES, *pieces]
    values: dict[str, Any] = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * 261 + list(pieces.values()),
        "tokenizer.ggml.token_type": MARKER_TYPES + [BYTE] * 256 + [NORMAL] * len(pieces),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    for name, value in changes.items():
        values[f"tokenizer.ggml.{name}"] = value
    return GgufMetadata(values)


def pieces_of(text: str, scores: dict[str, float]) -> list[str]:
    """SentencePiece's rule as it is written down: join the neighbours with the best score, the leftmost of equals."""
    symbols: list[str] = list(text)
    after = [*range(1, len(symbols)), -1]
    before = list(range(-1, len(symbols) - 1))
    heap: list[tuple[float, int, int, str]] = []

    def offer(left: int, right: int) -> None:
        if left >= 0 and right >= 0 and symbols[left] + symbols[right] in scores:
            joined = symbols[left] + symbols[right]
            heapq.heappush(heap, (-scores[joined], left, right, joined))

    for right in range(1, len(symbols)):
        offer(right - 1, right)
    while heap:
        _, left, right, joined = heapq.heappop(heap)
        if not symbols[left] or not symbols[right] or symbols[left] + symbols[right] != joined:
            continue
        symbols[left], symbols[right], after[left] = joined, "", after[right]
        if after[right] >= 0:
            before[after[right]] = left
        offer(before[left], left)
        offer(left, after[left])
    found: list[str] = []
    for symbol in filter(None, symbols):
        found += [symbol] if symbol in scores else [f"<0x{byte:02X}>" for byte in symbol.encode()]
    return found


@pytest.fixture(scope="module")
def recorded() -> Tokenizer:
    values = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": RECORDED["pieces"],
        "tokenizer.ggml.scores": RECORDED["scores"],
        "tokenizer.ggml.token_type": RECORDED["types"],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    return tokenizer_from_gguf(GgufMetadata(values))


def test_tokens_and_text_are_those_of_sentencepiece(recorded: Tokenizer) -> None:
    assert len(RECORDED["cases"]) > 80
    for text, ids, back in RECORDED["cases"]:
        assert recorded.encode(text) == ids, text
        assert recorded.decode(ids) == back, text
        assert recorded.encode(text, add_special_tokens=True) == [1, *ids], text


@given(st.text())
@settings(deadline=None)
def test_text_comes_back(recorded: Tokenizer, text: str) -> None:
    markers = [p for p, kind in zip(RECORDED["pieces"], RECORDED["types"], strict=True) if kind in (2, 3, 4)]
    if any(0xD800 <= ord(symbol) < 0xE000 for symbol in text) or any(marker in text for marker in markers):
        return
    tokens = recorded.encode(text)
    assert recorded.decode(tokens) == text.replace("▁", " ")
    stream = recorded.stream()
    assert "".join(stream.push(token) for token in tokens) + stream.finish() == text.replace("▁", " ")


@given(
    st.lists(st.text(alphabet="ab▁é", min_size=2, max_size=4), max_size=12, unique=True),
    st.randoms(use_true_random=False),
    st.lists(st.text(alphabet="ab éx", max_size=20), min_size=1, max_size=4),
)
@settings(deadline=None)
def test_pieces_join_by_score_and_then_from_the_left(
    longer: list[str], random: Any, texts: list[str]
) -> None:
    names = ["a", "b", "▁", "é", *longer]
    order = list(range(len(names)))
    random.shuffle(order)
    scores = {name: -float(place) for name, place in zip(names, order, strict=True)}
    tokenizer = tokenizer_from_gguf(metadata(scores))
    tokens = [*MARKERS, *BYTES, *names]
    for text in texts:
        if text:
            wanted = pieces_of("▁" + text.replace(" ", "▁"), scores)
            assert [tokens[number] for number in tokenizer.encode(text)] == wanted


def test_markers_are_found_as_spelled_and_each_part_after_one_begins_with_a_space() -> None:
    tokenizer = tokenizer_from_gguf(metadata({"▁": -1.0, "h": -2.0, "i": -3.0, "hi": -4.0, "▁hi": -5.0}))
    assert tokenizer.encode("[INST]hi</s>") == [3, 265, 2]
    assert tokenizer.encode("hi<tool>hi", add_special_tokens=True) == [1, 265, 4, 265]
    assert tokenizer.decode([1, 265, 4, 265, 2]) == "hi<tool> hi"
    plain = tokenizer_from_gguf(
        metadata({"▁": -1.0, "h": -2.0, "i": -3.0, "hi": -4.0}, add_space_prefix=False)
    )
    assert plain.encode("hi") == [264]
    assert plain.decode([261, 264]) == " hi"
    quiet = tokenizer_from_gguf(metadata({"▁": -1.0}, add_bos_token=False))
    assert quiet.encode("", add_special_tokens=True) == []


def test_no_other_piece_comes_out_of_plain_text() -> None:
    # "ab" is unused, "<0x61>" and "[INST" are spelled in pieces of their own.
    letters = {letter: -float(place) for place, letter in enumerate("▁ab<0x61>[INST")}
    made = metadata({**letters, "ab": -50.0, "[INST": -51.0})
    types = [*MARKER_TYPES, *[BYTE] * 256, *[NORMAL] * len(letters), UNUSED, NORMAL]
    tokens = [*MARKERS, *BYTES, *letters, "ab", "[INST"]
    scores = [0.0] * 261 + [*letters.values(), -50.0, -51.0]
    made = GgufMetadata(
        {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.scores": scores,
            "tokenizer.ggml.token_type": types,
        }
    )
    tokenizer = tokenizer_from_gguf(made)
    assert [tokens[number] for number in tokenizer.encode("ab<0x61>")] == list("▁ab<0x61>")


@pytest.mark.parametrize(
    ("pieces", "changes", "error"),
    [
        ({"a": -1.0, "b": -2.0, "ab": -3.0, "ba": -3.0}, {}, UnsupportedModel),  # which first?
        ({"a": -1.0, "ab": -3.0}, {}, UnsupportedModel),  # of a character that is no piece
        ({"a": -1.0, "abc": -3.0}, {}, UnsupportedModel),
        ({"a": -1.0}, {"precompiled_charsmap": [1]}, UnsupportedModel),
        ({"a": -1.0}, {"token_type": [NORMAL] * 262}, UnsupportedModel),  # bytes without a token
        ({"a": float("nan")}, {}, ModelMalformed),
        ({"a": float("inf")}, {}, ModelMalformed),
        ({"a": -1.0}, {"scores": [0.0] * 5}, ModelMalformed),
        ({"a": -1.0}, {"scores": ["0"] * 262}, ModelMalformed),
        ({"a": -1.0}, {"token_type": [NORMAL] * 5}, ModelMalformed),
        ({"a": -1.0, "b" * 600: -2.0}, {}, ModelMalformed),
        ({"a": -1.0}, {"eos_token_id": 9999}, ModelMalformed),
        ({"a": -1.0}, {"add_space_prefix": 1}, ModelMalformed),
        ({"a": -1.0}, {"model": "t5"}, UnsupportedModel),
    ],
)
def test_what_the_library_could_not_do_alike_is_refused(
    pieces: dict[str, float], changes: dict[str, Any], error: type[ModelError]
) -> None:
    with pytest.raises(error):
        tokenizer_from_gguf(metadata(pieces, **changes))


VALUES = st.one_of(
    st.integers(-5, 300), st.text(max_size=6), st.booleans(), st.floats(), st.lists(st.integers(0, 7))
)


@given(
    st.dictionaries(
        st.sampled_from(["scores", "token_type", "tokens", "bos_token_id", "add_bos_token"]), VALUES
    ),
    st.dictionaries(st.text(max_size=5), st.floats(), max_size=8),
)
@settings(deadline=None)
def test_odd_values_are_read_or_refused(changes: dict[str, Any], pieces: dict[str, float]) -> None:
    try:
        tokenizer = tokenizer_from_gguf(metadata(pieces, **changes))
    except ModelError:
        return
    assert all(0 <= number < tokenizer.size for number in tokenizer.encode("ab <s> é"))


def written(path: Path) -> bytes:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list([*MARKERS, *BYTES, "▁", "a", "b", "ab"])
    writer.add_token_scores([0.0] * 261 + [-1.0, -2.0, -3.0, -4.0])
    writer.add_token_types([*MARKER_TYPES, *[BYTE] * 256, *[NORMAL] * 4])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def test_a_file_cut_or_changed_anywhere_is_read_or_refused(tmp_path: Path) -> None:
    whole = written(tmp_path / "vocabulary.gguf")
    assert tokenizer_from_gguf(parse_gguf(whole).metadata).encode("ab") == [261, 264]
    read = 0
    for place in range(0, len(whole), 13):
        for data in (whole[:place], whole[:place] + bytes([whole[place] ^ 0x25]) + whole[place + 1 :]):
            try:
                tokenizer_from_gguf(parse_gguf(data).metadata).encode("ab <s>")
                read += 1
            except ModelError:
                pass
    assert read
