"""What keeps a peer that gives nothing and takes nothing from holding a connection for ever.

A head, a body and what was written each have their time. Nothing of it depends on the application: one that
reads or writes without a limit of its own is ended by the connection's end.
"""

import asyncio
from typing import Any, cast

HEAD_TIMEOUT_S = 10.0
"""How long a connection may take to bring the head of its next request."""

BODY_TIMEOUT_S = 40.0
"""How long a request's body may take; longer than a gateway and a relay give it, so that they can say so."""

STALL_S = 30.0
"""How long a reader may leave a full buffer as it is."""

LINGER_S = 10.0
"""How long a closed connection may take to hand over what is still in its buffer."""


class Impatience(asyncio.Protocol):
    """Put before uvicorn's ``H11Protocol`` among the bases of a protocol; all times in seconds.

    uvicorn itself closes only connections that are silent between requests, and waits without limit for a
    body, for a reader, and for the buffer of a connection that it closes.
    """

    cycle: Any
    loop: asyncio.AbstractEventLoop
    _awaited: str | None = None
    _deadline: asyncio.TimerHandle | None = None
    _stall: asyncio.TimerHandle | None = None
    _closing: "_Closing | None" = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The time runs from the first moment."""
        self._closing = _Closing(cast(asyncio.Transport, transport), self.loop)
        super().connection_made(cast(asyncio.Transport, self._closing))
        self._watch()

    def data_received(self, data: bytes) -> None:
        """It runs on until what is awaited has come whole."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """A next request may lie in the buffer already."""
        super().on_response_complete()  # type: ignore[misc]
        self._watch()

    def eof_received(self) -> None:
        """The peer sends nothing more; asyncio closes the connection now."""
        assert self._closing is not None
        self._closing.hurry()

    def pause_writing(self) -> None:
        """The reader is behind by a whole buffer."""
        super().pause_writing()
        if self._stall is None and self._closing is not None:
            self._stall = self.loop.call_later(STALL_S, self._closing.abort)

    def resume_writing(self) -> None:
        """It has caught up."""
        super().resume_writing()
        _cancel(self._stall)
        self._stall = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing to wait for any more."""
        _cancel(self._deadline)
        _cancel(self._stall)
        if self._closing is not None:
            self._closing.lost()
        super().connection_lost(exc)

    def _watch(self) -> None:
        assert self._closing is not None
        if self.cycle is None or self.cycle.response_complete:
            awaited, seconds = "head", HEAD_TIMEOUT_S
        elif self.cycle.more_body:
            awaited, seconds = "body", BODY_TIMEOUT_S
        else:
            awaited, seconds = None, 0.0
        if awaited == self._awaited or self._closing.is_closing():
            return
        _cancel(self._deadline)
        self._awaited = awaited
        if awaited is not None:
            self._deadline = self.loop.call_later(seconds, self._closing.close)


class _Closing:
    """A transport that, once closed, is cut off where its peer does not take the rest in time."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._end: asyncio.TimerHandle | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def close(self) -> None:
        self._transport.close()
        self.hurry()

    def hurry(self) -> None:
        if self._end is None:
            self._end = self._loop.call_later(LINGER_S, self._transport.abort)

    def lost(self) -> None:
        _cancel(self._end)


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
