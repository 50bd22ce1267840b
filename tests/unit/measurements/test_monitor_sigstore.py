"""A monitor whose policy asks for Sigstore bundles looks for them beside the log, and judges them."""

import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from mini_sigstore import MiniSigstore, Served, identity_token

from measurements.alerts import AlertCode
from measurements.log_source import FolderSource
from measurements.monitor import STALE, Monitor, Report
from measurements.monitor_state import StateFolder
from measurements.policy import TransparencyPolicy, policy_table
from measurements.publish import ReleaseDraft, create_log
from measurements.signing_key import SigningKey
from measurements.statement import Subject

operator = pytest.importorskip("measurements.sigstore.operator", reason="the signing client is not installed")


def now() -> datetime:
    """The wall clock: a certificate lives for ten minutes, and signing asks for one that is valid now."""
    return datetime.now(UTC)


def test_bundles_are_looked_for_and_judged(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(identity_token(now()) + "\n")
    log = create_log(tmp_path / "log", origin="log.test", witness="witness.test", now=now)
    signer = SigningKey.generate("signer.test")
    with Served(MiniSigstore(2, now)) as served:
        (tmp_path / "instance.json").write_bytes(served.config)
        bundles, lines = [], ""
        for number in range(2):
            signature = operator.operator_signature(
                token=tmp_path / "token", config=tmp_path / "instance.json", now=now
            )
            element = {"tee": "sev-snp", "launchDigest": f"{number:096x}"}
            draft = ReleaseDraft(
                "acme/node", f"1.{number}", "prod", (Subject("image", "cd" * 32),), (element,)
            )
            done = log.publish(draft, [signer], signature=signature)
            bundles.append(tmp_path / "log" / "public" / "sigstore" / f"{done.release.leaf_hash.hex()}.json")
            lines = signature.policy_lines()
    table = policy_table(
        log=log.tiles.key, witnesses=log.tiles.witnesses, signers=[signer.public], channel="prod"
    )
    policy = TransparencyPolicy.from_table(tomllib.loads(table + lines)["transparency"])

    def look() -> Report:
        state = StateFolder(tmp_path / "state")
        watching = Monitor(policy, state, FolderSource(tmp_path / "log"), due=timedelta())
        with state.exclusive():
            return watching.look(now() + timedelta(minutes=1))

    assert look().alerts == ()
    first, second = (bundle.read_bytes() for bundle in bundles)
    bundles[0].unlink()
    report = look()
    assert ([alert.code for alert in report.alerts], report.status) == (
        [AlertCode.SIGSTORE_BUNDLE_MISSING],
        STALE,
    )
    for wrong in (second, b"", b"{}", first[:-1]):
        bundles[0].write_bytes(wrong)
        assert [alert.code for alert in look().alerts] == [AlertCode.SIGSTORE_BUNDLE_WRONG]
    bundles[0].write_bytes(first)
    assert look().alerts == ()
