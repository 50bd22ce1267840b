"""Serving optimisations that a node refuses, each by its name and with the reason.

What makes serving faster often does so by letting one request touch what another one left: its keys and values,
its tokens, its place in line. The table of verdicts is in ``docs/requirements.md``. What is allowed is a setting
of the engine; what is refused has a name here, so that a configuration that asks for it is told why, and not
merely that nobody knows the word.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from enclave_runtime.errors import ConfigurationError

REFUSED: Final[Mapping[str, str]] = {
    "prefix_cache": "a prefix that one user computed answers faster for the next: time tells what others asked; "
    "use public_prefix for what is public",
    "prompt_cache": "modules of prompts that are kept across users tell by time what others asked",
    "semantic_cache": "an answer kept for similar questions is somebody else's answer, and tells that it was asked",
    "kv_offload_cpu": "keys and values of a request stay where it computes; what a lease keeps may "
    "lie outside the pool, sealed: set 'store' of 'leases'",
    "kv_offload_disk": "a prompt can be computed back from keys and values, and a node writes no disk",
    "kv_transfer": "copies of keys and values on other nodes outlive the request they belong to",
    "disaggregated_prefill": "a prompt would travel between nodes that have not verified each other",
    "migration": "a request would move to a node that its client has not verified",
    "kv_compression": "which keys and values are dropped depends on the prompt, and so would the time",
    "retrieval_speculation": "a store of earlier texts gives them away to whoever asks quickly",
    "token_recycling": "a table of successors learnt from all requests carries tokens from one to the next",
    "tensor_parallel": "activations would cross links that no evidence vouches for, and a sealed node opens no socket "
    "to other ranks",
    "pipeline_parallel": "activations would cross links whose encryption no evidence here vouches for",
    "expert_choice": "experts that choose among tokens make a request's answer depend on its neighbours",
    "expert_capacity": "tokens dropped for lack of room make a request's answer depend on its neighbours",
    "priority": "an order by content or user tells each of them about the others; it is first come, first served",
    "longest_prefix_first": "an order by what is cached tells what others asked",
    "length_prediction": "a guess of the answer's length is made from the prompt and would show in the order",
    "instance_flip": "a node's role is measured; it changes by booting another measurement",
    "online_profiling": "what is learnt from requests is use of them for something else than their answer",
    "adapter_upload": "an adapter is code of the model: it must be measured with it",
    "tenant_adapters": "an adapter's name and the time to swap it in tell whose request it is",
    "gpu_partitioning": "slices of a GPU share what leaks between them; the whole device is attested",
    "external_preprocessing": "the prompt would be in the clear outside of the node",
    "energy_control": "power drawn for single requests shows their length to whoever meters it",
    "request_log": "nothing of a request is kept after its answer",
}
"""Names of settings, and what is wrong with each."""

SPELLINGS: Final[Mapping[str, str]] = {
    "enable_prefix_caching": "prefix_cache",
    "automatic_prefix_caching": "prefix_cache",
    "cpu_offload_gb": "kv_offload_cpu",
    "swap_space": "kv_offload_cpu",
    "kv_transfer_config": "kv_transfer",
    "tensor_parallel_size": "tensor_parallel",
    "pipeline_parallel_size": "pipeline_parallel",
    "scheduling_policy": "priority",
    "enable_lora": "tenant_adapters",
    "lora_modules": "tenant_adapters",
}
"""Other servers' names for some of them."""


def refuse_by_name(settings: Iterable[str]) -> None:
    """Raise ConfigurationError ``optimisation_refused`` where a setting is one that a node refuses."""
    for name in settings:
        reason = REFUSED.get(SPELLINGS.get(name, name))
        if reason is not None:
            raise ConfigurationError("optimisation_refused", f"{name}: {reason}")
