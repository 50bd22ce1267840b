"""SentencePiece tokenizers (BPE with scores and byte fallback: Llama 2, Mistral) from a GGUF file's metadata.

SentencePiece (Kudo and Richardson, 2018) has no list of merges: of all neighbours whose text together is a piece, it
joins those with the highest score first, the leftmost of equals. As each piece has a score of its own, that is the
order of ranks that the ``tokenizers`` library works by. A vocabulary for which the two could differ is refused.
"""

import math
from collections.abc import Sequence

from tokenizers import Tokenizer as NativeTokenizer
from tokenizers import decoders, models, normalizers

from enclave_runtime.engine.errors import ModelMalformed, UnsupportedModel
from enclave_runtime.engine.gguf_file import GgufMetadata
from enclave_runtime.engine.gguf_token_types import TokenType, add_whole

MAX_PIECE = 512
"""Characters of a piece at most."""
MAX_CHARACTERS = 1 << 24
"""Characters of all pieces together at most."""

_SPACE = "▁"


def native_from_sentencepiece(
    metadata: GgufMetadata, tokens: Sequence[str], types: Sequence[int]
) -> NativeTokenizer:
    """The library's tokenizer for ``tokens`` (no two alike) of ``types``. Raises `ModelMalformed`, `UnsupportedModel`.

    Markers and user-defined pieces are found in a text as they are spelled; no piece of another kind than a normal one
    comes from merging, so plain text never adds up to a marker.
    """
    if "tokenizer.ggml.precompiled_charsmap" in metadata:
        raise UnsupportedModel("tokenizer that rewrites characters")
    scores = metadata.numbers("tokenizer.ggml.scores")
    if len(scores) != len(tokens):
        raise ModelMalformed("count of token scores", expected=len(tokens), found=len(scores))
    if not all(map(math.isfinite, scores)):
        raise ModelMalformed("token score that is no number")
    if max(map(len, tokens), default=0) > MAX_PIECE or sum(map(len, tokens)) > MAX_CHARACTERS:
        raise ModelMalformed("pieces too long", expected=MAX_PIECE)
    kinds = list(zip(tokens, types, strict=True))
    spelled = {token for token, kind in kinds if kind == TokenType.BYTE}
    if spelled != {f"<0x{byte:02X}>" for byte in range(256)}:
        raise UnsupportedModel("tokenizer without a token for every byte", found=len(spelled))
    vocabulary = {token: number for number, token in enumerate(tokens)}
    unknown = next((token for token, kind in kinds if kind == TokenType.UNKNOWN), None)
    normal = {
        token: score for (token, kind), score in zip(kinds, scores, strict=True) if kind == TokenType.NORMAL
    }
    model = models.BPE(
        vocab=vocabulary, merges=_merges(normal), unk_token=unknown, fuse_unk=True, byte_fallback=True
    )
    native = NativeTokenizer(model)
    begins_with_space = metadata.boolean("tokenizer.ggml.add_space_prefix", True)
    steps: list[normalizers.Normalizer] = [normalizers.Prepend(_SPACE)] if begins_with_space else []
    native.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])
    strip = [decoders.Strip(content=" ", left=1, right=0)] if begins_with_space else []
    native.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    add_whole(native, tokens, types, special={TokenType.CONTROL, TokenType.UNKNOWN})
    return native


def _merges(normal: dict[str, float]) -> list[tuple[str, str]]:
    """Every way to put a piece together from two, the best score first."""
    characters = {token for token in normal if len(token) == 1}
    found: list[tuple[float, int, str, str]] = []
    scored: dict[float, str] = {}
    for piece, score in normal.items():
        if len(piece) == 1:
            continue
        ways = [
            (piece[:cut], piece[cut:])
            for cut in range(1, len(piece))
            if piece[:cut] in normal and piece[cut:] in normal
        ]
        if not ways:
            if len(piece) == 2 or not characters.issuperset(piece):
                # SentencePiece would join characters that are no pieces; the library cannot.
                raise UnsupportedModel("piece of characters that are no pieces")
            continue
        if scored.setdefault(score, piece) != piece:
            raise UnsupportedModel("two pieces of one score", found=score)
        found += [(-score, len(left), left, right) for left, right in ways]
    found.sort()
    return [(left, right) for _, _, left, right in found]
