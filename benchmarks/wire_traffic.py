"""The same traffic over real connections in real time: ``python -m benchmarks.wire_traffic ANSWERS`` is the gateway.

The observer stands where a relay stands: at the other end of the gateway's connections.
"""

import argparse
import asyncio
import base64
import json
import secrets
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import httpx2

from benchmarks.recorded_traffic import AT_ONCE, X25519, Trace, sealed_question, speaking_gateway
from benchmarks.spoken_answers import Spoken
from client_sdk.demo.processes import listening
from ohttp.chunked import REQUEST_MEDIA_TYPE
from ohttp.keyconfig import GatewayKey, KeyConfig, encode_key_configs, parse_key_configs
from ohttp.padding import CellProfile
from ohttp.quiet_server import listen, serve

_HEADERS = {"content-type": REQUEST_MEDIA_TYPE, "accept-encoding": "identity"}


def record(answers: Sequence[Spoken], profile: CellProfile) -> list[Trace]:
    """The traces of ``answers``, as ``recorded_traffic.record``. Raises ClientError where no gateway comes up."""
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "answers.json"
        told.write_text(json.dumps([asdict(answer) for answer in answers]))
        command = [sys.executable, "-m", "benchmarks.wire_traffic", str(told), json.dumps(asdict(profile))]
        with listening("the gateway", command) as gateway:
            config = parse_key_configs(base64.b64decode(gateway.event["keys"]))[0]
            url = f"http://127.0.0.1:{gateway.port}/ohttp"
            return asyncio.run(_record_all(url, config, [answer.label for answer in answers]))


async def _record_all(url: str, config: KeyConfig, labels: Sequence[str]) -> list[Trace]:
    places = asyncio.Semaphore(AT_ONCE)
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx2.AsyncClient(timeout=120.0, limits=limits, trust_env=False) as http:

        async def one(number: int) -> Trace:
            async with places:
                await asyncio.sleep(secrets.randbelow(1 << 20) / (1 << 20))
                return await _one(http, url, sealed_question(config, number, time.time()), labels[number])

        # In an order of chance: the machine's load changes with time, and must not change with the label.
        order = list(range(len(labels)))
        secrets.SystemRandom().shuffle(order)
        return list(await asyncio.gather(*(one(number) for number in order)))


async def _one(http: httpx2.AsyncClient, url: str, question: bytes, label: str) -> Trace:
    sizes: list[int] = []
    times: list[float] = []
    began = time.perf_counter()
    async with http.stream("POST", url, content=question, headers=_HEADERS) as reply:
        if reply.status_code != 200:
            raise RuntimeError(f"the gateway answered {reply.status_code}")
        async for part in reply.aiter_raw():
            sizes.append(len(part))
            times.append(time.perf_counter() - began)
    return Trace(label, tuple(sizes), tuple(times))


def main(arguments: list[str]) -> int:
    """Serve the answers until a signal."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("answers", type=Path)
    parser.add_argument("profile")
    options = parser.parse_args(arguments)
    answers = [
        Spoken(told["label"], tuple(told["tokens"]), tuple(told["gaps"]))
        for told in json.loads(options.answers.read_text())
    ]
    key = GatewayKey.generate(1, X25519)
    gateway = speaking_gateway(answers, key, CellProfile(**json.loads(options.profile)), time.time)
    with listen("127.0.0.1", 0) as listener:
        keys = base64.b64encode(encode_key_configs([key.config])).decode()
        said = {"event": "listening", "port": listener.getsockname()[1], "keys": keys}
        serve(gateway, listener, lambda: print(json.dumps(said), flush=True))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
