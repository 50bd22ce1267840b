"""``cloister release attestation | trusted-root``: who built a file, and whom to trust for that."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..command_line import OK, REFUSED, JsonOption, failed, guarded, plain, print_json, utc_now
from ..errors import TransparencyError
from ..statement import instant, instant_text

if TYPE_CHECKING:
    from .root import TrustedRoot

_HELP = """Verify a Sigstore bundle, a GitHub attestation or a PyPI attestation (PEP 740), offline.

Every attestation in FILE must verify under the identity, which is compared exactly: name the whole subject, or a
workflow and a regular expression for the whole tag. With --artifact it must be about that file, with --model it must be
a model signature (OpenSSF Model Signing v1) over exactly these files. The trusted root is the one pinned in this
version, or --root. Exit status 3: refused.
"""


_TRUSTED_ROOT = """Fetch the current trusted root of Sigstore's public instance, verified by TUF, into a file.

A policy names it as root_json. Nothing fetches it by itself: this version's own root stays what it is, and what differs
from that one is printed. Exit status 2: the instance could not be reached.
"""


def register(release: typer.Typer) -> None:
    """Add the commands to ``cloister release``."""
    release.command("attestation", help=_HELP)(attestation)
    release.command("trusted-root", help=_TRUSTED_ROOT)(trusted_root)


def attestation(
    file: Annotated[Path, typer.Argument(help="The bundle or attestation.")],
    issuer: Annotated[str, typer.Option(help="The OIDC issuer.")] = (
        "https://token.actions.githubusercontent.com"
    ),
    subject: Annotated[str, typer.Option(help="The whole subject alternative name.")] = "",
    workflow: Annotated[str, typer.Option(help="The workflow: the subject up to its @.")] = "",
    tags: Annotated[str, typer.Option(help="A regular expression for the whole tag behind refs/tags/.")] = "",
    artifact: Annotated[Path | None, typer.Option(help="The file that it must be about.")] = None,
    model: Annotated[
        Path | None, typer.Option(help="The model that it must be about: folder or file.")
    ] = None,
    predicate_type: Annotated[
        list[str], typer.Option(help="An accepted kind of statement; repeatable.")
    ] = [],  # noqa: B006
    root: Annotated[Path | None, typer.Option(help="Another trusted root (JSON).")] = None,
    at: Annotated[str | None, typer.Option(help="Judge at this time instead of now.")] = None,
    as_json: JsonOption = False,
) -> int:
    """See ``cloister release attestation --help``."""

    def work() -> int:
        from ..model_manifest import PREDICATE_TYPE, ModelManifest
        from ..process_image import hash_volume
        from .attestation import bundles_in
        from .identity import IdentityRule
        from .root import TrustedRoot
        from .verify import verify_artifact, verify_statement

        rule = IdentityRule(issuer=issuer, subject=subject, workflow=workflow, tags=tags)
        trusted = TrustedRoot.production() if root is None else TrustedRoot.parse(root.read_bytes())
        moment = utc_now() if at is None else instant(at, "--at")
        digest = None if artifact is None else _digest(artifact)
        here = None if model is None else ModelManifest.of(hash_volume(model), single=model.is_file())
        kinds = predicate_type if here is None else [PREDICATE_TYPE]
        results: list[dict[str, Any]] = []
        try:
            for bundle in bundles_in(file.read_bytes()):
                statement = None
                if here is None and digest is not None and "dsseEnvelope" not in json.loads(bundle):
                    signature = verify_artifact(bundle, root=trusted, signer=rule, at=moment, sha256=digest)
                else:
                    statement = verify_statement(
                        bundle,
                        root=trusted,
                        signer=rule,
                        at=moment,
                        predicate_types=kinds,
                        artifact=digest,
                    )
                    signature = statement.signature
                    if here is not None:
                        here.require_same(*ModelManifest.parse(statement.predicate, statement.subjects))
                results.append(
                    {
                        "signed_by": signature.identity.subject if signature.identity else None,
                        "signed_at": instant_text(signature.signed_at),
                        "log": signature.log,
                        "log_index": signature.log_index,
                        "predicate_type": statement.predicate_type if statement else None,
                        "subjects": [list(pair) for pair in statement.subjects] if statement else [],
                    }
                )
        except TransparencyError as error:
            if as_json:
                print_json({"verdict": "refused", "code": error.code, "detail": str(error)})
            return failed(f"{error.code}: {error}", REFUSED)
        if as_json:
            print_json({"verdict": "verified", "attestations": results})
            return OK
        for result in results:
            print(f"verified {plain(result['predicate_type'] or 'signature')}")
            print(f"by       {plain(result['signed_by'] or 'a named key')}")
            print(f"at       {result['signed_at']}, {plain(result['log'])} entry {result['log_index']}")
            for name, sha256 in result["subjects"]:
                print(f"about    {plain(name)} sha256 {plain(sha256)}")
        return OK

    return guarded(work)


def trusted_root(
    file: Annotated[Path, typer.Argument(help="The new file.")],
    as_json: JsonOption = False,
) -> int:
    """See ``cloister release trusted-root --help``."""

    def work() -> int:
        from ..durable import replace_file
        from .root import TrustedRoot
        from .sign import Instance

        data = Instance.public().current_root()
        now, pinned = TrustedRoot.parse(data), TrustedRoot.production()
        replace_file(file, data)
        before, after = _names(pinned), _names(now)
        added, gone = sorted(after - before), sorted(before - after)
        if as_json:
            print_json({"sha256": now.sha256.hex(), "added": added, "gone": gone})
            return OK
        print(f"sha256   {now.sha256.hex()}")
        for mark, names in (("new", added), ("gone", gone)):
            for name in names:
                print(f"{mark:<8} {plain(name)}")
        return OK

    return guarded(work)


def _names(root: "TrustedRoot") -> set[str]:
    """Every member with its window: an ended window is a change too."""
    logs = [(log.base_url, log.public_key.valid_for) for log in (*root.model.tlogs, *root.model.ctlogs)]
    authorities = [
        (authority.uri or "", authority.valid_for)
        for authority in (*root.model.certificate_authorities, *root.model.timestamp_authorities)
    ]
    return {
        f"{name} from {instant_text(window.start)}"
        + (f" to {instant_text(window.end)}" if window.end else "")
        for name, window in (*logs, *authorities)
        if window is not None
    }


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
