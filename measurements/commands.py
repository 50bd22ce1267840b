"""``cloister release``; the room's other commands are registered from here too."""

from datetime import timedelta
from importlib.metadata import version as distribution_version
from pathlib import Path
from typing import Annotated, Any

import typer

from . import log_commands, measure_command, statement_commands
from .command_line import (
    OK,
    USAGE_OR_IO,
    QuorumOption,
    WitnessOption,
    failed,
    guarded,
    http_witnesses,
    plain,
    print_json,
    print_witnesses,
    utc_now,
    waiting,
    witnessed,
)
from .durable import make_folder, replace_file
from .image_release import GpuFacts, draft_release, measure_image
from .listing import ListedRelease
from .note import VerifierKey
from .policy import policy_table
from .publish import ReleaseLog
from .signing_key import SigningKey
from .sigstore import commands as sigstore_commands
from .statement import instant_text

_Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
_Log = Annotated[Path, typer.Option("--log", help="The log's folder, made by log init.")]
_Channel = Annotated[str, typer.Option(help="The channel of releases.")]
_Signers = Annotated[
    list[Path], typer.Option("--signer", help="Key file of a release signer; may be repeated.")
]
_Formerly = Annotated[
    list[str], typer.Option(help="vkey of a signer of earlier entries, after a rotation; repeatable.")
]
_Model = Annotated[Path | None, typer.Option(help="The model volume: a folder or one file.")]
_Cmdline = Annotated[str, typer.Option(help="The measured command line (serve --show-command-line).")]
_ImageDir = Annotated[Path, typer.Option("--image", help="The image's folder, holding image.json.")]


def register(app: typer.Typer) -> None:
    """Add this room's commands to the command line."""
    release = typer.Typer(name="release", help="Publish, list and revoke releases.", no_args_is_help=True)
    release.command("publish", help=_PUBLISH)(publish)
    release.command("list", help="List what a log holds, the whole log audited on the way.")(list_releases)
    release.command("revoke", help=_REVOKE)(revoke)
    release.command("keygen", help="Make a key for signing releases; its public half is printed.")(keygen)
    statement_commands.register(release)
    sigstore_commands.register(release)
    app.add_typer(release)
    log_commands.register(app)
    measure_command.register(app)


_PUBLISH = """Publish an image: a signed release statement, and a status that lists it as active.

The launch digest is predicted from image.json and the model's files. An image that is active already is not
logged again; publishing it renews its status, which lives 48 hours. The staple that a node reads at boot is
written to --staple, and for every active release below LOG/staples. With --sigstore the same statement is
signed there first, without a key: under the identity that a CI job or cloud vouches for.
"""

_REVOKE = """Publish a status that no longer lists a release, and names it revoked.

A client that has not seen the new status refuses the release at the latest when the old one runs out.
"""


def keygen(
    path: Annotated[Path, typer.Argument(help="The new key file.")],
    name: Annotated[str, typer.Option(help="The signer's name.")] = "releases.cloister.example",
) -> int:
    """See ``cloister release keygen --help``."""

    def work() -> int:
        key = SigningKey.generate(name)
        key.save(path)
        print(key.public)
        return OK

    return guarded(work)


