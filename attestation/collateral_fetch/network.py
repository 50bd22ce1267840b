"""How collateral is fetched: bounded HTTPS requests, and a folder that keeps what never changes.

Nothing of this is used in verification. What is fetched is checked there, whoever served it.
"""

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from ..errors import AttestationError

MAX_ANSWER: Final = 4 * 1024 * 1024
TIMEOUT_SECONDS: Final = 20.0
_ATTEMPTS: Final = 3
_RETRY: Final = frozenset({429, 500, 502, 503, 504})


class FetchFailed(AttestationError):
    """A service did not give what was asked for."""

    default_stage = "collateral"


@dataclass(frozen=True, slots=True)
class Answer:
    """A service's answer with status 200: its body, and its headers by lower-case name."""

    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class Network(Protocol):
    """How a fetcher reaches the world."""

    def get(self, url: str) -> Answer:
        """The answer with status 200, body of at most MAX_ANSWER bytes. Raises FetchFailed."""
        ...


class HttpsNetwork:
    """HTTPS without redirects, bounded in time and size; a busy service is asked again a little later.

    ``pause`` waits so many seconds; a plain-text service, as a cache in one's own network may be, must be named
    in ``plain`` (its address up to the path).
    """

    def __init__(self, pause: "Pause", *, plain: frozenset[str] = frozenset()) -> None:
        self._pause = pause
        self._plain = plain

    def get(self, url: str) -> Answer:
        """See Network."""
        if not url.startswith("https://") and not any(url.startswith(base) for base in self._plain):
            raise FetchFailed(code="fetch_failed", detail=f"not an https address: {url[:120]}")
        for attempt in range(_ATTEMPTS):
            status, answer = self._once(url)
            if answer is not None:
                return answer
            if status not in _RETRY or attempt + 1 == _ATTEMPTS:
                break
            self._pause(float(1 << attempt))
        raise FetchFailed(
            code="fetch_failed", expected=200, found=status, detail=url[:200], retryable=status in _RETRY
        )

    def _once(self, url: str) -> tuple[int, Answer | None]:
        import httpx2  # here, so that whoever only verifies does not load it

        try:
            with httpx2.stream("GET", url, timeout=TIMEOUT_SECONDS, follow_redirects=False) as response:
                if response.status_code != 200:
                    return response.status_code, None
                body = bytearray()
                for piece in response.iter_bytes():
                    body += piece
                    if len(body) > MAX_ANSWER:
                        raise FetchFailed(code="fetch_failed", detail=f"{url[:200]}: too large an answer")
                return 200, Answer(bytes(body), {k.lower(): v for k, v in response.headers.items()})
        except httpx2.HTTPError as error:
            raise FetchFailed(
                code="fetch_failed", detail=f"{url[:200]}: {type(error).__name__}", retryable=True
            ) from None


class Pause(Protocol):
    """Waits so many seconds, as time.sleep does."""

    def __call__(self, seconds: float, /) -> None: ...


class KeptAnswers:
    """Answers that never change, kept in a folder by the digest of their address.

    A chip's certificate for one TCB version is asked for once: AMD's service answers only so often.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, url: str, network: Network, check: Callable[[bytes], None]) -> bytes:
        """The body at ``url``, out of the folder or else out of the network. Raises FetchFailed, OSError.

        ``check`` raises FetchFailed for a body that is not what was asked for: such a one is neither kept nor
        taken out of the folder.
        """
        path = self._folder / hashlib.sha256(url.encode()).hexdigest()
        try:
            body = path.read_bytes()
            check(body)
            return body
        except (FileNotFoundError, FetchFailed):
            body = network.get(url).body
            check(body)
        self._folder.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(f".{os.getpid()}")
        fresh.write_bytes(body)
        os.replace(fresh, path)
        return body
