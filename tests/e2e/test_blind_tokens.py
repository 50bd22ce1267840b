"""A node that asks for blind tokens, an issuer that sells them, and a user with a wallet: the whole way."""

import asyncio
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import httpx2
import openai
import pytest
from private_world import World, private_world
from sealed_node import MODEL_NAME, write_tiny_model

from client_sdk import cli
from client_sdk.errors import ClientError, NodeRefused
from client_sdk.exchange import InnerRequest
from ohttp.token_policy import TokenPolicy
from ohttp.token_wallet import Wallet

MESSAGES = [{"role": "user", "content": "Hello"}]
JSON = ((b"content-type", b"application/json"),)
COMPLETION = json.dumps({"model": MODEL_NAME, "prompt": "Hello", "max_tokens": 2}).encode()


@dataclass
class Ran:
    returncode: int
    stdout: str
    stderr: str


def cloister(*arguments: str) -> Ran:
    """Run the command line here: a process of its own would spend seconds on its start."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = cli.run(list(arguments))
    return Ran(status, out.getvalue(), err.getvalue())


@dataclass
class Paid:
    """A world whose node asks for tokens, and its issuer."""

    world: World
    issuer_url: str
    secret_file: Path
    issuer_state: Path

    def get(self, wallet: Path, count: int) -> "Ran":
        return cloister(
            *("tokens", "get", "--issuer", self.issuer_url, "--secret-file", str(self.secret_file)),
            *("--wallet", str(wallet), "--count", str(count), "--json"),
            *("--relay", f"{self.world.relay_url}/node", "--policy", str(self.world.policy_file)),
        )


@contextmanager
def issuer(state: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "client_sdk", "tokens", "issuer", "--state", str(state), "--port", "0"]
    with subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{json.loads(process.stdout.readline())['port']}"
        finally:
            process.terminate()
            said = process.communicate(timeout=20)[0]
    assert process.returncode == 0
    assert "alice" not in said.decode()


@pytest.fixture(scope="module")
def paid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Paid]:
    folder = tmp_path_factory.mktemp("paid")
    model = write_tiny_model(folder / "model")
    state = folder / "issuer"
    made = cloister("tokens", "account", "alice", "--state", str(state), "--tokens", "10")
    secret_file = folder / "secret"
    secret_file.write_text(made.stdout)
    names = ("--issuer", "issuer.test", "--origin", "node.test")
    policy = cloister("tokens", "policy", "--state", str(state), *names)
    tokens = json.loads(policy.stdout)
    assert len(TokenPolicy.parse(tokens).keys) == 9
    with issuer(state) as url, private_world(folder, model, tokens=tokens) as world:
        yield Paid(world, url, secret_file, state)


def test_no_token_no_answer(paid: Paid) -> None:
    with paid.world.client() as client:
        assert client.node().tokens is not None
        with pytest.raises(ClientError, match="token_required"):
            list(client.chat(MESSAGES, max_tokens=2))
        with client.stream(InnerRequest("GET", "/v1/models", (), b"")) as answer:
            assert answer.head.status == 200  # what makes no work costs nothing


def test_tokens_are_bought_and_each_is_spent_once(paid: Paid, tmp_path: Path) -> None:
    wallet = tmp_path / "wallet"
    got = paid.get(wallet, 4)
    assert got.returncode == 0, got.stderr
    assert json.loads(got.stdout) == {"got": 4, "held": 4, "issuer": "issuer.test", "origin": "node.test"}
    before = wallet.read_bytes()
    with paid.world.client(wallet=wallet) as client:
        list(client.chat(MESSAGES, max_tokens=2))
        tokens = client.node().tokens
        api = openai.OpenAI(
            base_url="https://cloister.internal/v1",
            api_key="unused",
            http_client=httpx2.Client(transport=client.http_transport()),
        )
        answer = api.chat.completions.create(model=MODEL_NAME, messages=MESSAGES, max_tokens=2)
        assert answer.choices
        assert Wallet(wallet).count(tokens, 1.8e9) in (0, 2)
    assert len(json.loads(wallet.read_bytes())["tokens"]) == 2
    # A wallet that was copied back: the node remembers, and refuses what it has seen.
    wallet.write_bytes(before)
    outcomes = []
    with paid.world.client(wallet=wallet) as client:
        for _ in range(4):
            request = InnerRequest("POST", "/v1/completions", JSON, COMPLETION)
            with client.stream(request) as answer:
                outcomes.append(answer.head.status)
                if answer.head.status == 401:
                    with pytest.raises(NodeRefused, match="token_refused"):
                        answer.raise_for_status()
        assert sorted(outcomes) == [200, 200, 401, 401]
        with pytest.raises(ClientError, match="tokens_empty"):
            list(client.chat(MESSAGES, max_tokens=2))


def test_asyncio_pays_as_well(paid: Paid, tmp_path: Path) -> None:
    wallet = tmp_path / "wallet"
    assert paid.get(wallet, 2).returncode == 0

    async def ask() -> int:
        client = paid.world.client(wallet=wallet)
        try:
            async with client.astream(InnerRequest("POST", "/v1/completions", JSON, COMPLETION)) as answer:
                return answer.head.status
        finally:
            await client.aclose()

    assert asyncio.run(ask()) == 200
    assert len(json.loads(wallet.read_bytes())["tokens"]) == 1


def test_an_account_cannot_have_more_than_its_tokens(paid: Paid, tmp_path: Path) -> None:
    state = str(paid.issuer_state)
    cloister("tokens", "account", "alice", "--state", state, "--tokens", "8")
    got = paid.get(tmp_path / "wallet", 4)
    assert got.returncode == 1
    assert "token_limit" in got.stderr
    counted = cloister("tokens", "count", str(tmp_path / "wallet"), "--json")
    assert json.loads(counted.stdout) == {"held": 2}  # what was signed before the limit is kept
    paid.secret_file.write_text("no such secret\n")
    assert "token_account" in paid.get(tmp_path / "wallet", 1).stderr
