"""``cloister relay`` as a program."""

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from ohttp.commands import register

app = typer.Typer()
register(app)
app.callback()(lambda: None)


def test_help_says_what_it_is() -> None:
    result = CliRunner().invoke(app, ["relay", "--help"])
    assert result.exit_code == 0
    assert "NAME=URL" in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--target", "node"],
        ["--target", "a=http://x", "--target", "a=http://y"],
        ["--target", "a=ftp://x", "--port", "0"],
    ],
)
def test_wrong_targets(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, ["relay", *arguments])
    assert result.exit_code == 1
    assert "target" in result.stderr
    assert "Traceback" not in result.output


def test_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = CliRunner().invoke(app, ["relay", "--target", "node=http://x", "--port", str(port)])
    assert result.exit_code == 1
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in result.stderr


def test_without_a_web_server_it_says_what_to_install(monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    result = CliRunner().invoke(app, ["relay", "--target", "node=http://x"])
    assert result.exit_code == 2
    assert "pip install cloister[relay]" in result.stderr


def test_it_says_when_it_listens_and_ends_on_a_signal_with_its_counts() -> None:
    program = (
        "import typer, ohttp.commands as c; a = typer.Typer(); c.register(a); a.callback()(lambda: None); a()"
    )
    command = [
        sys.executable,
        "-c",
        program,
        "relay",
        "--target",
        "node=http://127.0.0.1:9",
        "--port",
        "0",
        "--json",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as relay:
        try:
            assert relay.stdout is not None
            first = json.loads(relay.stdout.readline())
            assert first["event"] == "listening"
            with socket.create_connection(("127.0.0.1", first["port"]), timeout=5) as asker:
                asker.sendall(b"GET /node/attestation HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                answer = b""
                while part := asker.recv(4096):
                    answer += part
            assert answer.startswith(b"HTTP/1.1 502 ")
            assert b"\r\nserver:" not in answer.lower()
            relay.send_signal(signal.SIGTERM)
            out, err = relay.communicate(timeout=10)
        finally:
            relay.kill()
    assert relay.returncode == 0
    assert json.loads(out) == {"event": "stopped", "counts": {"unreachable": 1}}
    assert err == b""


def test_a_list_of_nodes_that_is_not_there_is_said_at_once(tmp_path: Path) -> None:
    app = typer.Typer()
    register(app)
    app.callback()(lambda: None)
    asked = ["relay", "--target", "node=http://x", "--port", "0", "--directory", str(tmp_path / "none")]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 1
    assert "--directory" in result.stderr
