"""``cloister serve`` says in one line what is wrong, and prints the command line that would be measured."""

import hashlib
import tomllib

import pytest
import typer
from release_world import DIGEST, World
from typer.testing import CliRunner

from attestation.policy import AttestationPolicy
from enclave_runtime.commands import register, tell_if_unlisted
from enclave_runtime.config import NodeConfig
from enclave_runtime.engine.model import model_digest
from enclave_runtime.seal import Piece


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    return tmp_path_factory.mktemp("state")


@pytest.fixture
def serve(tmp_path, state):
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")

    def run(*arguments: str):
        base = ["serve", "--state", str(state), "--model", str(tmp_path / "model.gguf")]
        return CliRunner().invoke(app, [*base, *arguments], standalone_mode=False)

    return run


def test_the_command_line_is_the_same_each_time_and_names_no_folder(serve, tmp_path, state):
    first, second = serve("--show-command-line"), serve("--show-command-line", "--port", "9")
    assert first.return_value == 0
    assert first.stdout == second.stdout
    config = NodeConfig.parse(first.stdout.strip().encode())
    assert (config.model_name, config.gpu_count) == ("model", 1)
    assert str(tmp_path) not in first.stdout
    assert str(state) not in first.stdout


def test_a_configuration_for_a_machine_with_devices_of_its_own(serve):
    """It tolerates nothing: such a machine has every piece of the seal."""
    own = ("--evidence", "tpm", "--devices", '{"tpm_ak": 2164326432}')
    config = NodeConfig.parse(serve(*own, "--show-command-line").stdout.strip().encode())
    assert (config.platform, config.devices, config.gpu_count) == ("tpm", {"tpm_ak": 2164326432}, 0)
    assert config.tolerate == ()
    for words, said in (
        (own, "simulated platform alone"),
        (("--evidence", "tpm", "--show-command-line"), "config_devices"),
        (("--evidence", "abacus", "--show-command-line"), "config_platform"),
    ):
        result = serve(*words)
        assert result.return_value == 1
        assert said in result.stderr


def test_a_draft_is_named_by_its_digest(serve, tmp_path):
    draft = tmp_path / "draft.gguf"
    draft.write_bytes(b"GGUF, smaller")
    shown = serve("--draft", str(draft), "--guesses", "3", "--show-command-line").stdout
    table = NodeConfig.parse(shown.strip().encode()).draft
    content = hashlib.sha256(b"GGUF, smaller").digest()
    assert table == {
        "name": "draft.gguf",
        "digest": model_digest({"draft.gguf": content}).hex(),
        "guesses": 3,
    }
    (tmp_path / "away").mkdir()
    away = draft.rename(tmp_path / "away" / "draft.gguf")
    for path, said in ((away, "beside the model"), (draft, "no such model")):
        result = serve("--draft", str(path), "--show-command-line")
        assert result.return_value == 1
        assert said in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--image and --staple"),
        (["--engine", "[]"], "--engine is not a JSON object"),
        (["--decoder", '{"weights": "int2"}', "--show-command-line"], "config_decoder"),
        (["--leases", '{"count": 1}', "--show-command-line"], "config_leases"),
        (["--padding", "{"], "--padding is not a JSON object"),
        (["--name", "a b", "--show-command-line"], "config_model_name"),
        (["--image", "/nowhere", "--staple", "/nowhere"], "/nowhere: there is no such file"),
        (["--image", "/tmp", "--staple", "/dev/null"], "image"),
    ],
)
def test_what_is_wrong_is_said(serve, arguments, said):
    result = serve(*arguments)
    assert result.return_value == 1
    assert said in result.stderr


def test_the_policy_tables_trust_this_platform_and_ask_for_its_gpus(serve):
    shown = serve("--show-policy", "--simulated-gpus", "2")
    assert shown.return_value == 0
    policy = AttestationPolicy.from_table(tomllib.loads(shown.stdout))
    assert policy.names_simulated_root
    assert policy.gpu.count == 2


def test_the_seal_is_explained_without_a_model(tmp_path):
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    result = CliRunner().invoke(app, ["serve", "--explain-seal"], env={"COLUMNS": "200"})
    assert result.exit_code in (0, 2)
    for piece in Piece:
        assert piece.value in result.stdout
    assert ("missing here" in result.stdout) == (result.exit_code == 2)
    assert "execve" in result.stdout.partition("answered by ending the process")[2]


def test_a_release_of_another_launch_is_told_at_the_start(tmp_path, capsys):
    world = World()
    staple = tmp_path / "staple.json"
    release = world.release()
    staple.write_bytes(world.staple(release, world.status([release])).encode())
    tell_if_unlisted("00" * 48, staple)
    assert "clients will refuse this node" in " ".join(capsys.readouterr().err.split())
    tell_if_unlisted(DIGEST, staple)
    assert capsys.readouterr().err == ""
