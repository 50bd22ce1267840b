"""A gateway whose application answers with marked streams: ``python -m benchmarks.canary_gateway --together N``.

Every request brings a mark, and every event of its answer carries that mark and its number, so a stream that lost or
received anything shows it. Answers wait for each other: none ends before ``--together`` of them are open.
"""

import argparse
import asyncio
import base64
import json
import sys
import time
from collections.abc import Callable
from typing import Any

from ohttp.gateway import Gateway
from ohttp.keyconfig import GatewayKey, KeyRing, encode_key_configs
from ohttp.padding import CellProfile
from ohttp.quiet_server import listen, serve
from ohttp.replay import ReplayWindow

X_WING = 0x647A
HOLD_S = 120.0
_EVENT_STREAM = [(b"content-type", b"text/event-stream")]


class MarkedStreams:
    """ASGI application. ``together``: how many answers must be open before any ends; ``open`` and ``most`` count."""

    def __init__(self, together: int, pause_s: float) -> None:
        self._together = together
        self._pause = pause_s
        self._all_open = asyncio.Event()
        self.open = self.most = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One answer: half of its events, the wait for the others, the other half."""
        asked = json.loads((await receive())["body"])
        mark, events = str(asked["mark"]), int(asked["events"])
        self.open += 1
        self.most = max(self.most, self.open)
        if self.open >= self._together:
            self._all_open.set()
        try:
            await send({"type": "http.response.start", "status": 200, "headers": _EVENT_STREAM})
            for number in range(events):
                if number == events // 2:
                    async with asyncio.timeout(HOLD_S):
                        await self._all_open.wait()
                data = f"data: {mark} {number}\n\n".encode()
                await send({"type": "http.response.body", "body": data, "more_body": True})
                await asyncio.sleep(self._pause)
            await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})
        finally:
            self.open -= 1
            if self.open == 0:
                self._all_open.clear()


def gateway(app: MarkedStreams, key: GatewayKey, profile: CellProfile, now: Callable[[], float]) -> Gateway:
    """The gateway in front of ``app``; any evidence digest counts as live."""
    ring = KeyRing([key])
    return Gateway(
        app,
        keyring=lambda: ring,
        is_live=lambda digest: True,
        replay=ReplayWindow(),
        profile=profile,
        now=now,
        max_open=4096,
    )


def main(arguments: list[str]) -> int:
    """Serve until a signal; prints where, and under which key."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--together", type=int, required=True)
    parser.add_argument("--pause-ms", type=float, default=100.0)
    parser.add_argument("--profile", default="{}", help="the cell profile, as JSON")
    options = parser.parse_args(arguments)
    key = GatewayKey.generate(1, X_WING)
    app = MarkedStreams(options.together, options.pause_ms / 1000)
    serving = gateway(app, key, CellProfile(**json.loads(options.profile)), time.time)
    with listen("127.0.0.1", 0) as listener:
        keys = base64.b64encode(encode_key_configs([key.config])).decode()
        said = {"event": "listening", "port": listener.getsockname()[1], "keys": keys}
        serve(serving, listener, lambda: print(json.dumps(said), flush=True))
    print(json.dumps({"event": "stopped", "most": app.most}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
