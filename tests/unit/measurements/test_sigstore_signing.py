"""Keyless signing against an instance of our own: what is published, and what is not when it goes wrong."""

import json
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer
from mini_sigstore import SUBJECT, MiniSigstore, Served, identity_token

from measurements.commands import register
from measurements.errors import Code, TransparencyError
from measurements.policy import TransparencyPolicy
from measurements.process_image import hash_volume
from measurements.publish import ReleaseDraft, ReleaseLog, create_log
from measurements.rollback import VolatileMemory
from measurements.signing_key import SigningKey
from measurements.sigstore.operator import operator_signature
from measurements.staple import Staple, check_staple
from measurements.statement import Subject, canonical


def now() -> datetime:
    """The wall clock: a certificate lives for ten minutes, and signing asks for one that is valid now."""
    return datetime.now(UTC)


@dataclass
class Operator:
    folder: Path
    served: Served
    signer: SigningKey

    def publish(self, log: ReleaseLog, token: Path | None = None) -> Any:
        signature = operator_signature(
            token=token or self.folder / "token", config=self.folder / "instance.json", now=now
        )
        element = {"tee": "sev-snp", "launchDigest": "ab" * 48}
        draft = ReleaseDraft("acme/node", "1", "prod", (Subject("image", "cd" * 32),), (element,))
        return log.publish(draft, [self.signer], signature=signature)


@pytest.fixture
def operator(tmp_path: Path) -> Iterator[Operator]:
    with Served(MiniSigstore(2, now)) as served:
        (tmp_path / "token").write_text(identity_token(now()) + "\n")
        (tmp_path / "instance.json").write_bytes(served.config)
        yield Operator(tmp_path, served, SigningKey.generate("signer.test"))


def test_a_bundle_is_made_once_and_stapled_every_time(operator: Operator) -> None:
    log = create_log(operator.folder / "log", origin="log.test", witness="witness.test", now=now)
    first = operator.publish(log)
    second = operator.publish(log)
    assert second.renewed
    assert len(operator.served.tokens) == 1
    assert second.staple.sigstore == first.staple.sigstore != b""
    stored = operator.folder / "log" / "public" / "sigstore" / f"{first.release.leaf_hash.hex()}.json"
    assert stored.read_bytes() == first.staple.sigstore
    assert Staple.parse(first.staple.encode()) == first.staple
    # The private key of the certificate is nowhere below the log.
    everything = b"".join(
        path.read_bytes() for path in (operator.folder / "log").rglob("*") if path.is_file()
    )
    assert b"PRIVATE KEY" not in everything


@pytest.mark.parametrize("token", ["", "not a token", "é", identity_token(now() - timedelta(hours=1))])
def test_nothing_is_logged_without_an_identity(operator: Operator, token: str, tmp_path: Path) -> None:
    log = create_log(operator.folder / "log", origin="log.test", witness="witness.test", now=now)
    (tmp_path / "bad").write_text(token)
    with pytest.raises(TransparencyError) as caught:
        operator.publish(log, tmp_path / "bad")
    assert caught.value.code is Code.KEY_UNUSABLE
    assert log.tiles.checkpoint().checkpoint.size == 0
    if len(token) > 20:
        assert token[20:40] not in f"{caught.value!s}{caught.value.__cause__!r}"


def test_nothing_is_logged_where_the_instance_refuses_or_cheats(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = create_log(operator.folder / "log", origin="log.test", witness="witness.test", now=now)
    answer = Served.answer

    refused = [""]

    def refuse(self: Served, path: str, body: bytes, authorization: str) -> tuple[bytes, str]:
        return (b"", "text/plain") if path == refused[0] else answer(self, path, body, authorization)

    monkeypatch.setattr(Served, "answer", refuse)
    for refused[0] in ("/api/v2/signingCert", "/api/v2/log/entries", "/api/v1/timestamp"):
        with pytest.raises(TransparencyError) as caught:
            operator.publish(log)
        assert caught.value.code is Code.NOT_AVAILABLE
    monkeypatch.undo()
    # A time stamp by somebody whom its trusted root does not name: signing succeeds, but no client would take it.
    operator.served.instance.tsa = MiniSigstore().tsa
    with pytest.raises(TransparencyError) as caught:
        operator.publish(log)
    assert caught.value.code is Code.TIME_INVALID
    assert log.tiles.checkpoint().checkpoint.size == 0


def run(*arguments: str) -> int:
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    status: int = app(list(arguments), standalone_mode=False)
    return status


def test_the_command_line(
    operator: Operator, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = operator.folder
    root = folder / "image" / "root"
    root.mkdir(parents=True)
    (root / "run").write_bytes(b"\x7fELF")
    files = [
        {"path": file.path, "exec": file.executable, "size": file.size, "sha256": file.sha256.hex()}
        for file in hash_volume(root)
    ]
    (folder / "image" / "image.json").write_bytes(canonical({"v": 1, "files": files}))
    log, key = str(folder / "log"), str(folder / "signer.key")
    assert run("log", "init", log) == 0
    assert run("release", "keygen", key) == 0
    command = ["release", "publish", "--log", log, "--image", str(folder / "image"), "--signer", key]
    command += ["--model", str(root), "--cmdline", "{}"]
    files_out = ["--staple", str(folder / "staple.json"), "--policy", str(folder / "policy.toml")]
    config = ["--sigstore-config", str(folder / "instance.json")]
    assert run(*command, *config) == 1
    for name in ("ACTIONS_ID_TOKEN_REQUEST_URL", "GITHUB_ACTIONS", "SIGSTORE_ID_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    assert run(*command, "--sigstore", *config) == 2
    capsys.readouterr()
    token = ["--sigstore-token", str(folder / "token")]
    assert run(*command, "--sigstore", *config, *token, *files_out, "--json") == 0
    done = json.loads(capsys.readouterr().out)
    assert done["sigstore"] == SUBJECT
    staple = Staple.parse((folder / "staple.json").read_bytes())
    table = tomllib.loads((folder / "policy.toml").read_text())["transparency"]
    appraisal = check_staple(
        **{name: getattr(staple, name) for name in Staple.__dataclass_fields__},
        policy=TransparencyPolicy.from_table(table),
        at=now(),
        memory=VolatileMemory(),
    )
    assert appraisal.require().leaf_hash.hex() == done["leaf_hash"]
    row = next(row for row in appraisal.rows if row.id == "log.sigstore")
    assert SUBJECT in row.detail
    # A bundle that was exchanged on the disk is noticed before it is stapled again.
    bundle = next((folder / "log" / "public" / "sigstore").iterdir())
    bundle.write_bytes(bundle.read_bytes().replace(b'"logIndex":"2"', b'"logIndex":"1"', 1))
    assert run(*command, "--sigstore", *config, *token) == 3
