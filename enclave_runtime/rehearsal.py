"""A dress rehearsal before the seal: one of each kind of request through the whole stack, over a socket pair.

Python and its libraries import parts of themselves at first use, which a sealed process cannot. So every
path a request can take, the refusals among them, is walked once through server, gateway, encryption, API
and engine. Of the answers it matters only that they come and are of the right kind.
"""

import asyncio
import base64
import hashlib
import json
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from email.utils import formatdate

import uvicorn
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from uvicorn.server import ServerState

from ohttp.bhttp import Head, Request, ResponseDecoder, encode_request
from ohttp.blind_rsa import PublicKey
from ohttp.chunked import REQUEST_MEDIA_TYPE, ChunkedClient
from ohttp.errors import OhttpError
from ohttp.keyconfig import KeyConfig
from ohttp.padding import padme
from ohttp.private_token import NONCE_BYTES, VARIANT, Token, token_input
from ohttp.token_header import authorization
from ohttp.token_key import MODULUS_BITS, TokenKey
from ohttp.token_policy import AcceptedKey, TokenPolicy

TIMEOUT_S = 60.0
"""For one answer. An emulated machine beside others takes longer than that for all of them."""

_GATEWAY = "/ohttp"


class RehearsalFailed(Exception):
    """A rehearsed request was not answered as it should be; the text names the step."""


class RehearsedTokens:
    """The tokens of a rehearsal: ``policy`` is ``real`` with a key made for the occasion in its issuer's stead.

    Nothing is blinded: nobody is to be kept from linking anything.
    """

    def __init__(self, real: TokenPolicy, now: Callable[[], float]) -> None:
        self._private = rsa.generate_private_key(65537, MODULUS_BITS)
        numbers = self._private.public_key().public_numbers()
        self._key = TokenKey.of(PublicKey(numbers.n, numbers.e))
        at = int(now())
        self.policy = replace(real, keys=(AcceptedKey(self._key, at - 1, at + 3600),))

    def new(self) -> str:
        """A header value with a token that nobody has spent."""
        nonce, challenge = secrets.token_bytes(NONCE_BYTES), self.policy.challenge.digest
        scheme = padding.PSS(padding.MGF1(hashes.SHA384()), VARIANT.salt_bytes)
        signed = token_input(nonce, challenge, self._key.key_id)
        signature = self._private.sign(signed, scheme, hashes.SHA384())
        return authorization(Token(nonce, challenge, self._key.key_id, signature))


async def rehearse(
    config: uvicorn.Config,
    keys: Sequence[KeyConfig],
    bundle: bytes,
    model_name: str,
    tokens: RehearsedTokens | None = None,
    *,
    leases: bool = False,
) -> None:
    """Walk every path once. ``config`` is the server's, loaded; ``leases``: whether there are any. Raises
    RehearsalFailed.
    """
    stage = _Stage(config, hashlib.sha256(bundle).digest(), model_name, tokens)
    for method, path, body, status in _PLAIN:
        await stage.plain(method, path, body, status)
    for key in keys:
        await stage.sealed(key, "/v1/models", None, 200)
    key = keys[0]
    for stream in (False, True):
        await stage.sealed(key, "/v1/chat/completions", stage.chat(stream=stream), 200)
    await stage.sealed(key, "/v1/chat/completions", stage.chat(logprobs=True, top_logprobs=1), 200)
    await stage.sealed(key, "/v1/completions", stage.completion(), 200)
    await stage.sealed(key, "/attestation", None, 200)
    await stage.sealed(key, "/nowhere", None, 404)
    await stage.sealed(key, "/v1/chat/completions", b"{", 400)
    await stage.sealed(key, "/v1/chat/completions", stage.chat(temperature=9), 400)
    await stage.sealed(key, "/v1/chat/completions", stage.chat(content="x " * 200_000), 400)
    await stage.sealed(key, "/v1/models", None, 400, date="Thu, 01 Jan 1970 00:00:00 GMT")
    await stage.sealed(key, "/v1/models", None, 409, digest=bytes(32))
    await stage.sealed(key, "/v1/models", None, 400, date="never")
    if leases:
        short = json.dumps({"secret": "A" * 43, "seconds": 1}).encode()
        await stage.sealed(key, "/v1/lease", short, 200)
        await stage.sealed(key, "/v1/lease", b'{"secret":"A"}', 400)
        await stage.sealed(key, "/v1/chat/completions", stage.chat(lease="A" * 86), 200)
    if tokens is not None:
        spent = tokens.new()
        await stage.sealed(key, "/v1/completions", stage.completion(), 200, token=spent)
        for refused in (spent, "", "PrivateToken token=AAI=", spent[:-6] + 'AAAA="'):
            await stage.sealed(key, "/v1/completions", stage.completion(), 401, token=refused)


