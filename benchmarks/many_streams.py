"""Many streams at once through relay and gateway: ``python -m benchmarks.many_streams [--streams 500] [--json]``.

Gateway, relay and clients are three processes on this machine. All streams of a wave are open at the same time, and
each carries a mark of its own in every event. Told are: streams that were lost (no whole, authenticated answer),
crossed (an event of another's mark) or reordered; how long they took; and the memory of gateway and relay, once all
streams of a wave were open, a while into it, and after each wave. Exit status 0: none lost, none crossed.
"""

import argparse
import asyncio
import base64
import json
import os
import secrets
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2

from client_sdk.answer import SseLines
from client_sdk.demo.processes import cloister, listening
from client_sdk.errors import ClientError
from client_sdk.exchange import Exchange, InnerRequest
from ohttp.bhttp import Content, Head
from ohttp.chunked import REQUEST_MEDIA_TYPE
from ohttp.keyconfig import KeyConfig, parse_key_configs
from ohttp.padding import CellProfile

from .environment import cpu_name
from .statistics import median

EVENTS = 60
SAMPLE_EVERY_S = 0.5
_OUTER = {"content-type": REQUEST_MEDIA_TYPE, "incremental": "?1", "accept-encoding": "identity"}


@dataclass
class Wave:
    """How the streams of one wave fared. ``faults`` names each kind of failure, and how often."""

    whole: int = 0
    crossed: int = 0
    reordered: int = 0
    lost: int = 0
    seconds: list[float] = field(default_factory=list)
    faults: dict[str, int] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        """Whether nothing went astray."""
        return not (self.crossed or self.reordered or self.lost)


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident bytes of gateway and relay at a time."""

    at: float
    gateway: int
    relay: int


async def one_stream(
    http: httpx2.AsyncClient, url: str, config: KeyConfig, profile: CellProfile, wave: Wave
) -> None:
    """Ask with a new mark and check every event of the answer."""
    mark = secrets.token_hex(16)
    body = json.dumps({"mark": mark, "events": EVENTS}).encode()
    request = InnerRequest("POST", "/", ((b"content-type", b"application/json"),), body)
    began = time.monotonic()
    try:
        exchange = Exchange(
            config,
            bytes(32),
            request,
            date=datetime.now(UTC),
            request_id=secrets.token_bytes(16),
            profile=profile,
        )
        got = await _events(http, url, exchange)
    except (ClientError, httpx2.HTTPError) as error:
        wave.lost += 1
        name = getattr(error, "code", type(error).__name__)
        wave.faults[name] = wave.faults.get(name, 0) + 1
        return
    expected = [f"{mark} {number}".encode() for number in range(EVENTS)] + [b"[DONE]"]
    if any(event != b"[DONE]" and not event.startswith(mark.encode()) for event in got):
        wave.crossed += 1
    elif got != expected:
        wave.reordered += 1
    else:
        wave.whole += 1
    wave.seconds.append(time.monotonic() - began)


async def _events(http: httpx2.AsyncClient, url: str, exchange: Exchange) -> list[bytes]:
    lines, got = SseLines(), list[bytes]()
    async with http.stream("POST", url, content=exchange.body, headers=_OUTER) as reply:
        if reply.status_code != 200:
            raise ClientError(f"status_{reply.status_code}", "refused outside")
        async for part in reply.aiter_raw():
            _take(exchange.receive(part), lines, got)
    _take(exchange.finish(), lines, got)
    return got


def _take(events: list[Head | Content], lines: SseLines, got: list[bytes]) -> None:
    for event in events:
        if isinstance(event, Head):
            if event.status != 200:
                raise ClientError(f"inner_{event.status}", "refused inside")
        else:
            got += lines.feed(event.data)


async def one_wave(url: str, config: KeyConfig, profile: CellProfile, streams: int) -> Wave:
    """``streams`` streams at a time, through connections of their own."""
    wave = Wave()
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx2.AsyncClient(timeout=180.0, limits=limits, trust_env=False) as http:
        await asyncio.gather(*(one_stream(http, url, config, profile, wave) for _ in range(streams)))
    return wave


async def _watched(work: Any, sample: Callable[[], Memory]) -> tuple[Wave, list[Memory]]:
    samples: list[Memory] = []

    async def watch() -> None:
        while True:
            samples.append(sample())
            await asyncio.sleep(SAMPLE_EVERY_S)

    watching = asyncio.create_task(watch())
    try:
        return await work, samples
    finally:
        watching.cancel()


def resident(process: int) -> int:
    """Resident bytes of a process (Linux)."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def measure(
    streams: int, waves: int, profile: CellProfile, say: Callable[[str], None], *, pause_ms: float = 100.0
) -> dict[str, Any]:
    """Run the waves and tell what happened; an answer has an event each ``pause_ms``.

    Raises ClientError where a program does not come up.
    """
    command = [sys.executable, "-m", "benchmarks.canary_gateway", "--together", str(streams)]
    command += ["--pause-ms", str(pause_ms)]
    shape = json.dumps(asdict(profile))
    told: list[dict[str, Any]] = []
    with listening("the gateway", [*command, "--profile", shape]) as node:
        config = parse_key_configs(base64.b64decode(node.event["keys"]))[0]
        target = f"node=http://127.0.0.1:{node.port}"
        with listening("the relay", cloister("relay", "--target", target, "--port", "0", "--json")) as relay:
            url = f"http://127.0.0.1:{relay.port}/node/ohttp"
            started = time.monotonic()

            def sample() -> Memory:
                pids = node.process.pid, relay.process.pid
                return Memory(time.monotonic() - started, *map(resident, pids))

            for number in range(waves):
                wave, samples = asyncio.run(_watched(one_wave(url, config, profile, streams), sample))
                told.append(_told(wave, samples, sample()))
                say(f"wave {number + 1}: {wave.whole} of {streams} whole")
    return {
        "machine": cpu_name(),
        "cores": os.cpu_count(),
        "streams": streams,
        "profile": profile.manifest(),
        "events_a_stream": EVENTS,
        "waves": told,
    }


