"""Which node a request goes to, for programs that only ever send requests: the proxy over a fleet.

A node is drawn for one conversation at most (docs/protocol.md §6), and OpenAI's API has no conversations: every request
brings all of its messages. So the proxy, which sees them anyway on the user's own machine, recognises one by that: a
request **continues** a conversation if its messages begin with all the messages of an earlier request, or are the same.
Any other request begins a conversation, for which a node is drawn: also ``/v1/completions`` and ``/v1/models``, which
have no messages and end theirs with the answer.

A connection would be no measure, since programs send many conversations over one and one over many. A draw for each
request would be the worse bargain: each turn brings the whole conversation, and every node drawn would read it.

Nothing of a message is kept, but for keyed hashes in memory. Conversations share neither connections nor evidence; an
hour after its last request one is forgotten, and what continues it then begins anew.
"""

import asyncio
import hmac
import json
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from .answer import AsyncInnerAnswer
from .errors import (
    SPLIT_VIEWS,
    ClientError,
    DirectoryRefused,
    ExchangeFailed,
    RelayUnreachable,
    VerificationRefused,
)
from .exchange import InnerRequest
from .fleet import Drawn

IDLE_S: Final = 3600.0
"""Seconds after its last request for which a conversation keeps its node."""
MAX_CONVERSATIONS: Final = 256
MAX_TURNS: Final = 256
"""Requests of one conversation that are recognised, the newest."""


class Draws(Protocol):
    """What conversations need of ``client_sdk.fleet.Fleet``."""

    def draw(self) -> Drawn: ...

    def count_failed(self, drawn: Drawn, *, read: bool = True) -> None: ...


_UNSENT: Final = (DirectoryRefused, VerificationRefused)
LOST: Final = (*_UNSENT, RelayUnreachable, ExchangeFailed)
"""Errors after which a node is no use for its conversation."""


@dataclass(eq=False, slots=True)
class _Conversation:
    """``turns`` are the hashes of its requests, oldest first; ``busy`` requests go on now; ``read``: whether its node
    has answered any.
    """

    drawing: "asyncio.Task[Drawn]"
    last_used: float
    turns: "OrderedDict[bytes, None]" = field(default_factory=OrderedDict)
    busy: int = 0
    read: bool = False


class Conversations:
    """Carries requests through nodes of a fleet, one for each conversation. To be used from one event loop.

    ``drawn`` is told of every node drawn; ``now`` gives seconds that only rise.
    """

    def __init__(
        self,
        fleet: Draws,
        *,
        drawn: Callable[[Drawn], None] = lambda _: None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fleet, self._drawn, self._now = fleet, drawn, now
        self._key = secrets.token_bytes(32)
        self._known: list[_Conversation] = []

    @asynccontextmanager
    async def astream(self, request: InnerRequest) -> AsyncIterator[AsyncInnerAnswer]:
        """``PrivateClient.astream`` through the node of the request's conversation.

        One that no longer proves what the policy demands, or shows other keys than the list says, is replaced by
        another draw, once, before anything is sent to it. A node that fails in another way is let go, so that the
        program's next attempt draws anew; either is counted. Raises as ``Fleet.draw`` and ``PrivateClient.astream``.
        """
        turns = self._turns(request)
        for attempt in (0, 1):
            conversation = await self._of(turns)
            conversation.busy += 1
            drawn, opened = None, False
            try:
                # Shielded: another request of the same conversation may wait for the same draw.
                drawn = await asyncio.shield(conversation.drawing)
                async with drawn.client.astream(request) as answer:
                    opened = conversation.read = True
                    yield answer
                    return
            except ClientError as error:
                if not isinstance(error, LOST) and drawn is not None:
                    raise  # the program's own mistake, or an empty wallet
                self._forget(conversation)
                if drawn is not None:
                    await asyncio.to_thread(self._fleet.count_failed, drawn, read=conversation.read)
                again = isinstance(error, _UNSENT) and error.code not in SPLIT_VIEWS
                if attempt or opened or drawn is None or not again:
                    raise
            finally:
                conversation.busy -= 1
                conversation.last_used = self._now()
                await self._let_go(conversation)

    async def aclose(self) -> None:
        """Forget every conversation, and close what nobody uses."""
        known, self._known = self._known, []
        for conversation in known:
            await self._let_go(conversation)

    async def _of(self, turns: list[bytes]) -> _Conversation:
        """The conversation that these messages continue, or a new one; what is over is forgotten first."""
        await self._forget_idle()
        found = next((one for turn in reversed(turns) for one in self._known if turn in one.turns), None)
        if found is None:
            found = _Conversation(asyncio.create_task(asyncio.to_thread(self._draw)), self._now())
            if turns:
                self._known.append(found)
        if turns:
            found.turns[turns[-1]] = None
            found.turns.move_to_end(turns[-1])
            if len(found.turns) > MAX_TURNS:
                found.turns.popitem(last=False)
        return found

    async def _forget_idle(self) -> None:
        idle = sorted((one for one in self._known if not one.busy), key=lambda one: one.last_used)
        surplus, until = len(self._known) - MAX_CONVERSATIONS + 1, self._now() - IDLE_S
        for place, conversation in enumerate(idle):
            if place < surplus or conversation.last_used <= until:
                self._forget(conversation)
                await self._let_go(conversation)

    def _draw(self) -> Drawn:
        try:
            drawn = self._fleet.draw()
        except OSError as error:
            raise ClientError("sightings_unwritable", f"{error.filename}: {error.strerror}") from error
        self._drawn(drawn)
        return drawn

    def _forget(self, conversation: _Conversation) -> None:
        self._known = [one for one in self._known if one is not conversation]

    async def _let_go(self, conversation: _Conversation) -> None:
        """Close the connections of a conversation that is forgotten and has nothing going on."""
        if conversation.busy or conversation in self._known:
            return
        if not conversation.drawing.done():
            conversation.drawing.add_done_callback(_close_unused)  # whoever asked for it left
        elif not conversation.drawing.cancelled() and conversation.drawing.exception() is None:
            await conversation.drawing.result().client.aclose()

    def _turns(self, request: InnerRequest) -> list[bytes]:
        """A keyed hash of each beginning of the request's messages; none where it has no messages."""
        try:
            document: Any = json.loads(request.body)
            messages = document["messages"] if request.path == "/v1/chat/completions" else []
            hashes: list[bytes] = []
            for message in messages:
                told = json.dumps(message, sort_keys=True).encode()
                hashes.append(hmac.digest(self._key, (hashes[-1] if hashes else b"") + told, "sha256"))
        except (ValueError, TypeError, KeyError, RecursionError):
            return []
        return hashes


def _close_unused(drawing: "asyncio.Task[Drawn]") -> None:
    if not drawing.cancelled() and drawing.exception() is None:
        drawing.result().client.close()
