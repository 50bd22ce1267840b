"""A monitor: reads everything that a log publishes, from the log, its mirrors and its witnesses, and compares.

What a client must take on trust (that everybody sees the same log, and that nothing is active which nobody looked
at) is what a monitor checks. It moves on only over a checkpoint whose every entry it has read.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from .alerts import Alert, AlertCode, Severity
from .audit import replay
from .channel_watch import Channel, ChannelWatch, SeenRelease
from .checkpoint import SignedCheckpoint
from .errors import Code, TransparencyError
from .log_source import CHECKPOINT, LogSource
from .merkle import leaf_hash
from .monitor_state import MonitorState, StateFolder
from .note import VerifierKey
from .policy import TransparencyPolicy
from .signer_history import SignerHistory
from .statement import instant
from .views import join

OK, ERROR, PROVED, STALE = range(4)
"""Exit statuses: nothing to report, could not look, misbehaviour proved, something is stale or missing."""

MAX_ALERTS: Final = 1000
"""About entries, in one look; of more than that, only the number is said."""

MAX_SHOWN: Final = 10
"""Lists of nodes of a channel that people are shown, the newest."""

Progress = Callable[[int, int], None]
"""Called with entries read so far and in all."""

_STAGE: Final = "monitor"


@dataclass(frozen=True, slots=True)
class Report:
    """What one look at a log found. ``alerts`` are new or stand still; ``earlier`` were reported before."""

    log: str
    size: int
    added: int
    channels: dict[str, Channel]
    alerts: tuple[Alert, ...]
    earlier: tuple[Alert, ...]

    @property
    def status(self) -> int:
        """The exit status. A split view does not go away by having been reported."""
        severities = {alert.severity for alert in self.alerts}
        split = any(alert.code is AlertCode.SPLIT_VIEW for alert in self.earlier)
        if Severity.PROVED in severities or split:
            return PROVED
        return STALE if Severity.STALE in severities else OK

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "log": self.log,
            "size": self.size,
            "added": self.added,
            "status": self.status,
            "releases": [
                {
                    "channel": name,
                    "name": one.name,
                    "version": one.version,
                    "sequence": one.sequence,
                    "leaf_hash": one.leaf,
                    "index": one.index,
                    "not_before": one.not_before,
                    "not_after": one.not_after,
                    "state": release_state(channel, one),
                }
                for name, channel in sorted(self.channels.items())
                for one in channel.releases.values()
            ],
            "node_lists": [
                {
                    "channel": name,
                    "sequence": one.sequence,
                    "nodes": one.count,
                    "sha256": one.digest,
                    "leaf_hash": one.leaf,
                    "index": one.index,
                    "issued_at": one.issued_at,
                    "expires_at": one.expires_at,
                }
                for name, channel in sorted(self.channels.items())
                for one in channel.node_lists
            ],
            "alerts": [alert.to_json() for alert in self.alerts],
            "earlier": [alert.to_json() for alert in self.earlier],
        }


def release_state(channel: Channel, release: SeenRelease) -> str:
    """What the newest status says of a release: ``active``, ``revoked`` or ``inactive``."""
    if channel.status is None:
        return "inactive"
    if release.leaf in channel.status.revoked:
        return "revoked"
    return "active" if release.leaf in channel.status.active else "inactive"


class Monitor:
    """Watches the one log of ``policy``: read from ``log``, compared with ``others``.

    ``former_signers`` are those that a rotation has replaced, for who begins to read after it. ``artefacts`` is where
    files that releases name lie under their SHA-256; they, and the Sigstore bundle that the policy may ask for, must be
    there ``due`` after the release begins.
    """

    def __init__(
        self,
        policy: TransparencyPolicy,
        state: StateFolder,
        log: LogSource,
        others: Sequence[LogSource] = (),
        *,
        artefacts: LogSource | None = None,
        due: timedelta = timedelta(days=7),
        former_signers: Sequence[VerifierKey] = (),
    ) -> None:
        self._former = tuple(former_signers)
        self._policy = policy
        self._folder = state
        self._log = log
        self._others = tuple(others)
        self._artefacts = artefacts
        self._due = due
        self._found: list[Alert] = []

    def look(self, at: datetime, progress: Progress = lambda *_: None) -> Report:
        """Look once, at the time ``at`` (aware). Inside ``StateFolder.exclusive()``.

        Raises TransparencyError where the log cannot be read or is broken; nothing is remembered then but the
        proof of a split view, if there is one.
        """
        state = self._folder.load(str(self._policy.log))
        self._found = []
        shown = self._open(self._log)
        seen = None if not state.checkpoint else self._policy.trust.open(state.checkpoint)
        self._freshness(shown, at)
        grown = state
        if seen is not None and shown.checkpoint.size < seen.checkpoint.size:
            self._joined(self._log, seen, shown)
        elif seen is None or self._joined(self._log, seen, shown):
            grown = self._replay(state, shown, progress)
        for source, view in self._views():
            self._joined(source, shown, view)
            if seen is not None and view.checkpoint.size == seen.checkpoint.size:
                self._joined(source, seen, view)
        watch = ChannelWatch(self._policy, grown.channels, self._found.append, self._signers(grown))
        watch.standing(at)
        self._look_for_artefacts(grown, at)
        return self._finish(state, grown)

    def _open(self, source: LogSource) -> SignedCheckpoint:
        try:
            data = source.read(CHECKPOINT)
        except FileNotFoundError as error:
            raise TransparencyError(
                Code.LOG_UNREADABLE, f"{source.name} shows no checkpoint", stage=_STAGE
            ) from error
        return self._policy.trust.open(data)

    def _freshness(self, shown: SignedCheckpoint, at: datetime) -> None:
        policy = self._policy
        try:
            policy.trust.check_witnesses(
                shown, at=at, max_age_s=policy.max_checkpoint_age_s, max_future_s=policy.max_future_s
            )
        except TransparencyError as error:
            stale = error.code is Code.WITNESS_STALE
            code = AlertCode.CHECKPOINT_STALE if stale else AlertCode.WITNESSES_MISSING
            self._found.append(Alert(code, Severity.STALE, str(error), code))

    def _views(self) -> list[tuple[LogSource, SignedCheckpoint]]:
        views = []
        for source in self._others:
            try:
                views.append((source, self._open(source)))
            except TransparencyError as error:
                code = AlertCode.SOURCE_UNREACHABLE
                key = f"{code} {source.name}"
                self._found.append(Alert(code, Severity.NOTICE, f"{source.name}: {error}", key))
        return views

    def _joined(self, source: LogSource, known: SignedCheckpoint, shown: SignedCheckpoint) -> bool:
        """Whether ``shown``, now at ``source``, may be of the log that ``known`` is of; alerts say more."""
        error: TransparencyError | None = None
        # A witness has no tiles, and a log that hides its newest tree may still have them: both are asked.
        for reader in dict.fromkeys((self._log, source)):
            try:
                join(reader.read, known, shown)
                error = None
                break
            except TransparencyError as found:
                if found.code is Code.SPLIT_VIEW:
                    self._split(source, found)
                    return False
                error = found
        unjoined = "" if error is None else f"; the two cannot be joined: {error}"
        if source is self._log and shown.checkpoint.size < known.checkpoint.size:
            self._behind(shown, known, unjoined)
        elif source is not self._log and shown.checkpoint.size > known.checkpoint.size:
            self._behind(known, shown, f", which {source.name} shows{unjoined}")
        return True

    def _split(self, source: LogSource, error: TransparencyError) -> None:
        name = f"split-view-{hashlib.sha256(error.evidence[0]).hexdigest()[:16]}.json"
        path = self._folder.keep(name, error.evidence[0])
        code = AlertCode.SPLIT_VIEW
        detail = f"{error}; seen at {source.name}"
        key = f"{code} {error.expected} {error.found}"
        self._found.append(Alert(code, Severity.PROVED, detail, key, evidence=path))

    def _behind(self, older: SignedCheckpoint, newer: SignedCheckpoint, why: str) -> None:
        code = AlertCode.LOG_BEHIND
        detail = f"{self._log.name} shows size {older.checkpoint.size}, not {newer.checkpoint.size}{why}"
        self._found.append(Alert(code, Severity.STALE, detail, f"{code} {detail}"))

    def _replay(self, state: MonitorState, shown: SignedCheckpoint, progress: Progress) -> MonitorState:
        found: list[Alert] = []
        # Copies: what an unproved entry says is kept only once the root stands.
        channels = {name: Channel.from_json(one.to_json()) for name, one in state.channels.items()}
        dropped = 0

        def report(alert: Alert) -> None:
            nonlocal dropped
            if len(found) < MAX_ALERTS:
                found.append(alert)
            else:
                dropped += 1

        watch = ChannelWatch(self._policy, channels, report, self._signers(state))
        total = shown.checkpoint.size

        def entry(index: int, leaf: bytes) -> None:
            watch.entry(index, leaf)
            progress(index + 1, total)

        tree = replay(self._log.read, shown.checkpoint, state.tree, entry)
        if dropped:
            code, detail = AlertCode.FURTHER_ALERTS, f"{dropped:,} further alerts up to size {total:,}"
            found.append(Alert(code, Severity.PROVED, detail, f"{code} {total}"))
        self._found += found
        return MonitorState(state.log, tree, shown.raw, watch.channels, state.alerts, watch.signers.rotated)

    def _signers(self, state: MonitorState) -> SignerHistory:
        policy = self._policy
        return SignerHistory(policy.signers, policy.threshold, self._former, rotated=state.rotated)

    def _look_for_artefacts(self, state: MonitorState, at: datetime) -> None:
        for channel in state.channels.values():
            for leaf in channel.status.active if channel.status else ():
                release = channel.releases.get(leaf)
                if release is None or at < instant(release.not_before, "notBefore") + self._due:
                    continue
                if self._policy.sigstore is not None:
                    self._bundle(release, at)
                for name, digest in release.materials.items() if self._artefacts else ():
                    self._artefact(release, name, digest)

    def _artefact(self, release: SeenRelease, name: str, digest: str) -> None:
        what, source = f"{name} of {release.name} {release.version}", self._artefacts
        if source is None:
            return
        try:
            data = source.read(digest)
        except (FileNotFoundError, TransparencyError) as error:
            why = "is not there" if isinstance(error, FileNotFoundError) else str(error)
            self._wanting(AlertCode.ARTEFACT_MISSING, release, f"{what}: {source.name}/{digest} {why}")
            return
        if hashlib.sha256(data).hexdigest() != digest:
            self._wanting(AlertCode.ARTEFACT_WRONG, release, f"{what} at {source.name} is another file")

    def _bundle(self, release: SeenRelease, at: datetime) -> None:
        # Here, not above: who asks for no bundle never loads what judges one.
        from .sigstore.release_bundle import verify_release_bundle

        policy, resource = self._policy, f"sigstore/{release.leaf}.json"
        what = f"Sigstore bundle of {release.name} {release.version}"
        if policy.sigstore is None:
            return
        try:
            data = self._log.read(resource)
            found = verify_release_bundle(data, policy.sigstore, at=at, max_future_s=policy.max_future_s)
        except FileNotFoundError:
            self._wanting(AlertCode.SIGSTORE_BUNDLE_MISSING, release, f"{what}: no {resource} at the log")
        except TransparencyError as error:
            self._wanting(AlertCode.SIGSTORE_BUNDLE_WRONG, release, f"{what}: {error.code}: {error}")
        else:
            if leaf_hash(found.payload).hex() != release.payload:
                self._wanting(AlertCode.SIGSTORE_BUNDLE_WRONG, release, f"{what} is for another statement")

    def _wanting(self, code: AlertCode, release: SeenRelease, detail: str) -> None:
        self._found.append(Alert(code, Severity.STALE, detail, f"{code} {release.leaf} {detail}"))

    def _finish(self, state: MonitorState, grown: MonitorState) -> Report:
        known = {alert.key for alert in state.alerts}
        proved = {alert.key: alert for alert in self._found if alert.severity is Severity.PROVED}
        new = tuple(alert for key, alert in proved.items() if key not in known)
        standing = {alert.key: alert for alert in self._found if alert.severity is not Severity.PROVED}
        final = replace(grown, alerts=(*state.alerts, *new))
        if final != state:
            self._folder.save(final)
        return Report(
            state.log,
            grown.tree.size,
            grown.tree.size - state.tree.size,
            grown.channels,
            (*new, *standing.values()),
            state.alerts,
        )


def describe(report: Report) -> list[str]:
    """A report in lines for people."""
    lines = [f"{report.log.partition('+')[0]}  size {report.size:,} (+{report.added:,})"]
    for name, channel in sorted(report.channels.items()):
        active = [one for one in channel.releases.values() if release_state(channel, one) == "active"]
        until = (
            f"status {channel.status.sequence} until {channel.status.expires_at}"
            if channel.status
            else "no status"
        )
        lines.append(f"channel {name}: releases {len(channel.releases)}, active {len(active)}, {until}")
        lines += [f"  active  {one.name} {one.version}  {one.leaf}  entry {one.index}" for one in active]
        listed = channel.node_lists
        if len(listed) > MAX_SHOWN:
            lines.append(f"  {len(listed) - MAX_SHOWN:,} lists of nodes before these (--json shows all)")
        lines += [
            f"  nodes   list {one.sequence}: {one.count} nodes, sha256 {one.digest}  entry {one.index}, "
            f"{one.issued_at} to {one.expires_at}"
            for one in listed[-MAX_SHOWN:]
        ]
    for alert in report.alerts:
        lines.append(f"{alert.severity.upper()}  {alert.code}  {alert.detail}")
        if alert.evidence:
            lines.append(f"  evidence: {alert.evidence}")
    if report.earlier:
        lines.append(f"{len(report.earlier)} alerts were reported earlier (see the state folder)")
    if not report.alerts:
        lines.append("nothing to report")
    return lines
