"""Which requests belong together, for programs that send nothing but requests."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from client_sdk.answer import AsyncInnerAnswer
from client_sdk.conversations import IDLE_S, MAX_CONVERSATIONS, MAX_TURNS, Conversations
from client_sdk.errors import (
    ClientError,
    DirectoryRefused,
    ExchangeFailed,
    RelayUnreachable,
    VerificationRefused,
)
from client_sdk.exchange import InnerRequest
from client_sdk.fleet import Drawn


class Node:
    """Stands for a client of a drawn node; ``error`` is what its next exchange ends in, ``later`` while streaming."""

    def __init__(self, name: str) -> None:
        self.name, self.closed = name, False
        self.error: ClientError | None = None
        self.held: asyncio.Event | None = None

    @asynccontextmanager
    async def astream(self, request: InnerRequest) -> AsyncIterator[AsyncInnerAnswer]:
        error, self.error = self.error, None
        if error is not None:
            raise error
        if self.held is not None:
            await self.held.wait()
        yield cast(AsyncInnerAnswer, self)

    def close(self) -> None:
        self.closed = True

    async def aclose(self) -> None:
        self.close()


class Draws:
    """Draws nodes in order; ``error`` is what the next draw ends in."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.failed: list[str] = []
        self.error: Exception | None = None

    def draw(self) -> Drawn:
        error, self.error = self.error, None
        if error is not None:
            raise error
        self.nodes.append(Node(f"node-{len(self.nodes)}"))
        return Drawn(self.nodes[-1].name, "prod", cast(Any, self.nodes[-1]), cast(Any, None), ())

    def count_failed(self, drawn: Drawn, *, read: bool = True) -> None:
        self.failed.append(drawn.name)


class World:
    def __init__(self) -> None:
        self.fleet, self.at = Draws(), 0.0
        self.talks = Conversations(self.fleet, now=lambda: self.at)

    async def ask(self, *said: str, path: str = "/v1/chat/completions", **more: Any) -> str:
        """The name of the node that these messages go to."""
        messages = [
            {"role": ("user", "assistant")[place % 2], "content": one} for place, one in enumerate(said)
        ]
        body = json.dumps({"model": "m", "messages": messages, **more}).encode()
        async with self.talks.astream(InnerRequest("POST", path, (), body)) as answer:
            return cast(Node, answer).name


def run(work: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        await work(World())

    asyncio.run(main())


def test_a_conversation_keeps_its_node_and_another_draws_its_own() -> None:
    async def work(world: World) -> None:
        assert await world.ask("hello") == "node-0"
        assert await world.ask("hello", "hi", "and now?") == "node-0"
        assert await world.ask("hello", "hi", "and now?", "this", "again", temperature=1) == "node-0"
        assert await world.ask("hello", "hi", "something else") == "node-0"  # a branch of the same one
        assert await world.ask("hello", "hi", "and now?") == "node-0"  # asked for again
        assert await world.ask("hullo") == "node-1"
        assert await world.ask("hullo", "hi", "and now?") == "node-1"
        assert await world.ask("hell", "o") == "node-2"

    run(work)


def test_a_common_beginning_alone_is_no_conversation() -> None:
    """Programs begin everything with the same system message; nothing was asked with it alone."""

    async def work(world: World) -> None:
        names = [await world.ask("be brief", "yes", f"question {number}") for number in range(5)]
        assert len(set(names)) == 5

    run(work)


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/models"])
def test_requests_without_messages_are_conversations_of_their_own(path: str) -> None:
    async def work(world: World) -> None:
        assert [await world.ask("hello", path=path) for _ in range(3)] == ["node-0", "node-1", "node-2"]
        assert all(node.closed for node in world.fleet.nodes)

    run(work)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'{"messages": 3}', b'{"messages": null}', b"[" * 100_000, b"\xff", b'{"a": 1}'],
)
def test_what_cannot_be_read_is_carried_all_the_same(body: bytes) -> None:
    async def work(world: World) -> None:
        for _ in range(2):
            async with world.talks.astream(InnerRequest("POST", "/v1/chat/completions", (), body)):
                pass
        assert len(world.fleet.nodes) == 2

    run(work)


def test_requests_that_begin_one_conversation_at_once_draw_once() -> None:
    async def work(world: World) -> None:
        assert await asyncio.gather(*(world.ask("hello") for _ in range(5))) == ["node-0"] * 5

    run(work)


@pytest.mark.parametrize("error", [DirectoryRefused("directory_keys", ""), VerificationRefused("x", "")])
def test_a_node_that_no_longer_proves_itself_is_replaced_once(error: ClientError) -> None:
    async def work(world: World) -> None:
        assert await world.ask("hello") == "node-0"
        world.fleet.nodes[0].error = error
        assert await world.ask("hello", "hi", "more") == "node-1"
        assert world.fleet.failed == ["node-0"]
        assert world.fleet.nodes[0].closed
        assert await world.ask("hello", "hi", "more", "so", "on") == "node-1"

    run(work)


