"""One decoder in a process of its own, told over its standard input what to do: ours, or transformers'.

Each line of input names work (`d8`: eight sequences, one token each; `p512`: one prompt) and a number of steps; each
line of output is the seconds they took. Tokens are arbitrary, nothing is sampled: what is timed is the model.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from enclave_runtime.engine.config import ModelConfig

CONTEXT = 128
PROMPT = 512
STATIC = 256
"""Positions of a cache of fixed size."""
Work = Callable[[int, int], float]


def ours(model: Path, threads: int, variant: str) -> tuple[Work, dict[str, object]]:
    """The compiled decoder; ``variant`` is ``fine`` (16-bit activations against quantised weights) or ``coarse``
    (8-bit)."""
    from enclave_runtime.engine.cpu.decoder import CpuDecoder
    from enclave_runtime.engine.decoder import Span
    from enclave_runtime.engine.model import load_model
    from enclave_runtime.engine.pages import PageTable

    decoder = load_model(model, "compiled").decoder
    assert isinstance(decoder, CpuDecoder)
    decoder.fine = variant != "coarse"
    decoder.reserve(1024, rows=PROMPT, threads=threads)
    pool = decoder.new_pool(64 * 16, 16)
    tokens = np.random.default_rng(0).integers(0, decoder.config.vocab_size, 1024)
    owner = 0
    tables: list[PageTable] = []

    def work(sequences: int, steps: int) -> float:
        nonlocal owner
        if sequences == 0:
            start = time.perf_counter()
            for _ in range(steps):
                owner += 1
                table = pool.allocate(owner, PROMPT)
                decoder.step([Span(tokens[:PROMPT], 0, table, True)], pool)
                pool.release(table)
            return time.perf_counter() - start
        while len(tables) < sequences:  # contexts are computed once; a round writes over the one before
            owner += 1
            tables.append(pool.allocate(owner, CONTEXT + 32))
            decoder.step([Span(tokens[:CONTEXT], 0, tables[-1], False)], pool)
        start = time.perf_counter()
        for at in range(CONTEXT, CONTEXT + steps):
            decoder.step([Span(tokens[at : at + 1], at, table, True) for table in tables[:sequences]], pool)
        return time.perf_counter() - start

    return work, {
        "kernels": decoder.path_name,
        "weight_bytes": decoder.weight_bytes,
        **arithmetic(decoder.config, decoder.weight_bytes, decoder.path, fine=decoder.fine),
    }


def arithmetic(config: "ModelConfig", weight_bytes: int, path: int, *, fine: bool) -> dict[str, object]:
    """What a token of a prompt costs: ``multiply_adds`` in the matrices of all layers (times two where 16-bit
    activations meet quantised weights as two planes), and ``rate``, what `cpu_rates.c` calls the rate of the
    instructions that compute them; None where it measures none."""
    from enclave_runtime.engine.cpu.binding import PATH_AMX, PATH_AVX512

    heads = config.head_dim * (2 * config.heads + 2 * config.kv_heads)
    layers = config.layers * config.hidden_size * (heads + 3 * config.intermediate_size)
    quantised = weight_bytes < 2 * (layers + config.hidden_size * config.vocab_size)
    prefix = {PATH_AVX512: "", PATH_AMX: "amx_"}.get(path)
    rate = None if prefix is None else f"{prefix}{'int8' if quantised else 'bf16'}_GMAC_s"
    return {"multiply_adds": layers * (2 if quantised and fine else 1), "rate": rate}


def transformers(model: Path, threads: int, variant: str) -> tuple[Work, dict[str, object]]:
    """transformers with sdpa in bfloat16: ``eager`` with a cache that grows, or ``static``, a cache of fixed size and
    the model through torch.compile (which needs a C++ compiler; the first round, which does not count, compiles)."""
    import torch
    from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, StaticCache

    from enclave_runtime.engine.model import load_model
    from enclave_runtime.engine.torch_decoder import TorchDecoder

    torch.set_num_threads(threads)
    loaded = load_model(model, "torch").decoder
    assert isinstance(loaded, TorchDecoder)
    shape = loaded.config
    config = LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        intermediate_size=shape.intermediate_size,
        max_position_embeddings=4096,
        rms_norm_eps=shape.norm_epsilon,
        tie_word_embeddings=shape.tied_head,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope.theta},
    )
    with torch.device("meta"):
        net = LlamaForCausalLM._from_config(config, attn_implementation="sdpa", dtype=torch.bfloat16)  # type: ignore
    net = net.to_empty(device="cpu")
    net.model.rotary_emb = type(net.model.rotary_emb)(config)
    with torch.no_grad():
        _copy_weights(net, loaded)
    del loaded
    static = variant == "static"
    compiled = torch.compile(net, dynamic=False) if static else net
    caches: dict[int, DynamicCache | StaticCache] = {}
    tokens = torch.randint(0, shape.vocab_size, (64, 1024), generator=torch.Generator().manual_seed(0))

    @torch.inference_mode()
    def work(sequences: int, steps: int) -> float:
        if sequences == 0:
            start = time.perf_counter()
            for _ in range(steps):
                compiled(tokens[:1, :PROMPT], logits_to_keep=1, use_cache=not static)
            return time.perf_counter() - start
        if sequences not in caches:
            caches[sequences] = StaticCache(config, max_cache_len=STATIC) if static else DynamicCache()
            net(tokens[:sequences, :CONTEXT], past_key_values=caches[sequences], logits_to_keep=1)
        cache = caches[sequences]
        if isinstance(cache, DynamicCache):
            cache.crop(CONTEXT - cache.get_seq_length())  # a negative number: how many to take away
        else:
            for layer in cache.layers:
                layer.cumulative_length.fill_(CONTEXT)  # type: ignore[union-attr]
        start = time.perf_counter()
        for at in range(CONTEXT, CONTEXT + steps):
            compiled(tokens[:sequences, at : at + 1], past_key_values=cache)
        return time.perf_counter() - start

    return work, {"torch": torch.__version__}


def _copy_weights(net: object, loaded: object) -> None:
    weights = loaded._weights  # type: ignore[attr-defined]
    inner = net.model  # type: ignore[attr-defined]
    inner.embed_tokens.weight.copy_(weights.embedding)
    inner.norm.weight.copy_(weights.final_norm)
    net.lm_head.weight.copy_(weights.head)  # type: ignore[attr-defined]
    for layer, source in zip(inner.layers, weights.layers, strict=True):
        attention, mlp = layer.self_attn, layer.mlp
        sizes = [part.weight.shape[0] for part in (attention.q_proj, attention.k_proj, attention.v_proj)]
        parts = source.query_key_value.split(sizes)
        for part, weight in zip((attention.q_proj, attention.k_proj, attention.v_proj), parts, strict=True):
            part.weight.copy_(weight)
        gate, up = source.gate_up.chunk(2)
        attention.o_proj.weight.copy_(source.attention_output)
        mlp.gate_proj.weight.copy_(gate)
        mlp.up_proj.weight.copy_(up)
        mlp.down_proj.weight.copy_(source.down)
        layer.input_layernorm.weight.copy_(source.attention_norm)
        layer.post_attention_layernorm.weight.copy_(source.mlp_norm)


def main(kind: str, model: str, threads: str, variant: str) -> int:
    """Serve requests for work until the input ends."""
    began = time.perf_counter()
    make = {"ours": ours, "transformers": transformers}[kind]
    work, facts = make(Path(model), int(threads), variant)
    print(json.dumps({"ready_s": time.perf_counter() - began, **facts}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(work(asked["sequences"], asked["steps"])), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:5]))
