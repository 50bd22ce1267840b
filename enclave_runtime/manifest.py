"""The runtime manifest: what a node runs that its launch measurement alone does not show, vouched for by
its claims.
"""

import hashlib
from collections.abc import Mapping

import rfc8785

from enclave_runtime import openai_requests
from enclave_runtime.admission import AdmissionLimits
from enclave_runtime.api import API_VERSION
from enclave_runtime.decoder_choice import DecoderChoice
from enclave_runtime.draft_choice import DraftChoice
from enclave_runtime.engine.engine_config import EngineConfig
from enclave_runtime.lease_settings import LeaseSettings
from enclave_runtime.metrics_schema import MetricsSchema
from enclave_runtime.seal import SealReport
from ohttp.padding import CellProfile
from ohttp.token_policy import TokenPolicy

VERSION = 1


def runtime_manifest(
    *,
    model_name: str,
    model_digest: bytes,
    tokenizer_digest: bytes,
    engine: EngineConfig,
    padding: CellProfile,
    confined: SealReport,
    tokens: TokenPolicy | None,
    metrics: MetricsSchema,
    public_prefix: str,
    admission: AdmissionLimits,
    decoder: DecoderChoice,
    kernels: Mapping[str, str],
    draft: DraftChoice | None,
    leases: LeaseSettings | None,
) -> bytes:
    """The manifest's bytes: canonical JSON (RFC 8785). Digests are 32 bytes and appear as lower-case hex.

    ``confined`` is the first layer of the seal, the pieces that a kernel may lack; it says which are in
    force. ``tokens`` is what requests have to bring, ``draft`` the draft model, ``leases`` what
    may be leased; None where there is none. ``decoder`` is what was configured, ``kernels`` what computes in
    fact (`Decoder.manifest`): ``auto`` depends on the processor, and other kernels give other last bits.
    """
    return rfc8785.dumps(
        {
            "v": VERSION,
            "model": {
                "name": model_name,
                "digest": model_digest.hex(),
                "tokenizer_digest": tokenizer_digest.hex(),
            },
            "engine": dict(engine.manifest()),
            "decoder": dict(decoder.manifest()),
            "kernels": dict(kernels),
            "draft": {} if draft is None else dict(draft.manifest()),
            "leases": {} if leases is None else dict(leases.manifest()),
            "metrics": metrics.table(),
            "public_prefix": hashlib.sha256(public_prefix.encode("utf-8", "replace")).hexdigest(),
            "admission": admission.manifest(),
            "padding": dict(padding.manifest()),
            "api": {
                "version": API_VERSION,
                "max_body": openai_requests.MAX_BODY,
                "max_messages": openai_requests.MAX_MESSAGES,
            },
            "tokens": {} if tokens is None else tokens.manifest(),
            "confinement": {row.piece.value: row.state.value for row in confined.rows},
        }
    )
