"""The tokenizer that a GGUF file carries in its metadata: byte-level BPE as GPT-2 introduced it, or SentencePiece.

How byte-level text is cut into words before merging has a name in the file (``tokenizer.ggml.pre``); a name that is
not in `_SPLITTERS` is refused, because a wrong cut gives other tokens than the model was trained on.
"""

import hashlib
import json
from collections.abc import Callable
from itertools import repeat

from tokenizers import Regex, decoders, models, pre_tokenizers, processors
from tokenizers import Tokenizer as NativeTokenizer

from enclave_runtime.engine.errors import ModelMalformed, UnsupportedModel
from enclave_runtime.engine.gguf_file import GgufMetadata
from enclave_runtime.engine.gguf_sentencepiece import native_from_sentencepiece
from enclave_runtime.engine.gguf_token_types import TokenType, add_whole
from enclave_runtime.engine.tokenizer import Tokenizer

# Llama 3: contractions, words with one leading symbol, numbers of up to three digits, symbols, line ends,
# blanks.
_LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
    r"|[^\r\n\p{L}\p{N}]?\p{L}+"
    r"|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+"
    r"|\s+(?!\S)"
    r"|\s+"
)


def tokenizer_from_gguf(metadata: GgufMetadata) -> Tokenizer:
    """Build the tokenizer. Raises `ModelMalformed` or `UnsupportedModel`."""
    family = metadata.text("tokenizer.ggml.model")
    if family not in ("gpt2", "llama"):
        raise UnsupportedModel("tokenizer model in the GGUF file", expected="gpt2 or llama", found=family)
    tokens = metadata.texts("tokenizer.ggml.tokens")
    types = metadata.integers("tokenizer.ggml.token_type")
    if len(types) != len(tokens):
        raise ModelMalformed("count of token types", expected=len(tokens), found=len(types))
    vocabulary = dict(zip(tokens, range(len(tokens)), strict=True))
    if len(vocabulary) != len(tokens):
        raise ModelMalformed("token twice in the vocabulary")
    if family == "llama":
        native, begins = native_from_sentencepiece(metadata, tokens, types), True
    else:
        native, begins = _byte_level(metadata, vocabulary, types)

    bos = _marker(metadata, "bos", tokens)
    eos = _marker(metadata, "eos", tokens)
    if metadata.boolean("tokenizer.ggml.add_bos_token", begins) and bos:
        native.post_processor = processors.TemplateProcessing(
            single=[bos, "$A"], special_tokens=[(bos, vocabulary[bos])]
        )
    ends = {
        metadata.integer(f"tokenizer.ggml.{name}_token_id")
        for name in ("eos", "eot", "eom")
        if f"tokenizer.ggml.{name}_token_id" in metadata
    }
    return Tokenizer(
        native, end_ids=ends, bos=bos, eos=eos, digest=tokenizer_digest(metadata), vocabulary=vocabulary
    )


def _byte_level(
    metadata: GgufMetadata, vocabulary: dict[str, int], types: list[int]
) -> tuple[NativeTokenizer, bool]:
    """The library's tokenizer, and whether text begins with a marker where the file does not say."""
    splitter = metadata.text("tokenizer.ggml.pre", "(none)")
    if splitter not in _SPLITTERS:
        raise UnsupportedModel("pre-tokenizer in the GGUF file", expected=sorted(_SPLITTERS), found=splitter)
    merges = _merges(metadata.texts("tokenizer.ggml.merges"))
    try:
        # Llama 3 takes a word that is a token as it is, even where no chain of merges leads to it.
        model = models.BPE(vocab=vocabulary, merges=merges, ignore_merges=splitter in _WHOLE_WORDS)
    except Exception:  # the library raises bare Exception; its text would quote the vocabulary
        raise ModelMalformed("merge of tokens that are not in the vocabulary") from None
    native = NativeTokenizer(model)
    native.pre_tokenizer = _SPLITTERS[splitter]()
    native.decoder = decoders.ByteLevel()
    add_whole(native, vocabulary, types, special={TokenType.CONTROL})
    return native, splitter in _WHOLE_WORDS


def tokenizer_digest(metadata: GgufMetadata) -> bytes:
    """SHA-256 over the ``tokenizer.*`` entries as JSON with sorted keys, no blanks and ASCII escapes."""
    entries = metadata.below("tokenizer.")
    text = json.dumps(entries, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).digest()


def _merges(lines: list[str]) -> list[tuple[str, str]]:
    """Left and right of each line."""
    parts = " ".join(lines).split(" ") if lines else []
    # One blank in each line and nothing empty: then every two parts are a line's.
    if set(map(str.count, lines, repeat(" "))) - {1} or "" in parts:
        raise ModelMalformed("merge that does not join two tokens")
    return list(zip(parts[::2], parts[1::2], strict=True))


def _marker(metadata: GgufMetadata, name: str, tokens: list[str]) -> str:
    key = f"tokenizer.ggml.{name}_token_id"
    if key not in metadata:
        return ""
    number = metadata.integer(key)
    if not 0 <= number < len(tokens):
        raise ModelMalformed(f"{key} outside the vocabulary", found=number)
    return tokens[number]


def _gpt2() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _single_digits() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _gpt2()])


def _llama3() -> pre_tokenizers.PreTokenizer:
    words = pre_tokenizers.Split(Regex(_LLAMA3_WORDS), behavior="isolated")
    return pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


_SPLITTERS: dict[str, Callable[[], pre_tokenizers.PreTokenizer]] = {
    "gpt-2": _gpt2,
    "smollm": _single_digits,
    "llama-bpe": _llama3,
    "llama3": _llama3,
}
_WHOLE_WORDS = {"llama-bpe", "llama3"}
