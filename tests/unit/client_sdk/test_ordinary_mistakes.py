"""What somebody meets who mistypes: one line that says what to do, a status, and never a traceback."""

import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from client_sdk import __main__
from client_sdk.cli import run
from client_sdk.demo.story import Story


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("cloister 0.")


def test_without_a_command_there_is_help_and_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 1
    shown = capsys.readouterr()
    assert "verify" in shown.out
    assert "error" not in shown.err


def test_ctrl_c_while_the_program_is_loaded_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    class Loading:
        def __getattr__(self, name: str) -> object:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "client_sdk.cli", Loading())  # type: ignore[arg-type]
    with pytest.raises(SystemExit) as ended:
        __main__.main()
    assert ended.value.code == 130


def test_a_port_that_is_taken(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert run(["proxy", "--relay", "http://127.0.0.1:1/node", "--port", port]) == 1
    said = capsys.readouterr().err
    assert "another program listens there" in said
    assert "Errno" not in said


@pytest.mark.parametrize("address", ["127.0.0.1:8443/node", "ftp://relay.example/node", "http:///node"])
def test_a_relay_that_is_no_web_address(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", "--relay", address]) == 1
    assert "give a URL such as http://host/node" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option", [("--nonce", "00" * 32), ("--rim-dir", "."), ("--claim-rules", "x"), ("--tee", "tdx")]
)
def test_an_option_that_would_not_be_looked_at(
    option: tuple[str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Who gives a nonce and reads 'verified' believes that the evidence answers it."""
    (tmp_path / "bundle").write_bytes(b"{}")
    for what in (["--relay", "http://127.0.0.1:1/node"], [str(tmp_path / "bundle")]):
        assert run(["verify", *what, *option]) == 1
        assert "belong to" in capsys.readouterr().err


def test_a_policy_that_cannot_be_read_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    policy = tmp_path / "mine.toml"
    policy.write_text("version = ")
    assert run(["verify", "--relay", "http://127.0.0.1:1/node", "--policy", str(policy)]) == 1
    assert "mine.toml" in capsys.readouterr().err
    policy.write_text("version = 1\nnonsense = 3\n")
    assert run(["verify", "--relay", "http://127.0.0.1:1/node", "--policy", str(policy)]) == 1
    assert "mine.toml" in capsys.readouterr().err


def test_who_names_no_policy_is_told_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "bundle").write_bytes(b"{}")
    assert run(["verify", str(tmp_path / "bundle")]) == 3
    assert "--policy" in capsys.readouterr().out


def test_a_file_that_is_not_there_is_named_without_a_number(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", "no-such-bundle"]) == 1
    said = capsys.readouterr().err
    assert "no-such-bundle: No such file or directory" in said
    assert "Errno" not in said


def test_a_demo_that_is_told_to_end_leaves_its_blocks_in_order(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    left: list[str] = []

    def tell(self: Story, *_: object, **__: object) -> int:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(30)
        finally:
            left.append("in order")
        return 0

    monkeypatch.setattr(Story, "tell", tell)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert run(["demo", "--state", str(tmp_path)]) == 130
    finally:
        signal.signal(signal.SIGTERM, before)
    assert left == ["in order"]
