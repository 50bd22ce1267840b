"""Configurations: what is read, and what is refused by its name."""

import math
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave_runtime.engine.config import config_from_json
from enclave_runtime.engine.errors import ModelError, ModelMalformed, UnsupportedModel
from enclave_runtime.engine.rope import RopeConfig, inverse_frequencies, rotation_table


def test_shape_is_read(tiny: Any) -> None:
    config = config_from_json(tiny.config)
    assert (config.hidden_size, config.layers, config.heads, config.kv_heads) == (64, 2, 4, 2)
    assert (config.head_dim, config.intermediate_size, config.context_length) == (16, 96, 512)
    assert config.rope == RopeConfig(theta=10000.0)
    assert config.tied_head is False


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "gpt_neox"}, "gpt_neox"),
        ({"model_type": None}, "None"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"attention_bias": True}, "attention_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "yarn"),
        ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "dynamic"),
        ({"rope_parameters": {"rope_type": "longrope", "rope_theta": 10000.0}}, "longrope"),
        ({"partial_rotary_factor": 0.5}, "part of each head"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(tiny: Any, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(UnsupportedModel, match=named):
        config_from_json(tiny.config | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": None},
        {"hidden_size": "64"},
        {"hidden_size": True},
        {"hidden_size": 1 << 40},
        {"num_attention_heads": 0},
        {"num_attention_heads": -4},
        {"num_key_value_heads": 3},
        {"num_hidden_layers": 1 << 20},
        {"head_dim": 15},
        {"rms_norm_eps": 0},
        {"rms_norm_eps": float("nan")},
        {"rope_theta": float("inf")},
        {"rope_theta": 10**400},
        {"rope_theta": 1.0, "rope_parameters": {"rope_theta": 2.0}},
        {"rope_parameters": [1]},
        {"rope_scaling": {"type": "linear"}},
        {"rope_scaling": {"type": "linear", "factor": 0.5}},
        {"tie_word_embeddings": "yes"},
    ],
)
def test_nonsense_is_malformed(tiny: Any, changes: dict[str, Any]) -> None:
    with pytest.raises(ModelMalformed):
        config_from_json(tiny.config | changes)


@pytest.mark.parametrize(
    ("changes", "context"),
    [
        ({"model_type": "mistral", "sliding_window": 100}, 100),
        ({"model_type": "mistral", "sliding_window": 4096}, 512),
        ({"model_type": "mistral", "sliding_window": None}, 512),
        ({"model_type": "qwen2", "sliding_window": 100, "use_sliding_window": False}, 512),
        ({"model_type": "qwen2", "sliding_window": 100}, 512),
        ({"model_type": "qwen2", "sliding_window": 100, "use_sliding_window": True}, 100),
    ],
)
def test_a_sliding_window_limits_the_context(tiny: Any, changes: dict[str, Any], context: int) -> None:
    assert config_from_json(tiny.config | changes).context_length == context


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.data())
def test_any_value_anywhere_stays_in_the_family(tiny: Any, data: st.DataObject) -> None:
    names = [
        *tiny.config,
        "sliding_window",
        "use_sliding_window",
        "rope_parameters",
        "rope_scaling",
        "head_dim",
        "partial_rotary_factor",
    ]
    changes = data.draw(st.dictionaries(st.sampled_from(names), _JSON, max_size=4))
    with suppress(ModelError):
        config_from_json(tiny.config | changes)


def test_llama3_scaling_keeps_fast_turns_and_slows_slow_ones() -> None:
    plain = inverse_frequencies(RopeConfig(theta=500000.0), 128)
    scaled = inverse_frequencies(
        RopeConfig(
            theta=500000.0,
            scaling="llama3",
            factor=8.0,
            low_frequency_factor=1.0,
            high_frequency_factor=4.0,
            original_context=8192,
        ),
        128,
    )
    assert np.array_equal(scaled[:20], plain[:20])
    assert np.allclose(scaled[-20:], plain[-20:] / 8)
    assert bool((scaled <= plain).all())


def test_cosines_and_sines_are_the_nearest_to_those_of_the_float32_angle() -> None:
    rope = RopeConfig(theta=10000.0)
    cosines, sines = rotation_table(rope, 64, 3000)
    assert cosines.dtype == sines.dtype == np.float32
    assert cosines.shape == sines.shape == (3000, 32)
    turns = inverse_frequencies(rope, 64)
    for position, pair in ((0, 0), (1, 0), (2999, 0), (2999, 5), (77, 31)):
        angle = float(np.float32(position) * turns[pair])
        assert cosines[position, pair] == np.float32(math.cos(angle))
        assert sines[position, pair] == np.float32(math.sin(angle))
