"""Small, bounded HTTP requests to logs, mirrors and witnesses. What comes back is untrusted bytes."""

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from .errors import Code, TransparencyError
from .read_deadline import DeadlineBackend

if TYPE_CHECKING:
    import httpx2

CONNECT_S: Final = 5.0
READ_S: Final = 10.0
TOTAL_S: Final = 60.0
_STAGE: Final = "http"


@dataclass(frozen=True, slots=True)
class WebAnswer:
    """A status, a content type ("" where none) and a body within the caller's limit."""

    status: int
    content_type: str
    body: bytes


class WebClient:
    """Sends requests one by one over kept connections, from any thread.

    It follows no redirect, keeps no cookie and takes no proxy from the environment. ``transport`` stands for the
    network in tests of its callers; ``clock`` gives monotonic seconds. ``total_s``: for a whole answer, head and body,
    in however many pieces it comes; ``read_s``: for each of them.
    """

    def __init__(
        self,
        *,
        transport: "httpx2.BaseTransport | None" = None,
        clock: Callable[[], float] = time.monotonic,
        total_s: float = TOTAL_S,
        read_s: float = READ_S,
    ) -> None:
        import httpx2

        self._deadline: Callable[[float], AbstractContextManager[Any]] = nullcontext
        if transport is None:
            backend = DeadlineBackend("the answer took too long")
            transport, self._deadline = _patient(backend), backend.deadline
        self._errors: tuple[type[Exception], ...] = (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError)
        self._timeouts, self._unconnected = httpx2.TimeoutException, httpx2.ConnectError
        self._client = httpx2.Client(
            transport=transport,
            timeout=httpx2.Timeout(read_s, connect=min(CONNECT_S, read_s)),
            follow_redirects=False,
            trust_env=False,
            headers={"user-agent": "cloister-log", "accept-encoding": "gzip, identity"},
        )
        self._clock = clock
        self._total_s = total_s

    def get(self, url: str, *, limit: int) -> WebAnswer:
        """GET. Raises TransparencyError (LOG_UNREADABLE, LIMIT_EXCEEDED)."""
        return self._send("GET", url, limit=limit)

    def post(self, url: str, body: bytes, *, limit: int) -> WebAnswer:
        """POST of plain text. Raises TransparencyError (LOG_UNREADABLE, LIMIT_EXCEEDED)."""
        headers = {"content-type": "text/plain; charset=utf-8"}
        return self._send("POST", url, limit=limit, content=body, headers=headers)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def __enter__(self) -> "WebClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(
        self,
        method: str,
        url: str,
        *,
        limit: int,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> WebAnswer:
        end = self._clock() + self._total_s
        body = bytearray()
        try:
            with (
                self._deadline(self._total_s),
                self._client.stream(method, url, content=content, headers=_plain(headers)) as response,
            ):
                for chunk in response.iter_bytes(64 * 1024):
                    body += chunk
                    if len(body) > limit:
                        raise TransparencyError(
                            Code.LIMIT_EXCEEDED, f"answer of {url}", stage=_STAGE, expected=f"≤ {limit} B"
                        )
                    if self._clock() > end:
                        # Each read may be in time while a slow drip as a whole never ends.
                        raise _unreachable(url, "took too long")
                return WebAnswer(response.status_code, response.headers.get("content-type", ""), bytes(body))
        except self._errors as error:
            if isinstance(error, self._timeouts):
                raise _unreachable(url, "took too long") from error
            refused = isinstance(error, self._unconnected)
            raise _unreachable(url, "cannot be reached" if refused else type(error).__name__) from error


def _patient(backend: DeadlineBackend) -> "httpx2.BaseTransport":
    import httpx2

    transport = httpx2.HTTPTransport(trust_env=False)
    # There is no public name for a transport's network (bounds: httpx2 <3).
    transport._pool = backend.connections()
    return transport


def _plain(headers: Mapping[str, str] | None) -> Any:
    return dict(headers) if headers else None


def _unreachable(url: str, why: str) -> TransparencyError:
    return TransparencyError(Code.LOG_UNREADABLE, f"{url}: {why}", stage=_STAGE)
