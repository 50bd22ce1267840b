"""A year of a release log in a minute: ``python -m benchmarks.simulated_year [--days N] [--json]``.

Everything is real but the time and the network: the log's files, its witnesses, releases and statuses, nodes' staples,
clients with memories on the disk, a monitor with its state. Things go wrong on the way, by accident and on purpose, and
the table says what each party saw. Events lie at fixed shares of the year, so a shorter year has the same ones.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from measurements.alerts import AlertCode
from measurements.errors import Code, TransparencyError
from measurements.log import TileLog
from measurements.log_source import FolderSource
from measurements.merkle import leaf_hash
from measurements.monitor import Monitor
from measurements.monitor_state import StateFolder
from measurements.note import COSIGNATURE_ED25519
from measurements.policy import TransparencyPolicy
from measurements.publish import Published, ReleaseDraft, ReleaseLog
from measurements.rollback import FileMemory, RollbackMemory, VolatileMemory
from measurements.signing_key import SigningKey
from measurements.staple import Staple, check_staple
from measurements.statement import Subject
from measurements.tlog_policy import TlogPolicy
from measurements.views import SplitView
from measurements.witness import VolatileWitnessStore, Witness, WitnessResponse

START = datetime(2026, 1, 1, 9, tzinfo=UTC)
LEAST_DAYS = 73
_FOLLOWERS = ("shown-both", "gossip")


def draft(version: str, number: int) -> ReleaseDraft:
    """A release whose image and measurement are ``number``."""
    subjects = (Subject("image", f"{number:064x}"),)
    return ReleaseDraft(
        "acme/node", version, "prod", subjects, ({"tee": "sev-snp", "launchDigest": f"{number:096x}"},)
    )


class PowerCut(BaseException):
    """The machine of the log goes dark; nothing of it may handle that."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One line of the table."""

    day: int
    event: str
    party: str
    saw: str


class Attended:
    """A witness as the log reaches it: ``trouble`` happens instead of an answer, or right after it."""

    def __init__(self, witness: Witness) -> None:
        self.witness = witness
        self.key = witness.key
        self.unreachable = False
        self.power_cut_after = False

    def add_checkpoint(self, body: bytes) -> WitnessResponse:
        """See Cosigner."""
        self._reach()
        response = self.witness.add_checkpoint(body)
        if self.power_cut_after:
            self.power_cut_after = False
            raise PowerCut
        return response

    def latest(self, origin: str) -> bytes | None:
        """See Cosigner."""
        self._reach()
        return self.witness.latest(origin)

    def _reach(self) -> None:
        if self.unreachable:
            raise TransparencyError(Code.LOG_UNREADABLE, "no answer", stage="witness")


