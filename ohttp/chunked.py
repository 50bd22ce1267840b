"""Oblivious HTTP in chunks (draft-ietf-ohai-chunked-ohttp-08): whole requests in, answers out as they come.

A message is a start (request: header and encapsulated key; response: nonce), then chunks. A chunk is its
ciphertext's length as a variable-length integer and the ciphertext; length 0 means: the final chunk, which
runs to the end of the stream and is sealed with the AAD ``final``. Nonces count the chunks, so that none can
be dropped, repeated or moved, and a stream without its final chunk is an error, never an end.

Both readers take bytes in any portions and hold at most one chunk. There is no fallback to the unchunked
form: its labels differ, and nothing here reads it.
"""

import os
from collections.abc import Callable

from . import hpke, varint
from .aead import TAG_SIZE, SequencedAead
from .encapsulation import (
    HEADER_SIZE,
    RequestHeader,
    open_request,
    response_aead,
    response_nonce_size,
    start_request,
)
from .errors import ChunkError, EncapsulationError, HpkeError, OhttpError, SessionReused
from .kem import Ephemeral
from .keyconfig import GatewayKey, KeyConfig, KeyRing

REQUEST_MEDIA_TYPE = "message/ohttp-chunked-req"
RESPONSE_MEDIA_TYPE = "message/ohttp-chunked-res"
REQUEST_LABEL = b"message/bhttp chunked request"
RESPONSE_LABEL = b"message/bhttp chunked response"

MAX_CHUNK = 16384
"""Plaintext bytes of one chunk: what every receiver has to take, and all that ours takes."""
MAX_REQUEST = 1024 * 1024
"""Bytes of an encapsulated request, unless the gateway says otherwise."""
MAX_RESPONSE = 64 * 1024 * 1024
"""Bytes of an encapsulated response, unless the client says otherwise."""

_FINAL = b"final"


class ChunkedClient:
    """A client's single exchange with the holder of ``config``: one sealed request, one streamed response.

    ``suite``: the (KDF, AEAD) pair to use, else the configuration's first that we have. ``ephemeral``: a
    sender key made beforehand, else a fresh one. ``max_response``: bytes of the encapsulated response.
    Raises KeyConfigError or HpkeError for an unusable configuration.
    """

    def __init__(
        self,
        config: KeyConfig,
        suite: tuple[int, int] | None = None,
        *,
        ephemeral: Ephemeral | None = None,
        max_response: int = MAX_RESPONSE,
    ) -> None:
        self._header, self._context = start_request(config, suite, REQUEST_LABEL, ephemeral)
        self._nonce_size = response_nonce_size(self._context.suite)
        self._start = bytearray()
        self._reader: ChunkReader | None = None
        self._progress = _Progress(max_response)
        self._sealed = False

    def seal_request(self, request: bytes) -> bytes:
        """The whole encapsulated request around a Binary HTTP request.

        One final chunk; beyond 16,384 bytes, full chunks and a final one. SessionReused on a second call.
        """
        if self._sealed:
            raise SessionReused("reused", "this session has sealed its request")
        self._sealed = True
        parts = [self._header, self._context.enc]
        last = max(0, len(request) - 1) // MAX_CHUNK * MAX_CHUNK
        for at in range(0, last, MAX_CHUNK):
            sealed = self._context.seal(request[at : at + MAX_CHUNK])
            parts += (varint.encode(len(sealed)), sealed)
        parts.append(b"\x00" + self._context.seal(request[last:], _FINAL))
        return b"".join(parts)

    def receive(self, data: bytes) -> list[bytes]:
        """Feed bytes of the encapsulated response; get the plaintext of every chunk that they complete.

        The final chunk comes from ``finish``. Raises ChunkError ``decrypt``, ``empty_chunk``,
        ``chunk_too_large`` or ``message_too_large``, and the same again on every later call.
        """
        if not self._sealed:
            raise SessionReused("out_of_order", "the response follows the request")
        self._progress.spend(len(data))
        try:
            if self._reader is None:
                self._start += data
                size = self._nonce_size
                if len(self._start) < size:
                    return []
                nonce, data = bytes(self._start[:size]), bytes(self._start[size:])
                self._start.clear()
                aead = response_aead(self._context, self._context.enc, nonce, RESPONSE_LABEL)
                self._reader = ChunkReader(aead.open)
            return self._reader.feed(data)
        except OhttpError as error:
            self._progress.fail(error)
            raise

    def finish(self) -> list[bytes]:
        """The stream has ended: the final chunk's plaintext, or nothing where that is empty.

        Raises ChunkError ``truncated`` where no final chunk began, ``decrypt`` where it does not
        authenticate.
        """
        if not self._sealed:
            raise SessionReused("out_of_order", "the response follows the request")
        self._progress.spend(0)
        try:
            if self._reader is None:
                raise ChunkError("truncated", "the response ended inside its nonce")
            final = self._reader.finish()
        except OhttpError as error:
            self._progress.fail(error)
            raise
        self._progress.completed = True
        return [final] if final else []


