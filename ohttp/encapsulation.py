"""Oblivious HTTP messages in one piece (RFC 9458 section 4), and what the chunked form shares with them.

A client seals one request and opens one response; a gateway opens one request and seals one response.
Sessions are single-use. Streams of tokens travel in the chunked form (chunked.py); this one is for messages
that are small and whole, and for peers that speak nothing else.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

from . import hkdf, hpke
from .aead import KEY_SIZE, NONCE_SIZE, SequencedAead
from .errors import EncapsulationError, HpkeError, SessionReused
from .kem import Ephemeral
from .keyconfig import GatewayKey, KeyConfig, KeyRing, encode_request_header

MEDIA_TYPE_REQUEST = "message/ohttp-req"
MEDIA_TYPE_RESPONSE = "message/ohttp-res"
HEADER_SIZE = 7
REQUEST_LABEL = b"message/bhttp request"
RESPONSE_LABEL = b"message/bhttp response"
MAX_MESSAGE_SIZE = 16 * 1024 * 1024
"""Bytes of an encapsulated message that either side opens, unless it is told otherwise."""


@dataclass(frozen=True, slots=True)
class RequestHeader:
    """The clear start of every request: which key, and which algorithms (RFC 9458 section 4.1)."""

    key_id: int
    kem_id: int
    kdf_id: int
    aead_id: int

    @classmethod
    def parse(cls, data: bytes) -> "RequestHeader":
        """Read the first seven bytes of ``data``; raises EncapsulationError ``truncated``."""
        if len(data) < HEADER_SIZE:
            raise EncapsulationError("truncated", "the request ends inside its header")
        return cls(data[0], int.from_bytes(data[1:3]), int.from_bytes(data[3:5]), int.from_bytes(data[5:7]))

    def encode(self) -> bytes:
        """The seven bytes."""
        return encode_request_header(self.key_id, self.kem_id, self.kdf_id, self.aead_id)

    def info(self, label: bytes) -> bytes:
        """What the HPKE context is bound to: a request label, a zero byte and this header."""
        return request_info(label, self.encode())


def request_info(label: bytes, header: bytes) -> bytes:
    """``RequestHeader.info`` of a header that is encoded."""
    return label + b"\x00" + header


def start_request(
    config: KeyConfig, pair: tuple[int, int] | None, label: bytes, ephemeral: Ephemeral | None
) -> tuple[bytes, hpke.SenderContext]:
    """The client's header and HPKE context. Raises KeyConfigError or HpkeError for an unusable key."""
    suite = config.choose(pair)
    header = config.request_header((suite.kdf_id, suite.aead_id))
    return header, suite.setup_sender(config.public_key, request_info(label, header), ephemeral=ephemeral)


def open_request(
    key: GatewayKey, suite: hpke.Suite, header: bytes, enc: bytes, label: bytes
) -> hpke.RecipientContext:
    """The gateway's HPKE context. Raises EncapsulationError ``decrypt``, whatever is wrong with ``enc``."""
    try:
        return suite.setup_recipient(enc, key.private_key, request_info(label, header))
    except HpkeError:
        raise _undecryptable() from None


def response_nonce_size(suite: hpke.Suite) -> int:
    """Bytes of a response's nonce, and of the secret exported for it: max(Nn, Nk)."""
    return max(NONCE_SIZE, KEY_SIZE[suite.aead_id])


def response_aead(context: hpke.Context, enc: bytes, nonce: bytes, label: bytes) -> SequencedAead:
    """The key of the response to the request behind ``context`` (RFC 9458 section 4.4)."""
    suite = context.suite
    hash_name, aead_id = suite.hash_name, suite.aead_id
    prk = hkdf.extract(hash_name, enc + nonce, context.export(label, response_nonce_size(suite)))
    expand = hkdf.keyed(hash_name, prk)  # no key or nonce is longer than the hash: one block each
    key = hkdf.digest(expand, b"key\x01")[: KEY_SIZE[aead_id]]
    return SequencedAead(aead_id, key, hkdf.digest(expand, b"nonce\x01")[:NONCE_SIZE])


