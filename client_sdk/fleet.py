"""Choosing a node: the client draws one of all that are listed, and nobody else does (docs/protocol.md §6).

    fleet = Fleet("https://relay.example", Policy.load(Path("policy.toml")))
    with fleet.client() as client:
        for text in client.chat(...): ...

The list comes through the relay with the proof that the log holds it (unless the policy does without), and is compared
with the policy's mirrors; the draw is uniform, over the whole list;
a node that cannot be reached, or that does not prove what the policy demands, is passed over for the next one drawn.
Each call of ``client`` draws anew: keep one for a conversation at most.
"""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final, Protocol

import httpx2

from measurements.errors import TransparencyError
from measurements.rollback import FileMemory, RollbackMemory, VolatileMemory

from .answer import unreachable
from .client import PrivateClient
from .directory import MAX_DIRECTORY, Directory, ListedNode, refused, shown_list
from .errors import SPLIT_VIEWS, ClientError, DirectoryRefused, RelayUnreachable, VerificationRefused
from .patient_transport import plain_client
from .policy import Policy
from .sightings import Count, FileSightings, Steering, VolatileSightings, suspected
from .verify import Verification

ATTEMPTS: Final = 3
"""Nodes that are tried for one conversation."""

_DIRECTORY_PATH: Final = "/directory"


