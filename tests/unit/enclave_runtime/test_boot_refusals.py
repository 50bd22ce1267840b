"""A node that cannot be what it should be does not start, and says which step failed by its exit status."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sealed_node import MODEL_NAME, REPOSITORY, ROOM, START, write_staple, write_tiny_model

from attestation.simulated.platform import Platform
from enclave_runtime import node
from enclave_runtime.config import HOST_INPUTS, PLATFORM_DESCRIPTOR, HostInputs, Inherited
from enclave_runtime.egress import Egress
from enclave_runtime.engine.model import stored_digest
from enclave_runtime.engine.rank_links import RankLinks
from enclave_runtime.errors import NodeError
from enclave_runtime.exit_codes import ExitCode
from enclave_runtime.metrics_schema import DEFAULT
from enclave_runtime.node_launch import default_model_name, node_config
from enclave_runtime.seal import SealReport


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def platform(tmp_path_factory) -> Platform:
    return Platform.open(tmp_path_factory.mktemp("state"), lambda: datetime.now(UTC), 1)


@pytest.fixture
def config(platform):
    engine = {"max_batch": 2, "max_queue": 2, "max_context": ROOM, "step_budget": 80}
    return node_config(platform.roots, model_name=MODEL_NAME, engine=engine)


@pytest.fixture
def host(model, tmp_path):
    return HostInputs(model, write_staple(tmp_path), "127.0.0.1", 0)


@pytest.fixture
def egress():
    taken, pipe = os.pipe()
    yield Egress(DEFAULT, pipe, 0)
    os.close(pipe)
    os.close(taken)


@pytest.fixture
def refused(platform, egress):
    """Run a node in this process, with a device of its own, up to the step that refuses it."""

    def run(config, host):
        ours, theirs = socket.socketpair()
        platform.serve(ours, bytes(48))
        with pytest.raises(NodeError) as caught:
            node.run(config, host, Inherited(theirs.detach()), SealReport(()), egress)
        return caught.value

    return run


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"engine": {"max_batch": 0}}, "config_engine"),
        ({"engine": {"unheard_of": 1}}, "config_engine"),
        ({"engine": {"prefix_cache": 1}}, "optimisation_refused"),
        ({"engine": {"speculate": 2}, "padding": {"name": "off"}}, "config_speculation"),
        ({"engine": {"speculate": 2}, "padding": {"name": "bucket"}}, "config_speculation"),
        ({"draft": {"name": "d", "digest": "0" * 64}, "padding": {"name": "bucket"}}, "config_speculation"),
        ({"draft": {"name": "d", "digest": "0" * 64}, "engine": {"speculate": 2}}, "config_speculation"),
        ({"draft": {"name": "d/e", "digest": "0" * 64}}, "config_draft"),
        ({"decoder": {"weights": "int2"}}, "config_decoder"),
        ({"decoder": {"kernels": "cuda"}, "gpu_count": 2}, "gpu_links"),
        ({"leases": {"count": 1}}, "config_leases"),
        (
            {"leases": {"count": 1, "tokens": 64, "seconds": 9}, "padding": {"name": "bucket"}},
            "config_leases",
        ),
        ({"admission": {"bytes_per_token": 0}}, "config_admission"),
        ({"admission": {"users": 1}}, "config_admission"),
        ({"padding": {"name": "none"}}, "config_padding"),
        ({"padding": {"cell": 512}}, "config_padding"),
        ({"gpu_policy": {"unknown": {}}}, "config_gpu_policy"),
        ({"gpu_policy": {"gpu": {"rim": "maybe"}}}, "config_gpu_policy"),
    ],
)
def test_settings_that_do_not_exist(refused, config, host, change, code):
    error = refused(replace(config, **change), host)
    assert (error.code, error.exit_code) == (code, ExitCode.CONFIGURATION)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"{}", b"x" * (node.MAX_STAPLE_FILE + 1), b"\xff" * 100, None]
)
def test_a_staple_that_is_none(refused, config, host, content):
    host.staple.unlink() if content is None else host.staple.write_bytes(content)
    assert refused(config, host).exit_code is ExitCode.STAPLE


@pytest.mark.parametrize("broken", ["missing", "empty", "changed"])
def test_a_model_that_is_none(refused, config, host, tmp_path, broken):
    if broken == "missing":
        host = replace(host, model=tmp_path / "nowhere.gguf")
    else:
        path = tmp_path / "model.gguf"
        path.write_bytes(b"" if broken == "empty" else b"GGUF" + bytes(500))
        host = replace(host, model=path)
    assert refused(config, host).exit_code is ExitCode.MODEL


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ("nothing is there", "draft_missing"),
        ("another digest", "draft_digest"),
        ("another vocabulary", "draft_vocabulary"),
        ("too short a context", "draft_context"),
    ],
)
def test_a_draft_that_is_not_the_one_named_or_does_not_fit(refused, config, host, tmp_path, wrong, code):
    model = write_tiny_model(tmp_path / "models" / "tiny")
    draft = write_tiny_model(tmp_path / "models" / "tiny" / "draft")
    settings = json.loads((draft / "config.json").read_text())
    if wrong == "too short a context":
        (draft / "config.json").write_text(json.dumps(settings | {"max_position_embeddings": ROOM // 2}))
    if wrong == "another vocabulary":
        tokenizer = json.loads((draft / "tokenizer.json").read_text())
        vocabulary = tokenizer["model"]["vocab"]
        vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
        (draft / "tokenizer.json").write_text(json.dumps(tokenizer))
    table = {"name": "draft", "digest": stored_digest(draft).hex()}
    if wrong == "another digest":
        (draft / "config.json").write_text(json.dumps(settings | {"rope_theta": 9000.0}))
    if wrong == "nothing is there":
        table["name"] = "elsewhere"
    error = refused(replace(config, draft=table), replace(host, model=model))
    assert (error.code, error.exit_code) == (code, ExitCode.MODEL)


def test_gpus_that_are_not_there(refused, config, host):
    assert refused(replace(config, gpu_count=2), host).exit_code is ExitCode.GPU


def test_a_gpu_to_compute_on_that_is_not_there(refused, config, host):
    error = refused(replace(config, decoder={"kernels": "cuda"}), host)
    assert (error.code, error.exit_code) == ("no_driver", ExitCode.MODEL)


def test_several_ranks_without_what_they_compute_with(config, host, egress, monkeypatch):
    monkeypatch.setitem(sys.modules, "enclave_runtime.engine.tensor_parallel", None)
    shared = replace(config, decoder={"kernels": "torch", "ranks": 2})
    links = RankLinks.make(2)
    with pytest.raises(NodeError) as caught:
        node.run(shared, host, Inherited(-1), SealReport(()), egress, links[0])
    for each in links:
        each.close()
    assert (caught.value.code, caught.value.exit_code) == ("no_decoder", ExitCode.MODEL)


def test_a_rank_that_does_not_come_is_told(config, host, egress):
    pytest.importorskip("torch")
    shared = replace(config, decoder={"kernels": "torch", "ranks": 2})
    mine, other = RankLinks.make(2)
    other.close()
    with pytest.raises(NodeError) as caught:
        node.run(shared, host, Inherited(-1), SealReport(()), egress, mine)
    mine.close()
    assert (caught.value.code, caught.value.exit_code) == ("rank_lost", ExitCode.MODEL)


def test_gpus_under_a_root_that_the_measured_policy_does_not_name(refused, config, host):
    policy = {**config.gpu_policy, "simulated": {"nvidia_root_sha256": "0" * 64}}
    assert refused(replace(config, gpu_policy=policy), host).exit_code is ExitCode.GPU


def test_a_policy_that_asks_for_what_is_not_there_yet(refused, config, host):
    policy = {**config.gpu_policy, "gpu": {"nras": "required"}}
    assert refused(replace(config, gpu_policy=policy), host).exit_code is ExitCode.GPU


def test_a_platform_that_is_gone(config, host, egress):
    ours, theirs = socket.socketpair()
    ours.close()
    with pytest.raises(NodeError) as caught:
        node.run(config, host, Inherited(theirs.detach()), SealReport(()), egress)
    assert caught.value.exit_code in (ExitCode.PLATFORM, ExitCode.GPU)


def test_a_descriptor_that_leads_to_no_platform(config, host, egress):
    with pytest.raises(NodeError) as caught:
        node.run(config, host, Inherited(os.open(os.devnull, os.O_RDONLY)), SealReport(()), egress)
    assert caught.value.exit_code is ExitCode.PLATFORM


def test_a_port_in_use(refused, config, host):
    with socket.create_server(("127.0.0.1", 0)) as other:
        error = refused(config, replace(host, port=other.getsockname()[1]))
    assert (error.code, error.exit_code) == ("cannot_bind", ExitCode.BIND)
    assert "in use" in error.detail


def started(arguments: list[str], environment: dict[str, str]) -> tuple[int, dict]:
    command = [sys.executable, "-B", "-c", START, str(REPOSITORY), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=60, check=False)
    assert done.stdout == b""
    return done.returncode, json.loads(done.stderr.splitlines()[-1])


def test_a_start_without_a_command_line(config, host):
    inputs = {HOST_INPUTS: host.encode(), PLATFORM_DESCRIPTOR: "9"}
    for arguments in ([], ["{}"], ["\udcff"], [config.encode().decode(), "more"]):
        status, said = started(arguments, inputs)
        assert (status, said["exit"]) == (ExitCode.CONFIGURATION, ExitCode.CONFIGURATION)


def test_a_start_without_the_hosts_inputs(config):
    status, said = started([config.encode().decode()], {})
    assert (status, said["code"]) == (ExitCode.HOST_INPUT, "host_inputs_missing")


def test_a_model_outside_what_landlock_leaves_is_not_read(config, host, model, tmp_path):
    """The boot confines itself to the paths it was given; a link out of the model volume leads nowhere."""
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "model.gguf").symlink_to(model / "config.json")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        environment = {
            HOST_INPUTS: replace(host, model=volume).encode(),
            PLATFORM_DESCRIPTOR: str(theirs.fileno()),
        }
        command = [sys.executable, "-B", "-c", START, str(REPOSITORY), config.encode().decode()]
        done = subprocess.run(
            command, env=environment, pass_fds=[theirs.fileno()], capture_output=True, timeout=60, check=False
        )
    assert done.returncode == ExitCode.MODEL


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("SmolLM2-135M.Q4_1.gguf", "SmolLM2-135M.Q4_1"),
        ("a model, v2", "a-model-v2"),
        ("___", "model"),
        ("é", "model"),
    ],
)
def test_a_models_name_comes_from_its_file(name, expected):
    assert default_model_name(Path("/models") / name) == expected