_PLAIN = (
    ("GET", "/attestation", b"", 200),
    ("POST", "/attestation", bytes(32), 200),
    ("POST", "/attestation", b"short", 400),
    ("GET", "/health", b"", 200),
    ("GET", "/.well-known/ohttp-gateway", b"", 200),
    ("GET", "/nowhere", b"", 404),
    ("DELETE", "/health", b"", 405),
    ("POST", _GATEWAY, b"not encapsulated", 400),
)


class _Stage:
    def __init__(
        self, config: uvicorn.Config, bundle_digest: bytes, model_name: str, tokens: RehearsedTokens | None
    ) -> None:
        self._tokens = tokens
        self._config = config
        self._digest = bundle_digest
        self._model_name = model_name

    def chat(self, *, content: str = "Hello", stream: bool = False, **options: object) -> bytes:
        messages = [{"role": "user", "content": content}]
        asked = {
            "model": self._model_name,
            "messages": messages,
            "max_tokens": 2,
            "stream": stream,
            **options,
        }
        return json.dumps(asked).encode()

    def completion(self) -> bytes:
        return json.dumps({"model": self._model_name, "prompt": "Hello", "max_tokens": 2}).encode()

    async def plain(self, method: str, path: str, body: bytes, status: int) -> None:
        media_type = REQUEST_MEDIA_TYPE if path == _GATEWAY else "application/octet-stream"
        found, _ = await self._over_socket(method, path, body, media_type)
        _expect(f"{method} {path}", found, status)

    async def sealed(
        self,
        key: KeyConfig,
        path: str,
        body: bytes | None,
        status: int,
        *,
        date: str | None = None,
        digest: bytes | None = None,
        token: str | None = None,
    ) -> None:
        if token is None and self._tokens is not None:
            token = self._tokens.new()
        request = Request(
            method=b"GET" if body is None else b"POST",
            scheme=b"https",
            authority=b"cloister.internal",
            path=path.encode(),
            headers=(
                (b"content-type", b"application/json"),
                (b"date", (date or formatdate(time.time(), usegmt=True)).encode()),
                (b"request-id", secrets.token_hex(16).encode()),
                (b"attestation-digest", b"sha-256=:" + base64.b64encode(digest or self._digest) + b":"),
                *([(b"authorization", token.encode())] if token else []),
            ),
            body=body or b"",
        )
        client = ChunkedClient(key)
        plain = encode_request(request)
        sealed = client.seal_request(encode_request(request, pad_to=padme(len(plain))))
        outer, answer = await self._over_socket("POST", _GATEWAY, sealed, REQUEST_MEDIA_TYPE)
        _expect(f"encapsulated {path}", outer, 200)
        decoder = ResponseDecoder()
        try:
            chunks = [*client.receive(answer), *client.finish()]
            heads = [event for chunk in chunks for event in decoder.feed(chunk) if isinstance(event, Head)]
            decoder.finish()
        except OhttpError as error:
            raise RehearsalFailed(f"encapsulated {path}: {error.code}") from None
        _expect(f"inside {path}", heads[0].status if heads else 0, status)

    async def _over_socket(self, method: str, path: str, body: bytes, media_type: str) -> tuple[int, bytes]:
        """One HTTP exchange with the server's own protocol class, over a socket pair."""
        near, far = socket.socketpair()
        loop = asyncio.get_running_loop()
        state = ServerState()
        await loop.connect_accepted_socket(
            lambda: self._config.http_protocol_class(  # type: ignore[call-arg]
                config=self._config, server_state=state, app_state={}
            ),
            sock=far,
        )
        reader, writer = await asyncio.open_connection(sock=near)
        head = (
            f"{method} {path} HTTP/1.1\r\nhost: rehearsal\r\nconnection: close\r\n"
            f"content-type: {media_type}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        try:
            writer.write(head.encode() + body)
            async with asyncio.timeout(TIMEOUT_S):
                received = await reader.read(-1)
        except TimeoutError:
            raise RehearsalFailed(f"{method} {path}: no answer in time") from None
        finally:
            writer.close()
        top, _, rest = received.partition(b"\r\n\r\n")
        lines = top.split(b"\r\n")
        status = lines[0].split(b" ")
        if len(status) < 2 or not status[1].isdigit():
            raise RehearsalFailed(f"{method} {path}: no HTTP answer")
        chunked = any(line.lower() == b"transfer-encoding: chunked" for line in lines)
        return int(status[1]), _unchunked(rest) if chunked else rest


def _unchunked(data: bytes) -> bytes:
    """The content of an HTTP/1.1 chunked body."""
    content = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        content += data[:length]
        data = data[length + 2 :]
        if length == 0:
            break
    return content


def _expect(step: str, found: int, wanted: int) -> None:
    if found != wanted:
        raise RehearsalFailed(f"{step}: status {found} instead of {wanted}")
