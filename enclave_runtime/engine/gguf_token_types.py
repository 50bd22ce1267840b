"""What kind of token each entry of a GGUF vocabulary is (specification: ggml docs/gguf.md, ``token_type``)."""

import enum
from collections.abc import Collection, Iterable

from tokenizers import AddedToken
from tokenizers import Tokenizer as NativeTokenizer


class TokenType(enum.IntEnum):
    """The numbers of ``tokenizer.ggml.token_type``."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


def add_whole(
    native: NativeTokenizer, tokens: Iterable[str], kinds: Iterable[int], *, special: Collection[TokenType]
) -> None:
    """Have ``native`` take tokens whole where a text spells them: user-defined ones, and as markers those of the types
    ``special``. ``tokens`` are all there are, by their numbers, ``kinds`` their types.
    """
    normal = int(TokenType.NORMAL)  # almost all are
    unusual = [(token, kind) for token, kind in zip(tokens, kinds, strict=True) if kind != normal]
    native.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token, kind in unusual if kind in special]
    )
    native.add_tokens(
        [AddedToken(token, normalized=False) for token, kind in unusual if kind == TokenType.USER_DEFINED]
    )
