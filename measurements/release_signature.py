"""The Sigstore signature that an operator adds to a release: made, then judged as a client will judge it."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from .durable import make_folder, replace_file
from .errors import Code, TransparencyError
from .sigstore.identity import IdentityRule
from .sigstore.policy import SigstorePolicy

_MAX_BUNDLE: Final = 192 * 1024
"""What a staple has room for beside the proofs."""


@dataclass(slots=True)
class ReleaseSignature:
    """Signs release statements at one Sigstore instance, under one identity.

    ``sign`` takes a statement and gives a bundle, ``root_json`` is the instance's trusted root (None: the pinned
    production root), ``now`` gives aware UTC times. After ``attest`` the ``rule`` says who signed.
    """

    sign: Callable[[bytes], bytes]
    root_json: bytes | None
    now: Callable[[], datetime]
    rule: IdentityRule | None = field(default=None)

    def attest(self, payload: bytes) -> bytes:
        """A bundle around ``payload``, verified under the identity that it names.

        Raises TransparencyError: nothing that a client would refuse is ever published.
        """
        bundle = self.sign(payload)
        self.examine(bundle, payload)
        return bundle

    def examine(self, bundle: bytes, payload: bytes) -> None:
        """Verify a bundle around ``payload`` and keep its identity in ``rule``. Raises TransparencyError."""
        from .sigstore.bundle import SigstoreBundle
        from .sigstore.identity import read_identity
        from .sigstore.release_bundle import verify_release_bundle

        certificate = SigstoreBundle.parse(bundle).certificate
        if certificate is None:
            raise TransparencyError(
                Code.IDENTITY_MISMATCH, "the bundle has no certificate", stage="log.sigstore"
            )
        found = read_identity(certificate)
        rule = IdentityRule(issuer=found.issuer, subject=found.subject)
        policy = SigstorePolicy(rule, self.root_json)
        verify_release_bundle(bundle, policy, at=self.now(), max_future_s=300, payload=payload)
        self.rule = rule

    def policy_lines(self) -> str:
        """TOML that accepts exactly this signer: ``profile`` for the table, and the table's own table."""
        if self.rule is None:
            raise TransparencyError(Code.PROOF_MISSING, "nothing was signed", stage="log.sigstore")
        table: dict[str, Any] = {"issuer": self.rule.issuer, "subject": self.rule.subject}
        if self.root_json is not None:
            table["root_json"] = self.root_json.decode()
        # JSON strings are TOML as well but for DEL, which no URL and no root in base64 holds.
        lines = (f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in table.items())
        return 'profile = "tlog+sigstore"\n\n[transparency.sigstore]\n' + "\n".join(lines) + "\n"


def store_bundle(folder: Path, leaf_hash: bytes, payload: bytes, signature: ReleaseSignature) -> None:
    """Have the release with this leaf hash signed, unless a good bundle lies in ``folder`` already.

    Raises TransparencyError (LIMIT_EXCEEDED for a bundle that no staple has room for), OSError.
    """
    before = load_bundle(folder, leaf_hash)
    if before:
        signature.examine(before, payload)
        return
    bundle = signature.attest(payload)
    if len(bundle) > _MAX_BUNDLE:
        raise TransparencyError(
            Code.LIMIT_EXCEEDED, "Sigstore bundle", stage="log.sigstore", expected=f"≤ {_MAX_BUNDLE} B"
        )
    make_folder(folder)
    replace_file(folder / f"{leaf_hash.hex()}.json", bundle)


def load_bundle(folder: Path, leaf_hash: bytes) -> bytes:
    """The stored bundle of a release, empty where it has none; for nodes to staple, unread."""
    try:
        with (folder / f"{leaf_hash.hex()}.json").open("rb") as file:
            return file.read(_MAX_BUNDLE + 1)
    except FileNotFoundError:
        return b""