def publish(
    log: _Log,
    image: _ImageDir,
    signer: _Signers,
    model: _Model = None,
    cmdline: _Cmdline = "",
    name: Annotated[str, typer.Option(help="The release's name.")] = "cloister/node",
    version: Annotated[str, typer.Option(help="The release's version; default: of this program.")] = "",
    channel: _Channel = "prod",
    gpu_arch: Annotated[str, typer.Option(help="The GPU architecture, as its evidence names it.")] = "",
    gpu_driver: Annotated[list[str], typer.Option(help="An allowed driver version; may be repeated.")] = [],  # noqa: B006
    gpu_vbios: Annotated[list[str], typer.Option(help="An allowed VBIOS version; may be repeated.")] = [],  # noqa: B006
    keep: Annotated[int, typer.Option(help="How many releases stay active, this one among them.")] = 2,
    lifetime: Annotated[int, typer.Option(help="Hours that the status lives, at most 168.")] = 48,
    staple: Annotated[Path | None, typer.Option(help="Where to write this release's staple.")] = None,
    policy: Annotated[
        Path | None, typer.Option(help="Where to write the [transparency] policy table.")
    ] = None,
    former_signer: _Formerly = [],  # noqa: B006
    witness: WitnessOption = [],  # noqa: B006
    quorum: QuorumOption = None,
    sigstore: Annotated[
        bool, typer.Option("--sigstore", help="Also sign at Sigstore, under this environment's identity.")
    ] = False,
    sigstore_token: Annotated[
        Path | None, typer.Option(help="A file with the identity token, instead of the environment's.")
    ] = None,
    sigstore_config: Annotated[
        Path | None, typer.Option(help="Another Sigstore instance: its client trust configuration (JSON).")
    ] = None,
    as_json: _Json = False,
) -> int:
    """See ``cloister release publish --help``."""

    def work() -> int:
        if bool(gpu_arch) != bool(gpu_driver) or bool(gpu_arch) != bool(gpu_vbios):
            return failed("--gpu-arch, --gpu-driver and --gpu-vbios belong together", USAGE_OR_IO)
        if (sigstore_token or sigstore_config) and not sigstore:
            return failed("--sigstore-token and --sigstore-config belong to --sigstore", USAGE_OR_IO)
        signature = None
        if sigstore:
            from .sigstore.operator import operator_signature

            signature = operator_signature(token=sigstore_token, config=sigstore_config, now=utc_now)
        keys = [SigningKey.load(path) for path in signer]
        with waiting("measuring image and model"):
            measured = measure_image(image, model=_target(model), cmdline=cmdline.encode())
        if not measured.elements and (model is None or not cmdline):
            return failed(
                "a process image is measured with its model and its command line: give --model, and as --cmdline"
                " what 'cloister serve --show-command-line' prints",
                USAGE_OR_IO,
            )
        draft = draft_release(
            measured,
            name=name,
            version=version or distribution_version("cloister"),
            channel=channel,
            model_name=model.name if model else "",
            gpus=(GpuFacts(gpu_arch, tuple(gpu_driver), tuple(gpu_vbios)),) if gpu_arch else (),
        )
        opened = ReleaseLog.open(log, utc_now, witnesses=http_witnesses(witness), quorum=quorum)
        done = opened.publish(
            draft,
            keys,
            keep=keep,
            lifetime=timedelta(hours=lifetime),
            signature=signature,
            formerly=[VerifierKey.parse(vkey) for vkey in former_signer],
        )
        if staple is not None:
            make_folder(staple.parent)
            replace_file(staple, done.staple.encode())
        if policy is not None:
            appointed = opened.listing(channel, None).newest_set
            chosen = None if appointed is None else appointed.signer_set
            table = policy_table(
                log=opened.tiles.key,
                witnesses=opened.tiles.witnesses,
                signers=[key.public for key in keys] if chosen is None else chosen.signers,
                channel=channel,
                quorum=quorum,
                threshold=len(keys) if chosen is None else chosen.threshold,
            )
            make_folder(policy.parent)
            replace_file(policy, (table + (signature.policy_lines() if signature else "")).encode())
        signed_by = signature.rule.subject if signature and signature.rule else None
        result = {
            **_described(done.release),
            "renewed": done.renewed,
            "launch_digest": measured.launch_digest.hex(),
            "status_sequence": done.status.status.sequence,
            "status_expires_at": instant_text(done.status.status.expires_at),
            "tree_size": done.checkpoint.checkpoint.size,
            "staple": None if staple is None else str(staple),
            "witnesses": witnessed(opened.tiles),
            "sigstore": signed_by,
        }
        if as_json:
            print_json(result)
        else:
            what = "renewed the status of" if done.renewed else "published"
            print(
                f"{what} {draft.name} {draft.version} ({channel}, sequence {done.release.release.sequence})"
            )
            print(f"leaf     {result['leaf_hash']}  entry {done.release.index}")
            print(f"launch   {measured.launch_digest.hex()}")
            print(f"status   {result['status_sequence']}, until {result['status_expires_at']}")
            print_witnesses(opened.tiles)
            if signed_by is not None:
                print(f"sigstore {signed_by}")
        return OK

    return guarded(work)


