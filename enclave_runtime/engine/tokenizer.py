"""Text to token ids, and token ids to text one piece at a time.

The work is done by the ``tokenizers`` library. Its cache of words already split is switched off: it would
keep parts of prompts after their request has ended, and answer faster for words that someone else has used
before.
"""

import codecs
import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from tokenizers import Tokenizer as NativeTokenizer

from enclave_runtime.engine.errors import InvalidRequest, ModelMalformed, UnsupportedModel


class Tokenizer:
    """A vocabulary with its rules.

    ``end_ids`` end an answer; ``bos`` and ``eos`` are the texts of the two markers ("" where there is none);
    ``digest`` is the SHA-256 of what the tokenizer was made from. ``vocabulary`` is every token of ``native`` with its
    number, for those who have it at hand; else it is asked.
    """

    def __init__(
        self,
        native: NativeTokenizer,
        *,
        end_ids: Iterable[int],
        bos: str,
        eos: str,
        digest: bytes,
        vocabulary: Mapping[str, int] | None = None,
    ) -> None:
        native.no_padding()
        native.no_truncation()
        resize = getattr(native.model, "_resize_cache", None)
        if resize is not None:
            resize(0)
            native.model._clear_cache()
        self._native = native
        self.bos = bos
        self.eos = eos
        self.digest = digest
        if vocabulary is None:
            vocabulary = native.get_vocab(with_added_tokens=True)
        self._text_bytes, self._drop_first_space = _text_bytes(native, vocabulary)
        self.end_ids = frozenset(end_ids)
        if any(not 0 <= token < self.size for token in self.end_ids):
            raise ModelMalformed("end token outside the vocabulary", found=sorted(self.end_ids))

    @property
    def size(self) -> int:
        """One more than the highest token id."""
        return len(self._text_bytes)

    def bytes_of(self, token: int) -> bytes:
        """The bytes that ``token`` adds to an answer; empty for markers and for ids without a token."""
        return self._text_bytes[token] if 0 <= token < len(self._text_bytes) else b""

    def vocabulary_digest(self) -> bytes:
        """SHA-256 over every token by its number: the same for the same vocabulary in whatever form it is stored."""
        whole = hashlib.sha256()
        vocabulary: dict[str, int] = self._native.get_vocab(with_added_tokens=True)
        for token, number in sorted(vocabulary.items(), key=lambda entry: (entry[1], entry[0])):
            name = token.encode("utf-8", "surrogatepass")
            whole.update(number.to_bytes(4, "big") + len(name).to_bytes(4, "big") + name)
        return whole.digest()

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Token ids of ``text``. Markers spelled out in it (as chat templates do) become their tokens.

        ``add_special_tokens`` adds what the model wants around plain text, such as a beginning marker.
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise InvalidRequest("text with a lone surrogate") from None
        ids: list[int] = self._native.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of a whole sequence; markers have none."""
        stream = self.stream()
        return "".join([stream.push(token) for token in tokens]) + stream.finish()

    def stream(self) -> "TextStream":
        """A decoder for one answer."""
        return TextStream(self._text_bytes, self._drop_first_space)


class TextStream:
    """Turns tokens into text as they come, holding back bytes until they are whole characters.

    What can never become valid UTF-8 is given out as U+FFFD. Python cannot overwrite the strings and the few
    held bytes of this object; they live until the interpreter reuses their memory.
    """

    def __init__(self, text_bytes: Sequence[bytes], drop_first_space: bool) -> None:
        self._text_bytes = text_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._drop_space = drop_first_space

    def push(self, token: int) -> str:
        """The text that ``token`` completes; a token id outside the vocabulary has none."""
        part = self._text_bytes[token] if 0 <= token < len(self._text_bytes) else b""
        if self._drop_space and part:
            self._drop_space = False
            part = part.removeprefix(b" ")
        return self._decoder.decode(part)

    def finish(self) -> str:
        """U+FFFD if bytes of an unfinished character are left, else nothing."""
        text = self._decoder.decode(b"", True)
        self._decoder.reset()
        return text


def tokenizer_from_json(
    document: bytes, *, end_ids: Iterable[int], bos: str, eos: str, digest: bytes | None = None
) -> Tokenizer:
    """Build from the bytes of a ``tokenizer.json``. Raises `ModelMalformed` or `UnsupportedModel`."""
    try:
        native = NativeTokenizer.from_str(document.decode("utf-8"))
    except Exception:  # the library raises bare Exception
        raise ModelMalformed("tokenizer.json cannot be read") from None
    return Tokenizer(
        native, end_ids=end_ids, bos=bos, eos=eos, digest=digest or hashlib.sha256(document).digest()
    )


def token_ids(document: Mapping[str, object], name: str) -> set[int]:
    """An id or a list of ids under ``name`` of a configuration document; empty when absent."""
    value = document.get(name)
    if value is None:
        return set()
    values = value if isinstance(value, list) else [value]
    if not all(type(item) is int for item in values):
        raise ModelMalformed(f"{name} is no token id and no list of them")
    return set(values)


_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _text_bytes(native: NativeTokenizer, vocabulary: Mapping[str, int]) -> tuple[list[bytes], bool]:
    """Bytes of text for every token id, and whether an answer's first space is dropped."""
    try:  # what the library writes when a decoder is pickled: its JSON
        decoder = None if native.decoder is None else json.loads(native.decoder.__getstate__())
    except ValueError:
        raise ModelMalformed("tokenizer's decoder cannot be written as JSON") from None
    steps = decoder["decoders"] if decoder and decoder["type"] == "Sequence" else [decoder] if decoder else []
    kinds = [step["type"] for step in steps]
    added = native.get_added_tokens_decoder()
    size = max(vocabulary.values(), default=-1) + 1
    table = [b""] * size
    drop_first_space = False
    if kinds == ["ByteLevel"]:
        for number, part in zip(vocabulary.values(), _from_byte_alphabet(vocabulary), strict=True):
            table[number] = part
    elif kinds == ["Replace", "ByteFallback", "Fuse", "Strip"] or kinds == [
        "Replace",
        "ByteFallback",
        "Fuse",
    ]:
        replaced = steps[0]["pattern"].get("String"), steps[0]["content"]
        strip: dict[str, Any] = steps[3] if len(steps) == 4 else {"content": " ", "start": 0, "stop": 0}
        if replaced != ("▁", " ") or (strip["content"], strip["stop"]) != (" ", 0) or strip["start"] > 1:
            raise UnsupportedModel("settings of the tokenizer's decoder", found=kinds)
        drop_first_space = strip["start"] == 1
        for token, number in vocabulary.items():
            byte = _BYTE_TOKEN.fullmatch(token)
            table[number] = bytes([int(byte[1], 16)]) if byte else token.replace("▁", " ").encode("utf-8")
    else:
        raise UnsupportedModel("decoder of the tokenizer", expected="ByteLevel or byte fallback", found=kinds)
    for number, marker in added.items():
        table[number] = b"" if marker.special else marker.content.encode("utf-8")
    return table, drop_first_space


