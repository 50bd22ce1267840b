"""Getting blind tokens from an issuer: the client's side of RFC 9578, over HTTP.

The issuer learns whose account asks and how many tokens; never their nonces, nor where they are spent. The key they
are signed under has to be one that the verified node names, the same for everybody.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urljoin, urlsplit

import httpx2

from ohttp.errors import TokenError
from ohttp.token_directory import MAX_DIRECTORY, WELL_KNOWN, IssuerDirectory, choose
from ohttp.token_issuance import REQUEST_MEDIA_TYPE, RESPONSE_MEDIA_TYPE, PendingToken
from ohttp.token_key import SIGNATURE_BYTES, TokenKey
from ohttp.token_policy import TokenPolicy
from ohttp.token_wallet import StoredToken

from .errors import ClientError
from .patient_transport import plain_client

MAX_BATCH = 10_000
_NO_ENCODING = {"accept-encoding": "identity", "user-agent": "cloister"}
_BY_STATUS = {
    401: ("token_account", "the issuer knows no account with this secret", ""),
    422: (
        "token_refused",
        "the issuer does not sign under this key now",
        "try again; its key may have changed",
    ),
    429: ("token_limit", "the account has had its tokens", "wait for the issuer's next key"),
    503: ("token_issuer_busy", "the issuer cannot issue now", "try again later"),
}


class TokenPurchase:
    """Tokens of the issuer at ``url`` (https; plain http on this machine alone) for nodes with ``policy``.

    ``secret`` is the account's. ``now`` gives POSIX seconds. Every method raises ClientError.
    """

    def __init__(
        self,
        url: str,
        policy: TokenPolicy,
        secret: str,
        *,
        timeout: float = 30.0,
        now: Callable[[], float] = time.time,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._url = _safe(url)
        self._policy = policy
        self._secret = secret
        self._timeout = timeout
        self._now = now
        self._random = random

    def tokens(self, count: int) -> Iterator[StoredToken]:
        """Get ``count`` tokens, each as soon as it is there: what came before a failure is paid for, so keep it."""
        if not 1 <= count <= MAX_BATCH:
            raise ClientError("usage", f"1 to {MAX_BATCH} tokens at a time")
        with self._client() as http:
            directory = self._directory(http)
            key = self._key(directory)
            until = next(k.not_after for k in self._policy.keys if k.key.key_id == key.key_id)
            target = self._target(directory)
            for _ in range(count):
                pending = PendingToken.begin(self._policy.challenge, key, self._random)
                answer = self._ask(http, target, pending.request.encode())
                try:
                    yield StoredToken(pending.finish(answer), until)
                except TokenError:
                    raise ClientError(
                        "token_invalid", "the issuer's answer is not its signature", "do not pay this issuer"
                    ) from None

    def _key(self, directory: IssuerDirectory) -> TokenKey:
        now = self._now()
        accepted = [k.key.key_id for k in self._policy.accepted(now)]
        try:
            return choose(directory, accepted, now)
        except TokenError as error:
            raise ClientError(error.code, error.detail, "is it the issuer that the node names?") from None

    def _directory(self, http: httpx2.Client) -> IssuerDirectory:
        with _network(), http.stream("GET", urljoin(self._url, WELL_KNOWN), headers=_NO_ENCODING) as reply:
            if reply.status_code != 200:
                raise ClientError(
                    "token_issuer", f"no directory (status {reply.status_code})", "is it an issuer?"
                )
            data = _read(reply, MAX_DIRECTORY)
        try:
            return IssuerDirectory.parse(data)
        except TokenError as error:
            raise ClientError("token_issuer", f"its directory cannot be used: {error.detail}") from None

    def _target(self, directory: IssuerDirectory) -> str:
        target = urljoin(self._url, directory.request_uri)
        if urlsplit(target)[:2] != urlsplit(self._url)[:2]:
            raise ClientError("token_issuer", "its directory sends the account's secret elsewhere")
        return target

    def _ask(self, http: httpx2.Client, target: str, request: bytes) -> bytes:
        headers = {
            "content-type": REQUEST_MEDIA_TYPE,
            "accept": RESPONSE_MEDIA_TYPE,
            "authorization": f"Bearer {self._secret}",
            **_NO_ENCODING,
        }
        with _network(), http.stream("POST", target, content=request, headers=headers) as reply:
            if reply.status_code != 200:
                unknown = ("token_issuer", f"the issuer answered {reply.status_code}", "")
                raise ClientError(*_BY_STATUS.get(reply.status_code, unknown))
            return _read(reply, SIGNATURE_BYTES)

    def _client(self) -> httpx2.Client:
        return plain_client(self._timeout)


def _safe(url: str) -> str:
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        raise ClientError("usage", "not an issuer's URL") from None
    local = host in ("localhost", "127.0.0.1", "::1")
    if not host or parts.scheme not in ("http", "https") or parts.username is not None:
        raise ClientError("usage", "an issuer's URL is https://host")
    if parts.scheme == "http" and not local:
        raise ClientError("usage", "the account's secret travels over https alone", "give an https URL")
    return url


def _read(reply: httpx2.Response, limit: int) -> bytes:
    data = b""
    for part in reply.iter_raw():
        data += part
        if len(data) > limit:
            raise ClientError("token_issuer", "the issuer's answer is too large")
    return data


@contextmanager
def _network() -> Iterator[None]:
    try:
        yield
    except (httpx2.TransportError, httpx2.InvalidURL) as error:
        raise ClientError(
            "token_issuer_unreachable", f"{type(error).__name__}: no answer", "is the issuer running?"
        ) from None
