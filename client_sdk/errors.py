"""What can go wrong between an application and a node.

ClientError
├── PolicyError          the policy file cannot be read or names something unknown
├── VerificationRefused  a node did not prove what the policy demands; nothing was sent
├── DirectoryRefused     the list of nodes is not what everybody is shown, or leaves no choice; nothing was sent
├── RelayUnreachable     the relay, or the node behind it, did not answer
├── ExchangeFailed       the encrypted exchange broke: cut, altered, or refused before it was opened
└── NodeRefused          the node opened the request and answered with a problem of its own
"""

from dataclasses import dataclass, field
from typing import Final

SPLIT_VIEWS: Final = frozenset({"SPLIT_VIEW", "directory_split_view"})
"""Codes that no other node, and no other relay, makes good: a log has two histories, and a person has to look."""


@dataclass
class ClientError(Exception):
    """Root of this package's errors.

    ``code`` is stable and meant for programs, ``detail`` for people, ``hint`` says what to do next.
    None of them ever holds text of a prompt or of an answer.
    """

    code: str
    detail: str
    hint: str = ""

    def __str__(self) -> str:
        text = f"{self.code}: {self.detail}"
        return f"{text} ({self.hint})" if self.hint else text


@dataclass
class PolicyError(ClientError):
    """The policy is unreadable, incomplete, or names a key that does not exist."""


@dataclass
class VerificationRefused(ClientError):
    """A check failed. ``code`` is the failing check's own; ``expected`` and ``found`` are what it compared;
    ``evidence`` holds signed notes of a log that contradict each other, for showing to others.
    """

    stage: str = ""
    expected: object = None
    found: object = None
    retryable: bool = False
    evidence: tuple[bytes, ...] = field(default=(), repr=False)


@dataclass
class DirectoryRefused(ClientError):
    """The directory is malformed, not proved to be in the log, too short or too long, or differs from a mirror's.
    ``evidence``: see VerificationRefused.
    """

    expected: object = None
    found: object = None
    evidence: tuple[bytes, ...] = field(default=(), repr=False)


@dataclass
class RelayUnreachable(ClientError):
    """No answer from the relay, or the relay had none from the node."""


@dataclass
class ExchangeFailed(ClientError):
    """The exchange did not end as the protocol says; ``stale_keys`` means: verify the node anew, then retry."""

    stale_keys: bool = field(default=False)


@dataclass
class NodeRefused(ClientError):
    """An error that came from inside the encrypted channel; ``status`` is its HTTP status."""

    status: int = 0
