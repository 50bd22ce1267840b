"""HTTP for the synchronous client: the head of an answer has one deadline, however it is cut into pieces.

A timeout of each read alone lets whoever answers a byte at a time hold a thread for ever. What follows the head is
bounded by whoever reads it: evidence as a whole, an answer chunk by chunk.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final

import httpcore2
import httpx2

from measurements.read_deadline import DeadlineBackend

_TO_HTTPX: Final[tuple[tuple[type[Exception], type[httpx2.TransportError]], ...]] = (
    (httpcore2.ConnectTimeout, httpx2.ConnectTimeout),
    (httpcore2.WriteTimeout, httpx2.WriteTimeout),
    (httpcore2.PoolTimeout, httpx2.PoolTimeout),
    (httpcore2.TimeoutException, httpx2.ReadTimeout),
    (httpcore2.ConnectError, httpx2.ConnectError),
    (httpcore2.WriteError, httpx2.WriteError),
    (httpcore2.NetworkError, httpx2.ReadError),
    (httpcore2.UnsupportedProtocol, httpx2.UnsupportedProtocol),
    (httpcore2.ProtocolError, httpx2.RemoteProtocolError),
)


def plain_client(timeout: float) -> httpx2.Client:
    """A connection to the outside that follows nobody, keeps no cookie and takes nothing from the environment.

    ``timeout`` in seconds: for each wait, and for the whole head of an answer.
    """
    return httpx2.Client(
        transport=PatientTransport(timeout),
        timeout=timeout,
        trust_env=False,
        follow_redirects=False,
        cookies=no_cookies(),
    )


def no_cookies() -> CookieJar:
    """A jar that takes nothing: a cookie would tell one user's visits from another's, whatever their address."""
    return CookieJar(DefaultCookiePolicy(allowed_domains=[]))


class PatientTransport(httpx2.BaseTransport):
    """Connections of a client; nothing is taken from the environment. ``head_s``: seconds from sending a request to the
    last byte of the head of its answer. Raises what httpx2's own transport raises.
    """

    def __init__(self, head_s: float) -> None:
        self._head = head_s
        self._backend = DeadlineBackend("the head of the answer did not come in time")
        self._pool = self._backend.connections()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send the request, and return once the head of its answer is there."""
        url = request.url
        asked = httpcore2.Request(
            method=request.method,
            url=httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        with _named_as_httpx(), self._backend.deadline(self._head):
            reply = self._pool.handle_request(asked)
        return httpx2.Response(
            reply.status, headers=reply.headers, stream=_Body(reply.stream), extensions=reply.extensions
        )

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()


class _Body(httpx2.SyncByteStream):
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        with _named_as_httpx():
            yield from self._stream

    def close(self) -> None:
        self._stream.close()


@contextmanager
def _named_as_httpx() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        for theirs, ours in _TO_HTTPX:
            if isinstance(error, theirs):
                raise ours(str(error)) from error
        raise
