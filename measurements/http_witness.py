"""A witness behind HTTP, as a log asks it (c2sp.org/tlog-witness)."""

import re
from typing import Final
from urllib.parse import urlsplit

from .errors import Code, LogError, TransparencyError
from .note import MAX_NOTE, VerifierKey
from .web_client import WebClient
from .witness import WitnessResponse
from .witness_server import monitoring_path

_NAMED: Final = re.compile(r"(?P<vkey>\S+?)=(?P<url>https?://\S+)")


class HttpWitness:
    """One witness at a submission prefix; ``key`` is the one whose cosignature counts.

    ``monitoring`` is the prefix of its monitoring reads where that is another.
    """

    def __init__(
        self, key: VerifierKey, url: str, client: WebClient, *, monitoring: str | None = None
    ) -> None:
        self._key = key
        self._url = check_prefix(url)
        self._monitoring = check_prefix(monitoring) if monitoring else self._url
        self._client = client

    @property
    def key(self) -> VerifierKey:
        """The key that its cosignatures verify under."""
        return self._key

    def add_checkpoint(self, body: bytes) -> WitnessResponse:
        """Send an ``add-checkpoint`` request. Raises TransparencyError where no answer comes."""
        answer = self._client.post(f"{self._url}/add-checkpoint", body, limit=MAX_NOTE)
        return WitnessResponse(answer.status, answer.body, answer.content_type)

    def latest(self, origin: str) -> bytes | None:
        """The last checkpoint that it says it cosigned for ``origin``, unverified; None where it shows none.

        Raises TransparencyError where no answer comes.
        """
        answer = self._client.get(f"{self._monitoring}/{monitoring_path(origin)}", limit=MAX_NOTE)
        return answer.body if answer.status == 200 else None


def parse_witness(text: str) -> tuple[VerifierKey, str]:
    """The key and submission prefix of ``VKEY=URL``. Raises LogError (KEY_UNUSABLE), TransparencyError."""
    match = _NAMED.fullmatch(text)
    if match is None:
        raise LogError(Code.KEY_UNUSABLE, "a witness is given as VKEY=URL", stage="witness")
    return VerifierKey.parse(match["vkey"]), check_prefix(match["url"])


def check_prefix(url: str) -> str:
    """A URL prefix without its last slash. Raises TransparencyError (LOG_UNREADABLE) for what is none."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment or parts.username or not url.isprintable():
        raise TransparencyError(Code.LOG_UNREADABLE, f"not a URL prefix: {url[:200]}", stage="http")
    return url.rstrip("/")
