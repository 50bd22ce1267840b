"""The OpenAI door: httpx2 transports that carry any HTTP request through a verified, encrypted exchange.

    openai.OpenAI(base_url="https://cloister.internal/v1", api_key="unused",
                  http_client=httpx2.Client(transport=client.http_transport()))

Host, user agent, API key and every other header that could tell users apart stay behind; only method, path,
content type, accept and body travel.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING

import httpx2

from .answer import AsyncInnerAnswer, InnerAnswer
from .errors import ClientError
from .exchange import InnerRequest

if TYPE_CHECKING:
    from .client import PrivateClient


class PrivateTransport(httpx2.BaseTransport):
    """Sends httpx2 requests through ``PrivateClient.stream``; the client stays its owner's to close.

    A refused verification surfaces as ``httpx2.ConnectError`` whose ``__cause__`` is the ClientError, so that HTTP
    libraries see the failure they know how to handle, and nothing has been sent.
    """

    def __init__(self, client: "PrivateClient") -> None:
        self._client = client

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """One exchange. Raises httpx2.ConnectError (nothing was answered) or httpx2.ReadError (cut while streaming)."""
        opening = self._client.stream(inner_request(request, request.read()))
        try:
            answer = opening.__enter__()
        except ClientError as error:
            raise httpx2.ConnectError(str(error), request=request) from error
        return httpx2.Response(
            answer.head.status, headers=list(answer.head.headers), stream=_Body(opening, answer, request)
        )


class AsyncPrivateTransport(httpx2.AsyncBaseTransport):
    """``PrivateTransport`` for asyncio."""

    def __init__(self, client: "PrivateClient") -> None:
        self._client = client

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """One exchange; raises as ``PrivateTransport.handle_request``."""
        opening = self._client.astream(inner_request(request, await request.aread()))
        try:
            answer = await opening.__aenter__()
        except ClientError as error:
            raise httpx2.ConnectError(str(error), request=request) from error
        return httpx2.Response(
            answer.head.status, headers=list(answer.head.headers), stream=_AsyncBody(opening, answer, request)
        )


def inner_request(request: httpx2.Request, body: bytes) -> InnerRequest:
    """What of an httpx2 request travels: method, path and query, headers (filtered by Exchange), body."""
    return InnerRequest(
        request.method, request.url.raw_path.decode("ascii"), tuple(request.headers.raw), body
    )


class _Body(httpx2.SyncByteStream):
    def __init__(
        self, opening: AbstractContextManager[InnerAnswer], answer: InnerAnswer, request: httpx2.Request
    ) -> None:
        self._opening, self._answer, self._request = opening, answer, request

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._answer.content()
        except ClientError as error:
            raise httpx2.ReadError(str(error), request=self._request) from error

    def close(self) -> None:
        self._opening.__exit__(None, None, None)


class _AsyncBody(httpx2.AsyncByteStream):
    def __init__(
        self,
        opening: AbstractAsyncContextManager[AsyncInnerAnswer],
        answer: AsyncInnerAnswer,
        request: httpx2.Request,
    ) -> None:
        self._opening, self._answer, self._request = opening, answer, request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for part in self._answer.content():
                yield part
        except ClientError as error:
            raise httpx2.ReadError(str(error), request=self._request) from error

    async def aclose(self) -> None:
        await self._opening.__aexit__(None, None, None)