class Year:
    """The parties and what happens to them."""

    def __init__(self, folder: Path, days: int) -> None:
        self.folder = folder
        self.days = days
        self.at = START
        self.table: list[Seen] = []
        self.log_key = SigningKey.generate("log.example/releases")
        self.signer = SigningKey.generate("releases.example/1")
        self.former: list[SigningKey] = []
        self.witness_keys = [
            SigningKey.generate(f"witness{number}.example", COSIGNATURE_ED25519) for number in (1, 2, 3)
        ]
        self.stores = [VolatileWitnessStore() for _ in self.witness_keys]
        self.witnesses = [
            Attended(self.new_witness(key, store))
            for key, store in zip(self.witness_keys, self.stores, strict=True)
        ]
        self.log = self.open_log(folder / "log", self.witnesses)
        self.log.tiles.create()
        self.published: list[Published] = []
        self.daily = FileMemory(folder / "daily-client.json")
        self.traveller = FileMemory(folder / "traveller.json")
        self.victim = FileMemory(folder / "victim.json")
        self.checks = self.looks = 0

    def new_witness(self, key: SigningKey, store: VolatileWitnessStore) -> Witness:
        """A witness of the log with what ``store`` remembers."""
        return Witness(key, [self.log_key.public], store, lambda: int(self.at.timestamp()))

    def open_log(self, folder: Path, witnesses: list[Attended]) -> ReleaseLog:
        """The log's program, started anew; without witnesses it asks for none."""
        tiles = TileLog(folder, self.log_key, witnesses, quorum=min(2, len(witnesses)))
        return ReleaseLog(folder, tiles, lambda: self.at)

    def policy(self, *signers: SigningKey) -> TransparencyPolicy:
        """A client's policy: two of three witnesses, one of the signers."""
        trust = TlogPolicy.threshold(self.log_key.public, [key.public for key in self.witness_keys], 2)
        keys = tuple(key.public for key in signers or (self.signer,))
        return TransparencyPolicy(trust, keys, 1, "prod")

    @property
    def day(self) -> int:
        """Days since the start."""
        return (self.at - START).days

    @property
    def staple(self) -> Staple:
        """What nodes staple today."""
        return self.published[-1].staple

    def saw(self, event: str, party: str, what: str) -> None:
        """Add a line to the table."""
        self.table.append(Seen(self.day, event, party, what))

    def publish(self) -> str:
        """Today's release; what the operator saw."""
        number = self.day + 1
        try:
            done = self.log.publish(draft(f"{self.at.year}.{number}", number), [self.signer])
        except TransparencyError as error:
            return error.code
        self.published.append(done)
        return f"release {done.release.release.sequence}, status {done.status.status.sequence}"

    def check(
        self, staple: Staple, memory: RollbackMemory | None = None, policy: TransparencyPolicy | None = None
    ) -> str:
        """What a client says of a staple."""
        self.checks += 1
        members = {name: getattr(staple, name) for name in Staple.__dataclass_fields__}
        found = check_staple(
            **members, policy=policy or self.policy(), at=self.at, memory=memory or VolatileMemory()
        )
        return "accepted" if found.error is None else str(found.error.code)

    def look(self, *others: Path, state: str = "monitor") -> str:
        """What the monitor says: exit status and alerts."""
        self.looks += 1
        if state in _FOLLOWERS and not (self.folder / state).exists():
            # It has watched all along beside the first one.
            shutil.copytree(self.folder / "monitor", self.folder / state)
        folder = StateFolder(self.folder / state)
        monitor = Monitor(
            self.policy(),
            folder,
            FolderSource(self.folder / "log"),
            [FolderSource(other) for other in others],
            former_signers=[key.public for key in self.former],
        )
        with folder.exclusive():
            report = monitor.look(self.at)
        for alert in report.alerts:
            if alert.code is AlertCode.SPLIT_VIEW and alert.evidence:
                SplitView.parse(Path(alert.evidence).read_bytes()).verify(self.log_key.public)
        return " ".join([f"exit {report.status}", *sorted({alert.code for alert in report.alerts})])

    def quiet_day(self) -> None:
        """Publish, use, watch: nobody has anything to say."""
        said = [self.publish(), self.check(self.staple, self.daily), self.look()]
        if said[1:] != ["accepted", "exit 0"]:
            self.saw("an ordinary day", "everybody", ", ".join(said))

    # What happens, in this order; each takes one day and ends with everything as it should be.

    def first_day(self) -> None:
        self.saw("first release", "operator", self.publish())
        self.saw("first release", "client", self.check(self.staple, self.daily))
        soak = replace(self.policy(), soak_s=86_400)
        self.saw(
            "first release", "client that asks for a soak of a day", self.check(self.staple, policy=soak)
        )
        self.saw("first release", "traveller", self.check(self.staple, self.traveller))
        self.saw("first release", "monitor", self.look())

    def soaked(self) -> None:
        soak = replace(self.policy(), soak_s=86_400)
        before = self.published[-1]
        self.publish()
        staple = self.folder / "log" / "staples" / f"{before.release.leaf_hash.hex()}.json"
        yesterday = Staple.parse(staple.read_bytes())
        self.saw("a day later", "client that asks for a soak of a day", self.check(yesterday, policy=soak))
        self.check(self.staple, self.daily)
        self.saw("a day later", "monitor", self.look())

    def revocation(self) -> None:
        self.publish()
        bad, held = self.published[-1].release, self.staple
        self.check(held, self.daily)
        self.at += timedelta(hours=1)
        status = self.log.revoke(bad.leaf_hash, "prod", "leaks", [self.signer]).status
        good = self.published[-2].release.leaf_hash.hex()
        fresh = Staple.parse((self.folder / "log" / "staples" / f"{good}.json").read_bytes())
        event = "a release is revoked"
        self.saw(event, "operator", f"status {status.sequence} without it")
        self.saw(event, "client that sees a fresh node first", self.check(fresh, self.daily))
        self.saw(event, "the same client at a node with the old staple", self.check(held, self.daily))
        self.saw(event, "new client at a node with the old staple", self.check(held))
        self.saw(event, "monitor", self.look())
        self.at += timedelta(hours=23)
        self.publish()
        self.at += timedelta(hours=25)
        self.saw("two days after", "new client at a node with the old staple", self.check(held))
        # Cosignatures are renewed by who holds the old staple; its status has still run out.
        self.publish()
        patient = replace(self.policy(), max_checkpoint_age_s=30 * 86_400)
        self.saw("two days after", "client that bears old cosignatures", self.check(held, policy=patient))
        self.look()
        self.at -= timedelta(hours=1)

    def witness_down(self) -> None:
        event = "a witness is away for a week"
        self.witnesses[2].unreachable = True
        for _ in range(6):
            self.publish()
            self.check(self.staple, self.daily)
            self.at += timedelta(days=1)
        self.saw(event, "operator", self.publish())
        self.saw(event, "witness 3", f"{self.behind()} entries behind")
        self.saw(event, "client", self.check(self.staple, self.daily))
        self.saw(event, "monitor", self.look())

    def second_witness_down(self) -> None:
        event = "a second witness is away"
        self.witnesses[1].unreachable = True
        size = self.log.tiles.checkpoint().checkpoint.size
        self.saw(event, "operator", self.publish())
        same = self.log.tiles.checkpoint().checkpoint.size == size
        self.saw(event, "everybody else", "nothing new was published" if same else "something was published")
        self.saw(event, "client, with yesterday's staple", self.check(self.staple, self.daily))
        for witness in self.witnesses:
            witness.unreachable = False
        self.at += timedelta(days=1)
        self.saw("both are back", "operator", self.publish())
        self.saw("both are back", "witness 3", f"{self.behind()} entries behind")
        self.saw("both are back", "client", self.check(self.staple, self.daily))
        self.saw("both are back", "monitor", self.look())

    def crash(self) -> None:
        event = "power fails while publishing"
        self.witnesses[1].power_cut_after = True
        try:
            self.publish()
            self.saw(event, "operator", "nothing happened")
        except PowerCut:
            self.saw(event, "operator", "the log's machine is dark; a witness has cosigned already")
        self.log = self.open_log(self.folder / "log", self.witnesses)
        self.saw("power is back", "operator", self.publish())
        self.saw("power is back", "witnesses", f"{sum(len(store.forks) for store in self.stores)} forks seen")
        self.saw("power is back", "client", self.check(self.staple, self.daily))
        self.saw("power is back", "monitor", self.look())

    def old_backup(self) -> None:
        event = "the log's disk is replaced by a copy of last week"
        backup = self.folder / "backup"
        shutil.copytree(self.folder / "log", backup)
        for _ in range(2):
            self.publish()
            self.at += timedelta(days=1)
        self.look()
        (self.folder / "log").rename(self.folder / "kept")
        backup.rename(self.folder / "log")
        self.log = self.open_log(self.folder / "log", self.witnesses)
        self.saw(event, "operator", self.publish())
        self.saw(event, "monitor", self.look())
        shutil.rmtree(self.folder / "log")
        (self.folder / "kept").rename(self.folder / "log")
        self.log = self.open_log(self.folder / "log", self.witnesses)
        self.saw("the newer disk is found", "operator", self.publish())
        self.saw("the newer disk is found", "client", self.check(self.staple, self.daily))
        self.saw("the newer disk is found", "monitor", self.look())

    def rotation(self) -> None:
        event = "the release signer's key is rotated"
        old, new = self.signer, SigningKey.generate("releases.example/2")
        self.former.append(old)
        self.signer = new
        self.saw(event, "operator", self.publish())
        self.saw(event, "client with the old policy", self.check(self.staple, policy=self.policy(old)))
        self.saw(event, "client with both keys", self.check(self.staple, self.daily, self.policy(old, new)))
        self.saw(event, "client with the new policy", self.check(self.staple))
        self.saw(event, "monitor", self.look())
        self.saw(event, "monitor that starts today", self.look(state="late-monitor"))

    def stolen_old_key(self) -> None:
        event = "somebody logs a release with the old signer's key"
        thief = self.former[-1]
        mine, self.signer = self.signer, thief
        self.publish()
        forged = self.published.pop().staple
        self.signer = mine
        self.saw(event, "client", self.check(forged))
        self.saw(event, "monitor", self.look())
        self.saw(event, "monitor, a second time", self.look())
        self.saw("the day goes on", "operator", self.publish())
        self.saw("the day goes on", "client", self.check(self.staple, self.daily))
        self.saw("the day goes on", "monitor", self.look())

    def lying_log(self) -> None:
        event = "the log signs a second history for one victim"
        self.publish()
        self.check(self.staple, self.victim)
        shutil.copytree(self.folder / "log", self.folder / "second")
        honest = self.published[-1]
        self.at += timedelta(hours=1)
        secret = self.open_log(self.folder / "second", [])
        alone = secret.publish(draft("for-you", 0xEEEE), [self.signer])
        self.saw(event, "victim, without a cosignature", self.check(alone.staple, self.victim))
        # Honest witnesses have moved on with the public history.
        self.at += timedelta(days=1)
        self.publish()
        fresh = [
            Attended(self.new_witness(key, store))
            for key, store in zip(self.witness_keys, self.stores, strict=True)
        ]
        asked = self.open_log(self.folder / "second", fresh)
        with asked.tiles.exclusive():
            try:
                asked.tiles.recosign()
                self.saw(event, "witnesses", "cosigned it")
            except TransparencyError as error:
                self.saw(event, "the log's own program, asked to have it cosigned", error.code)
        body = b"old %d\n\n" % self.log.tiles.checkpoint().checkpoint.size + alone.checkpoint.raw
        answers = {witness.add_checkpoint(body).status for witness in fresh}
        kept = sum(any(one[3] for one in store.forks) for store in self.stores)
        self.saw(event, "honest witnesses", f"status {sorted(answers)}, proof kept by {kept} of 3")
        self.saw(event, "monitor that is shown both", self.look(self.folder / "second", state="shown-both"))
        self.collusion(honest)

    def collusion(self, honest: Published) -> None:
        """Two of the three witnesses forget what they have seen and cosign for the victim."""
        event = "two witnesses collude"
        shutil.rmtree(self.folder / "second")
        shutil.copytree(self.folder / "log", self.folder / "second")
        colluding = [Attended(self.new_witness(key, VolatileWitnessStore())) for key in self.witness_keys[:2]]
        lie = self.open_log(self.folder / "second", colluding)
        hidden = lie.publish(draft("for-you", 0xEEEE), [self.signer])
        self.at += timedelta(hours=1)
        self.saw(event, "victim that asks only that node", self.check(hidden.staple, self.victim))
        self.publish()
        self.saw(event, "the victim at any other node", self.check(self.staple, self.victim))
        self.saw(
            event, "monitor, shown what the victim holds", self.look(self.folder / "second", state="gossip")
        )
        self.saw(event, "client that remembers the public history", self.remembering(hidden))
        shutil.rmtree(self.folder / "second")
        self.check(self.staple, self.daily)
        self.look()
        if leaf_hash(honest.release.leaf) != honest.release.leaf_hash:
            raise RuntimeError("a leaf hash changed")

    def remembering(self, hidden: Published) -> str:
        """A client that has just seen today's public status is shown the hidden one."""
        memory = VolatileMemory()
        self.check(self.staple, memory)
        return self.check(hidden.staple, memory)

    def holiday(self) -> None:
        event = "nobody publishes for three days"
        held = self.staple
        self.at += timedelta(hours=2)
        self.saw("nobody publishes for a day", "client", self.check(held, self.daily))
        self.saw("nobody publishes for a day", "monitor", self.look())
        with self.log.tiles.exclusive():
            self.log.tiles.recosign()
        self.saw("only the witnesses look again", "monitor", self.look())
        self.at += timedelta(days=2)
        self.saw(event, "client", self.check(held, self.daily))
        self.saw(event, "monitor", self.look())
        self.at += timedelta(hours=23)
        self.saw("they are back", "operator", self.publish())
        self.saw("they are back", "client", self.check(self.staple, self.daily))
        self.saw("they are back", "monitor", self.look())

    def wrong_clock(self) -> None:
        self.publish()
        self.check(self.staple, self.daily)
        self.look()
        right = self.at
        for hours, party in (
            (-2, "client whose clock is two hours slow"),
            (60, "client whose clock is days fast"),
        ):
            self.at = right + timedelta(hours=hours)
            said = self.check(self.staple)
            self.at = right
            self.saw("clocks", party, said)

    def last_day(self) -> None:
        event = "the last day"
        self.saw(event, "operator", self.publish())
        self.saw(event, "client", self.check(self.staple, self.daily))
        self.saw(event, "traveller, last here on the first day", self.check(self.staple, self.traveller))
        oldest = self.published[0].staple
        self.saw(event, "the traveller at a node that never changed", self.check(oldest, self.traveller))
        self.saw(event, "monitor", self.look())
        self.saw(event, "monitor that starts today", self.look(state="last-monitor"))

    def behind(self) -> int:
        """How many entries the third witness has not seen."""
        held = self.stores[2].load(self.log_key.public.name)
        size = 0 if held is None else int(held.split(b"\n")[1])
        return self.log.tiles.checkpoint().checkpoint.size - size

    def run(self, advance: Callable[[int], None]) -> list[Seen]:
        """All days in order."""
        events: list[tuple[float, Callable[[], None]]] = [
            (0, self.first_day),
            (0.01, self.soaked),
            (0.1, self.revocation),
            (0.2, self.witness_down),
            (0.33, self.second_witness_down),
            (0.4, self.crash),
            (0.45, self.old_backup),
            (0.53, self.rotation),
            (0.6, self.stolen_old_key),
            (0.7, self.lying_log),
            (0.78, self.holiday),
            (0.88, self.wrong_clock),
        ]
        pending = [(int(share * self.days), event) for share, event in events]
        while self.day < self.days - 1:
            if pending and self.day >= pending[0][0]:
                pending.pop(0)[1]()
            else:
                self.quiet_day()
            self.at = START + timedelta(days=self.day + 1)
            advance(self.day)
        if pending:
            raise RuntimeError("the year was too short for everything")
        self.last_day()
        return self.table


