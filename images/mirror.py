"""One locked package from a mirror: what can go wrong with that, and what whoever builds can do about it."""

import http.client
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import quote, urlsplit

from images.errors import InputUnavailable
from images.lock import LockedDeb

TIMEOUT_S = 60.0
_CHUNK = 1 << 20
_GONE = (404, 410)

_ARCHIVE = "  --inputs FILE   an archive of inputs, as 'cloister image inputs' packs them"
_OTHER = "  --mirror URL    below which the archives debian and debian-security lie"
_INDEX = "  pip config set global.index-url URL"
_GO_ON = "'cloister image lock' goes on to what is served today, which makes another image."

WITHDRAWN = (
    "Mirrors keep a version for some weeks. The same image takes one that has it still:\n"
    f"{_OTHER}\n{_ARCHIVE}\n{_GO_ON}"
)
WHEEL_WITHDRAWN = f"The same image takes an index that has it:\n{_INDEX}\n{_ARCHIVE}\n{_GO_ON}"
UNREACHABLE = f"Another place to take inputs from:\n{_OTHER}\n{_ARCHIVE}"
INDEX_UNREACHABLE = f"Another place to take wheels from:\n{_INDEX}\n{_ARCHIVE}"
OTHER_BYTES = (
    "Nothing was built from it. If other places have the bytes that are locked, this one is at fault, or attacked:\n"
    f"{_OTHER}\n{_INDEX}\n{_ARCHIVE}"
)


def download(mirror: str, deb: LockedDeb, target: Path) -> None:
    """Write what ``mirror`` serves as ``deb`` to ``target``, at most one byte more than it should have.

    Raises InputUnavailable: ``mirror_unknown``, ``input_withdrawn`` where the mirror answers and has it no more,
    ``mirror_unreachable``.
    """
    address = f"{mirror.rstrip('/')}/{quote(deb.path)}"
    if not address.startswith(("http://", "https://", "file://")):
        raise InputUnavailable("mirror_unknown", "a mirror is an http, https or file address", found=mirror)
    try:
        with (
            urllib.request.urlopen(address, timeout=TIMEOUT_S) as answer,  # noqa: S310
            target.open("wb") as copy,
        ):
            left = deb.size + 1
            while left and (chunk := answer.read(min(_CHUNK, left))):
                copy.write(chunk)
                left -= len(chunk)
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        status = error.code if isinstance(error, urllib.error.HTTPError) else 0
        reason = getattr(error, "reason", None) or error
        if status in _GONE or isinstance(reason, FileNotFoundError):
            raise withdrawn([deb], mirror) from error
        words = f"HTTP {status}" if status else getattr(reason, "strerror", None) or str(reason)
        raise InputUnavailable(
            "mirror_unreachable",
            f"{plain(mirror)} gives no answer ({words}), and {deb.name} {deb.version} is not kept here",
            path=deb.path,
            advice=UNREACHABLE,
        ) from error


def withdrawn(debs: list[LockedDeb], mirror: str) -> InputUnavailable:
    """The error for packages that a mirror has no more, named by the first."""
    first = debs[0]
    which = f"{first.name} {first.version}" + (f" (and {len(debs) - 1} more)" if len(debs) > 1 else "")
    return InputUnavailable(
        "input_withdrawn", f"{plain(mirror)} no longer has {which}", path=first.path, advice=WITHDRAWN
    )


def plain(address: str) -> str:
    """An address without the name and password that it may carry."""
    parts = urlsplit(address)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