class ClientRequest:
    """A client's single exchange with the holder of ``config``.

    ``suite``: the (KDF, AEAD) pair to use, else the configuration's first that we have. ``ephemeral``: a
    sender key made beforehand, else a fresh one. Raises KeyConfigError or HpkeError for an unusable key.
    """

    def __init__(
        self, config: KeyConfig, suite: tuple[int, int] | None = None, *, ephemeral: Ephemeral | None = None
    ) -> None:
        self._header, self._context = start_request(config, suite, REQUEST_LABEL, ephemeral)
        self._sealed = self._opened = False

    def seal(self, request: bytes) -> bytes:
        """The encapsulated request around a Binary HTTP request. Raises SessionReused the second time."""
        if self._sealed:
            raise SessionReused("reused", "this session has sealed its request")
        self._sealed = True
        return self._header + self._context.enc + self._context.seal(request)

    def open(self, response: bytes, *, max_size: int = MAX_MESSAGE_SIZE) -> bytes:
        """The Binary HTTP response inside ``response``.

        Raises EncapsulationError ``truncated``, ``too_large`` or ``decrypt``; SessionReused before the
        request or after a response.
        """
        if self._opened or not self._sealed:
            raise SessionReused(
                "reused" if self._opened else "out_of_order", "one request, then one response, in a session"
            )
        if len(response) > max_size:
            raise EncapsulationError("too_large", "the response is longer than its limit")
        size = response_nonce_size(self._context.suite)
        if len(response) < size:
            raise EncapsulationError("truncated", "the response ends inside its nonce")
        aead = response_aead(self._context, self._context.enc, response[:size], RESPONSE_LABEL)
        try:
            plaintext = aead.open(response[size:])
        except HpkeError:
            raise _undecryptable() from None
        self._opened = True
        return plaintext


class GatewayRequest:
    """A request that a gateway has opened: ``plaintext`` is its Binary HTTP, ``enc`` what made it unique."""

    def __init__(
        self,
        header: RequestHeader,
        enc: bytes,
        plaintext: bytes,
        context: hpke.RecipientContext,
        random: Callable[[int], bytes],
    ) -> None:
        self.header = header
        self.enc = enc
        self.plaintext = plaintext
        self._context = context
        self._random = random
        self._answered = False

    def __repr__(self) -> str:
        return f"<GatewayRequest {self.header}>"

    @classmethod
    def open(
        cls,
        keys: KeyRing,
        data: bytes,
        *,
        max_size: int = MAX_MESSAGE_SIZE,
        random: Callable[[int], bytes] = os.urandom,
    ) -> "GatewayRequest":
        """Open an encapsulated request; ``random`` gives the bytes of the response's nonce.

        Raises UnknownKey, UnsupportedSuite, or EncapsulationError ``truncated``, ``too_large``, ``decrypt``.
        """
        if len(data) > max_size:
            raise EncapsulationError("too_large", "the request is longer than its limit")
        header = RequestHeader.parse(data)
        encoded = data[:HEADER_SIZE]
        key, suite = keys.select(encoded)
        body = HEADER_SIZE + suite.kem.enc_size
        if len(data) < body:
            raise EncapsulationError("truncated", "the request ends inside its encapsulated key")
        enc = data[HEADER_SIZE:body]
        context = open_request(key, suite, encoded, enc, REQUEST_LABEL)
        try:
            plaintext = context.open(data[body:])
        except HpkeError:
            raise _undecryptable() from None
        return cls(header, enc, plaintext, context, random)

    def seal(self, response: bytes) -> bytes:
        """The encapsulated response around a Binary HTTP response. Raises SessionReused the second time."""
        if self._answered:
            raise SessionReused("reused", "this request has its response")
        self._answered = True
        nonce = self._random(response_nonce_size(self._context.suite))
        return nonce + response_aead(self._context, self.enc, nonce, RESPONSE_LABEL).seal(response)


class WholeGateway:
    """A gateway's single exchange with a message in one piece, by the verbs of ``chunked.ChunkedGateway``.

    ``max_request``: bytes of the encapsulated request.
    """

    def __init__(
        self, keys: KeyRing, *, max_request: int, random: Callable[[int], bytes] = os.urandom
    ) -> None:
        self._keys = keys
        self._max = max_request
        self._random = random
        self._data = bytearray()
        self._request: GatewayRequest | None = None

    @property
    def enc(self) -> bytes:
        """The request's encapsulated key; empty before ``end``."""
        return b"" if self._request is None else self._request.enc

    def receive(self, data: bytes) -> list[bytes]:
        """Feed bytes of the request; nothing comes out before ``end``. EncapsulationError ``too_large``."""
        if len(self._data) + len(data) > self._max:
            raise EncapsulationError("too_large", "the request is longer than its limit")
        self._data += data
        return []

    def end(self) -> bytes:
        """The plaintext, authenticated. Raises as ``GatewayRequest.open``; SessionReused the second time."""
        if self._request is not None:
            raise SessionReused("reused", "this session has read its message")
        self._request = GatewayRequest.open(
            self._keys, bytes(self._data), max_size=self._max, random=self._random
        )
        self._data.clear()
        plaintext, self._request.plaintext = self._request.plaintext, b""
        return plaintext

    def response(self) -> Callable[[bytes], bytes]:
        """What seals the answer, once. Raises SessionReused before ``end`` has authenticated."""
        if self._request is None:
            raise SessionReused("out_of_order", "the response follows an authenticated request")
        return self._request.seal


def _undecryptable() -> EncapsulationError:
    return EncapsulationError("decrypt", "the message does not open")
