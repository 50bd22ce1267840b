"""A tiny Llama model with random weights, as a safetensors folder and as a GGUF file."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from enclave_runtime.engine.engine import Engine
from enclave_runtime.engine.engine_config import EngineConfig
from enclave_runtime.engine.model import LoadedModel, load_model
from enclave_runtime.engine.tokenizer import BYTE_ALPHABET

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("a", "n"), ("an", "d")]
VOCABULARY = [*SPECIAL, *BYTE_ALPHABET, *(left + right for left, right in MERGES)]

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": len(VOCABULARY),
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "eos_token_id": 2,
}


def random_weights(config: dict[str, Any], seed: int = 0, spread: float = 0.3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    head = config.get("head_dim", hidden // config["num_attention_heads"])
    queries, keys = head * config["num_attention_heads"], head * config["num_key_value_heads"]
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], hidden),
        "model.norm.weight": (hidden,),
    }
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        shapes |= {
            prefix + "input_layernorm.weight": (hidden,),
            prefix + "self_attn.q_proj.weight": (queries, hidden),
            prefix + "self_attn.k_proj.weight": (keys, hidden),
            prefix + "self_attn.v_proj.weight": (keys, hidden),
            prefix + "self_attn.o_proj.weight": (hidden, queries),
            prefix + "post_attention_layernorm.weight": (hidden,),
            prefix + "mlp.gate_proj.weight": (inner, hidden),
            prefix + "mlp.up_proj.weight": (inner, hidden),
            prefix + "mlp.down_proj.weight": (hidden, inner),
        }
    return {
        name: torch.randn(shape, generator=generator) * spread + (1.0 if "norm" in name else 0.0)
        for name, shape in shapes.items()
    }


def tiny_tokenizer() -> Tokenizer:
    numbers = {token: number for number, token in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.BPE(vocab=numbers, merges=MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return tokenizer


def write_folder(folder: Path, weights: dict[str, torch.Tensor], config: dict[str, Any]) -> Path:
    folder.mkdir(parents=True)
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(tiny_tokenizer().to_str())
    settings = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "chat_template": CHAT_TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


_GGUF_LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_GGUF_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def gguf_name(name: str) -> str:
    if name in _GGUF_NAMES:
        return _GGUF_NAMES[name]
    _, _, layer, rest = name.split(".", 3)
    part, kind = rest.rsplit(".", 1)
    return f"blk.{layer}.{_GGUF_LAYER_NAMES[part]}.{kind}"


def neighbouring_pairs(weight: np.ndarray, heads: int) -> np.ndarray:
    """The row order in which GGUF keeps query and key."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def write_gguf(
    path: Path,
    weights: dict[str, torch.Tensor],
    config: dict[str, Any],
    *,
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    pre: str = "smollm",
    extra: Callable[[gguf.GGUFWriter], None] | None = None,
    architecture: str = "llama",
    quantise: Callable[[gguf.GGMLQuantizationType, np.ndarray, int], np.ndarray] | None = None,
) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    if "head_dim" in config:
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(VOCABULARY)
    writer.add_token_types([3 if token in SPECIAL else 1 for token in VOCABULARY])
    writer.add_token_merges([f"{left} {right}" for left, right in MERGES])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)
    if extra:
        extra(writer)
    for number, (name, tensor) in enumerate(weights.items()):
        array = tensor.numpy()
        if architecture == "llama" and "q_proj" in name:
            array = neighbouring_pairs(array, config["num_attention_heads"])
        elif architecture == "llama" and "k_proj" in name:
            array = neighbouring_pairs(array, config["num_key_value_heads"])
        used = gguf.GGMLQuantizationType.F32 if array.ndim == 1 else kind
        if quantise is not None and array.ndim > 1:
            rows = quantise(used, array, number)
        else:
            rows = gguf.quants.quantize(array, used)
        writer.add_tensor(gguf_name(name), rows, raw_dtype=used)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


class TinyModel:
    """What the tests vary; `folder` and `gguf` write the same weights in both forms."""

    config = CONFIG

    def weights(self, **changes: Any) -> dict[str, torch.Tensor]:
        return random_weights(CONFIG | changes)

    def folder(self, where: Path, **changes: Any) -> Path:
        config = CONFIG | changes
        return write_folder(where, random_weights(config), config)

    def gguf(
        self, where: Path, *, changes: dict[str, Any] | None = None, spread: float = 0.3, **settings: Any
    ) -> Path:
        config = CONFIG | (changes or {})
        return write_gguf(where, random_weights(config, spread=spread), config, **settings)

    def gguf_of(self, folder: Path, where: Path, architecture: str) -> Path:
        """A folder saved by transformers as a GGUF file of ``architecture``."""
        config = CONFIG | json.loads((folder / "config.json").read_text())
        weights = load_file(folder / "model.safetensors")
        if config["tie_word_embeddings"]:
            weights.pop("lm_head.weight", None)
        return write_gguf(where, weights, config, architecture=architecture)


@pytest.fixture(scope="session")
def tiny() -> TinyModel:
    return TinyModel()


@pytest.fixture(scope="session")
def tiny_folder(tiny: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.folder(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="session")
def tiny_model(tiny_folder: Path) -> LoadedModel:
    return load_model(tiny_folder)


@pytest.fixture(scope="session")
def tiny_torch(tiny_folder: Path) -> LoadedModel:
    return load_model(tiny_folder, "torch")


@pytest.fixture
def make_engine(tiny_folder: Path) -> Iterator[Callable[..., Engine]]:
    """Start engines over the tiny model (each with its own decoder); they are stopped afterwards."""
    engines = []

    def make(**settings: int) -> Engine:
        defaults = {"max_batch": 4, "max_queue": 8, "max_context": 256, "step_budget": 80, "threads": 2}
        engine = Engine(load_model(tiny_folder), EngineConfig(**(defaults | settings)))
        engine.start()
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        engine.stop()


@pytest.fixture(scope="session")
def demo_model_path() -> Path:
    folder = Path(__file__).resolve().parents[4] / ".cloister" / "models"
    found = sorted(folder.rglob("*.gguf")) if folder.is_dir() else []
    if not found:
        pytest.skip("the demo model is not on this machine (`make demo` fetches it into .cloister/models)")
    return found[0]
