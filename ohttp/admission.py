"""Which requests that came out of an encapsulation may run: well-formed ones of now, once, by those who verified.

What a node asks of every request inside the encryption: its ``date`` within the window, a ``request-id``, and the
``attestation-digest`` of evidence that still stands. A gateway that has no evidence asks for the date alone.
"""

import base64
import re
from collections import Counter
from collections.abc import Callable

from .bhttp import Request, decode_request
from .errors import OhttpError, ReplayError
from .fields import Fields, Limits
from .http_date import parse_http_date
from .problems import ATTESTATION, DATE, REPLAYED, Problem
from .replay import ReplayWindow, replay_key

LIMITS = Limits(pieces=1024)
"""Of inner requests. Every piece costs time on the loop that paces everybody's cells."""

MALFORMED = Problem(400, "Malformed request", "malformed")
_FIELDS = Problem(400, "A field that is required inside is missing", "missing_fields")
_NOT_LIVE = Problem(409, "The evidence that was verified is not live", "attestation", ATTESTATION)
_BY_REPLAY_CODE = {
    "stale": Problem(400, "The date is outside the window", "date", DATE),
    "replayed": Problem(400, "This request was seen before", "replayed", REPLAYED),
    "full": Problem(503, "No more requests can be remembered now", "overloaded"),
}

_REQUEST_ID = re.compile(rb"[0-9A-Za-z_-]{16,64}")
_DIGEST = re.compile(rb"sha-256=:([A-Za-z0-9+/]{43}=):")


class Admission:
    """The check, with the memory of what was admitted.

    ``is_live``: whether evidence with this SHA-256 still stands; None where there is none. ``now``: POSIX seconds.
    """

    def __init__(
        self, is_live: Callable[[bytes], bool] | None, replay: ReplayWindow, now: Callable[[], float]
    ) -> None:
        self._is_live = is_live
        self._replay = replay
        self._now = now

    def admit(self, plain: bytes, enc: bytes) -> Request | Problem:
        """The request, remembered by its encapsulated key so that it cannot come again; or why it may not run."""
        try:
            request = decode_request(plain, LIMITS)
        except OhttpError:
            return MALFORMED
        fields = _single_fields(request.headers)
        date = parse_http_date(fields.get(b"date", b""))
        if date is None:
            return _FIELDS
        is_live, digest = self._is_live, b""
        if is_live is not None:
            stated = _stated_digest(fields.get(b"attestation-digest", b""))
            if stated is None or not _REQUEST_ID.fullmatch(fields.get(b"request-id", b"")):
                return _FIELDS
            digest = stated
        try:
            self._replay.check_and_insert(replay_key(enc), date, self._now())
        except ReplayError as error:
            return _BY_REPLAY_CODE[error.code]
        if is_live is not None and not is_live(digest):
            return _NOT_LIVE
        return request


def _single_fields(headers: Fields) -> dict[bytes, bytes]:
    """The fields that stand there once, by name: of two that could contradict each other none counts."""
    fields = dict(headers)
    if len(fields) < len(headers):
        times = Counter(name for name, _ in headers)
        fields = {name: value for name, value in fields.items() if times[name] == 1}
    return fields


def _stated_digest(field: bytes) -> bytes | None:
    """The SHA-256 in an ``attestation-digest`` field; None for anything else."""
    stated = _DIGEST.fullmatch(field)
    return None if stated is None else base64.b64decode(stated[1])
