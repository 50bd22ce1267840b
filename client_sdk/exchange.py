"""One request and its answer, from the bytes' point of view: no sockets, no clock.

The inner request carries only what the node needs. Everything an HTTP library adds to be helpful
(user agent, platform, API key) would tell one user from another, so headers pass by allow-list.
"""

import base64
from dataclasses import dataclass, field
from datetime import datetime

from ohttp.bhttp import Content, Event, Head, Request, ResponseDecoder, encode_request
from ohttp.chunked import ChunkedClient
from ohttp.errors import OhttpError, PaddingError
from ohttp.http_date import format_http_date
from ohttp.keyconfig import KeyConfig
from ohttp.padding import CellCheck, CellProfile, padme

from .errors import ExchangeFailed

INNER_AUTHORITY = "cloister.internal"
PASSED_HEADERS = (b"content-type", b"accept")


@dataclass(frozen=True, slots=True)
class InnerRequest:
    """What the application asks of the node: method, path with query, headers, whole body.

    Its repr names method alone, since a traceback or a log may show it.
    """

    method: str
    path: str = field(repr=False)
    headers: tuple[tuple[bytes, bytes], ...] = field(repr=False)
    body: bytes = field(repr=False)


class Exchange:
    """A single-use encrypted exchange: ``body`` goes out, ``receive`` takes what comes back.

    ``request_id`` is 16 random bytes and ``date`` the time of sending, both given by the caller; they and the
    digest of the evidence that was verified travel inside the encryption (docs/protocol.md, "A request").
    ``profile`` is the shape of answers that the node vouched for; one of another shape is refused.
    ``authorization`` is a blind token's, never the caller's own header, which would say who asks. ``opened``
    counts the chunks of the answer that have authenticated. Raises ExchangeFailed for a request that cannot be
    written.
    """

    def __init__(
        self,
        config: KeyConfig,
        bundle_digest: bytes,
        request: InnerRequest,
        *,
        date: datetime,
        request_id: bytes,
        profile: CellProfile,
        authorization: str | None = None,
    ) -> None:
        headers = [(n.lower(), v) for n, v in request.headers if n.lower() in PASSED_HEADERS]
        headers += [
            (b"date", format_http_date(date.timestamp())),
            (b"request-id", request_id.hex().encode()),
            (b"attestation-digest", b"sha-256=:" + base64.b64encode(bundle_digest) + b":"),
        ]
        if authorization is not None:
            headers.append((b"authorization", authorization.encode("ascii")))
        try:
            method, path = request.method.encode("ascii"), request.path.encode("ascii")
        except UnicodeEncodeError:
            raise ExchangeFailed(
                "control_data", "method and path are ASCII, other characters escaped"
            ) from None
        inner = Request(
            method=method,
            scheme=b"https",
            authority=INNER_AUTHORITY.encode(),
            path=path,
            headers=tuple(headers),
            body=request.body,
        )
        self.opened = 0
        self._decoder = ResponseDecoder()
        self._cells = CellCheck(profile)
        try:
            self._session = ChunkedClient(config)
            padded = encode_request(inner, pad_to=padme(len(encode_request(inner))))
            self.body: bytes = self._session.seal_request(padded)
        except OhttpError as error:
            raise ExchangeFailed(error.code, "the node's key or the request cannot be used") from error

    def receive(self, data: bytes) -> list[Head | Content]:
        """Feed bytes of the outer response; get the inner head and content that they complete.

        Raises ExchangeFailed when a byte was altered, a chunk reordered or a limit passed.
        """
        try:
            chunks = self._session.receive(data)
            self.opened += len(chunks)
            events = self._decoded(chunks)
        except PaddingError as error:
            raise _misshapen(error) from error
        except OhttpError as error:
            raise ExchangeFailed(error.code, "the answer was altered on its way, or is malformed") from error
        return [event for event in events if isinstance(event, Head | Content)]

    def finish(self) -> list[Head | Content]:
        """The outer response ended: raises ExchangeFailed unless the node's own end was seen and authenticated."""
        try:
            events = self._decoded(self._session.finish())
            self._decoder.finish()
            self._cells.finish()
        except PaddingError as error:
            raise _misshapen(error) from error
        except OhttpError as error:
            raise ExchangeFailed(error.code, "the answer was cut short on its way") from error
        return [event for event in events if isinstance(event, Head | Content)]

    def _decoded(self, chunks: list[bytes]) -> list[Event]:
        events: list[Event] = []
        for chunk in chunks:
            self._cells.chunk(chunk)
            events += self._decoder.feed(chunk)
        return events


def _misshapen(error: PaddingError) -> ExchangeFailed:
    return ExchangeFailed(
        f"padding_{error.code}",
        "the answer has another shape than the node vouched for",
        "do not use this node",
    )
