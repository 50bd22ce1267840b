"""What a model's files say about its shape, checked before a byte of its weights is read.

Two sources, one result: the metadata of a GGUF file and the ``config.json`` of a Hugging Face folder.
Whatever would change the computation and is not computed here (another architecture, another rope type,
biases elsewhere, experts) is refused by its name: a model that runs is a model that runs as it was
trained.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from enclave_runtime.engine.errors import ModelMalformed, UnsupportedModel
from enclave_runtime.engine.gguf_file import GgufMetadata
from enclave_runtime.engine.rope import RopeConfig


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The shape of a Llama-family decoder. Sizes count elements; ``context_length`` counts tokens.

    ``projection_bias``: query, key and value have biases (Qwen2). ``head_norm``: each head of query and key
    goes through an RMS norm before it is turned (Qwen3).
    """

    vocab_size: int
    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate_size: int
    context_length: int
    norm_epsilon: float
    tied_head: bool
    rope: RopeConfig
    projection_bias: bool = False
    head_norm: bool = False


# name -> (least, most); the upper bounds are far beyond any model this decoder will meet and exist so that a
# malformed file cannot ask for the machine's memory.
_BOUNDS = {
    "vocab_size": (1, 1 << 21),
    "hidden_size": (2, 1 << 16),
    "layers": (1, 1 << 10),
    "heads": (1, 1 << 10),
    "kv_heads": (1, 1 << 10),
    "head_dim": (2, 1 << 11),
    "intermediate_size": (1, 1 << 19),
    "context_length": (1, 1 << 24),
}


_GGUF_ARCHITECTURES = ("llama", "qwen2", "qwen3")
_MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")


