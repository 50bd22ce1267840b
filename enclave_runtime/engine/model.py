"""From a path to a model that is ready to run."""

import gc
import hashlib
import json
import mmap
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from enclave_runtime.engine.chat_template import ChatTemplate
from enclave_runtime.engine.config import ModelConfig, config_from_gguf, config_from_json, with_rope_factors
from enclave_runtime.engine.cpu import binding, packing
from enclave_runtime.engine.cpu.decoder import CpuDecoder
from enclave_runtime.engine.decoder import Decoder
from enclave_runtime.engine.errors import ModelMalformed, ModelNotFound, UnsupportedModel
from enclave_runtime.engine.gguf_file import parse_gguf
from enclave_runtime.engine.gguf_tokenizer import tokenizer_from_gguf
from enclave_runtime.engine.gguf_weights import GgufTensors, rope_factors
from enclave_runtime.engine.safetensors_weights import INDEX_FILE, SafetensorsFolder
from enclave_runtime.engine.tokenizer import Tokenizer, token_ids, tokenizer_from_json
from enclave_runtime.engine.weights import TensorSource, loader_threads

DecoderMaker = Callable[[ModelConfig, TensorSource], Decoder]

MAX_DOCUMENT_BYTES = 1 << 26
_DIGEST_LABEL = b"cloister/model/v1\0"


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in memory. Both digests are SHA-256 (see `model_digest`); ``name`` is for people."""

    config: ModelConfig
    decoder: Decoder
    tokenizer: Tokenizer
    chat_template: ChatTemplate
    model_digest: bytes
    tokenizer_digest: bytes
    name: str


def load_model(path: Path, decoder: str | DecoderMaker = "auto", *, activations: int = 16) -> LoadedModel:
    """Load a ``.gguf`` file, or a folder with config.json, tokenizer.json and safetensors weights.

    ``decoder`` is ``auto`` (compiled where the library was built and knows the shape, else torch), ``compiled``,
    ``int8`` (compiled, floating-point weights turned into 8 bits), ``torch``, ``cuda``, ``cuda int8`` or ``cuda fp8``
    (layers in 8 bits). ``activations`` is the number of bits (16 or 8) to which the compiled decoder rounds activations
    that meet quantised weights.

    A function in place of a name makes the decoder from configuration and weights itself.

    Raises a `ModelError`: `ModelNotFound`, `ModelMalformed` or `UnsupportedModel`; for ``cuda`` also CudaError. Nothing
    is unpickled, no code of the model is run except its chat template, and nothing is fetched.
    """
    try:
        with _no_collections():
            if path.is_dir():
                return _load_folder(path, decoder, activations)
            if path.is_file():
                return _load_gguf(path, decoder, activations)
    except OSError as error:
        raise ModelNotFound("a model file cannot be read", found=error.strerror) from None
    raise ModelNotFound("no such model file or folder", found=path.name)


@contextmanager
def _no_collections() -> Iterator[None]:
    """Python's collector would walk a vocabulary's hundred thousand objects over and over while they are made, and all
    of them stay.
    """
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


def make_decoder(
    config: ModelConfig, source: TensorSource, wanted: str | DecoderMaker = "auto", activations: int = 16
) -> Decoder:
    """The decoder over the weights of ``source``; see `load_model` for ``wanted`` and ``activations``."""
    if not isinstance(wanted, str):
        return wanted(config, source)
    if wanted in _ON_A_GPU:  # imported before the seal, as models are loaded before it, and by nobody else
        from enclave_runtime.engine.cuda.decoder import open_decoder
        from enclave_runtime.engine.cuda.weight_formats import QUANTISED

        formats = {each.name: each for each in QUANTISED}
        return open_decoder(config, source, formats.get(_ON_A_GPU[wanted]))
    library = binding.library() if wanted != "torch" else None
    if library is not None and packing.computes(config):
        packed = packing.pack(library, config, source, int8=wanted == "int8")
        return CpuDecoder(library, config, packed, fine=activations == 16)
    if wanted not in ("auto", "torch"):
        raise UnsupportedModel("the compiled decoder is not built, or does not know this shape")
    return _torch_decoder(config, source, wanted)


def _torch_decoder(config: ModelConfig, source: TensorSource, wanted: str) -> Decoder:
    try:
        from enclave_runtime.engine.torch_decoder import TorchDecoder
        from enclave_runtime.engine.torch_weights import assemble
    except ImportError:
        why = "PyTorch is not installed: cloister's extra 'runtime' brings it"
        if wanted != "torch" and binding.library() is None:
            why = (
                "the compiled decoder was not built: install a C compiler (gcc or clang), then cloister again with its"
                " extra 'node'. Its extra 'runtime' brings PyTorch, which computes too, ten times slower"
            )
        elif wanted != "torch":
            why = f"the compiled decoder does not know this shape, and {why}"
        raise UnsupportedModel(why, code="no_decoder") from None
    return TorchDecoder(config, assemble(config, source))


_ON_A_GPU = {"cuda": "", "cuda int8": "i8", "cuda fp8": "fp8"}
"""What may be wanted of a GPU, with the name of the format in which layers lie there."""


def model_digest(files: Mapping[str, bytes]) -> bytes:
    """SHA-256 over a label and, for every file sorted by name, its name and the SHA-256 of its content.

    ``files`` maps names relative to the model's folder to 32-byte digests. Each name is preceded by its
    length in bytes as an unsigned 32-bit big-endian number.
    """
    whole = hashlib.sha256(_DIGEST_LABEL)
    for name, digest in sorted((name.encode("utf-8"), digest) for name, digest in files.items()):
        whole.update(len(name).to_bytes(4, "big") + name + digest)
    return whole.digest()


def stored_digest(path: Path) -> bytes:
    """The `model_digest` of a model that is not loaded. Raises a `ModelError`."""
    try:
        if path.is_file():
            return model_digest({path.name: _file_digest(path)})
        if path.is_dir():
            contents = {file.name: _file_digest(file) for file in SafetensorsFolder(path).files}
            documents = {name: hashlib.sha256(content).digest() for name, content in _documents(path).items()}
            return model_digest(contents | documents)
    except OSError as error:
        raise ModelNotFound("a model file cannot be read", found=error.strerror) from None
    raise ModelNotFound("no such model file or folder", found=path.name)


def _load_gguf(path: Path, wanted: str | DecoderMaker, activations: int) -> LoadedModel:
    with path.open("rb") as handle:
        try:
            mapping = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise ModelMalformed("empty model file") from None
    # The mapping is released with its last view; numpy arrays over it are gone once the weights are expanded.
    data = memoryview(mapping)
    with ThreadPoolExecutor(2, thread_name_prefix="loading") as pool:
        content = pool.submit(hashlib.sha256, data)
        file = parse_gguf(data)
        embedding = file.tensors.get("token_embd.weight")
        if embedding is None or len(embedding.shape) != 2:
            raise ModelMalformed("tensor missing or of another shape", expected="token_embd.weight")
        config = config_from_gguf(
            file.metadata, tied_head="output.weight" not in file.tensors, vocab_size=embedding.shape[0]
        )
        factors = rope_factors(file, data)
        if factors is not None:
            config = with_rope_factors(config, factors)
        making = _begun(pool, config, GgufTensors(file, data, config), wanted, activations)
        tokenizer = tokenizer_from_gguf(file.metadata)
        decoder = making()
        digest = content.result().digest()
    source = file.metadata.text("tokenizer.chat_template", "") or None
    return _loaded(
        config,
        decoder,
        tokenizer,
        ChatTemplate(source, bos=tokenizer.bos, eos=tokenizer.eos),
        digest=model_digest({path.name: digest}),
        name=file.metadata.text("general.basename", "") or path.stem,
    )


def _load_folder(folder: Path, wanted: str | DecoderMaker, activations: int) -> LoadedModel:
    documents = _documents(folder)
    for name in ("config.json", "tokenizer.json"):
        if name not in documents:
            raise ModelNotFound("file missing from the model's folder", expected=name)
    main = _object(documents, "config.json")
    config = config_from_json(main)
    settings = _object(documents, "tokenizer_config.json")
    generation = _object(documents, "generation_config.json")
    bos, eos = _marker(settings, "bos_token"), _marker(settings, "eos_token")
    digests = {name: hashlib.sha256(content).digest() for name, content in documents.items()}
    source = SafetensorsFolder(folder)
    with ThreadPoolExecutor(loader_threads() + 1, thread_name_prefix="loading") as pool:
        making = _begun(pool, config, source, wanted, activations)
        contents = pool.map(_file_digest, source.files)
        tokenizer = tokenizer_from_json(
            documents["tokenizer.json"],
            end_ids=token_ids(main, "eos_token_id") | token_ids(generation, "eos_token_id"),
            bos=bos,
            eos=eos,
            digest=model_digest({name: digests[name] for name in _TOKENIZER_FILES if name in documents}),
        )
        decoder = making()
        digests |= {file.name: digest for file, digest in zip(source.files, contents, strict=True)}
    return _loaded(
        config,
        decoder,
        tokenizer,
        ChatTemplate(_template_source(documents, settings), bos=bos, eos=eos),
        digest=model_digest(digests),
        name=folder.resolve().name,
    )


def _begun(
    pool: ThreadPoolExecutor,
    config: ModelConfig,
    source: TensorSource,
    wanted: str | DecoderMaker,
    activations: int,
) -> Callable[[], Decoder]:
    """Have ``pool`` make the decoder, while the caller does something else; what is given waits for it. Somebody else's
    function is called in the caller's own thread, when it waits.
    """
    if not isinstance(wanted, str):
        return lambda: make_decoder(config, source, wanted, activations)
    return pool.submit(make_decoder, config, source, wanted, activations).result


def _documents(folder: Path) -> dict[str, bytes]:
    return {name: _read(folder / name) for name in _DOCUMENTS if (folder / name).is_file()}


_DOCUMENTS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    INDEX_FILE,
)
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def _loaded(
    config: ModelConfig,
    decoder: Decoder,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    *,
    digest: bytes,
    name: str,
) -> LoadedModel:
    if tokenizer.size > config.vocab_size:
        raise ModelMalformed(
            "tokenizer with more tokens than the model", expected=config.vocab_size, found=tokenizer.size
        )
    return LoadedModel(config, decoder, tokenizer, template, digest, tokenizer.digest, name)


def _template_source(documents: Mapping[str, bytes], settings: Mapping[str, object]) -> str | None:
    if "chat_template.jinja" in documents:
        try:
            return documents["chat_template.jinja"].decode("utf-8")
        except UnicodeDecodeError:
            raise ModelMalformed("chat_template.jinja is no UTF-8") from None
    source = settings.get("chat_template")
    if isinstance(source, list):  # several by name; "default" is the one for plain conversations
        named = [
            entry.get("template")
            for entry in source
            if isinstance(entry, dict) and entry.get("name") == "default"
        ]
        source = named[0] if named else None
    if source is None or isinstance(source, str):
        return source
    raise ModelMalformed("chat_template in tokenizer_config.json is no string")


def _marker(settings: Mapping[str, object], name: str) -> str:
    value = settings.get(name)
    if isinstance(value, dict):
        value = value.get("content")
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ModelMalformed(f"{name} in tokenizer_config.json is no string")
    return value


def _read(path: Path) -> bytes:
    with path.open("rb") as handle:
        content = handle.read(MAX_DOCUMENT_BYTES + 1)
    if len(content) > MAX_DOCUMENT_BYTES:
        raise ModelMalformed("document of the model too large", found=path.name)
    return content


def _object(documents: Mapping[str, bytes], name: str) -> Mapping[str, object]:
    if name not in documents:
        return {}
    try:
        document = json.loads(documents[name])
    except (ValueError, RecursionError):
        raise ModelMalformed("document of the model is no JSON", found=name) from None
    if not isinstance(document, dict):
        raise ModelMalformed("document of the model is no JSON object", found=name)
    return document


def _file_digest(path: Path) -> bytes:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").digest()
