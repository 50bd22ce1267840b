"""A tenant who asks the same question twice and compares answers bit by bit, to learn whether somebody else was
computed beside it.
"""

from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from enclave_runtime.engine import torch_decoder
from enclave_runtime.engine.config import ModelConfig
from enclave_runtime.engine.cpu import binding
from enclave_runtime.engine.decoder import Decoder, Span
from enclave_runtime.engine.model import make_decoder
from enclave_runtime.engine.rope import RopeConfig
from enclave_runtime.engine.safetensors_weights import SafetensorsFolder
from enclave_runtime.engine.weights import expected_shapes

CONFIG = ModelConfig(512, 256, 2, 4, 2, 64, 512, 256, 1e-5, True, RopeConfig(theta=1e4))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> SafetensorsFolder:
    folder, generator = tmp_path_factory.mktemp("model"), torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randn(shape, generator=generator) * 0.05 + ("norm" in name)
        for name, shape in expected_shapes(CONFIG)
    }
    save_file(tensors, folder / "model.safetensors")
    return SafetensorsFolder(folder)


def notices_company(decoder: Decoder) -> bool:
    """Whether an attacker's logits differ between an empty node and nodes with 1 to 12 others."""
    decoder.reserve(64)
    pool = decoder.new_pool(32, 16)
    tables = [pool.allocate(owner, 20) for owner in range(1, 14)]
    tokens = np.random.default_rng(0).integers(0, 512, (13, 20))
    seen = set()
    for company in range(13):
        spans = [Span(tokens[n], 0, tables[n], n == 0) for n in range(company + 1)]
        seen.add(decoder.step(spans, pool)[0].tobytes())
        nexts = [Span(tokens[n][:1], 19, tables[n], n == 0) for n in range(company + 1)]
        seen.add(b"next" + decoder.step(nexts, pool)[0].tobytes())
    return len(seen) > 2


@pytest.mark.skipif(binding.library() is None, reason="the compiled decoder was not built")
@pytest.mark.parametrize("kind", ["compiled", "int8"])
def test_the_bits_are_the_same_in_company(weights: SafetensorsFolder, kind: str) -> None:
    assert not notices_company(make_decoder(CONFIG, weights, kind))


def test_control_a_library_that_sums_as_it_likes_gives_company_away(
    weights: SafetensorsFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_decoder, "ROW_TILE", 1)
    plain: Any = make_decoder(CONFIG, weights, "torch")
    assert notices_company(plain)
