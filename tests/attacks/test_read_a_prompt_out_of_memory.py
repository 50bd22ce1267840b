"""Somebody who can read all of a node's memory looks for a prompt after its answer: text, tokens, keys and values.

The observer is this test, with a right that nobody has inside of a confidential VM: it reads ``/proc/PID/mem``. What
it looks for is every form in which this node holds a request. The same observer finds all of them in a node whose
allocator does not wipe, and finds them in any node while the answer is being made, so it does look in the right place.
"""

import base64
import contextlib
import http.client
import json
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from sealed_node import START, Node, chat, children, running, write_tiny_model

from enclave_runtime.config import NodeConfig
from enclave_runtime.engine.decoder import Span
from enclave_runtime.engine.model import LoadedModel, load_model, stored_digest
from enclave_runtime.engine.pages import ArrayPages
from enclave_runtime.seal import Piece
from ohttp.bhttp import Content, ResponseDecoder

#: The defence removed: the node does not start itself again, and tolerates memory that is not wiped.
UNWIPED = START.replace(
    "from enclave_runtime import boot",
    "from enclave_runtime import boot, wiped_memory\nwiped_memory.start_again = lambda environment: None",
)
SETTLED_S = 1.0


def tolerant(config: NodeConfig) -> NodeConfig:
    return replace(config, tolerate=(Piece.MEMORY_LOCKED, Piece.MEMORY_WIPED))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def loaded(model: Path) -> LoadedModel:
    return load_model(model)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Node]:
    with running(tmp_path_factory.mktemp("wiping"), model) as node:
        must_be_readable(node)
        yield node


