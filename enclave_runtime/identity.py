"""Who a node is: keys born in its memory, the evidence that binds them, and how long each of them counts.

Keys live in epochs that overlap by an hour (ohttp/rotation.py), each with evidence of its own; then they are gone.
A restart means new keys.
"""

import asyncio
import contextlib
import hashlib
import secrets
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from enclave_runtime.errors import NodeError
from enclave_runtime.evidence import EvidenceMaker
from enclave_runtime.standing_thread import StandingThread
from measurements.staple import Staple
from ohttp.kem import MLKEM768_X25519, X25519
from ohttp.keyconfig import KeyRing
from ohttp.rotation import Epoch, KeyRotation, ring_of

CLOCK_SKEW = timedelta(minutes=2)
"""How far before the making of its keys an epoch begins, for clients whose clock is slow."""

FRESH_BURST = 8
FRESH_PER_SECOND = 1.0
FRESH_LIVES = timedelta(minutes=65)
"""How long requests may name a bundle that answered a challenge: clients verify anew within the hour."""

MAX_LIVE = 4096
"""Bundles at a time; more than the limit on challenges allows in ``FRESH_LIVES``, so that nobody fills it."""

_CHECK_EVERY_S = 60.0


class Identity:
    """The node's keys and evidence, now. ``now`` gives POSIX seconds.

    Bundles are made on ``thread``, except the first.
    """

    def __init__(
        self, maker: EvidenceMaker, *, epoch: timedelta, now: Callable[[], float], thread: StandingThread
    ) -> None:
        self._rotation = KeyRotation(
            epoch,
            first_key_id=secrets.randbelow(256),
            backdate=CLOCK_SKEW,
            kem_ids=(MLKEM768_X25519, X25519),
        )
        self._maker = maker
        self._now = now
        self._thread = thread
        self._changing = asyncio.Lock()
        self._live: dict[bytes, datetime] = {}
        self._tokens, self._tokens_at = float(FRESH_BURST), now()
        epochs = self._rotation.plan(self._time())
        self._adopt(epochs, self._make(epochs))

    def keyring(self) -> KeyRing:
        """The keys that are accepted now; its encoding is what the current bundle vouches for."""
        return self._rotation.ring()

    def current(self) -> bytes:
        """The current bundle, as served to everybody."""
        return self._bundle

    def is_live(self, digest: bytes) -> bool:
        """Whether a bundle with this SHA-256 was served and its keys are still accepted."""
        until = self._live.get(digest)
        return until is not None and self._time() < until

    async def fresh(self, nonce: bytes) -> bytes | None:
        """A bundle for a challenger's 32 bytes; None where too many were asked for of late."""
        self._forget_dead()
        epochs = self._rotation.epochs
        if not epochs or len(self._live) >= MAX_LIVE or not self._take_token():
            return None
        epoch, keys = epochs[0], self.keyring().encoded()
        bundle = await self._thread.run(lambda: self._evidence(epoch, keys, nonce))
        self._remember(bundle, min(self._rotation.accepted_until(epoch), self._time() + FRESH_LIVES))
        return bundle

    @property
    def staple(self) -> Staple:
        """The log proofs that bundles carry."""
        return self._maker.staple

    async def adopt_staple(self, staple: Staple) -> None:
        """Carry ``staple`` from now on: a new bundle for the same keys; those before stay live while their keys do.

        Where the platform gives no evidence for it, everything stays as it is.
        """
        async with self._changing:
            maker, self._maker = self._maker, replace(self._maker, staple=staple)
            epochs = self._rotation.epochs
            if not epochs:
                return  # no key is left to vouch for; the next epoch will carry it
            try:
                bundle = await self._thread.run(lambda: self._make(epochs))
            except NodeError:
                self._maker = maker
                return
            if self._rotation.epochs == epochs:  # no key ended meanwhile
                self._bundle = bundle
                self._remember(bundle, self._rotation.accepted_until(epochs[0]))

    def next_change(self) -> datetime:
        """When keys are next made or dropped."""
        return self._rotation.next_change() or datetime.min.replace(tzinfo=UTC)

    async def renew(self) -> bool:
        """Begin an epoch or drop one that ended, if it is time. True where it did; raises NodeError."""
        async with self._changing:
            if self._time() < self.next_change():
                return False
            epochs = self._rotation.plan(self._time())
            self._adopt(epochs, await self._thread.run(lambda: self._make(epochs)))
            return True

    async def keep_renewed(self) -> None:
        """Renew for ever. A platform that fails is asked again; old keys end in time whatever it does."""
        renewal: asyncio.Task[None] | None = None
        while True:
            await asyncio.sleep(_CHECK_EVERY_S)
            self.drop_ended_keys()
            if renewal is None or renewal.done():
                renewal = asyncio.create_task(self._try_to_renew())

    async def _try_to_renew(self) -> None:
        with contextlib.suppress(NodeError):
            await self.renew()

    def drop_ended_keys(self) -> None:
        """Forget the keys whose time is over; needs no evidence, so that nobody can put it off."""
        if self._rotation.drop_ended(self._time()):
            self._forget_dead()

    def _make(self, epochs: tuple[Epoch, ...]) -> bytes:
        return self._evidence(epochs[0], ring_of(epochs).encoded(), b"")

    def _adopt(self, epochs: tuple[Epoch, ...], bundle: bytes) -> None:
        self._rotation.adopt(epochs)
        self._bundle = bundle
        self._forget_dead()
        self._remember(bundle, self._rotation.accepted_until(epochs[0]))

    def _evidence(self, epoch: Epoch, keys: bytes, nonce: bytes) -> bytes:
        return self._maker.make(
            ohttp_keys=keys,
            nonce=nonce,
            not_before=epoch.not_before,
            not_after=epoch.not_after,
            at=self._time(),
        )

    def _remember(self, bundle: bytes, until: datetime) -> None:
        self._live[hashlib.sha256(bundle).digest()] = until

    def _forget_dead(self) -> None:
        now = self._time()
        self._live = {digest: until for digest, until in self._live.items() if now < until}

    def _take_token(self) -> bool:
        now = self._now()
        refill = max(0.0, now - self._tokens_at) * FRESH_PER_SECOND
        self._tokens, self._tokens_at = min(float(FRESH_BURST), self._tokens + refill), now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def _time(self) -> datetime:
        return datetime.fromtimestamp(self._now(), UTC)
