"""A model of a known shape with random weights, as a GGUF file in a precision of one's choice: for measuring speed."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

#: hidden, layers, heads, kv heads, head size, intermediate, vocabulary; all with tied embeddings.
SHAPES = {
    "135m": (576, 30, 9, 3, 64, 1536, 49152),
    "1b": (2048, 16, 32, 8, 64, 8192, 128256),
}
PRECISIONS = ("bf16", "q8_0", "q4_0", "q4_1")


def write(path: Path, shape: str, precision: str, progress: Callable[[int, int], None]) -> None:
    """Write the file. Its tokenizer is of single bytes and unused places: nothing said with it means anything."""
    import gguf

    from enclave_runtime.engine.tokenizer import BYTE_ALPHABET

    hidden, layers, heads, kv_heads, head, inner, vocabulary = SHAPES[shape]
    kind = gguf.GGMLQuantizationType[precision.upper()]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(8192)
    writer.add_embedding_length(hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(100000.0)
    writer.add_vocab_size(vocabulary)
    letters = [*BYTE_ALPHABET]
    words = ["<|end|>", *letters, letters[0] + letters[1]]
    words += [f"<|unused {number}|>" for number in range(vocabulary - len(words))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(words)
    writer.add_token_types([3 if word.startswith("<|") else 1 for word in words])
    writer.add_token_merges([f"{letters[0]} {letters[1]}"])  # a list without members is not written
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    generator = np.random.default_rng(1)

    def matrix(name: str, outputs: int, inputs: int) -> None:
        weight = generator.standard_normal((outputs, inputs), dtype=np.float32) * np.float32(inputs**-0.5)
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(weight, kind), raw_dtype=kind)

    matrix("token_embd", vocabulary, hidden)
    writer.add_tensor("output_norm.weight", np.ones(hidden, dtype=np.float32))
    for layer in range(layers):
        progress(layer, layers)
        at = f"blk.{layer}."
        writer.add_tensor(at + "attn_norm.weight", np.ones(hidden, dtype=np.float32))
        writer.add_tensor(at + "ffn_norm.weight", np.ones(hidden, dtype=np.float32))
        matrix(at + "attn_q", heads * head, hidden)
        matrix(at + "attn_k", kv_heads * head, hidden)
        matrix(at + "attn_v", kv_heads * head, hidden)
        matrix(at + "attn_output", hidden, heads * head)
        matrix(at + "ffn_gate", inner, hidden)
        matrix(at + "ffn_up", inner, hidden)
        matrix(at + "ffn_down", hidden, inner)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    progress(layers, layers)
