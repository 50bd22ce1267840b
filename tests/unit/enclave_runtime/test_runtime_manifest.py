"""The runtime manifest says what computes in fact, down to the digest of the compiled code."""

import hashlib
import json
from typing import Any

import pytest

from enclave_runtime.admission import AdmissionLimits
from enclave_runtime.decoder_choice import DecoderChoice
from enclave_runtime.engine.cpu import binding
from enclave_runtime.engine.cpu.decoder import CpuDecoder
from enclave_runtime.engine.decoder import Decoder
from enclave_runtime.engine.engine_config import EngineConfig
from enclave_runtime.engine.torch_decoder import TorchDecoder
from enclave_runtime.manifest import runtime_manifest
from enclave_runtime.metrics_schema import DEFAULT
from enclave_runtime.seal import SealReport
from ohttp.padding import CellProfile


def manifest_with(decoder: Decoder) -> dict[str, Any]:
    made = runtime_manifest(
        model_name="m",
        model_digest=bytes(32),
        tokenizer_digest=bytes(32),
        engine=EngineConfig(),
        padding=CellProfile(),
        confined=SealReport(()),
        tokens=None,
        metrics=DEFAULT,
        public_prefix="",
        admission=AdmissionLimits(),
        decoder=DecoderChoice(),
        kernels=decoder.manifest(),
        draft=None,
        leases=None,
    )
    read: dict[str, Any] = json.loads(made)
    return read


def test_the_torch_decoder_is_named() -> None:
    decoder = TorchDecoder.__new__(TorchDecoder)  # what it says of itself depends on no weights
    assert manifest_with(decoder)["kernels"] == {"decoder": "torch", "path": "float32", "digest": ""}


@pytest.mark.parametrize("path", [0, 1, 2])
def test_the_compiled_decoder_is_named_with_its_instruction_set_and_library(path: int) -> None:
    library = binding.library()
    if library is None:
        pytest.skip("the compiled decoder was not built")
    decoder = CpuDecoder(library, None, None, path=path)  # type: ignore[arg-type]
    said = manifest_with(decoder)["kernels"]
    assert said["decoder"] == "compiled"
    assert said["path"] == library.cloister_path_name(path).decode()
    assert said["digest"] == hashlib.sha256(binding.library_file().read_bytes()).hexdigest()
    assert manifest_with(decoder)["decoder"] == {
        "kernels": "auto",
        "weights": "stored",
        "activations": 16,
        "ranks": 1,
    }