def _told(wave: Wave, samples: list[Memory], after: Memory) -> dict[str, Any]:
    """A wave as JSON; memory in MiB at a half and at nine tenths of its time, and after it."""
    places = {"half": samples[len(samples) // 2], "late": samples[len(samples) * 9 // 10], "after": after}
    memory = {
        name: {"gateway": round(m.gateway / 2**20, 1), "relay": round(m.relay / 2**20, 1)}
        for name, m in places.items()
    }
    return {
        "whole": wave.whole,
        "crossed": wave.crossed,
        "reordered": wave.reordered,
        "lost": wave.lost,
        "faults": wave.faults,
        "seconds": {"median": median(wave.seconds), "most": max(wave.seconds)} if wave.seconds else None,
        "memory_mib": memory,
    }


def main(arguments: list[str]) -> int:
    """Measure and print; 1 where a stream went astray."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument("--waves", type=int, default=3)
    parser.add_argument("--profile", default="{}", help="the cell profile, as JSON; {} for a node's default")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    try:
        found = measure(
            options.streams,
            options.waves,
            CellProfile(**json.loads(options.profile)),
            lambda line: print(line, file=sys.stderr),
        )
    except ClientError as error:
        print(f"error {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        print(
            f"{found['machine']}, {found['cores']} cores; {options.streams} streams at a time, {found['profile']}"
        )
        for number, wave in enumerate(found["waves"], 1):
            seconds, memory = wave["seconds"], wave["memory_mib"]
            print(
                f"  wave {number}: whole {wave['whole']}, lost {wave['lost']}, crossed {wave['crossed']}, "
                f"reordered {wave['reordered']}"
            )
            if seconds:
                print(f"    seconds a stream: median {seconds['median']:.1f}, most {seconds['most']:.1f}")
            for program in ("gateway", "relay"):
                line = ", ".join(f"{place} {memory[place][program]:.1f}" for place in memory)
                print(f"    {program} MiB: {line}")
    astray = any(wave["lost"] or wave["crossed"] or wave["reordered"] for wave in found["waves"])
    return 1 if astray else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