@pytest.fixture(scope="module")
def unwiped(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("unwiped")
    with running(folder, model, program=UNWIPED, change=tolerant) as node:
        must_be_readable(node)
        yield node


@pytest.fixture(scope="module")
def generous(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Node]:
    """A node with all that may hold a prompt longer or twice: leases, and a draft model."""
    draft = write_tiny_model(model / "draft")
    table = {"name": "draft", "digest": stored_digest(draft).hex(), "guesses": 3}
    leases = {"count": 1, "tokens": 192, "seconds": 3600}
    with running(
        tmp_path_factory.mktemp("generous"), model, change=lambda c: replace(c, draft=table, leases=leases)
    ) as node:
        must_be_readable(node)
        yield node


def must_be_readable(node: Node) -> None:
    try:
        Path(f"/proc/{node.process.pid}/mem").open("rb").close()
    except PermissionError:
        pytest.skip("only root may read the memory of a process that is not dumpable")


PAGE = 4096
DULL = {bytes([byte]) * PAGE for byte in (0, 165, 165 ^ 255)}


def writable_memory(process: int) -> Iterator[bytes]:
    """What stands in every mapping that the process may write to, but for pages of one byte over and over."""
    with open(f"/proc/{process}/mem", "rb", buffering=0) as memory:
        for line in Path(f"/proc/{process}/maps").read_text().splitlines():
            addresses, rights, *_ = line.split(None, 5)
            if "w" not in rights:
                continue
            start, end = (int(part, 16) for part in addresses.split("-"))
            memory.seek(start)
            read = bytearray()
            while len(read) < end - start:
                try:
                    part = memory.read(min(end - start - len(read), 1 << 24))
                except OSError:
                    break  # it is gone
                if not part:
                    break
                read += part
            pages = (bytes(read[at : at + PAGE]) for at in range(0, len(read), PAGE))
            yield b"".join(page for page in pages if page not in DULL)


def found(node: Node, traces: dict[str, bytes]) -> dict[str, int]:
    """How often each trace occurs in the node's memory."""
    return found_in(node.process.pid, traces)


def found_in(process: int, traces: dict[str, bytes]) -> dict[str, int]:
    counts = dict.fromkeys(traces, 0)
    for content in writable_memory(process):
        for name, trace in traces.items():
            counts[name] += content.count(trace)
    return counts


def traces_of(canary: str, loaded: LoadedModel) -> dict[str, bytes]:
    """A prompt in the forms in which a node may hold it."""
    tokens = np.array(loaded.tokenizer.encode(canary))
    return {
        "text": canary.encode(),
        "text, its middle": canary.encode()[10:22],
        "text, two bytes a character": canary.encode("utf-16-le"),
        "text, four bytes a character": canary.encode("utf-32-le"),
        "tokens of 8 bytes": tokens.astype("<i8").tobytes(),
        "tokens of 4 bytes": tokens.astype("<u4").tobytes(),
        "keys of the first layer": first_keys(canary, loaded),
    }


def first_keys(canary: str, loaded: LoadedModel) -> bytes:
    """Keys of the first layer for a page that the canary fills in part, as the node's decoder stores them.

    They depend on what stands before and in that page, which no other prompt has.
    """
    text = loaded.chat_template.render([{"role": "user", "content": canary}])
    tokens = np.array(loaded.tokenizer.encode(text))
    loaded.decoder.reserve(256)
    pool = loaded.decoder.new_pool(16, 16)
    table = pool.allocate(1, len(tokens))
    loaded.decoder.step([Span(tokens, 0, table, True)], pool)
    page = (text.index(canary) + 20) // 16
    assert (page + 1) * 16 <= len(tokens), "an answer would write into it"
    assert isinstance(pool, ArrayPages)
    stored = pool.storage[0, 0, int(table.pages[page])].tobytes()
    return stored[len(stored) // 2 :][:64]


def canary() -> str:
    return f"canary-{secrets.token_hex(12)}"


def exchange(node: Node, prompt: str) -> str:
    """The prompt in a whole answer, in a stream, in a refusal and in an answer that is cut short; the answer."""
    status, body = node.ask("/v1/chat/completions", chat(prompt, temperature=0, max_tokens=40))
    assert status == 200
    assert node.ask("/v1/chat/completions", chat(prompt, stream=True, stop=[prompt]))[0] == 200
    assert node.ask("/v1/chat/completions", chat(prompt, temperature=9))[0] == 400
    assert node.ask("/v1/chat/completions", raw=b"{" + prompt.encode())[0] == 400
    assert node.ask("/v1/completions", {"model": "tiny", "prompt": prompt, "max_tokens": 2})[0] == 200
    assert node.ask("/v1/chat/completions", chat(prompt, surprise=prompt))[0] == 400
    assert node.ask("/v1/chat/completions", chat(prompt, model="another"))[0] == 404
    for field in ("date", "attestation_digest", "request_id", "authorization", "content_type"):
        node.ask("/v1/completions", {}, **{field: prompt})  # a client that puts it where it does not belong
    assert node.ask(f"/v1/models/{prompt}", raw=b"")[0] == 404
    return str(json.loads(body)["choices"][0]["message"]["content"])


def test_after_its_answer_a_prompt_is_nowhere_in_memory(node: Node, loaded: LoadedModel) -> None:
    prompt = canary()
    answer = exchange(node, prompt)
    traces = traces_of(prompt, loaded)
    traces["answer, its end"] = answer[-12:].encode()
    time.sleep(SETTLED_S)
    assert {name: count for name, count in found(node, traces).items() if count} == {}


def test_after_its_answer_a_prompt_is_in_no_ranks_memory(
    tmp_path: Path, model: Path, loaded: LoadedModel
) -> None:
    """Where several processes share the model: keys and values lie in other pieces there, so tokens are looked for.
    That the observer sees a rank's memory at all is shown by a row of the embedding.
    """
    pytest.importorskip("torch")
    row = load_file(model / "model.safetensors")["model.embed_tokens.weight"][7].tobytes()
    with running(
        tmp_path, model, change=lambda c: replace(c, decoder={"kernels": "torch", "ranks": 2})
    ) as node:
        must_be_readable(node)
        prompt = canary()
        exchange(node, prompt)
        traces = traces_of(prompt, loaded)
        del traces["keys of the first layer"]
        time.sleep(SETTLED_S)
        ranks = [*children(node), node.process.pid]
        assert [found_in(rank, {"row": row})["row"] > 0 for rank in ranks].count(True) == 2
        for rank in ranks:
            assert {name: count for name, count in found_in(rank, traces).items() if count} == {}


def test_control_where_nothing_is_wiped_the_observer_finds_it(unwiped: Node, loaded: LoadedModel) -> None:
    prompt = canary()
    exchange(unwiped, prompt)
    time.sleep(SETTLED_S)
    assert found(unwiped, traces_of(prompt, loaded))["text"] > 0


def test_control_while_the_answer_is_made_the_observer_finds_it(node: Node, loaded: LoadedModel) -> None:
    prompt = canary()
    traces = traces_of(prompt, loaded)
    # The text is gone as soon as it is tokens: seeing it would be luck.
    held = {name: traces[name] for name in ("tokens of 8 bytes", "keys of the first layer")}
    asked = chat(prompt, temperature=0, max_tokens=180, stream=True)
    enough = threading.Event()

    def go_on_asking() -> None:
        while not enough.is_set():
            node.ask("/v1/chat/completions", asked)

    asking = [threading.Thread(target=go_on_asking) for _ in range(3)]
    for thread in asking:
        thread.start()
    seen = dict.fromkeys(held, 0)
    for _ in range(20):
        for name, count in found(node, held).items():
            seen[name] += count
        if all(seen.values()):
            break
    enough.set()
    for thread in asking:
        thread.join()
    assert all(seen.values()), seen
    time.sleep(SETTLED_S)
    assert not any(found(node, traces).values())


def test_a_prompt_whose_reader_left_is_nowhere_in_memory(node: Node, loaded: LoadedModel) -> None:
    """Ends that are none: a reader who leaves in the middle, and a request that never comes whole."""
    prompt = canary()
    asked = chat(prompt, max_tokens=200, stream=True)
    sealed = node.sealed("/v1/chat/completions", asked)
    for sent, read in ((sealed, 700), (sealed[:-5], 0)):
        connection = http.client.HTTPConnection("127.0.0.1", node.port, timeout=30)
        connection.putrequest("POST", "/ohttp")
        connection.putheader("content-type", "message/ohttp-chunked-req")
        connection.putheader("content-length", str(len(sealed)))
        connection.endheaders(sent)
        if read:
            connection.getresponse().read(read)
        connection.close()
    time.sleep(SETTLED_S)
    assert {name: count for name, count in found(node, traces_of(prompt, loaded)).items() if count} == {}


@contextlib.contextmanager
def lease_of(node: Node) -> Iterator[str]:
    """The credential of a lease, which is held meanwhile."""
    secret = secrets.token_bytes(32)
    client, sealed = node._seal("/v1/lease", json.dumps({"secret": base64url(secret)}).encode(), None, {})
    connection = http.client.HTTPConnection("127.0.0.1", node.port, timeout=30)
    with contextlib.closing(connection):
        connection.request("POST", "/ohttp", sealed, {"content-type": "message/ohttp-chunked-req"})
        wire = connection.sock
        assert wire is not None
        response, decoder, said = connection.getresponse(), ResponseDecoder(), b""
        while b"}" not in said:
            for chunk in client.receive(response.read1(512)):
                said += b"".join(event.data for event in decoder.feed(chunk) if isinstance(event, Content))
        ticket = json.loads(said[said.index(b"{") : said.index(b"}") + 1])["ticket"]
        # Somebody has to go on reading: a stream that nobody takes is given up.
        reading = threading.Thread(target=read_on, args=(response,))
        reading.start()
        try:
            yield base64url(base64.urlsafe_b64decode(ticket + "=") + secret)
        finally:
            wire.shutdown(socket.SHUT_RDWR)
            reading.join()


def read_on(response: http.client.HTTPResponse) -> None:
    with contextlib.suppress(OSError, http.client.HTTPException):
        while response.read1(4096):
            pass


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def test_a_leased_prompt_is_nowhere_in_memory_once_the_lease_has_ended(
    generous: Node, loaded: LoadedModel
) -> None:
    prompt = f"{canary()}, and so much more that a whole block of it is kept"
    traces = traces_of(prompt, loaded)
    with lease_of(generous) as credential:
        for _ in range(2):
            asked = chat(prompt, lease=credential, max_tokens=120, ignore_eos=True)
            assert generous.ask("/v1/chat/completions", asked)[0] == 200
        time.sleep(SETTLED_S)
        left = {name for name, count in found(generous, traces).items() if count}
        assert left == {"keys of the first layer"}, "control: its keys and values, and nothing else of it"
    time.sleep(SETTLED_S)
    assert {name: count for name, count in found(generous, traces).items() if count} == {}


def test_after_its_answer_a_prompt_is_nowhere_in_memory_of_a_node_with_a_draft(
    generous: Node, loaded: LoadedModel
) -> None:
    prompt = canary()
    exchange(generous, prompt)
    time.sleep(SETTLED_S)
    assert {name: count for name, count in found(generous, traces_of(prompt, loaded)).items() if count} == {}
