"""What the decoders hold, whatever arrives: ``python -m benchmarks.ohttp_memory [--json]``.

Streams that promise or bring as much as they can are fed for 64 MiB (the limit of a response), in portions of 16 KiB
and of one byte; what a decoder gives out is dropped at once. Shown is the peak of what Python had allocated above the
start (tracemalloc), beside the bound that follows from the limits.
"""

import argparse
import json
import os
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ohttp import varint
from ohttp.aead import AES_256_GCM, TAG_SIZE, SequencedAead
from ohttp.bhttp import RequestDecoder, ResponseDecoder
from ohttp.chunked import MAX_CHUNK, MAX_RESPONSE, ChunkReader
from ohttp.errors import OhttpError
from ohttp.fields import DEFAULT_LIMITS

PORTION = 16 * 1024
OVERHEAD = 128 * 1024
"""Beside the bytes themselves: objects of field lines, generators, the portion being fed."""

Feed = Callable[[bytes], object]


@dataclass(frozen=True, slots=True)
class Case:
    """A decoder, what it is fed (without end), and the bytes that it may hold."""

    name: str
    decoder: Callable[[], Feed]
    stream: Callable[[], Iterator[bytes]]
    bound: int


def repeated(head: bytes, part: bytes) -> Callable[[], Iterator[bytes]]:
    """``head``, then ``part`` for ever."""

    def stream() -> Iterator[bytes]:
        yield head
        while True:
            yield part

    return stream


def cases() -> list[Case]:
    """The worst that each decoder could be sent."""
    key, nonce = os.urandom(32), os.urandom(12)
    head = b"\x01" + varint.encode(200) + varint.encode(0)
    open_head = b"\x03" + varint.encode(200)
    line = varint.encode(1) + b"a" + varint.encode(200) + b"b" * 200

    def chunks() -> Feed:
        return ChunkReader(SequencedAead(AES_256_GCM, key, nonce).open).feed

    def sealed() -> Iterator[bytes]:
        aead = SequencedAead(AES_256_GCM, key, nonce)
        while True:
            yield varint.encode(MAX_CHUNK + TAG_SIZE) + aead.seal(bytes(MAX_CHUNK))

    return [
        Case("chunks as large as they may be", chunks, sealed, MAX_CHUNK + TAG_SIZE),
        Case("a chunk that declares 2^62 - 1 bytes", chunks, repeated(varint.encode(varint.MAX), b"x"), 0),
        Case("a final chunk without end", chunks, repeated(b"\x00", bytes(PORTION)), MAX_CHUNK + TAG_SIZE),
        Case("noise as chunks", chunks, lambda: iter(lambda: os.urandom(PORTION), b""), MAX_CHUNK + TAG_SIZE),
        Case(
            "content that declares 2^62 - 1 bytes",
            lambda: ResponseDecoder().feed,
            repeated(head + varint.encode(varint.MAX), bytes(PORTION)),
            0,
        ),
        Case(
            "content of 64 MiB",
            lambda: ResponseDecoder().feed,
            repeated(head + varint.encode(MAX_RESPONSE), bytes(PORTION)),
            PORTION,
        ),
        Case(
            "a field section without end",
            lambda: ResponseDecoder().feed,
            repeated(open_head, line),
            DEFAULT_LIMITS.section,
        ),
        Case(
            "informational responses without end",
            lambda: ResponseDecoder().feed,
            repeated(b"\x03", varint.encode(102) + line + b"\x00"),
            PORTION,
        ),
        Case(
            "a path that declares 2^62 - 1 bytes",
            lambda: RequestDecoder().feed,
            repeated(b"\x02\x03GET\x05https\x01h" + varint.encode(varint.MAX), b"x" * PORTION),
            0,
        ),
        Case(
            "padding without end",
            lambda: ResponseDecoder().feed,
            repeated(head + b"\x00\x00", bytes(PORTION)),
            PORTION,
        ),
        Case(
            "noise as a response",
            lambda: ResponseDecoder().feed,
            repeated(b"\x03", os.urandom(PORTION)),
            PORTION,
        ),
    ]


def peak(case: Case, portion: int, amount: int) -> tuple[int, int, str]:
    """Peak of what is held, in bytes; how many bytes went in; and how it ended."""
    feed, fed, ended = case.decoder(), 0, "read on"
    tracemalloc.start()
    try:
        for part in case.stream():
            for at in range(0, len(part), portion):
                feed(part[at : at + portion])
            fed += len(part)
            if fed >= amount:
                break
    except OhttpError as error:
        ended = f"refused: {error.code}"
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most, fed, ended


def main() -> int:
    """Measure and print; 1 where a bound was passed."""
    parser = argparse.ArgumentParser(description="What the decoders hold, whatever arrives.")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--bytes", type=int, default=MAX_RESPONSE, help="how much to feed in large portions")
    options = parser.parse_args()
    rows = []
    for case in cases():
        for portion, amount in ((PORTION, options.bytes), (1, options.bytes // 256)):
            most, fed, ended = peak(case, portion, amount)
            bound = case.bound + OVERHEAD
            rows.append(
                {
                    "case": case.name,
                    "portion": portion,
                    "fed": fed,
                    "peak": most,
                    "bound": bound,
                    "end": ended,
                }
            )
    passed = all(int(str(row["peak"])) <= int(str(row["bound"])) for row in rows)
    if options.json:
        print(json.dumps({"rows": rows, "bounded": passed}))
    else:
        for row in rows:
            print(
                f"{row['case']:<40} {row['portion']:>6} B at a time {row['fed']:>12,} B fed"
                f" {row['peak']:>9,} B held (bound {row['bound']:>7,})  {row['end']}"
            )
        print("bounded" if passed else "a bound was passed")
    return 0 if passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
