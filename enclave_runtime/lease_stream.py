"""The stream that holds a lease: it says once how requests bring the lease, and then nothing until the lease ends.

The stream is the lease: when its reader leaves, its time is up or the node drains, what the lease held is overwritten.
It travels in cells like every answer, so it looks like a long one.
"""

import asyncio
import contextlib
import json

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from enclave_runtime.departure import unless_gone
from enclave_runtime.engine.errors import EngineError
from enclave_runtime.leases import OpenLease, encoded
from enclave_runtime.metrics import Metrics, RequestOutcome
from enclave_runtime.openai_answers import DONE


class LeaseStream(Response):
    """Server-sent events: ``{"object": "cloister.lease", "ticket": …, "tokens": …, "seconds": …}``, and at the end of
    a lease whose reader stayed ``[DONE]``, by when nothing of it is left.
    """

    def __init__(self, lease: OpenLease, metrics: Metrics) -> None:
        super().__init__(media_type="text/event-stream", headers={"cache-control": "no-store"})
        del self.headers["content-length"]
        self._lease = lease
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await unless_gone(receive, self._hold(send))
        finally:
            self._lease.close()
            # Leaving is how a lease is ended: whoever does it is not counted as having gone away.
            self._metrics.request_ended(RequestOutcome.ANSWERED)

    async def _hold(self, send: Send) -> None:
        lease = self._lease
        told = {
            "object": "cloister.lease",
            "ticket": encoded(lease.ticket),
            "tokens": lease.tokens,
            "seconds": lease.seconds,
        }
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        opening = f"data: {json.dumps(told, separators=(',', ':'))}\n\n".encode()
        await send({"type": "http.response.body", "body": opening, "more_body": True})
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(lease.ended.wait(), lease.seconds)
        with contextlib.suppress(EngineError):  # an engine that ended has overwritten everything
            await lease.close()
        await send({"type": "http.response.body", "body": DONE, "more_body": False})
