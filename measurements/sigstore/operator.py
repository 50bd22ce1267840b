"""The operator's side of Sigstore at the command line: which instance, and whose identity token."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final

from ..errors import Code, TransparencyError
from ..release_signature import ReleaseSignature
from .bundle import MAX_BUNDLE
from .sign import Instance, ambient_token, sign_statement

_MAX_TOKEN: Final = 64 * 1024


def operator_signature(
    *, token: Path | None, config: Path | None, now: Callable[[], datetime]
) -> ReleaseSignature:
    """How to sign releases: at the instance that ``config`` describes (None: the public one), with the token in
    a file (None: the one that this environment offers).

    The token is asked for when something is to be signed, since it lives for minutes. Raises TransparencyError,
    OSError.
    """
    instance = Instance.public() if config is None else Instance.parse(_read(config, MAX_BUNDLE))

    def sign(payload: bytes) -> bytes:
        text = ambient_token() if token is None else _text(_read(token, _MAX_TOKEN))
        return sign_statement(payload, instance, text)

    return ReleaseSignature(sign, instance.root_json, now)


def _read(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise TransparencyError(
            Code.LIMIT_EXCEEDED, str(path), stage="sigstore.sign", expected=f"≤ {limit} B"
        )
    return data


def _text(data: bytes) -> str:
    try:
        return data.decode("ascii").strip()
    except UnicodeDecodeError:
        raise TransparencyError(
            Code.KEY_UNUSABLE, "the identity token is malformed", stage="sigstore.sign"
        ) from None