def list_releases(
    log: _Log,
    channel: _Channel = "prod",
    signer: Annotated[
        list[str], typer.Option(help="A signer's vkey; without one nothing is authenticated.")
    ] = [],  # noqa: B006
    as_json: _Json = False,
) -> int:
    """See ``cloister release list --help``."""

    def work() -> int:
        keys = [VerifierKey.parse(vkey) for vkey in signer] or None
        opened = ReleaseLog.open(log, utc_now)
        listing = opened.listing(channel, keys)
        last = listing.newest_status
        now = utc_now()
        current = last is not None and last.issued_at <= now < last.expires_at
        active = last.active if last and current else ()
        revoked = {notice.release for notice in listing.revocations}
        revoked.update(entry.release for entry in (last.revoked if last else ()))

        def state(entry: ListedRelease) -> str:
            identity = entry.leaf_hash.hex()
            if identity in revoked:
                return "revoked"
            return "active" if identity in active and now < entry.release.not_after else "inactive"

        if as_json:
            print_json(
                {
                    "channel": channel,
                    "authenticated": keys is not None,
                    "tree_size": opened.tiles.checkpoint().checkpoint.size,
                    "status": None
                    if last is None
                    else {
                        "sequence": last.sequence,
                        "expires_at": instant_text(last.expires_at),
                        "current": current,
                    },
                    "releases": [{**_described(entry), "state": state(entry)} for entry in listing.releases],
                    "revocations": [
                        {
                            "release": notice.release,
                            "reason": notice.reason,
                            "revoked_at": instant_text(notice.revoked_at),
                        }
                        for notice in listing.revocations
                    ],
                    "signer_set": None
                    if listing.newest_set is None
                    else {
                        "sequence": listing.newest_set.signer_set.sequence,
                        "threshold": listing.newest_set.signer_set.threshold,
                        "signers": [str(key) for key in listing.newest_set.signer_set.signers],
                        "not_after": instant_text(listing.newest_set.signer_set.not_after),
                    },
                    "node_lists": [
                        {
                            "sequence": entry.node_list.sequence,
                            "nodes": [
                                {"name": node.name, "keys": node.keys.hex()} for node in entry.node_list.nodes
                            ],
                            "issued_at": instant_text(entry.node_list.issued_at),
                            "expires_at": instant_text(entry.node_list.expires_at),
                            "leaf_hash": entry.leaf_hash.hex(),
                            "index": entry.index,
                        }
                        for entry in listing.node_lists
                    ],
                    "ignored": listing.ignored,
                }
            )
            return OK
        for entry in listing.releases:
            release = entry.release
            named = f"{plain(release.name)} {plain(release.version):<12}"
            print(f"{state(entry):<9} {named} {entry.leaf_hash.hex()}")
        for notice in listing.revocations:
            print(f"revoked   {notice.release} at {instant_text(notice.revoked_at)}: {plain(notice.reason)}")
        for listed in listing.node_lists:
            nodes = listed.node_list
            print(
                f"nodes     list {nodes.sequence}, {len(nodes.nodes)} nodes, "
                f"{instant_text(nodes.issued_at)} to {instant_text(nodes.expires_at)}, entry {listed.index}"
            )
        if listing.newest_set is not None:
            chosen = listing.newest_set.signer_set
            print(
                f"signers   set {chosen.sequence}, {chosen.threshold} of {len(chosen.signers)}, "
                f"until {instant_text(chosen.not_after)}"
            )
        if last is None:
            print(f"no status in channel {channel}")
        else:
            until = "until" if current else "ran out at"
            print(f"status {last.sequence} {until} {instant_text(last.expires_at)}")
        if keys is None:
            print("signatures were not checked: name the signers with --signer")
        return OK

    return guarded(work)


def revoke(
    log: _Log,
    release: Annotated[str, typer.Option(help="The release's leaf hash, as release list prints it.")],
    reason: Annotated[str, typer.Option(help="Why; it is published.")],
    signer: _Signers,
    channel: _Channel = "prod",
    former_signer: _Formerly = [],  # noqa: B006
    witness: WitnessOption = [],  # noqa: B006
    quorum: QuorumOption = None,
    as_json: _Json = False,
) -> int:
    """See ``cloister release revoke --help``."""

    def work() -> int:
        try:
            identity = bytes.fromhex(release)
        except ValueError:
            return failed("--release is a leaf hash in hex", USAGE_OR_IO)
        opened = ReleaseLog.open(log, utc_now, witnesses=http_witnesses(witness), quorum=quorum)
        formerly = [VerifierKey.parse(vkey) for vkey in former_signer]
        keys = [SigningKey.load(path) for path in signer]
        done = opened.revoke(identity, channel, reason, keys, formerly=formerly)
        status = done.status
        if as_json:
            print_json(
                {"revoked": release, "status_sequence": status.sequence, "active": list(status.active)}
            )
        else:
            print(f"revoked {release}: status {status.sequence} lists {len(status.active)} active")
        return OK

    return guarded(work)


def _target(model: Path | None) -> Path | None:
    """The model itself, where a link names it: `cloister serve` hands over the same, and no link is measured."""
    return None if model is None else model.resolve()


def _described(entry: ListedRelease) -> dict[str, Any]:
    release = entry.release
    return {
        "name": release.name,
        "version": release.version,
        "channel": release.channel,
        "sequence": release.sequence,
        "leaf_hash": entry.leaf_hash.hex(),
        "index": entry.index,
        "not_before": instant_text(release.not_before),
        "not_after": instant_text(release.not_after),
    }
