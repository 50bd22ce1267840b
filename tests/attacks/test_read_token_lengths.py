"""An observer of the wire reads the lengths of tokens, their number and their rhythm off the encrypted stream."""

import asyncio
import itertools
import json
import statistics

from gateway_driver import BUCKET, EVENTS, OFF, Node, Reply, inner

from ohttp.asgi import App, Message, Receive, Scope, Send
from ohttp.padding import CellProfile

SHORT = ["I", " am", " a", " cat", "."] * 3
LONG = ["Electroencephalographically", " speaking", " incomprehensibilities", " notwithstanding", "!"] * 3
BEAT = CellProfile("constant", 512, 20)


def speaking(tokens: list[str], rhythm: float) -> App:
    """One event a token, as an application does that knows nothing of cells."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        start: Message = {"type": "http.response.start", "status": 200, "headers": list(EVENTS)}
        await send(start)
        for token in tokens:
            await asyncio.sleep(rhythm)
            event = b"data: " + json.dumps({"choices": [{"delta": {"content": token}}]}).encode() + b"\n\n"
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})

    return app


def observed(profile: CellProfile, tokens: list[str], rhythm: float = 0.004) -> Reply:
    response, reply = asyncio.run(Node(speaking(tokens, rhythm), profile=profile).ask(inner(b"{}")))
    said = [json.loads(line[6:]) for line in response.body.split(b"\n") if line.startswith(b"data: {")]
    assert [event["choices"][0]["delta"]["content"] for event in said] == tokens
    return reply


def sizes(reply: Reply) -> list[int]:
    return [len(part) for part in reply.parts]


def test_sizes_of_parts() -> None:
    short, long = observed(BEAT, SHORT), observed(BEAT, LONG)
    assert sizes(short) == sizes(long), "two answers of other words look the same"
    assert len(set(sizes(short)[1:-1])) == 1

    short, long = observed(BUCKET, SHORT), observed(BUCKET, LONG)
    assert len({*sizes(short)[1:-1], *sizes(long)[1:-1]}) == 1, (
        "so do their parts where only sizes are hidden"
    )

    short, long = observed(OFF, SHORT), observed(OFF, LONG)
    per_token = [len(token) - len(other) for token, other in zip(LONG, SHORT, strict=True)]
    seen = [there - here for there, here in zip(sizes(long)[1:-1], sizes(short)[1:-1], strict=True)]
    # The first token leaves with the head, whose length is known. One byte more where the length prefix of a
    # longer event takes two.
    read = all(found - true in (0, 1) for found, true in zip(seen, per_token[1:], strict=True))
    assert read, "control: unpadded, every token's length can be read"


def test_number_of_tokens() -> None:
    few, many = observed(BEAT, SHORT[:4]), observed(BEAT, SHORT * 2)
    assert sizes(few) == sizes(many)
    few, many = observed(OFF, SHORT[:4]), observed(OFF, SHORT * 2)
    assert len(sizes(many)) - len(sizes(few)) == len(SHORT * 2) - 4, "control: unpadded, one part a token"


def test_rhythm_of_tokens() -> None:
    def gap(reply: Reply) -> float:
        """The median: whatever else a machine does delays a part now and then."""
        return statistics.median(b - a for a, b in itertools.pairwise(reply.times[1:-1]))

    tokens = SHORT[:8]  # said slowly, they end long before the ladder's first rung does
    quick, slow = (observed(BEAT, tokens, rhythm) for rhythm in (0.002, 0.018))
    assert len(quick.parts) == len(slow.parts)
    assert abs(gap(quick) - gap(slow)) < 0.004
    quick, slow = (observed(OFF, tokens, rhythm) for rhythm in (0.002, 0.018))
    assert gap(slow) - gap(quick) > 0.010, "control: unpadded, the rhythm shows"
    quick, slow = (observed(BUCKET, tokens, rhythm) for rhythm in (0.002, 0.018))
    assert gap(slow) - gap(quick) > 0.010, "control: so it does in cells without a beat"


def test_whether_it_was_an_error() -> None:
    async def refusing(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("no")

    async def both(profile: CellProfile) -> tuple[list[int], list[int]]:
        failed = (await Node(refusing, profile=profile).ask(inner(b"{}")))[1]
        fine = (await Node(speaking(SHORT, 0.0), profile=profile).ask(inner(b"{}")))[1]
        return sizes(failed), sizes(fine)

    failed, fine = asyncio.run(both(BEAT))
    assert failed == fine
    failed, fine = asyncio.run(both(OFF))
    assert failed != fine, "control"
