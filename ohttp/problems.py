"""Problem details (RFC 9457): what a gateway or a relay says when it refuses, with nothing of the request."""

import json
from dataclasses import dataclass

from .fields import Fields

MEDIA_TYPE = b"application/problem+json"
OHTTP_KEY = "https://iana.org/assignments/http-problem-types#ohttp-key"
DATE = "https://iana.org/assignments/http-problem-types#date"
ATTESTATION = "urn:cloister:problem:attestation"
REPLAYED = "urn:cloister:problem:replayed"


@dataclass(frozen=True, slots=True)
class Problem:
    """A refusal. ``code`` is for programs; it is in the ``error`` member too, where OpenAI clients look."""

    status: int
    title: str
    code: str
    type: str = "about:blank"

    @property
    def body(self) -> bytes:
        """The JSON document."""
        document = {"type": self.type, "title": self.title, "status": self.status, "error": self._error}
        return json.dumps(document).encode()

    @property
    def headers(self) -> Fields:
        """Content type, and that nobody keeps it."""
        return ((b"content-type", MEDIA_TYPE), (b"cache-control", b"no-store"))

    @property
    def event(self) -> bytes:
        """The same as a server-sent event, for a stream that has begun."""
        return b"data: " + json.dumps({"error": self._error}).encode() + b"\n\n"

    @property
    def _error(self) -> dict[str, str | None]:
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"message": self.title, "type": kind, "param": None, "code": self.code}
