"""``cloister release show | signers | keys``: read one entry of a log, appoint signers, list key configs."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from . import strict_base64
from .command_line import (
    OK,
    REFUSED,
    USAGE_OR_IO,
    JsonOption,
    QuorumOption,
    WitnessOption,
    failed,
    guarded,
    http_witnesses,
    plain,
    print_json,
    utc_now,
)
from .dsse import Envelope
from .errors import TransparencyError
from .key_listing import MAX_KEYS, KeyListing
from .merkle import leaf_hash
from .note import VerifierKey
from .publish import ReleaseLog
from .release_signature import load_bundle
from .signer_set import SignerSet
from .signing_key import SigningKey
from .statement import Statement
from .statement_kinds import kind_name, parse_kind

_Log = Annotated[Path, typer.Option("--log", help="The log's folder, made by log init.")]
_Channel = Annotated[str, typer.Option(help="The channel of releases.")]
_Days = Annotated[int, typer.Option(min=1, max=366, help="For how many days from now.")]


def register(release: typer.Typer) -> None:
    """Add the commands to ``cloister release``."""
    release.command("show", help=_SHOW)(show)
    release.command("signers", help=_SIGNERS)(signers)
    release.command("keys", help=_KEYS)(keys)


_SHOW = """Show one entry of a log: its statement, who signed it, and whether it is well-formed.

The whole log is audited on the way. Exit status 3: it is no statement of a known kind.
"""

_SIGNERS = """Appoint the signers of a channel: K of these keys, said by offline root keys.

Clients whose policy names the roots accept statements by this set from then on, and by no earlier one once they have
seen it. Publish every active release again afterwards: what earlier signers signed does not count.
"""

_KEYS = """List key configs (application/ohttp-keys) of a service in public, so that everybody is shown the same.

A node's own keys need none of this: its evidence names them.
"""


def show(
    entry: Annotated[str, typer.Argument(help="An index, or a leaf hash (at least 8 hex digits of it).")],
    log: _Log,
    as_json: JsonOption = False,
) -> int:
    """See ``cloister release show --help``."""

    def work() -> int:
        opened = ReleaseLog.open(log, utc_now)
        found = [
            (index, leaf)
            for index, leaf in enumerate(opened.tiles.entries())
            if entry == str(index) or (len(entry) >= 8 and leaf_hash(leaf).hex().startswith(entry.lower()))
        ]
        if len(found) != 1:
            return failed(f"{len(found)} entries answer to {entry}: see release list", USAGE_OR_IO)
        index, leaf = found[0]
        bundle = load_bundle(log / "public" / "sigstore", leaf_hash(leaf))
        result: dict[str, Any] = {
            "index": index,
            "leaf_hash": leaf_hash(leaf).hex(),
            "size": len(leaf),
            "kind": None,
            "signed_by": [],
            "sigstore": bool(bundle),
            "statement": None,
            "problem": None,
        }
        try:
            envelope = Envelope.parse(leaf)
            statement = Statement.parse(envelope.payload)
            result["kind"] = kind_name(statement.predicate_type)
            result["signed_by"] = [signature.keyid for signature in envelope.signatures]
            result["statement"] = json.loads(statement.raw)
            parse_kind(statement)
        except TransparencyError as error:
            result["problem"] = f"{error.code}: {error}"
        if as_json:
            print_json(result)
        else:
            print(f"entry    {index}  {result['leaf_hash']}  {len(leaf)} bytes")
            print(f"kind     {plain(result['kind'] or 'unknown')}")
            for keyid in result["signed_by"]:
                print(f"by       {plain(keyid)} (not verified here)")
            if bundle:
                print("sigstore a bundle lies beside the log")
            if result["statement"] is not None:
                print(json.dumps(result["statement"], indent=2, ensure_ascii=True))
            if result["problem"]:
                print(f"problem  {plain(result['problem'])}")
        return REFUSED if result["problem"] else OK

    return guarded(work)


def signers(
    log: _Log,
    root: Annotated[list[Path], typer.Option(help="Key file of a root; repeatable.")],
    member: Annotated[list[str], typer.Option(help="vkey of a signer of the new set; repeatable.")],
    threshold: Annotated[int, typer.Option(min=1, help="How many of them must sign.")] = 1,
    channel: _Channel = "prod",
    days: _Days = 30,
    witness: WitnessOption = [],  # noqa: B006
    quorum: QuorumOption = None,
    as_json: JsonOption = False,
) -> int:
    """See ``cloister release signers --help``."""

    def work() -> int:
        opened = ReleaseLog.open(log, utc_now, witnesses=http_witnesses(witness), quorum=quorum)
        before = opened.listing(channel, None).newest_set
        now = utc_now().replace(microsecond=0)
        made = SignerSet(
            channel=channel,
            sequence=before.signer_set.sequence + 1 if before else 1,
            threshold=threshold,
            signers=tuple(VerifierKey.parse(vkey) for vkey in member),
            not_before=now,
            not_after=now + timedelta(days=days),
            previous=leaf_hash(before.leaf).hex() if before else "",
        )
        index = opened.log_statement(made.statement(), [SigningKey.load(path) for path in root])
        if as_json:
            print_json({"index": index, "sequence": made.sequence, "threshold": threshold, "members": member})
        else:
            print(f"set {made.sequence} of {channel}: {threshold} of {len(member)}, entry {index}")
            print("publish every active release again, signed by this set")
        return OK

    return guarded(work)


def keys(
    log: _Log,
    signer: Annotated[list[Path], typer.Option("--signer", help="Key file of a release signer; repeatable.")],
    configs: Annotated[Path, typer.Option("--keys", help="The key configs, as the service serves them.")],
    service: Annotated[str, typer.Option(help="Whose keys these are.")],
    channel: _Channel = "prod",
    days: _Days = 7,
    witness: WitnessOption = [],  # noqa: B006
    quorum: QuorumOption = None,
    as_json: JsonOption = False,
) -> int:
    """See ``cloister release keys --help``."""

    def work() -> int:
        with configs.open("rb") as file:
            data = file.read(MAX_KEYS + 1)
        opened = ReleaseLog.open(log, utc_now, witnesses=http_witnesses(witness), quorum=quorum)
        sequences = [
            kind.sequence
            for kind in _kinds(opened)
            if isinstance(kind, KeyListing) and (kind.channel, kind.service) == (channel, service)
        ]
        now = utc_now().replace(microsecond=0)
        listing = KeyListing(
            channel, service, max(sequences, default=0) + 1, now, now + timedelta(days=days), data
        )
        statement = listing.statement()
        index = opened.log_statement(statement, [SigningKey.load(path) for path in signer])
        if as_json:
            print_json(
                {
                    "index": index,
                    "sequence": listing.sequence,
                    "sha256": statement.subjects[0].sha256,
                    "keys": strict_base64.encode(data),
                }
            )
        else:
            print(
                f"keys {listing.sequence} of {service}, sha256 {statement.subjects[0].sha256}, entry {index}"
            )
        return OK

    return guarded(work)


def _kinds(opened: ReleaseLog) -> list[object]:
    found: list[object] = []
    for leaf in opened.tiles.entries():
        try:
            found.append(parse_kind(Statement.parse(Envelope.parse(leaf).payload)))
        except TransparencyError:
            continue
    return found
