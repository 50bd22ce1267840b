"""A real sealed node over a tiny model with random weights, and a client's side of an exchange, for tests.

The node runs from this checkout instead of an image: the same boot, the same seal, the same platform.
"""

import base64
import contextlib
import hashlib
import http.client
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import formatdate
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from attestation.bundle import EvidenceBundle
from attestation.simulated.platform import Platform
from enclave_runtime.config import HOST_INPUTS, STAPLE_DESCRIPTOR, HostInputs, NodeConfig
from enclave_runtime.node_launch import await_listening, node_config
from measurements.staple import Staple
from ohttp.bhttp import Content, Head, Request, ResponseDecoder, encode_request
from ohttp.chunked import REQUEST_MEDIA_TYPE, ChunkedClient
from ohttp.keyconfig import parse_key_configs, preferred
from ohttp.padding import padme

REPOSITORY = Path(__file__).resolve().parent.parent
MODEL_NAME = "tiny"
ROOM = 256
SPECIAL = ["<|end|>", "<|start|>"]


def write_tiny_model(folder: Path) -> Path:
    """A Llama of two layers whose vocabulary is the bytes; its answers mean nothing."""
    folder.mkdir(parents=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    hidden, inner, heads, kv_heads, layers = 64, 96, 4, 2, 2
    config = {
        "model_type": "llama",
        "vocab_size": len(vocabulary),
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": inner,
        "max_position_embeddings": ROOM,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "eos_token_id": 0,
    }
    chance = np.random.default_rng(7)

    def random(*shape: int) -> np.ndarray:
        return (chance.standard_normal(shape) * 0.3).astype(np.float32)

    narrow = hidden // heads * kv_heads
    weights = {
        "model.embed_tokens.weight": random(len(vocabulary), hidden),
        "model.norm.weight": np.ones(hidden, dtype=np.float32),
    }
    for layer in range(layers):
        shapes = {
            "self_attn.q_proj": (hidden, hidden),
            "self_attn.k_proj": (narrow, hidden),
            "self_attn.v_proj": (narrow, hidden),
            "self_attn.o_proj": (hidden, hidden),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
        }
        named = {name: random(*shape) for name, shape in shapes.items()}
        norms = ("input_layernorm", "post_attention_layernorm")
        named |= {name: np.ones(hidden, dtype=np.float32) for name in norms}
        weights |= {f"model.layers.{layer}.{name}.weight": tensor for name, tensor in named.items()}
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(tokenizer.to_str())
    template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
        "{% if messages[0]['role'] == 'assistant' %}{{ raise_exception('no') }}{% endif %}"
    )
    settings = {"bos_token": SPECIAL[1], "eos_token": SPECIAL[0], "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@dataclass
class Streams:
    """What a node said on standard error, and on standard output after its one line."""

    out: bytes = b""
    err: bytes = b""


@dataclass
class Node:
    """A node that listens."""

    process: "subprocess.Popen[bytes]"
    port: int
    metrics_port: int
    seal: tuple[Any, ...]
    measurement: bytes
    platform: Platform
    config: NodeConfig
    staples: int
    said: Streams = field(default_factory=Streams)

    def plain(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        """An ordinary HTTP request: status and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read()

    def metrics(self) -> bytes:
        """What the node's other process shows."""
        connection = http.client.HTTPConnection("127.0.0.1", self.metrics_port, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", "/metrics")
            return connection.getresponse().read()

    def bundle(self) -> bytes:
        """The current evidence bundle."""
        return self.plain("GET", "/attestation")[1]

    def sealed(self, path: str, document: Any, **changes: str) -> bytes:
        """An encapsulated request, as it is posted."""
        return self._seal(path, json.dumps(document).encode(), None, changes)[1]

    def ask(
        self,
        path: str,
        document: Any = None,
        *,
        raw: bytes | None = None,
        bundle: bytes | None = None,
        **changes: str,
    ) -> tuple[int, bytes]:
        """An encapsulated request: status and body from inside. ``changes`` replace headers of the inner request."""
        body = raw if raw is not None else b"" if document is None else json.dumps(document).encode()
        client, sealed = self._seal(path, body, bundle, changes)
        status, answer = self.plain("POST", "/ohttp", sealed, **{"content-type": REQUEST_MEDIA_TYPE})
        if status != 200:
            return status, answer
        decoder = ResponseDecoder()
        events = [e for chunk in (*client.receive(answer), *client.finish()) for e in decoder.feed(chunk)]
        decoder.finish()
        head = next(event for event in events if isinstance(event, Head))
        return head.status, b"".join(event.data for event in events if isinstance(event, Content))

    def _seal(
        self, path: str, body: bytes, bundle: bytes | None, changes: dict[str, str]
    ) -> tuple[ChunkedClient, bytes]:
        data = bundle or self.bundle()
        headers = {
            "content-type": "application/json",
            "date": formatdate(time.time(), usegmt=True),
            "request-id": secrets.token_hex(16),
            "attestation-digest": f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:",
        }
        headers |= {name.replace("_", "-"): value for name, value in changes.items()}
        request = Request(
            method=b"POST" if body else b"GET",
            scheme=b"https",
            authority=b"cloister.internal",
            path=path.encode(),
            headers=tuple((name.encode(), value.encode()) for name, value in headers.items()),
            body=body,
        )
        client = ChunkedClient(preferred(parse_key_configs(EvidenceBundle.parse(data).ohttp_keys)))
        plain = encode_request(request)
        return client, client.seal_request(encode_request(request, pad_to=padme(len(plain))))

    def status(self) -> dict[str, str]:
        """``/proc/PID/status`` of the node."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def children(node: Node) -> dict[int, dict[str, str]]:
    """``/proc/PID/status`` of each process that the node started, by its number."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                lines = (folder / "status").read_text().splitlines()
            except OSError:
                continue
            status = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
            if status["PPid"] == str(node.process.pid) and status["State"][0] != "Z":
                found[int(folder.name)] = status
    return found


def chat(content: str, **options: Any) -> dict[str, Any]:
    """A chat request."""
    return {
        "model": MODEL_NAME,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 8,
        **options,
    }


def write_staple(folder: Path) -> Path:
    """A staple in which nothing is true; who uses the node would find out, the node itself only carries it."""
    path = folder / "staple.json"
    path.write_bytes(Staple(b"proof", b"leaf", b"proof", b"leaf", b"checkpoint").encode())
    return path


def tiny_config(platform: Platform, *, tokens: dict[str, Any] | None = None, **settings: Any) -> NodeConfig:
    """The measured configuration of a node on ``platform``."""
    return node_config(
        platform.roots,
        model_name=MODEL_NAME,
        engine={"max_batch": 4, "max_queue": 8, "max_context": ROOM, "step_budget": 80, **settings},
        padding={"name": "constant", "cell_bytes": 512, "interval_ms": 5},
        tokens=tokens,
    )


def volumes(folder: Path, model: Path, program: str | None = None) -> dict[str, Path]:
    """The volumes of a node that runs from this checkout: the model, and an image that is only a start."""
    image = folder / "image"
    image.mkdir(exist_ok=True)
    start = [sys.executable, "-B", "-c", program or START, str(REPOSITORY)]
    (image / "start.json").write_text(json.dumps(start))
    return {"image": image, "model": model}


@contextlib.contextmanager
def running(
    folder: Path,
    model: Path,
    *,
    staple: Path | None = None,
    program: str | None = None,
    change: Callable[[NodeConfig], NodeConfig] = lambda config: config,
    **settings: Any,
) -> Iterator[Node]:
    """A sealed node with fast cells; ``settings`` are engine settings, and ``tokens``.

    ``program`` starts it in place of :data:`START`, ``change`` makes another configuration of the usual one.
    """
    platform = Platform.open(folder / "state", lambda: datetime.now(UTC), 1)
    config = change(tiny_config(platform, **settings))
    host = HostInputs(model, staple or write_staple(folder), "127.0.0.1", 0)
    staples, feed = os.pipe()
    launched = platform.launch(
        volumes=volumes(folder, model, program),
        cmdline=config.encode(),
        env={HOST_INPUTS: host.encode(), STAPLE_DESCRIPTOR: str(staples)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        extra_fds=(staples,),
    )
    os.close(staples)
    process = launched.process
    try:
        said = await_listening(process)
        node = Node(
            process, said.port, said.metrics_port, said.seal, launched.measurement, platform, config, feed
        )
        yield node
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        os.close(feed)


#: What an image's start does: put the code in the path and hand over.
START = """
import sys
sys.path.insert(0, sys.argv[1])
from enclave_runtime import boot
sys.exit(boot.main(sys.argv[2:]))
"""
