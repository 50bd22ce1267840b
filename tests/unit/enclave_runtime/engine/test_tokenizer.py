"""Tokens and text: whole characters only, nothing remembered, unknown kinds refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as NativeTokenizer

from enclave_runtime.engine.errors import InvalidRequest, ModelError, ModelMalformed, UnsupportedModel
from enclave_runtime.engine.gguf_tokenizer import _merges
from enclave_runtime.engine.model import LoadedModel, load_model
from enclave_runtime.engine.stop_strings import StopFilter
from enclave_runtime.engine.tokenizer import (
    BYTE_ALPHABET,
    Tokenizer,
    _from_byte_alphabet,
    tokenizer_from_json,
)


@pytest.fixture(scope="module")
def tokenizer(tiny_model: LoadedModel) -> Tokenizer:
    return tiny_model.tokenizer


@given(st.text())
def test_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    try:
        tokens = tokenizer.encode(text)
    except InvalidRequest:
        with pytest.raises(UnicodeEncodeError):
            text.encode("utf-8")
        return
    assert tokenizer.decode(tokens) == text


@given(st.lists(st.integers(0, 263)))
def test_pieces_join_to_what_the_library_decodes(tokenizer: Tokenizer, tokens: list[int]) -> None:
    stream = tokenizer.stream()
    pieces = [stream.push(token) for token in tokens]
    whole = "".join(pieces) + stream.finish()
    assert whole == tokenizer._native.decode(tokens, skip_special_tokens=True)


@given(st.text(alphabet="aé世🦀 ", min_size=1))
def test_no_piece_holds_a_part_of_a_character(tokenizer: Tokenizer, text: str) -> None:
    stream = tokenizer.stream()
    for token in tokenizer.encode(text):
        assert "�" not in stream.push(token)
    assert stream.finish() == ""


def test_an_unfinished_character_shows_at_the_end_only(tokenizer: Tokenizer) -> None:
    stream = tokenizer.stream()
    *tokens, _ = tokenizer.encode("🦀")
    assert [stream.push(token) for token in tokens] == ["", "", ""]
    assert stream.finish() == "�"


def test_markers_become_their_tokens_and_have_no_text(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("<|im_start|>a<|im_end|>")[::2] == [1, 2]
    assert tokenizer.decode([1, 2]) == ""


def test_ids_outside_the_vocabulary_have_no_text(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode([tokenizer.size, -1, 10**9]) == ""


@pytest.mark.parametrize(
    ("pre", "text", "words"),
    [
        ("smollm", "I've 123 cats", ["I", "'ve", " ", "1", "2", "3", " cats"]),
        ("gpt-2", "I've 123 cats", ["I", "'ve", " 123", " cats"]),
        ("llama-bpe", "I'VE 12345\n\n x", ["I", "'VE", " ", "123", "45", "\n\n", " x"]),
    ],
)
def test_words_are_cut_as_the_file_says(
    tiny: Any, tmp_path: Path, pre: str, text: str, words: list[str]
) -> None:
    tokenizer = load_model(tiny.gguf(tmp_path / "m.gguf", pre=pre)).tokenizer
    cut = tokenizer._native.pre_tokenizer.pre_tokenize_str(text)
    assert [text[start:end] for _, (start, end) in cut] == words
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_an_unknown_cut_is_refused_by_name(tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="some-new-cut"):
        load_model(tiny.gguf(tmp_path / "m.gguf", pre="some-new-cut"))


def llama2_tokenizer() -> dict[str, Any]:
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    vocabulary |= {"▁": 259, "h": 260, "i": 261, "▁hi": 262}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "vocab": vocabulary,
            "merges": [],
            "byte_fallback": True,
            "unk_token": "<unk>",
        },
    }


@given(st.text(alphabet="hi é🦀", max_size=8))
def test_byte_fallback_tokenizers_stream_the_same_text(text: str) -> None:
    tokenizer = tokenizer_from_json(
        json.dumps(llama2_tokenizer()).encode(), end_ids=[2], bos="<s>", eos="</s>"
    )
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == tokenizer._native.decode(tokens) == text


def test_no_word_of_a_prompt_is_kept() -> None:
    document = llama2_tokenizer()
    document["model"]["byte_fallback"] = False
    text = json.dumps(document)
    with_memory = NativeTokenizer.from_str(text)
    tokenizer = tokenizer_from_json(text.encode(), end_ids=(), bos="", eos="")

    def changed_rules_are_noticed(native: NativeTokenizer) -> bool:
        before = native.encode("x", add_special_tokens=False).ids
        native.model.unk_token = None  # from here on an unknown character is nothing at all
        return bool(native.encode("x", add_special_tokens=False).ids != before)

    assert not changed_rules_are_noticed(with_memory)
    assert changed_rules_are_noticed(tokenizer._native)


def test_other_decoders_are_refused_by_name(tiny_folder: Path) -> None:
    document = json.loads((tiny_folder / "tokenizer.json").read_bytes())
    document["decoder"] = {"type": "WordPiece", "prefix": "##", "cleanup": True}
    with pytest.raises(UnsupportedModel, match="WordPiece"):
        tokenizer_from_json(json.dumps(document).encode(), end_ids=(), bos="", eos="")


def test_end_tokens_must_exist(tiny_folder: Path) -> None:
    with pytest.raises(ModelMalformed):
        tokenizer_from_json((tiny_folder / "tokenizer.json").read_bytes(), end_ids=[9999], bos="", eos="")


@given(st.binary(max_size=100))
def test_random_bytes_are_no_tokenizer(data: bytes) -> None:
    with pytest.raises(ModelError):
        tokenizer_from_json(data, end_ids=(), bos="", eos="")


@given(
    st.text(alphabet="abc", max_size=30),
    st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=3),
    st.randoms(use_true_random=False),
)
def test_stop_strings_cut_where_they_first_appear(text: str, stops: list[str], random: Any) -> None:
    places = [place for place in (text.find(stop) for stop in stops) if place >= 0]
    stop_filter, given_out, stopped, position = StopFilter(stops), "", False, 0
    while position < len(text) and not stopped:
        step = random.randint(1, 4)
        part, stopped = stop_filter.push(text[position : position + step])
        given_out += part
        position += step
    if not stopped:
        given_out += stop_filter.finish()
    assert stopped == bool(places)
    if not places:
        assert given_out == text
    else:
        assert text.startswith(given_out)
        assert not any(stop in given_out for stop in stops)


@given(st.lists(st.text(alphabet=[*BYTE_ALPHABET, " ", "\xad", "é", "世"], max_size=5), unique=True))
def test_tokens_spell_the_same_bytes_together_and_alone(tokens: list[str]) -> None:
    expected = [
        bytes(BYTE_ALPHABET[symbol] for symbol in token)
        if set(token) <= BYTE_ALPHABET.keys()
        else token.encode()
        for token in tokens
    ]
    assert _from_byte_alphabet(tokens) == expected


@pytest.mark.parametrize("lines", [["a b c", "d"], ["ab"], ["a  b"], [" ab"], ["ab "], [""], ["a b", " "]])
def test_lines_that_are_no_merges_are_refused(lines: list[str]) -> None:
    with pytest.raises(ModelMalformed):
        _merges(lines)


def test_lines_of_merges_become_pairs() -> None:
    assert _merges(["a b", "ab Ġc"]) == [("a", "b"), ("ab", "Ġc")]
    assert _merges([]) == []
