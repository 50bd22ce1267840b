"""Network reads that end at a deadline, however small the pieces are that arrive before it.

A timeout of each read alone lets whoever answers a byte at a time hold a thread for ever.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import httpcore2


class DeadlineBackend:
    """A network backend of httpcore whose reads end at the deadline of the thread that reads, where it has one.

    ``late`` is what the ReadTimeout says that such a read raises.
    """

    def __init__(self, late: str) -> None:
        import httpcore2

        self._inner: Any = httpcore2.SyncBackend()
        self._late = partial(httpcore2.ReadTimeout, late)
        self._of_thread = threading.local()

    def connections(self) -> "httpcore2.ConnectionPool":
        """A pool of connections over this backend, which takes nothing from the environment."""
        import httpcore2
        import httpx2

        return httpcore2.ConnectionPool(
            ssl_context=httpx2.create_ssl_context(trust_env=False),
            max_connections=100,
            max_keepalive_connections=20,
            keepalive_expiry=5.0,
            network_backend=cast(httpcore2.NetworkBackend, self),
        )

    @contextmanager
    def deadline(self, seconds: float) -> Iterator[None]:
        """For all reads of this thread inside the block."""
        self._of_thread.until = time.monotonic() + seconds
        try:
            yield
        finally:
            self._of_thread.until = None

    def left(self, timeout: float | None) -> float | None:
        """Seconds that a read with this timeout of its own may take. Raises ReadTimeout where there are none."""
        until: float | None = getattr(self._of_thread, "until", None)
        if until is None:
            return timeout
        left = until - time.monotonic()
        if left <= 0:
            raise self._late()
        return left if timeout is None else min(left, timeout)

    def connect_tcp(self, *arguments: Any, **named: Any) -> Any:
        """A connection whose reads are bounded."""
        return _Stream(self._inner.connect_tcp(*arguments, **named), self)

    def connect_unix_socket(self, *arguments: Any, **named: Any) -> Any:
        """See ``connect_tcp``."""
        return _Stream(self._inner.connect_unix_socket(*arguments, **named), self)

    def sleep(self, seconds: float) -> None:
        """Between two attempts to connect."""
        self._inner.sleep(seconds)


class _Stream:
    def __init__(self, inner: Any, backend: DeadlineBackend) -> None:
        self._inner = inner
        self._backend = backend

    def read(self, max_bytes: int, timeout: float | None = None) -> Any:
        return self._inner.read(max_bytes, self._backend.left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, timeout)

    def close(self) -> None:
        self._inner.close()

    def start_tls(self, *arguments: Any, **named: Any) -> Any:
        return _Stream(self._inner.start_tls(*arguments, **named), self._backend)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
