"""The measured command line and the host's inputs: exact, limited, one error family."""

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enclave_runtime.config import (
    HOST_INPUTS,
    MAX_COMMAND_LINE,
    PLATFORM_DESCRIPTOR,
    STAPLE_DESCRIPTOR,
    HostInputs,
    NodeConfig,
)
from enclave_runtime.decoder_choice import DecoderChoice
from enclave_runtime.errors import ConfigurationError, NodeError
from enclave_runtime.exit_codes import ExitCode
from enclave_runtime.metrics_schema import DEFAULT
from enclave_runtime.seal import Piece

GOOD = NodeConfig(
    model_name="SmolLM2-135M-Instruct",
    gpu_policy={"gpu": {"count": 1}, "simulated": {"nvidia_root_sha256": "0" * 64}},
    engine={"max_batch": 4},
    padding={"name": "constant", "cell_bytes": 512, "interval_ms": 100},
    tolerate=(Piece.LANDLOCK_SCOPE,),
    metrics=DEFAULT.table(),
    admission={"bytes_per_token": 4},
    decoder={"weights": "int8", "activations": 8},
    draft={"name": "draft.gguf", "digest": "0" * 64, "guesses": 3},
    leases={"count": 2, "tokens": 512, "seconds": 60, "store": "sealed"},
)
HOST = {
    "model": "/m",
    "staple": "/s",
    "address": "127.0.0.1",
    "port": 0,
    "collateral": "/c",
    "gpu_collateral": "",
    "metrics_port": 0,
}


def test_what_is_written_is_read():
    assert NodeConfig.parse(GOOD.encode()) == GOOD
    assert NodeConfig.parse(GOOD.encode()).encode() == GOOD.encode()


def test_the_command_line_names_no_place_on_the_host():
    assert b"/" not in GOOD.encode()


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"v": True},
        {"v": None},
        {"unknown": 1},
        {"model_name": ""},
        {"model_name": "a\nb"},
        {"model_name": "x" * 129},
        {"model_name": 1},
        {"platform": "sgx"},
        {"platform": None},
        {"devices": {"vmpl": 0}},
        {"devices": []},
        {"gpu_count": -1},
        {"gpu_count": 256},
        {"gpu_count": True},
        {"gpu_count": "1"},
        {"epoch_hours": 2},
        {"epoch_hours": 1000},
        {"engine": []},
        {"padding": "off"},
        {"tokens": []},
        {"tokens": None},
        {"gpu_policy": None},
        {"tolerate": "seccomp"},
        {"tolerate": ["seccomp"]},
        {"tolerate": ["*"]},
        {"tolerate": ["landlock.scope", "landlock.scope"]},
        {"tolerate": [1]},
        {"metrics": {}},
        {"metrics": None},
        {"metrics": {"interval_s": 10, "metrics": []}},
        {"admission": []},
        {"public_prefix": None},
        {"public_prefix": "x" * 20_000},
        {"admission": {"request_s": "long"}},
        {"decoder": []},
        {"decoder": {"kernels": "cuda?"}},
        {"decoder": {"weights": "int2"}},
        {"decoder": {"activations": 4}},
        {"decoder": {"activations": "8"}},
        {"decoder": {"activations": True}},
        {"decoder": {"kernels": "torch", "weights": "int8"}},
        {"decoder": {"kernels": "torch", "activations": 8}},
        {"decoder": {"weights": "fp8"}},
        {"decoder": {"kernels": "compiled", "weights": "fp8"}},
        {"decoder": {"kernels": "torch", "weights": "fp8"}},
        {"decoder": {"kernels": "cuda", "activations": 8}},
        {"decoder": {"unknown": 1}},
        {"decoder": {"ranks": 2}},
        {"decoder": {"kernels": "compiled", "ranks": 2}},
        {"decoder": {"kernels": "torch", "ranks": 9}},
        {"decoder": {"kernels": "torch", "ranks": 0}},
        {"decoder": {"kernels": "torch", "ranks": True}},
        {"leases": []},
        {"leases": {"count": 1}},
        {"leases": {"count": 0, "tokens": 64, "seconds": 1}},
        {"leases": {"count": 1, "tokens": 63, "seconds": 1}},
        {"leases": {"count": 1, "tokens": 64, "seconds": 0}},
        {"leases": {"count": 65, "tokens": 64, "seconds": 1}},
        {"leases": {"count": 1, "tokens": 64, "seconds": 3601}},
        {"leases": {"count": True, "tokens": 64, "seconds": 1}},
        {"leases": {"count": 1, "tokens": 64, "seconds": 1, "salt": 1}},
        {"leases": {"count": 1, "tokens": 64, "seconds": 1, "store": "disk"}},
        {"leases": {"count": 1, "tokens": 64, "seconds": 1, "store": ["pool"]}},
        {"leases": {"count": 1, "tokens": 64, "store": "pool"}},
        {"draft": []},
        {"draft": {"name": "d.gguf"}},
        {"draft": {"name": "../d.gguf", "digest": "0" * 64}},
        {"draft": {"name": "a/b", "digest": "0" * 64}},
        {"draft": {"name": "", "digest": "0" * 64}},
        {"draft": {"name": 1, "digest": "0" * 64}},
        {"draft": {"name": "d", "digest": "0" * 63}},
        {"draft": {"name": "d", "digest": "A" * 64}},
        {"draft": {"name": "d", "digest": "0" * 64, "guesses": 0}},
        {"draft": {"name": "d", "digest": "0" * 64, "guesses": 9}},
        {"draft": {"name": "d", "digest": "0" * 64, "more": 1}},
    ],
)
def test_anything_else_is_refused(change):
    members = {**json.loads(GOOD.encode()), **change}
    with pytest.raises(ConfigurationError) as caught:
        NodeConfig.parse(json.dumps(members).encode())
    assert caught.value.exit_code is ExitCode.CONFIGURATION


