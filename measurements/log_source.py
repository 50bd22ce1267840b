"""Where a log, a mirror of it or a witness is read from: a URL or a folder."""

from pathlib import Path
from typing import Protocol

from .errors import Code, LogError
from .http_witness import check_prefix
from .note import MAX_NOTE
from .tiles import MAX_BUNDLE
from .web_client import WebClient
from .witness_server import monitoring_path

CHECKPOINT = "checkpoint"


class LogSource(Protocol):
    """Untrusted bytes by the names of c2sp.org/tlog-tiles."""

    @property
    def name(self) -> str:
        """What to call it towards people."""
        ...

    def read(self, resource: str) -> bytes:
        """A resource. Raises FileNotFoundError where there is none, TransparencyError where no answer comes."""
        ...


class FolderSource:
    """A log's folder, or its public folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "public" if (folder / "public").is_dir() else folder

    @property
    def name(self) -> str:
        """See LogSource."""
        return str(self._folder)

    def read(self, resource: str) -> bytes:
        """See LogSource."""
        try:
            with (self._folder / resource).open("rb") as file:
                return file.read(MAX_BUNDLE + 1)
        except (FileNotFoundError, NotADirectoryError):
            raise FileNotFoundError(resource) from None
        except OSError as error:
            raise LogError(
                Code.LOG_UNREADABLE, f"{self._folder / resource}: {error.strerror}", stage="source"
            ) from error


class UrlSource:
    """A log, or a mirror of one, below a URL prefix."""

    def __init__(self, url: str, client: WebClient) -> None:
        self._url = check_prefix(url)
        self._client = client

    @property
    def name(self) -> str:
        """See LogSource."""
        return self._url

    def read(self, resource: str) -> bytes:
        """See LogSource."""
        limit = MAX_NOTE if resource == CHECKPOINT else MAX_BUNDLE
        return _body(self._client, f"{self._url}/{resource}", resource, limit)


class WitnessSource:
    """A witness's monitoring prefix: one checkpoint of the log ``origin``, and no tiles."""

    def __init__(self, url: str, client: WebClient, origin: str) -> None:
        self._url = check_prefix(url)
        self._client = client
        self._origin = origin

    @property
    def name(self) -> str:
        """See LogSource."""
        return self._url

    def read(self, resource: str) -> bytes:
        """See LogSource."""
        if resource != CHECKPOINT:
            raise FileNotFoundError(resource)
        return _body(self._client, f"{self._url}/{monitoring_path(self._origin)}", resource, MAX_NOTE)


def open_source(place: str, client: WebClient) -> LogSource:
    """A log or a mirror at a URL or in a folder. Raises TransparencyError."""
    return UrlSource(place, client) if "://" in place else FolderSource(Path(place))


def _body(client: WebClient, url: str, resource: str, limit: int) -> bytes:
    answer = client.get(url, limit=limit)
    if answer.status in (404, 410):
        raise FileNotFoundError(resource)
    if answer.status != 200:
        raise LogError(Code.LOG_UNREADABLE, f"{url}: status {answer.status}", stage="source")
    return answer.body