@contextmanager
def scratch(parent: Path | None) -> Iterator[Path]:
    """A folder that is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="cloister-year-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description="A simulated year of a release log.")
    parser.add_argument("--days", type=int, default=365, help=f"at least {LEAST_DAYS}")
    parser.add_argument("--folder", type=Path, help="where to keep the year while it lasts")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    if options.days < LEAST_DAYS:
        parser.error(f"--days is at least {LEAST_DAYS}")
    with scratch(options.folder) as folder, Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("days", total=options.days)
        year = Year(folder, options.days)
        table = year.run(lambda day: bar.update(task, completed=day))
        size = year.log.tiles.checkpoint().checkpoint.size
    counts = (
        f"{options.days} days, {size} entries, {year.checks} client checks, {year.looks} looks of monitors"
    )
    if options.json:
        json.dump({"counts": counts, "table": [asdict(line) for line in table]}, sys.stdout, indent=1)
        print()
    elif options.markdown:
        print("| day | what happens | who | what they see |\n|---:|---|---|---|")
        print("\n".join(f"| {one.day} | {one.event} | {one.party} | {one.saw} |" for one in table))
        print(f"\n{counts}")
    else:
        shown = Table("day", "what happens", "who", "what they see")
        for one in table:
            shown.add_row(str(one.day), one.event, one.party, one.saw)
        Console().print(shown, counts)


if __name__ == "__main__":
    main()
