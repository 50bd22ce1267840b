"""``cloister release show | signers | keys | list | revoke`` as a person uses them."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer

from measurements.commands import register
from measurements.process_image import hash_volume
from measurements.statement import canonical


def run(*arguments: str) -> int:
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    status: int = app(list(arguments), standalone_mode=False)
    return status


class Shell:
    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.capsys = capsys
        self.log = str(folder / "log")
        root = folder / "image" / "root"
        root.mkdir(parents=True)
        (root / "run").write_bytes(b"\x7fELF")
        files = [
            {"path": file.path, "exec": file.executable, "size": file.size, "sha256": file.sha256.hex()}
            for file in hash_volume(root)
        ]
        (folder / "image" / "image.json").write_bytes(canonical({"v": 1, "files": files}))
        self.text("log", "init", self.log)

    def text(self, *arguments: str, status: int = 0) -> str:
        self.capsys.readouterr()
        assert run(*arguments) == status, self.capsys.readouterr()
        return self.capsys.readouterr().out

    def json(self, *arguments: str, status: int = 0) -> Any:
        return json.loads(self.text(*arguments, "--json", status=status))

    def key(self, name: str) -> tuple[str, str]:
        path = str(self.folder / f"{name}.key")
        return path, self.text("release", "keygen", path, "--name", f"{name}.example").strip()

    def publish(self, *signers: str, version: str, status: int = 0) -> Any:
        command = ["release", "publish", "--log", self.log, "--image", str(self.folder / "image")]
        for signer in signers:
            command += ["--signer", signer]
        command += ["--version", version, "--model", str(self.folder / "image" / "root"), "--cmdline", "{}"]
        return self.json(*command) if status == 0 else self.text(*command, status=status)


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path, capsys)


def test_from_roots_to_a_revocation(shell: Shell) -> None:
    root, _ = shell.key("root")
    (one, one_vkey), (two, two_vkey), (three, three_vkey) = (shell.key(name) for name in "abc")
    members = ["--member", one_vkey, "--member", two_vkey, "--threshold", "2"]
    made = shell.json("release", "signers", "--log", shell.log, "--root", root, *members)
    assert (made["index"], made["sequence"]) == (0, 1)
    shell.publish(one, version="1", status=1)
    done = shell.publish(one, two, version="1")

    shown = shell.json("release", "show", done["leaf_hash"][:12], "--log", shell.log)
    assert (shown["kind"], shown["index"], shown["problem"]) == ("cvm-release", 1, None)
    assert shown["statement"]["predicate"]["release"]["version"] == "1"
    assert [keyid.partition("+")[0] for keyid in shown["signed_by"]] == ["a.example", "b.example"]
    assert "cvm-status" in shell.text("release", "show", "2", "--log", shell.log)
    shell.text("release", "show", "99", "--log", shell.log, status=1)
    shell.text("release", "show", "ab", "--log", shell.log, status=1)

    changed = ["--member", two_vkey, "--member", three_vkey, "--threshold", "2"]
    assert shell.json("release", "signers", "--log", shell.log, "--root", root, *changed)["sequence"] == 2
    shell.publish(one, two, version="1", status=1)
    again = shell.publish(two, three, version="1")
    assert not again["renewed"]
    assert again["sequence"] == 2

    reason = "a hole\x1b[2J"
    arguments = ["--log", shell.log, "--release", done["leaf_hash"], "--reason", reason]
    shell.json("release", "revoke", *arguments, "--signer", two, "--signer", three)
    listed = shell.json("release", "list", "--log", shell.log)
    assert [release["state"] for release in listed["releases"]] == ["revoked", "active"]
    assert listed["revocations"][0]["reason"] == reason
    assert listed["signer_set"]["sequence"] == 2
    text = shell.text("release", "list", "--log", shell.log)
    assert "\x1b" not in text
    assert "set 2, 2 of 2" in text


def test_key_configs(shell: Shell) -> None:
    signer, _ = shell.key("a")
    (shell.folder / "keys").write_bytes(b"\0\x05hello")
    arguments = ["--log", shell.log, "--signer", signer, "--service", "tokens.example"]
    first = shell.json("release", "keys", *arguments, "--keys", str(shell.folder / "keys"))
    second = shell.json("release", "keys", *arguments, "--keys", str(shell.folder / "keys"))
    assert (first["sequence"], second["sequence"]) == (1, 2)
    shown = shell.json("release", "show", str(second["index"]), "--log", shell.log)
    assert shown["kind"] == "ohttp-keys"
    assert shown["statement"]["subject"][0]["digest"]["sha256"] == second["sha256"]
    (shell.folder / "keys").write_bytes(b"")
    shell.text("release", "keys", *arguments, "--keys", str(shell.folder / "keys"), status=1)


def test_what_is_no_statement_is_shown_as_such(shell: Shell) -> None:
    from measurements.command_line import utc_now
    from measurements.publish import ReleaseLog

    tiles = ReleaseLog.open(Path(shell.log), utc_now).tiles
    with tiles.exclusive():
        tiles.append([b"something else"])
    shown = shell.json("release", "show", "0", "--log", shell.log, status=3)
    assert shown["problem"].startswith("STATEMENT_MALFORMED")