class Sightings(Protocol):
    """Where counts are kept: ``client_sdk.sightings``."""

    def counts(self, channel: str) -> dict[str, Count]: ...

    def remember(
        self, channel: str, listed: Sequence[str], served_by: str | None, failed: Sequence[str] = ()
    ) -> dict[str, Count]: ...

    def take_back(self, channel: str, name: str, share: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Drawn:
    """A verified node, drawn by chance: its ``name`` and ``channel``, the ``client`` that talks to it, what was
    checked, and the nodes that ``failed`` before it. It was drawn ``among`` so many.
    """

    name: str
    channel: str
    client: PrivateClient
    verification: Verification
    failed: tuple[str, ...]
    among: int = 1


class Fleet:
    """The nodes behind one relay, of which a client draws.

    ``relay_url`` is the relay's own URL, ``policy`` has to have a table ``[fleet]``. ``sightings``: the file that
    counts who served (in memory only where None); ``memory`` and ``wallet`` as in ``PrivateClient``, shared by all
    nodes, and the memory is of the newest list too. ``timeout`` in seconds, ``now`` and ``random``: the clock and the
    source of randomness.
    """

    def __init__(
        self,
        relay_url: str,
        policy: Policy,
        *,
        sightings: Path | None = None,
        memory: Path | None = None,
        wallet: Path | None = None,
        timeout: float = 60.0,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        if policy.fleet is None:
            raise ClientError(
                "policy_without_fleet",
                "the policy has no table [fleet]",
                "add it with the least number of nodes to draw from, such as min_nodes = 5",
            )
        self._relay = relay_url.rstrip("/")
        self._demands, self._log = policy.fleet, policy.transparency
        self._memory: RollbackMemory = FileMemory(memory) if memory else VolatileMemory()
        self._sightings: Sightings = FileSightings(sightings) if sightings else VolatileSightings()
        self._timeout, self._now, self._random = timeout, now, random
        self._client_of = partial(
            PrivateClient,
            policy=policy,
            memory=self._memory,
            wallet=wallet,
            timeout=timeout,
            now=now,
            random=random,
        )

    def directory(self) -> Directory:
        """The list of nodes, as the log, the relay and the policy's mirrors show it. What was seen is remembered.

        Raises DirectoryRefused: ``directory_malformed``, ``directory_too_short``, ``directory_too_long``,
        ``directory_differs``, and those of ``Directory.prove``; RelayUnreachable where the relay, or every mirror, has
        none.
        """
        with closing(plain_client(self._timeout)) as http:
            data = _fetched(http, self._relay + _DIRECTORY_PATH, self._timeout)
            mirrored = self._mirrored(http)
            if any(shown_list(copy) != shown_list(data) for copy in mirrored):
                # It may just have been replaced, here or there; what differs twice is not one list.
                data, mirrored = (
                    _fetched(http, self._relay + _DIRECTORY_PATH, self._timeout),
                    self._mirrored(http),
                )
        directory = self._judged(data)
        for copy in mirrored:
            if shown_list(copy) != shown_list(data):
                raise DirectoryRefused(
                    "directory_differs",
                    "a mirror shows another list of nodes than the relay",
                    "keep both, and ask the operator; nothing was sent",
                    expected=Directory.parse(copy).digest.hex(),
                    found=directory.digest.hex(),
                )
        count, demands = len(directory.nodes), self._demands
        if count < demands.min_nodes:
            raise DirectoryRefused(
                "directory_too_short",
                "with so few nodes, whoever made the list has chosen for us",
                expected=f"at least {demands.min_nodes} nodes",
                found=count,
            )
        if count > demands.max_nodes:
            raise DirectoryRefused(
                "directory_too_long",
                "more nodes than the policy takes",
                expected=demands.max_nodes,
                found=count,
            )
        if directory.logged is not None:
            try:
                self._memory.advance(directory.logged.sighting)
            except TransparencyError as error:
                raise refused(error) from error
        return directory

    def _judged(self, data: bytes) -> Directory:
        if not self._demands.logged:
            return self._of_channel(Directory.parse(data))
        if self._log is None:
            raise DirectoryRefused(
                "directory_log_unknown", "the policy names no log: add a [transparency] table"
            )
        return Directory.prove(data, self._log, at=self._now(), memory=self._memory)

    def _of_channel(self, directory: Directory) -> Directory:
        """Sightings are counted by channel: whoever names another one each time would have them begin anew."""
        if self._log is not None and directory.channel != self._log.channel:
            raise DirectoryRefused(
                "directory_channel",
                "the list of nodes is of another channel than the policy's releases",
                expected=self._log.channel,
                found=directory.channel,
            )
        return directory

    def client(self) -> PrivateClient:
        """A client of a node drawn by chance, already verified. Raises as ``draw``."""
        return self.draw().client

    def draw(self) -> Drawn:
        """Draw a node, verify it, and count it.

        Raises what ``directory`` raises; RelayUnreachable or VerificationRefused of the last node tried where none
        of three would do, or of the one whose log has two histories; OSError where the counts cannot be written.
        """
        directory = self.directory()
        names = [node.name for node in directory.nodes]
        failed: list[str] = []
        errors: list[ClientError] = []
        for node in self._order(directory.nodes):
            client = self._client_of(f"{self._relay}/{node.name}", listed_keys=node.keys)
            try:
                verification = client.verify()
                verification.require()
            except (RelayUnreachable, VerificationRefused, DirectoryRefused) as error:
                client.close()
                failed.append(node.name)
                errors.append(error)
                if error.code in SPLIT_VIEWS:
                    break
                continue
            self._sightings.remember(directory.channel, names, node.name, failed)
            return Drawn(node.name, directory.channel, client, verification, tuple(failed), len(names))
        self._sightings.remember(directory.channel, names, None, failed)
        raise errors[-1]

    def count_failed(self, drawn: Drawn, *, read: bool = True) -> None:
        """Count that a node which was drawn could not be used for its whole conversation. One that never answered, so
        that it has not ``read`` any of it as far as is known, has not served: another draw will. Raises OSError.
        """
        if not read:
            self._sightings.take_back(drawn.channel, drawn.name, 1 / drawn.among)
            return
        listed = list(self._sightings.counts(drawn.channel))
        self._sightings.remember(drawn.channel, listed, None, [drawn.name])

    def counts(self, channel: str) -> dict[str, Count]:
        """What was counted of a channel's nodes, by name."""
        return self._sightings.counts(channel)

    def suspected(self, channel: str) -> tuple[Steering, ...]:
        """Shares that chance does not explain, over all that was counted of a channel's nodes."""
        return suspected(self._sightings.counts(channel))

    def _mirrored(self, http: httpx2.Client) -> list[bytes]:
        copies: list[bytes] = []
        last: RelayUnreachable | None = None
        for url in self._demands.mirrors:
            try:
                copies.append(_fetched(http, url, self._timeout))
            except RelayUnreachable as error:
                last = error
        if last is not None and not copies:
            raise last
        return copies

    def _order(self, nodes: Sequence[ListedNode]) -> list[ListedNode]:
        """The first few of a uniformly random order."""
        left = list(nodes)
        return [left.pop(_below(len(left), self._random)) for _ in range(min(ATTEMPTS, len(left)))]


def _below(limit: int, random: Callable[[int], bytes]) -> int:
    """A number below ``limit``, each as likely as any other."""
    span = 1 << 64
    while True:
        drawn = int.from_bytes(random(8))
        if drawn < span - span % limit:
            return drawn % limit


def _fetched(http: httpx2.Client, url: str, seconds: float) -> bytes:
    data, until = bytearray(), time.monotonic() + seconds
    try:
        with http.stream("GET", url, headers={"accept-encoding": "identity"}) as reply:
            if reply.status_code != 200:
                raise RelayUnreachable(
                    "no_directory",
                    f"no list of nodes at {url} (status {reply.status_code})",
                    "give the relay's own URL; it shows the file that cloister relay --directory names",
                )
            for part in reply.iter_raw():
                data += part
                if len(data) > MAX_DIRECTORY:
                    raise DirectoryRefused("directory_malformed", "longer than a list of nodes may be")
                if time.monotonic() > until:
                    raise RelayUnreachable("too_slow", f"the list of nodes at {url} takes too long")
    except httpx2.TransportError as error:
        raise unreachable(error) from error
    return bytes(data)
