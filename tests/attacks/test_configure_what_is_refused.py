"""An operator configures an optimisation that would let requests learn of each other."""

import json

import pytest

from enclave_runtime.config import NodeConfig
from enclave_runtime.errors import ConfigurationError
from enclave_runtime.exit_codes import ExitCode
from enclave_runtime.node_launch import node_config
from enclave_runtime.optimisations import REFUSED, SPELLINGS

GOOD = json.loads(node_config({}, model_name="m", gpu_count=0).encode())


def parse(**engine: object) -> NodeConfig:
    return NodeConfig.parse(json.dumps({**GOOD, "engine": engine}).encode())


@pytest.mark.parametrize("name", [*REFUSED, *SPELLINGS])
@pytest.mark.parametrize("value", [1, 0, True, None, {}])
def test_an_optimisation_that_is_refused_is_refused_by_its_name(name: str, value: object) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse(max_batch=4, **{name: value})
    assert (caught.value.code, caught.value.exit_code) == ("optimisation_refused", ExitCode.CONFIGURATION)
    assert caught.value.detail == f"{name}: {REFUSED[SPELLINGS.get(name, name)]}"


def test_control_the_same_configuration_without_it_is_taken() -> None:
    assert parse(max_batch=4).engine == {"max_batch": 4}
