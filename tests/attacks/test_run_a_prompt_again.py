"""A relay that kept a request tries to have it run again; a client tries to go on with evidence that was withdrawn."""

import asyncio
import json
from typing import Any

from gateway_driver import JSON, NOW, Node, answering, attestation_digest, inner, opened, sealed_form, without

from ohttp.http_date import format_http_date
from ohttp.replay import ReplayWindow


class Forgetful(ReplayWindow):
    """The defence removed."""

    def check_and_insert(self, key: bytes, date: float, now: float) -> None:
        pass


class Counting:
    """An inner application that counts its runs."""

    def __init__(self) -> None:
        self.runs = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.runs += 1
        await answering(200, JSON, b"{}")(scope, receive, send)


async def sent_twice(replay: ReplayWindow, pause_s: float = 1.0) -> tuple[int, int, str]:
    """How often it ran, and with what status and problem the second sending was answered."""
    app = Counting()
    node = Node(app, replay=replay)
    client = node.client()
    kept = client.seal_request(sealed_form(inner(b"the prompt")))
    assert (await node.post(kept)).status == 200
    assert app.runs == 1
    node.now += pause_s
    reply = await node.post(kept)
    response = opened(client, reply.parts)
    return app.runs, response.status, json.loads(response.body).get("type", "")


def test_sending_a_kept_request_again() -> None:
    async def work() -> None:
        assert await sent_twice(ReplayWindow(120)) == (1, 400, "urn:cloister:problem:replayed")
        assert await sent_twice(Forgetful()) == (2, 200, ""), "control: without the window it runs again"

    asyncio.run(work())


def test_sending_a_kept_request_again_after_the_node_has_forgotten_it() -> None:
    async def work() -> None:
        stale = "https://iana.org/assignments/http-problem-types#date"
        for pause in (121, 241, 500, 100_000):
            assert await sent_twice(ReplayWindow(120), pause) == (1, 400, stale)
        assert await sent_twice(Forgetful(), 100_000) == (2, 200, ""), "control"

    asyncio.run(work())


def test_sending_a_kept_request_again_after_setting_the_clock_back() -> None:
    async def work() -> None:
        app = Counting()
        node = Node(app)
        client = node.client()
        kept = client.seal_request(sealed_form(inner(b"the prompt")))
        await node.post(kept)
        for later in (300, 600):
            node.now = NOW + later
            await node.ask(without(inner(), b"date", format_http_date(node.now)))
        ran = app.runs
        node.now = NOW
        reply = await node.post(kept)
        assert opened(client, reply.parts).status == 400
        assert app.runs == ran

    asyncio.run(work())


def test_sending_a_first_time_request_with_an_old_date() -> None:
    async def work() -> None:
        app = Counting()
        request = without(inner(b"the prompt"), b"date", format_http_date(NOW - 121))
        assert (await Node(app).ask(request))[0].status == 400
        assert app.runs == 0
        assert (await Node(app, replay=Forgetful()).ask(request))[0].status == 200, "control"
        assert app.runs == 1

    asyncio.run(work())


def test_going_on_with_evidence_that_is_not_live() -> None:
    async def work() -> None:
        app = Counting()
        request = without(inner(b"the prompt"), b"attestation-digest", attestation_digest(bytes(32)))
        response, _ = await Node(app).ask(request)
        assert response.status == 409
        assert json.loads(response.body)["type"] == "urn:cloister:problem:attestation"
        assert app.runs == 0
        assert (await Node(app, is_live=lambda _: True).ask(request))[0].status == 200, "control"
        assert app.runs == 1

    asyncio.run(work())
