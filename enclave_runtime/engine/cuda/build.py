"""Ahead-of-time compilation: Triton sources to sm_90 cubins and a manifest, on a machine that needs no GPU.

``python -m enclave_runtime.engine.cuda.build --out DIR`` is a step of an image's build. A node gets the cubins and
``kernels.json``, both measured with the image, and neither triton nor a compiler. The same sources and the same
triton give the same bytes: line information, which would hold paths, is left out.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from enclave_runtime.engine.cuda.weight_formats import QUANTISED

TARGET = ("cuda", 90, 32)
"""Backend, compute capability and warp size of H100 and H200."""

SCHEMA = "cloister-cuda-kernels/3"

ALIGNMENT = 16
"""What addresses and row lengths are multiples of where a kernel may read 16 bytes at once."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a model its kernels are compiled for; ``element`` is the type of weights and activations."""

    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    page: int = 16
    qk_norm: bool = False
    bias: bool = False
    element: str = "bf16"


SHAPES: Mapping[str, Shape] = {
    "llama-3.1-8b": Shape(hidden=4096, heads=32, kv_heads=8, head_size=128),
    "llama-3.2-1b": Shape(hidden=2048, heads=32, kv_heads=8, head_size=64),
    "qwen2.5-7b": Shape(hidden=3584, heads=28, kv_heads=4, head_size=128, bias=True),
    "qwen3-8b": Shape(hidden=4096, heads=32, kv_heads=8, head_size=128, qk_norm=True),
}


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel to compile: its function (module and name), argument types in order, constants, and warps.

    Addresses are multiples of `ALIGNMENT`, but for those in ``ragged``; so are the numbers in ``even``.
    """

    name: str
    module: str
    function: str
    arguments: Mapping[str, str]
    constants: Mapping[str, int]
    warps: int = 4
    even: tuple[str, ...] = ()
    ragged: tuple[str, ...] = ()

    @property
    def aligned(self) -> tuple[str, ...]:
        """Arguments that are multiples of `ALIGNMENT`."""
        return tuple(
            name
            for name, kind in self.arguments.items()
            if name in self.even or (kind.startswith("*") and name not in self.ragged)
        )


@dataclass(frozen=True, slots=True)
class Compiled:
    """What a launcher must know of a cubin; ``threads`` in a block, ``shared`` bytes of dynamic memory.

    After ``arguments`` the entry takes ``scratch`` more pointers, which are null for these kernels.
    """

    name: str
    entry: str
    arguments: Mapping[str, str]
    constants: Mapping[str, int]
    threads: int
    shared: int
    scratch: int
    sha256: str
    aligned: tuple[str, ...]
    size: int = field(default=0)


def kernels(shape: Shape) -> tuple[Kernel, ...]:
    """Every kernel of a decode and a prefill step for a shape."""
    half, group = shape.head_size // 2, shape.heads // shape.kv_heads
    attention = {"GROUP": group, "KV_HEADS": shape.kv_heads, "SIZE": shape.head_size, "PAGE": shape.page}
    element, f32, f64, i32, number = f"*{shape.element}", "*fp32", "*fp64", "*i32", "i32"
    splits = 8
    # Name, type of the weights, type of their scales, inputs that share one.
    forms = (
        ("plain", element, f32, 0),
        *((each.name, f"*{each.element}", f"*{each.scale}", each.group) for each in QUANTISED),
    )
    products = tuple(
        Kernel(
            f"weights_times_row_{name}",
            "projection",
            "weights_times_row",
            {
                "x": element,
                "weight": weight,
                "scales": scales,
                "out": out,
                "inputs": number,
                "outputs": number,
            },
            {"GROUP": group, "ROWS": 16, "COLUMNS": 256},
            even=("inputs",),
            ragged=("out",) if out == f32 else (),
        )
        for name, weight, scales, group, out in (
            (*forms[0], element),
            ("logits", element, f32, 0, f32),
            *((*form, element) for form in forms[1:]),
        )
    )
    products += tuple(
        Kernel(
            f"weights_times_rows_{name}",
            "projection",
            "weights_times_rows",
            {
                "x": element,
                "weight": weight,
                "scales": scales,
                "out": element,
                "rows": number,
                "inputs": number,
                "outputs": number,
            },
            {"GROUP": group, "ROWS": 64, "OUTPUTS": 64},
            even=("inputs", "outputs"),
        )
        for name, weight, scales, group in forms[1:]
    )
    gates = tuple(
        Kernel(
            f"gate_up_swiglu_{name}",
            "projection",
            "gate_up_swiglu",
            {
                "x": element,
                "gate": weight,
                "up": weight,
                "gate_scales": scales,
                "up_scales": scales,
                "out": element,
                "inputs": number,
                "outputs": number,
            },
            {"GROUP": group, "ROWS": 16, "COLUMNS": 256},
            even=("inputs",),
        )
        for name, weight, scales, group in forms
    )
    return (
        Kernel(
            "embed",
            "norm",
            "embed",
            {"tokens": i32, "embedding": element, "x": element, "residual": element, "columns": number},
            {"BLOCK": _power_of_two(shape.hidden)},
            even=("columns",),
        ),
        Kernel(
            "add_rms_norm",
            "norm",
            "add_rms_norm",
            {
                "x": element,
                "residual": element,
                "weight": element,
                "out": element,
                "columns": number,
                "epsilon": "fp32",
            },
            {"BLOCK": _power_of_two(shape.hidden)},
            warps=8,
            even=("columns",),
        ),
        Kernel(
            "rotate_and_append",
            "rotary",
            "rotate_and_append",
            {
                "qkv": element,
                "positions": i32,
                "tables": i32,
                "cosines": f32,
                "sines": f32,
                "bias": f32,
                "query_norm": element,
                "key_norm": element,
                "queries": element,
                "keys": element,
                "values": element,
                "table_width": number,
                "epsilon": "fp32",
            },
            {
                "HEADS": shape.heads,
                "KV_HEADS": shape.kv_heads,
                "HALF": half,
                "PAGE": shape.page,
                "NORM": int(shape.qk_norm),
                "BIAS": int(shape.bias),
            },
            warps=1,
        ),
        Kernel(
            "decode_split",
            "attention",
            "decode_split",
            {
                "queries": element,
                "keys": element,
                "values": element,
                "tables": i32,
                "lengths": i32,
                "partial": f32,
                "maxima": f32,
                "sums": f32,
                "table_width": number,
                "scale": "fp32",
            },
            {**attention, "GROUP_BLOCK": max(16, _power_of_two(group)), "SPLITS": splits, "BLOCK": 64},
        ),
        Kernel(
            "decode_join",
            "attention",
            "decode_join",
            {"partial": f32, "maxima": f32, "sums": f32, "out": element},
            {"SIZE": shape.head_size, "SPLITS": splits},
            warps=1,
        ),
        Kernel(
            "prefill",
            "attention",
            "prefill",
            {
                "queries": element,
                "keys": element,
                "values": element,
                "table": i32,
                "out": element,
                "rows": number,
                "first": number,
                "scale": "fp32",
            },
            {**attention, "QUERIES": 64, "BLOCK": 64},
        ),
        *products,
        *gates,
        Kernel(
            "swiglu",
            "projection",
            "swiglu",
            {"both": element, "out": element, "outputs": number},
            {"BLOCK": 1024},
            even=("outputs",),
        ),
        Kernel(
            "gumbel_blocks",
            "sampling",
            "gumbel_blocks",
            {
                "logits": f32,
                "seeds": "*i64",
                "lengths": i32,
                "temperatures": f64,
                "scores": f64,
                "winners": i32,
                "vocabulary": number,
                "blocks": number,
            },
            {"BLOCK": 1024},
        ),
        Kernel(
            "gumbel_join",
            "sampling",
            "gumbel_join",
            {
                "scores": f64,
                "winners": i32,
                "tokens": i32,
                "positions": i32,
                "lengths": i32,
                "taken": i32,
                "history": i32,
                "blocks": number,
                "width": number,
            },
            {"BLOCK": 256},
        ),
    )


def build(shape: Shape, out: Path, progress: Callable[[str], None] = lambda _: None) -> tuple[Compiled, ...]:
    """Compile every kernel of ``shape`` into ``out``. Raises ImportError without triton."""
    out.mkdir(parents=True, exist_ok=True)
    compiled = []
    for kernel in kernels(shape):
        progress(kernel.name)
        made, cubin = compile_kernel(kernel)
        (out / f"{kernel.name}.cubin").write_bytes(cubin)
        compiled.append(made)
    manifest = {
        "schema": SCHEMA,
        "target": f"sm_{TARGET[1]}",
        "triton": _triton_version(),
        "shape": asdict(shape),
        "kernels": [asdict(each) for each in compiled],
    }
    (out / "kernels.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    return tuple(compiled)


def compile_kernel(kernel: Kernel) -> tuple[Compiled, bytes]:
    """One kernel for :data:`TARGET`: what a launcher must know, and the cubin."""
    made = lowered(kernel)
    cubin = bytes(made.asm["cubin"])
    parameters = str(made.asm["ptx"]).split(".visible .entry", 1)[1].split(")", 1)[0].count(".param")
    if made.metadata.global_scratch_size or made.metadata.profile_scratch_size:
        raise ValueError(f"{kernel.name} wants scratch memory, which the launcher does not give")
    return (
        Compiled(
            kernel.name,
            made.metadata.name,
            dict(kernel.arguments),
            dict(kernel.constants),
            32 * made.metadata.num_warps,
            made.metadata.shared,
            parameters - len(kernel.arguments),
            hashlib.sha256(cubin).hexdigest(),
            kernel.aligned,
            len(cubin),
        ),
        cubin,
    )


def lowered(kernel: Kernel) -> Any:
    """What triton makes of one kernel for :data:`TARGET`, with every stage in ``asm``."""
    import importlib

    import triton
    from triton import knobs
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    knobs.compilation.disable_line_info = True
    function = getattr(
        importlib.import_module(f"enclave_runtime.engine.cuda.kernels.{kernel.module}"), kernel.function
    )
    signature = {**kernel.arguments, **dict.fromkeys(kernel.constants, "constexpr")}
    names = list(kernel.arguments)
    attributes = {(names.index(name),): [["tt.divisibility", ALIGNMENT]] for name in kernel.aligned}
    source = ASTSource(fn=function, signature=signature, constexprs=dict(kernel.constants), attrs=attributes)
    return triton.compile(
        source, target=GPUTarget(*TARGET), options={"num_warps": kernel.warps, "enable_fp_fusion": True}
    )


def main(arguments: list[str] | None = None) -> int:
    """Compile for one shape. Returns 2 where triton is not installed."""
    parser = argparse.ArgumentParser(prog="python -m enclave_runtime.engine.cuda.build", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="llama-3.1-8b")
    options = parser.parse_args(arguments)
    try:
        made = build(SHAPES[options.shape], options.out, lambda name: print(name, file=sys.stderr))
    except ImportError:
        print("compiling kernels needs triton: pip install 'cloister[cuda]'", file=sys.stderr)
        return 2
    for each in made:
        print(f"{each.name:<28} {each.size:>7,} bytes  {each.threads:>4} threads  {each.shared:>7,} shared")
    return 0


def _triton_version() -> str:
    import triton

    return str(triton.__version__)


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()


if __name__ == "__main__":
    sys.exit(main())