class ChunkedGateway:
    """A gateway's single exchange: reads one request, then ``response`` gives what seals the answer.

    ``max_request``: bytes of the encapsulated request. ``random`` gives the bytes of the response's nonce.
    """

    def __init__(
        self,
        keys: KeyRing,
        *,
        max_request: int = MAX_REQUEST,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._keys = keys
        self._random = random
        self._progress = _Progress(max_request)
        self._start = b""
        self._selected: tuple[GatewayKey, hpke.Suite] | None = None
        self._header = self._enc = b""
        self._context: hpke.RecipientContext | None = None
        self._reader: ChunkReader | None = None
        self._answered = False

    @property
    def enc(self) -> bytes:
        """The request's encapsulated key, which a replay would repeat; empty before it has arrived."""
        return self._enc

    @property
    def header(self) -> RequestHeader | None:
        """The request's key and algorithms, once they have arrived."""
        return RequestHeader.parse(self._header) if self._header else None

    def receive(self, data: bytes) -> list[bytes]:
        """Feed bytes of the encapsulated request; get the plaintext of every chunk that they complete.

        The final chunk comes from ``end``; until then nothing says that the request is whole. Raises
        UnknownKey, UnsupportedSuite, EncapsulationError ``decrypt``, ChunkError ``decrypt``, ``empty_chunk``,
        ``chunk_too_large`` or ``message_too_large``, and the same again on every later call.
        """
        self._progress.spend(len(data))
        try:
            if self._reader is None:
                start = self._start + data
                self._reader = self._open(start)
                if self._reader is None:
                    self._start = start
                    return []
                self._start, data = b"", start[HEADER_SIZE + len(self._enc) :]
            return self._reader.feed(data)
        except OhttpError as error:
            self._progress.fail(error)
            raise

    def end(self) -> bytes:
        """The request's body has ended: the final chunk's plaintext, authenticated.

        Raises EncapsulationError ``truncated`` before the first chunk, ChunkError ``truncated`` where no
        final chunk began, ``decrypt`` where it does not authenticate.
        """
        self._progress.spend(0)
        try:
            if self._reader is None:
                raise EncapsulationError("truncated", "the request ended before its first chunk")
            final = self._reader.finish()
        except OhttpError as error:
            self._progress.fail(error)
            raise
        self._progress.completed = True
        return final

    def response(self) -> "ResponseSealer":
        """What seals the answer, once; raises SessionReused again, or before ``end`` has authenticated."""
        if self._context is None or not self._progress.completed:
            raise SessionReused("out_of_order", "the response follows an authenticated request")
        if self._answered:
            raise SessionReused("reused", "this request has its response")
        self._answered = True
        nonce = self._random(response_nonce_size(self._context.suite))
        return ResponseSealer(nonce, response_aead(self._context, self._enc, nonce, RESPONSE_LABEL))

    def _open(self, start: bytes) -> "ChunkReader | None":
        """Take header and encapsulated key from the ``start`` of the request, as far as that has arrived."""
        if self._selected is None:
            if len(start) < HEADER_SIZE:
                return None
            header = start[:HEADER_SIZE]
            self._selected, self._header = self._keys.select(header), header
        key, suite = self._selected
        end = HEADER_SIZE + suite.kem.enc_size
        if len(start) < end:
            return None
        self._enc = start[HEADER_SIZE:end]
        self._context = open_request(key, suite, self._header, self._enc, REQUEST_LABEL)
        return ChunkReader(self._context.open)


class ResponseSealer:
    """Seals one response: ``prologue`` first, then any number of ``seal``, and ``seal_final`` last."""

    __slots__ = ("_nonce", "_prefix", "_ready", "_seal", "_size", "_started")

    def __init__(self, nonce: bytes, aead: SequencedAead) -> None:
        self._nonce = nonce
        self._seal = aead.seal
        self._size, self._prefix = 0, b""
        self._started = self._ready = False

    def prologue(self) -> bytes:
        """The response's nonce, which precedes its chunks."""
        if self._started:
            raise SessionReused("reused", "this response has started")
        self._started = self._ready = True
        return self._nonce

    def seal(self, chunk: bytes) -> bytes:
        """A non-final chunk of 1 to 16,384 bytes, framed.

        Raises ChunkError ``empty_chunk`` or ``chunk_too_large``, SessionReused out of order.
        """
        size = len(chunk)
        if self._ready and 0 < size <= MAX_CHUNK:
            if size != self._size:  # cells are all of one size
                self._size, self._prefix = size, varint.encode(size + TAG_SIZE)
            return self._prefix + self._seal(chunk)
        if not chunk:
            raise ChunkError("empty_chunk", "only the final chunk may be empty")
        raise self._refusal()

    def seal_final(self, chunk: bytes = b"") -> bytes:
        """The final chunk of 0 to 16,384 bytes, framed; nothing can follow it."""
        if not self._ready or len(chunk) > MAX_CHUNK:
            raise self._refusal()
        self._ready = False
        return b"\x00" + self._seal(chunk, _FINAL)

    def _refusal(self) -> OhttpError:
        if self._ready:
            return ChunkError("chunk_too_large", "a chunk holds at most 16,384 bytes")
        if self._started:
            return SessionReused("reused", "this response has ended")
        return SessionReused("out_of_order", "the prologue precedes the chunks")


class ChunkReader:
    """Cuts a stream into chunks and opens them; holds one chunk, and refuses a larger one by its length.

    ``open_chunk`` takes a ciphertext and its AAD, and raises HpkeError.
    """

    __slots__ = ("_buffer", "_final", "_open")

    def __init__(self, open_chunk: Callable[[bytes | bytearray, bytes], bytes]) -> None:
        self._open = open_chunk
        self._buffer = bytearray()
        self._final = False

    def feed(self, data: bytes) -> list[bytes]:
        """The plaintexts of the non-final chunks that ``data`` completes; raises ChunkError."""
        # Whole chunks, the usual case, are opened where they lie; only a part of one is kept.
        buffer = self._buffer
        source: bytes | bytearray = data
        if buffer:
            buffer += data
            source = buffer
        available = len(source)
        chunks: list[bytes] = []
        at = 0
        while not self._final:
            if at + 2 <= available and source[at] >> 6 == 1:  # 2 bytes: the usual length of a length
                size, start = (source[at] & 0x3F) << 8 | source[at + 1], at + 2
            elif (prefix := varint.decode(source, at)) is None:
                break
            else:
                size, start = prefix
            if size == 0:
                self._final = True
                at = start
                break
            if size > MAX_CHUNK + TAG_SIZE:
                raise ChunkError("chunk_too_large", "a chunk is longer than 16,384 bytes")
            end = start + size
            if end > available:
                break
            plaintext = self._decrypt(source[start:end], b"")
            if not plaintext:
                raise ChunkError("empty_chunk", "a non-final chunk is empty")
            chunks.append(plaintext)
            at = end
        if self._final and available - at > MAX_CHUNK + TAG_SIZE:
            raise ChunkError("chunk_too_large", "the final chunk is longer than 16,384 bytes")
        if source is buffer:
            del buffer[:at]
        elif at < available:
            buffer += source[at:]
        return chunks

    def finish(self) -> bytes:
        """The stream has ended: the final chunk's plaintext. Raises ChunkError ``truncated``, ``decrypt``."""
        if not self._final:
            raise ChunkError("truncated", "the stream ended before its final chunk")
        return self._decrypt(self._buffer, _FINAL)

    def _decrypt(self, ciphertext: bytes | bytearray, aad: bytes) -> bytes:
        try:
            return self._open(ciphertext, aad)
        except HpkeError:
            raise ChunkError("decrypt", "a chunk does not authenticate") from None


class _Progress:
    """How far a session has read: bytes that may still come, its end, its failure (which it repeats)."""

    __slots__ = ("_failure", "_left", "completed")

    def __init__(self, limit: int) -> None:
        self._left = limit
        self.completed = False
        # Not the exception itself: its traceback would keep the plaintext of a failed message alive.
        self._failure: tuple[type[OhttpError], str, str] | None = None

    def spend(self, size: int) -> None:
        """Let ``size`` more bytes in, unless the session has ended, failed or reached its limit."""
        if self._failure is not None:
            kind, code, detail = self._failure
            raise kind(code, detail)
        if self.completed:
            raise SessionReused("reused", "this session has read its message")
        if size > self._left:
            error = ChunkError("message_too_large", "the message is longer than its limit")
            self.fail(error)
            raise error
        self._left -= size

    def fail(self, error: OhttpError) -> None:
        """Remember what went wrong."""
        self._failure = type(error), error.code, error.detail