@pytest.mark.parametrize("name", json.loads(GOOD.encode()))
def test_a_missing_member_is_refused(name):
    members = json.loads(GOOD.encode())
    del members[name]
    with pytest.raises(ConfigurationError):
        NodeConfig.parse(json.dumps(members).encode())


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"[]", b"{", b"\xff", b'{"v":1,"v":1}', b"[" * 50_000, b" " * MAX_COMMAND_LINE + b"{}"],
)
def test_what_is_no_configuration_is_refused(data):
    with pytest.raises(ConfigurationError):
        NodeConfig.parse(data)


@given(st.binary(max_size=300))
def test_random_bytes_stay_in_the_family(data):
    with pytest.raises(ConfigurationError):
        NodeConfig.parse(data)


@given(st.integers(0, 10_000), st.integers(0, 255))
@settings(max_examples=500)
def test_changed_and_cut_bytes_stay_in_the_family(place, byte):
    data = bytearray(GOOD.encode())
    place %= len(data)
    with pytest.raises(ConfigurationError):
        NodeConfig.parse(bytes(data[:place]))
    data[place] = byte
    with contextlib.suppress(ConfigurationError):
        NodeConfig.parse(bytes(data))


def test_host_inputs_are_read():
    inputs, descriptor = HostInputs.parse({HOST_INPUTS: json.dumps(HOST), PLATFORM_DESCRIPTOR: "7"})
    assert json.loads(inputs.encode()) == HOST
    assert (descriptor.platform, descriptor.staples) == (7, None)
    more = {HOST_INPUTS: json.dumps(HOST), PLATFORM_DESCRIPTOR: "7", STAPLE_DESCRIPTOR: "9"}
    assert HostInputs.parse(more)[1].descriptors == {7, 9}


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {HOST_INPUTS: json.dumps(HOST)},
        {PLATFORM_DESCRIPTOR: "7"},
        {HOST_INPUTS: "{", PLATFORM_DESCRIPTOR: "7"},
        {HOST_INPUTS: json.dumps(HOST), PLATFORM_DESCRIPTOR: "2"},
        {HOST_INPUTS: json.dumps(HOST), PLATFORM_DESCRIPTOR: "-1"},
        {HOST_INPUTS: json.dumps(HOST), PLATFORM_DESCRIPTOR: "x"},
        {HOST_INPUTS: json.dumps(HOST), PLATFORM_DESCRIPTOR: "7", STAPLE_DESCRIPTOR: "1"},
        {HOST_INPUTS: json.dumps({**HOST, "metrics_port": -1}), PLATFORM_DESCRIPTOR: "7"},
        {HOST_INPUTS: json.dumps({**HOST, "port": 65_536}), PLATFORM_DESCRIPTOR: "7"},
        {HOST_INPUTS: json.dumps({**HOST, "port": "1"}), PLATFORM_DESCRIPTOR: "7"},
        {HOST_INPUTS: json.dumps({**HOST, "model": ""}), PLATFORM_DESCRIPTOR: "7"},
        {HOST_INPUTS: json.dumps({**HOST, "staple": 1}), PLATFORM_DESCRIPTOR: "7"},
        {HOST_INPUTS: json.dumps({**HOST, "extra": 1}), PLATFORM_DESCRIPTOR: "7"},
        {HOST_INPUTS: json.dumps({**HOST, "collateral": 1}), PLATFORM_DESCRIPTOR: "7"},
    ],
)
def test_malformed_host_inputs_end_with_their_own_code(environment):
    with pytest.raises(NodeError) as caught:
        HostInputs.parse(environment)
    assert caught.value.exit_code is ExitCode.HOST_INPUT


def test_each_choice_of_a_decoder_is_asked_for_by_its_name():
    table = [("auto", "stored", "auto"), ("auto", "int8", "int8"), ("compiled", "int8", "int8")]
    table += [("cuda", "stored", "cuda"), ("cuda", "int8", "cuda int8"), ("cuda", "fp8", "cuda fp8")]
    for kernels, weights, wanted in table:
        assert DecoderChoice(kernels, weights).wanted == wanted
