"""Whose signature an entry needs, where the release signers were rotated once the log had entries."""

from collections.abc import Sequence

from .errors import TransparencyError
from .note import VerifierKey
from .release import open_leaf
from .statement import Statement


class SignerHistory:
    """Opens entries in the log's order. ``former`` signers count until today's have signed one by themselves,
    which ``rotated`` says: a key that was replaced, and perhaps stolen, signs nothing that comes after.
    """

    def __init__(
        self,
        signers: Sequence[VerifierKey],
        threshold: int,
        former: Sequence[VerifierKey] = (),
        *,
        rotated: bool = False,
    ) -> None:
        self.rotated = rotated
        self._signers = tuple(signers)
        self._former = tuple(former)
        self._threshold = threshold

    def open(self, leaf: bytes) -> Statement:
        """The statement of the next entry. Raises TransparencyError, as ``open_leaf`` does."""
        try:
            statement = open_leaf(leaf, self._signers, self._threshold)
        except TransparencyError:
            if self.rotated or not self._former:
                raise
            return open_leaf(leaf, (*self._signers, *self._former), self._threshold)
        self.rotated = True
        return statement