@pytest.mark.parametrize("error", [RelayUnreachable("x", ""), ExchangeFailed("x", "")])
def test_nothing_is_sent_twice_but_the_next_attempt_draws_anew(error: ClientError) -> None:
    async def work(world: World) -> None:
        await world.ask("hello")
        world.fleet.nodes[0].error = error
        with pytest.raises(type(error)):
            await world.ask("hello", "hi", "more")
        assert (world.fleet.failed, len(world.fleet.nodes)) == (["node-0"], 1)
        assert await world.ask("hello", "hi", "more") == "node-1"

    run(work)


@pytest.mark.parametrize(
    "error", [VerificationRefused("SPLIT_VIEW", ""), DirectoryRefused("directory_split_view", "")]
)
def test_two_histories_are_said_and_not_passed_over(error: ClientError) -> None:
    """Another node that shows but one of them would only hide what a person has to look at."""

    async def work(world: World) -> None:
        await world.ask("hello")
        world.fleet.nodes[0].error = error
        with pytest.raises(type(error)):
            await world.ask("hello", "hi", "and now?")
        assert len(world.fleet.nodes) == 1

    run(work)


def test_an_answer_that_breaks_off_lets_its_node_go() -> None:
    async def work(world: World) -> None:
        request = InnerRequest("POST", "/v1/chat/completions", (), b'{"messages": [{"content": "hello"}]}')
        with pytest.raises(ExchangeFailed):
            async with world.talks.astream(request):
                raise ExchangeFailed("truncated", "")
        assert world.fleet.failed == ["node-0"]
        async with world.talks.astream(request) as answer:
            assert cast(Node, answer).name == "node-1"

    run(work)


def test_an_error_of_the_users_own_keeps_the_node() -> None:
    async def work(world: World) -> None:
        await world.ask("hello")
        world.fleet.nodes[0].error = ClientError("no_tokens", "")
        with pytest.raises(ClientError, match="no_tokens"):
            await world.ask("hello", "hi", "more")
        assert await world.ask("hello", "hi", "more") == "node-0"
        assert world.fleet.failed == []

    run(work)


def test_a_draw_that_fails_is_not_kept() -> None:
    async def work(world: World) -> None:
        for error, code in (
            (RelayUnreachable("no_directory", ""), "no_directory"),
            (OSError(28, "No space left", "seen.json"), "sightings_unwritable"),
        ):
            world.fleet.error = error
            with pytest.raises(ClientError) as caught:
                await world.ask("hello")
            assert caught.value.code == code
        assert await world.ask("hello") == "node-0"
        assert world.fleet.failed == []

    run(work)


def test_a_conversation_is_forgotten_an_hour_after_its_last_request() -> None:
    async def work(world: World) -> None:
        assert await world.ask("hello") == "node-0"
        world.at += IDLE_S - 1
        assert await world.ask("hello", "hi", "more") == "node-0"
        world.at += IDLE_S
        assert await world.ask("hello", "hi", "more") == "node-1"
        assert [node.closed for node in world.fleet.nodes] == [True, False]

    run(work)


def test_what_is_remembered_is_bounded() -> None:
    async def work(world: World) -> None:
        for number in range(MAX_CONVERSATIONS + 10):
            world.at += 1
            await world.ask(f"question {number}")
        assert sum(not node.closed for node in world.fleet.nodes) == MAX_CONVERSATIONS
        assert await world.ask(f"question {MAX_CONVERSATIONS}") == f"node-{MAX_CONVERSATIONS}"
        for turn in range(MAX_TURNS + 10):
            await world.ask("once", *("and", "on") * turn)
        assert len(world.talks._known[-1].turns) == MAX_TURNS

    run(work)


def test_one_that_goes_on_is_not_forgotten_under_it() -> None:
    async def work(world: World) -> None:
        await world.ask("hello")
        node = world.fleet.nodes[0]
        node.held = asyncio.Event()
        going_on = asyncio.create_task(world.ask("hello", "hi", "more"))
        await asyncio.sleep(0.01)
        world.at += IDLE_S * 2
        await world.ask("another")
        await world.talks.aclose()
        assert not node.closed
        node.held.set()
        assert await going_on == "node-0"
        assert node.closed

    run(work)


def test_no_text_is_kept() -> None:
    async def work(world: World) -> None:
        await world.ask("a canary that sings", "and", "sings")
        assert b"canary" not in repr(world.talks._known).encode()
        assert all(len(turn) == 32 for one in world.talks._known for turn in one.turns)
        # Hashes of another run are others: nobody compares two memories.
        other = World()
        await other.ask("a canary that sings", "and", "sings")
        assert not set(world.talks._known[0].turns) & set(other.talks._known[0].turns)

    run(work)
