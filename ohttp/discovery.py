"""Where a service's gateway is and which keys it has, asked of the service itself (RFC 9540 section 4).

The gateway of ``https://example.com`` is ``https://example.com/.well-known/ohttp-gateway``: GET gives its keys, and
that same address is what a relay is told. A redirect is never followed, and its target is given to nobody: an address
that the service made up for one client would mark every request that names it (section 7).

Whoever fetches keys directly shows the service an address, and may be given keys that nobody else has. Where that
matters, fetch them through the relay, compare with others, or pin them: ``digest`` takes the SHA-256 of a list that
something trustworthy vouched for.
"""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

from .errors import DiscoveryError
from .keyconfig import (
    MAX_LIST_SIZE,
    MEDIA_TYPE,
    KeyConfig,
    parse_key_configs,
    parse_pinned_key_configs,
    preferred,
)

WELL_KNOWN = "/.well-known/ohttp-gateway"
_AUTHORITY = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_HEADERS = {"accept": MEDIA_TYPE, "accept-encoding": "identity"}


@dataclass(frozen=True, slots=True)
class DiscoveredGateway:
    """A gateway: ``url`` to name to a relay, ``encoded`` as it was served, its ``configs``, at least one usable."""

    url: str
    encoded: bytes
    configs: tuple[KeyConfig, ...]

    @property
    def preferred(self) -> KeyConfig:
        """The configuration to encrypt to."""
        return preferred(self.configs)


class HttpClient(Protocol):
    """The part of ``httpx2.Client`` that is used here."""

    def build_request(self, method: str, url: str, *, headers: Any = None) -> Any:
        """A request that has not been sent."""

    def send(self, request: Any, *, stream: bool, auth: Any, follow_redirects: bool) -> Any:
        """Send it; with ``stream`` the body is still to be read."""


def gateway_url(origin: str, *, pinned: bool = False) -> str:
    """The gateway's address at ``origin`` (``https://host[:port]``; http only where the keys are pinned).

    Raises DiscoveryError ``origin``.
    """
    try:
        parts = urlsplit(origin)
        valid = (
            parts.scheme in (("http", "https") if pinned else ("https",))
            and _AUTHORITY.fullmatch(parts.netloc)
            and parts.port != 0
            and parts.path in ("", "/")
            and not (parts.query or parts.fragment)
            and origin.isprintable()
        )
    except ValueError:
        valid = False
    if not valid:
        raise DiscoveryError("origin", "a service is https://host, and a port where it has one of its own")
    return f"{parts.scheme}://{parts.netloc}{WELL_KNOWN}"


def read_answer(
    url: str, status: int, headers: Mapping[str, str], body: bytes, digest: bytes | None = None
) -> DiscoveredGateway:
    """The gateway behind ``url``, from the answer that it gave; ``headers`` by lower-case name.

    Raises DiscoveryError ``redirected``, ``status``, ``media_type`` or ``encoded``; KeyConfigError.
    """
    check_head(status, headers)
    configs = parse_key_configs(body) if digest is None else parse_pinned_key_configs(body, digest)
    preferred(configs)
    return DiscoveredGateway(url, body, configs)


def check_head(status: int, headers: Mapping[str, str]) -> None:
    """Raises DiscoveryError where no list of keys can follow."""
    if 300 <= status <= 399:
        raise DiscoveryError("redirected", "the service points elsewhere, which nobody is told")
    if status != 200:
        raise DiscoveryError("status", "the service gave no keys")
    if headers.get("content-type", "").partition(";")[0].strip().lower() != MEDIA_TYPE:
        raise DiscoveryError("media_type", "what the service gave is not a list of keys")
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise DiscoveryError("encoded", "a list of keys is not compressed")


def discover(
    origin: str,
    client: HttpClient,
    *,
    digest: bytes | None = None,
    timeout_s: float = 30.0,
    clock: Callable[[], float] = time.monotonic,
) -> DiscoveredGateway:
    """Ask the service at ``origin`` for its gateway's keys.

    ``client``'s own timeouts hold for each wait; ``timeout_s`` for all of the body. ``digest``: SHA-256 of the one
    list to accept. Raises DiscoveryError, KeyConfigError, or what the client raises.
    """
    url = gateway_url(origin, pinned=digest is not None)
    request = client.build_request("GET", url, headers=_HEADERS)
    for name in [name for name in request.headers if name.lower() not in (*_HEADERS, "host")]:
        del request.headers[name]  # a user agent or a cookie is nobody's business
    until = clock() + timeout_s
    answer = client.send(request, stream=True, auth=None, follow_redirects=False)
    try:
        headers = {name.lower(): value for name, value in answer.headers.items()}
        check_head(answer.status_code, headers)
        body = bytearray()
        for part in answer.iter_raw():
            body += part
            if len(body) > MAX_LIST_SIZE:
                raise DiscoveryError("too_large", "the list of keys is too long")
            if clock() > until:
                raise DiscoveryError("slow", "the list of keys did not arrive in time")
        return read_answer(url, answer.status_code, headers, bytes(body), digest)
    finally:
        answer.close()