def _byte_alphabet() -> dict[str, int]:
    # GPT-2's alphabet: printable Latin-1 stands for itself, the other bytes follow from U+0100 on.
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    alphabet = {chr(byte): byte for byte in plain}
    alphabet |= {chr(0x100 + index): byte for index, byte in enumerate(others)}
    return alphabet


BYTE_ALPHABET = _byte_alphabet()
# The byte of each character by its number; 256 for those outside the alphabet, of which the last stands for the rest.
_BYTES = np.full(max(map(ord, BYTE_ALPHABET)) + 2, 256, dtype=np.uint16)
_BYTES[list(map(ord, BYTE_ALPHABET))] = list(BYTE_ALPHABET.values())


def _from_byte_alphabet(tokens: Collection[str]) -> list[bytes]:
    """The bytes that ``tokens`` spell. All at once, since a character of the alphabet is a byte."""
    whole = _spelled("".join(tokens))
    if whole is None:
        # Only added tokens, which stand for themselves, lie outside the alphabet.
        return [token.encode("utf-8") if (part := _spelled(token)) is None else part for token in tokens]
    ends = list(accumulate(map(len, tokens), initial=0))
    return [whole[start:end] for start, end in pairwise(ends)]


def _spelled(text: str) -> bytes | None:
    """The bytes of a text in the alphabet, None where it is not."""
    numbers = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    found = _BYTES[np.minimum(numbers, len(_BYTES) - 1)]
    return None if (found > 255).any() else found.astype(np.uint8).tobytes()