def config_from_gguf(metadata: GgufMetadata, *, tied_head: bool, vocab_size: int) -> ModelConfig:
    """Read the architecture's keys of a GGUF file (specification: ggml docs/gguf.md); Mistral calls itself
    ``llama`` there.

    ``tied_head`` and ``vocab_size`` come from the tensor table: a file without ``output.weight`` ties the
    head to the embedding.
    """
    architecture = metadata.text("general.architecture")
    if architecture not in _GGUF_ARCHITECTURES:
        raise UnsupportedModel(
            "architecture of the GGUF file", expected=_GGUF_ARCHITECTURES, found=architecture
        )
    if metadata.integer("split.count", 1) > 1:
        raise UnsupportedModel("GGUF split over several files", found=metadata.integer("split.count"))

    def key(name: str) -> str:
        return f"{architecture}.{name}"

    if metadata.integer(key("expert_count"), 0) > 0:
        raise UnsupportedModel("mixture of experts", found=metadata.integer(key("expert_count")))
    hidden = metadata.integer(key("embedding_length"))
    heads = metadata.integer(key("attention.head_count"))
    head_dim = metadata.integer(key("attention.key_length"), hidden // max(heads, 1))
    if metadata.integer(key("attention.value_length"), head_dim) != head_dim:
        raise UnsupportedModel("value heads of another size than key heads")
    if metadata.integer(key("rope.dimension_count"), head_dim) != head_dim:
        raise UnsupportedModel("rotation of a part of each head", expected=head_dim)
    scaling = metadata.text(key("rope.scaling.type"), "none")
    if scaling not in ("none", "linear"):
        raise UnsupportedModel("rope scaling type", expected="none or linear", found=scaling)
    context, window = metadata.integer(key("context_length")), key("attention.sliding_window")
    return _checked(
        ModelConfig(
            vocab_size=vocab_size,
            hidden_size=hidden,
            layers=metadata.integer(key("block_count")),
            heads=heads,
            kv_heads=metadata.integer(key("attention.head_count_kv"), heads),
            head_dim=head_dim,
            intermediate_size=metadata.integer(key("feed_forward_length")),
            # Within its window a model with a sliding window is one without.
            context_length=min(context, metadata.integer(window, 0) or context),
            norm_epsilon=metadata.number(key("attention.layer_norm_rms_epsilon")),
            tied_head=tied_head,
            rope=RopeConfig(
                theta=metadata.number(key("rope.freq_base"), 10000.0),
                scaling=scaling,
                factor=metadata.number(key("rope.scaling.factor"), 1.0) if scaling == "linear" else 1.0,
            ),
            projection_bias=architecture == "qwen2",
            head_norm=architecture == "qwen3",
        )
    )


def with_rope_factors(config: ModelConfig, factors: tuple[float, ...]) -> ModelConfig:
    """The same model, its frequencies divided by the ``rope_freqs`` tensor of a GGUF file."""
    if config.rope.scaling != "none":
        raise UnsupportedModel("rope factors beside rope scaling", found=config.rope.scaling)
    return _checked(replace(config, rope=replace(config.rope, scaling="factors", factors=factors)))


def config_from_json(document: Mapping[str, object]) -> ModelConfig:
    """Read a Hugging Face ``config.json`` of model type ``llama`` (SmolLM2 too), ``mistral``, ``qwen2`` (2.5
    too) or ``qwen3``.
    """
    kind = document.get("model_type")
    if kind not in _MODEL_TYPES:
        raise UnsupportedModel("model_type in config.json", expected=_MODEL_TYPES, found=_shown(kind))
    for name, plain in (
        ("hidden_act", "silu"),
        ("attention_bias", False),
        ("mlp_bias", False),
        ("quantization_config", None),
    ):
        if document.get(name, plain) != plain:
            raise UnsupportedModel(f"{name} in config.json", expected=plain, found=_shown(document[name]))
    hidden = _integer(document, "hidden_size")
    heads = _integer(document, "num_attention_heads")
    tied = document.get("tie_word_embeddings", False)
    if not isinstance(tied, bool):
        raise ModelMalformed("tie_word_embeddings in config.json is no boolean")
    return _checked(
        ModelConfig(
            vocab_size=_integer(document, "vocab_size"),
            hidden_size=hidden,
            layers=_integer(document, "num_hidden_layers"),
            heads=heads,
            kv_heads=_integer(document, "num_key_value_heads", heads),
            head_dim=_integer(document, "head_dim", hidden // max(heads, 1)),
            intermediate_size=_integer(document, "intermediate_size"),
            context_length=_context_from_json(document),
            norm_epsilon=_number(document, "rms_norm_eps"),
            tied_head=tied,
            rope=_rope_from_json(document),
            projection_bias=kind == "qwen2",
            head_norm=kind == "qwen3",
        )
    )


def _context_from_json(document: Mapping[str, object]) -> int:
    """Positions up to the window where there is one: within it, sliding attention is plain attention."""
    context = _integer(document, "max_position_embeddings")
    windowed = document.get("use_sliding_window", document.get("model_type") not in ("qwen2", "qwen3"))
    if type(windowed) is not bool:
        raise ModelMalformed("use_sliding_window in config.json is no boolean")
    if windowed and document.get("sliding_window") is not None:
        return min(context, _integer(document, "sliding_window"))
    return context


def _rope_from_json(document: Mapping[str, object]) -> RopeConfig:
    # Newer files keep theta and scaling together in rope_parameters, older ones apart.
    parameters = document.get("rope_parameters")
    if parameters is None:
        parameters = document.get("rope_scaling")
    if parameters is None:
        parameters = {}
    if not isinstance(parameters, Mapping):
        raise ModelMalformed("rope parameters in config.json are no object")
    outer, inner = document.get("rope_theta"), parameters.get("rope_theta")
    if outer is not None and inner is not None and outer != inner:
        raise ModelMalformed("two different values of rope_theta in config.json")
    theta = _number(parameters if inner is not None else document, "rope_theta", 10000.0)
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if parameters.get("partial_rotary_factor", document.get("partial_rotary_factor", 1.0)) != 1.0:
        raise UnsupportedModel("rotation of a part of each head")
    if kind == "default":
        return RopeConfig(theta=theta)
    if kind == "linear":
        return RopeConfig(theta=theta, scaling="linear", factor=_number(parameters, "factor"))
    if kind == "llama3":
        return RopeConfig(
            theta=theta,
            scaling="llama3",
            factor=_number(parameters, "factor"),
            low_frequency_factor=_number(parameters, "low_freq_factor"),
            high_frequency_factor=_number(parameters, "high_freq_factor"),
            original_context=_integer(parameters, "original_max_position_embeddings"),
        )
    raise UnsupportedModel("rope type", expected="default, linear or llama3", found=_shown(kind))


def _checked(config: ModelConfig) -> ModelConfig:
    for name, (least, most) in _BOUNDS.items():
        value = getattr(config, name)
        if not least <= value <= most:
            raise ModelMalformed(f"{name} out of range", expected=f"{least} to {most}", found=value)
    if config.heads % config.kv_heads:
        raise ModelMalformed(
            "heads are no multiple of kv heads", expected=config.kv_heads, found=config.heads
        )
    if config.head_dim % 2:
        raise ModelMalformed("odd head size", found=config.head_dim)
    if config.heads * config.head_dim > 1 << 18:
        raise ModelMalformed("heads times head size out of range", found=config.heads * config.head_dim)
    if not 0.0 < config.norm_epsilon < 1.0:
        raise ModelMalformed("norm epsilon out of range", found=config.norm_epsilon)
    rope = config.rope
    if not 1.0 <= rope.theta <= 1e12:
        raise ModelMalformed("rope theta out of range", found=rope.theta)
    if not 1.0 <= rope.factor <= 1e6:
        raise ModelMalformed("rope factor out of range", found=rope.factor)
    if rope.scaling == "llama3" and not (
        0.0 < rope.low_frequency_factor < rope.high_frequency_factor <= 1e6
        and 1 <= rope.original_context <= 1 << 24
    ):
        raise ModelMalformed("llama3 rope parameters out of range")
    if rope.scaling == "factors" and (
        len(rope.factors) != config.head_dim // 2 or not all(0.0 < f <= 1e6 for f in rope.factors)
    ):
        raise ModelMalformed("rope factors out of range or of another count", expected=config.head_dim // 2)
    return config


def _integer(document: Mapping[str, object], name: str, default: int | None = None) -> int:
    value = document.get(name)
    if value is None:
        value = default
    if type(value) is not int:
        raise ModelMalformed(f"{name} in config.json is missing or no integer")
    return value


def _number(document: Mapping[str, object], name: str, default: float | None = None) -> float:
    value = document.get(name)
    if value is None:
        value = default
    if type(value) not in (int, float):
        raise ModelMalformed(f"{name} in config.json is missing or no number")
    try:
        return float(value)  # type: ignore[arg-type]
    except OverflowError:
        raise ModelMalformed(f"{name} in config.json out of range") from None


def _shown(value: object) -> str:
    return repr(value)[:80]
