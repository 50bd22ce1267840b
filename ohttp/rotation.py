"""A gateway's keys over time: epochs that overlap, so that no client is ever left without a key that opens.

An epoch of keys begins an overlap before its predecessor ends, and its keys are accepted until an overlap after
its own end; then they are forgotten, which is all the forward secrecy that HPKE in one direction can have. An
identifier is used again only when no accepted key has it.

No clock here: every verb takes ``now``. ``plan`` and ``adopt`` are two steps, for a gateway that wants its new keys
vouched for before anybody sees them; ``rotate`` does both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from . import kem
from .keyconfig import DEFAULT_SUITES, GatewayKey, KeyRing

OVERLAP = timedelta(hours=1)
DEFAULT_KEMS = (kem.MLKEM768_X25519, kem.X25519)
_IDS = 256


@dataclass(frozen=True, slots=True)
class Epoch:
    """Keys, in the order of publication, that are meant to be used from ``not_before`` to ``not_after``."""

    keys: tuple[GatewayKey, ...]
    not_before: datetime
    not_after: datetime


class KeyRotation:
    """The epochs of one gateway. Holds none before the first ``rotate`` or ``adopt``.

    ``length``: of an epoch, longer than two overlaps; ``overlap``: see above; ``backdate``: how long before its
    keys are made an epoch claims to begin, for clients whose clock is slow. ``kem_ids``: one key for each in every
    epoch, the preferred first. ``first_key_id``: 0-255, best drawn at random, so that a restart seldom meets a
    request for an older key. Raises ValueError for times or numbers that cannot be, HpkeError ``unsupported_kem``.
    """

    def __init__(
        self,
        length: timedelta,
        *,
        first_key_id: int,
        overlap: timedelta = OVERLAP,
        backdate: timedelta = timedelta(0),
        kem_ids: Sequence[int] = DEFAULT_KEMS,
        suites: tuple[tuple[int, int], ...] = DEFAULT_SUITES,
    ) -> None:
        if not timedelta(0) <= overlap < length / 2:
            raise ValueError("an epoch must be longer than two overlaps")
        if not timedelta(0) <= backdate < length - 2 * overlap:
            raise ValueError("an epoch must not be over before it has begun")
        if not 0 <= first_key_id < _IDS:
            raise ValueError("a key identifier is one byte")
        # At most three epochs are accepted at a time: the current one, its predecessor and its successor.
        if not 0 < 3 * len(kem_ids) <= _IDS:
            raise ValueError("an epoch has 1 to 85 keys")
        for kem_id in kem_ids:
            kem.kem(kem_id)
        self._length = length
        self._overlap = overlap
        self._backdate = backdate
        self._kem_ids = tuple(kem_ids)
        self._suites = suites
        self._next_id = first_key_id
        self._epochs: tuple[Epoch, ...] = ()
        self._ring = KeyRing.empty()

    @property
    def epochs(self) -> tuple[Epoch, ...]:
        """The epochs whose keys are accepted, newest first."""
        return self._epochs

    def ring(self) -> KeyRing:
        """The accepted keys, newest epoch first: what to serve, and what to open requests with.

        Always the same object between changes; ``KeyRing.empty()`` where there is no epoch.
        """
        return self._ring

    def accepted_until(self, epoch: Epoch) -> datetime:
        """When the keys of ``epoch`` are forgotten."""
        return epoch.not_after + self._overlap

    def next_change(self) -> datetime | None:
        """When an epoch next begins or is dropped; None where there is none: now."""
        if not self._epochs:
            return None
        begins = self._epochs[0].not_after - self._overlap
        return min([begins, *(self.accepted_until(epoch) for epoch in self._epochs)])

    def plan(self, now: datetime) -> tuple[Epoch, ...]:
        """The epochs that should count at ``now``, newest first, with fresh keys where one is to begin."""
        kept = self._accepted(now)
        if kept and now < kept[0].not_after - self._overlap:
            return kept
        begun = (now - self._backdate).replace(microsecond=0)
        return (Epoch(self._new_keys(kept), begun, begun + self._length), *kept)

    def adopt(self, epochs: tuple[Epoch, ...]) -> KeyRing:
        """Let ``epochs``, as ``plan`` gave them, count from now on. Raises KeyConfigError."""
        ring = ring_of(epochs)
        self._epochs, self._ring = epochs, ring
        return ring

    def rotate(self, now: datetime) -> bool:
        """Begin an epoch or drop ended ones, if it is time. True where something changed."""
        due = self.next_change()
        if due is not None and now < due:
            return False
        self.adopt(self.plan(now))
        return True

    def drop_ended(self, now: datetime) -> bool:
        """Forget the keys whose time is over, and begin nothing. True where there were any."""
        kept = self._accepted(now)
        if kept == self._epochs:
            return False
        self._epochs, self._ring = kept, ring_of(kept) if kept else KeyRing.empty()
        return True

    def _accepted(self, now: datetime) -> tuple[Epoch, ...]:
        return tuple(epoch for epoch in self._epochs if now < self.accepted_until(epoch))

    def _new_keys(self, kept: Sequence[Epoch]) -> tuple[GatewayKey, ...]:
        taken = {key.config.key_id for epoch in kept for key in epoch.keys}
        keys: list[GatewayKey] = []
        for kem_id in self._kem_ids:
            while self._next_id in taken:
                self._next_id = (self._next_id + 1) % _IDS
            keys.append(GatewayKey.generate(self._next_id, kem_id, self._suites))
            self._next_id = (self._next_id + 1) % _IDS
        return tuple(keys)


def ring_of(epochs: Sequence[Epoch]) -> KeyRing:
    """All keys of ``epochs`` in their order. Raises KeyConfigError ``no_keys`` or ``duplicate_key_id``."""
    return KeyRing([key for epoch in epochs for key in epoch.keys])
