"""Many streams at once through relay and gateway, as programs: none lost, none crossed, memory flat."""

import asyncio
import time
from typing import Any

import httpx2
import pytest
from gateway_driver import FAST

from benchmarks.canary_gateway import MarkedStreams, gateway
from benchmarks.many_streams import EVENTS, Wave, measure, one_stream
from ohttp.keyconfig import GatewayKey
from ohttp.padding import CellProfile

MIB_OF_GROWTH = 8.0


def check(found: dict[str, Any], streams: int) -> None:
    for wave in found["waves"]:
        assert (wave["whole"], wave["lost"], wave["crossed"], wave["reordered"]) == (streams, 0, 0, 0)
        for program in ("gateway", "relay"):
            half, late = (wave["memory_mib"][place][program] for place in ("half", "late"))
            assert late - half < MIB_OF_GROWTH, wave
    first, last = (found["waves"][at]["memory_mib"]["after"] for at in (0, -1))
    for program in ("gateway", "relay"):
        assert last[program] - first[program] < MIB_OF_GROWTH, found


def test_sixty_streams_at_once() -> None:
    profile = CellProfile("constant", cell_bytes=512, interval_ms=50)
    check(measure(60, 1, profile, lambda line: None, pause_ms=15), 60)


@pytest.mark.exhaustive
def test_five_hundred_streams_at_once() -> None:
    check(measure(500, 4, CellProfile(), lambda line: None), 500)


class Meddled(MarkedStreams):
    """The same streams with a fault in each: another's mark, an event missing, or a cut."""

    def __init__(self, fault: str) -> None:
        super().__init__(1, 0.0)
        self._fault = fault

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def meddling(message: Any) -> None:
            if message.get("body", b"").endswith(b" 3\n\n"):
                if self._fault == "crossed":
                    message["body"] = b"data: " + b"0" * 32 + b" 3\n\n"
                elif self._fault == "reordered":
                    return
                else:
                    raise RuntimeError("cut")
            await send(message)

        await super().__call__(scope, receive, meddling)


@pytest.mark.parametrize("fault", ["crossed", "reordered", "lost", ""])
def test_the_check_sees_what_goes_astray(fault: str) -> None:
    key = GatewayKey.generate(1, 0x0020)
    app = Meddled(fault) if fault else MarkedStreams(1, 0.0)
    profile = CellProfile("off") if fault == "lost" else FAST

    async def run() -> Wave:
        wave = Wave()
        transport = httpx2.ASGITransport(app=gateway(app, key, profile, time.time))
        async with httpx2.AsyncClient(transport=transport) as http:
            await one_stream(http, "http://node/ohttp", key.config, profile, wave)
        return wave

    wave = asyncio.run(run())
    expected = {name: int(name == fault) for name in ("crossed", "reordered", "lost")}
    found = {name: getattr(wave, name) for name in expected}
    if (
        fault == "lost"
    ):  # the application's failure ends the stream with an error event: not the events asked for
        assert not wave.clean
    else:
        assert found == expected
    assert wave.whole == int(not fault)
    assert EVENTS > 4
