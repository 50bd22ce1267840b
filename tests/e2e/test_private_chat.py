"""A user's view: verify a node, talk to it with the official ``openai`` package, see it refuse what it must."""

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from private_world import World, cloister, private_world, relay, serving
from sealed_node import MODEL_NAME, write_tiny_model

from client_sdk.client import PrivateClient
from client_sdk.errors import ClientError, NodeRefused, RelayUnreachable, VerificationRefused
from client_sdk.exchange import InnerRequest
from client_sdk.policy import Policy
from client_sdk.proxy import Proxy

openai = pytest.importorskip("openai")

QUESTION = [{"role": "user", "content": "hello there"}]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    with private_world(folder, write_tiny_model(folder / "model")) as made:
        yield made


def test_every_row_is_reported_and_the_simulated_root_is_named(world: World) -> None:
    with world.client() as client:
        result = client.verify()
    node = result.require()
    assert node.simulated
    assert "SIMULATED" in repr(node)
    assert node.model == MODEL_NAME
    outcomes = {row.id: row.outcome for row in result.rows}
    assert {outcomes["gpu.measurements"], outcomes["gpu.revocation"]} == {"pass"}
    assert set(outcomes.values()) == {"pass", "not required"}
    assert node.cpu.measurement == world.node.measurement


def test_a_challenge_is_answered_by_cpu_and_gpu_and_is_not_used_for_requests(world: World) -> None:
    with world.client() as client:
        fresh = client.verify(fresh=True)
        node = fresh.require()
        assert len(node.cpu.claims.nonce) == 32
        assert client.node().cpu.claims.nonce == b""


def test_the_openai_package_streams_an_answer(world: World) -> None:
    with world.client() as client:
        api = openai.OpenAI(
            base_url="https://cloister.internal/v1",
            api_key="unused",
            max_retries=0,
            http_client=httpx2.Client(transport=client.http_transport()),
        )
        assert [model.id for model in api.models.list()] == [MODEL_NAME]
        whole = api.chat.completions.create(
            model=MODEL_NAME, messages=QUESTION, max_tokens=12, temperature=0, seed=1
        )
        events = list(
            api.chat.completions.create(
                model=MODEL_NAME,
                messages=QUESTION,
                max_tokens=12,
                temperature=0,
                seed=1,
                stream=True,
                stream_options={"include_usage": True},
            )
        )
    streamed = "".join(e.choices[0].delta.content or "" for e in events if e.choices)
    assert streamed == whole.choices[0].message.content
    assert whole.usage.completion_tokens == events[-1].usage.completion_tokens
    assert whole.choices[0].finish_reason in ("length", "stop")


def test_the_openai_package_works_with_asyncio(world: World) -> None:
    async def ask() -> str:
        client = world.client()
        api = openai.AsyncOpenAI(
            base_url="https://cloister.internal/v1",
            api_key="unused",
            max_retries=0,
            http_client=httpx2.AsyncClient(transport=client.async_http_transport()),
        )
        stream = await api.chat.completions.create(
            model=MODEL_NAME, messages=QUESTION, max_tokens=5, stream=True, temperature=0
        )
        text = "".join([e.choices[0].delta.content or "" async for e in stream if e.choices])
        await client.aclose()
        return text

    with world.client() as client:
        assert asyncio.run(ask()) == "".join(client.chat(QUESTION, max_tokens=5, temperature=0))


def test_errors_of_the_node_reach_the_openai_package_as_its_own_exceptions(world: World) -> None:
    with world.client() as client:
        api = openai.OpenAI(
            base_url="https://cloister.internal/v1",
            api_key="unused",
            max_retries=0,
            http_client=httpx2.Client(transport=client.http_transport()),
        )
        with pytest.raises(openai.BadRequestError) as long:
            api.chat.completions.create(
                model=MODEL_NAME, messages=[{"role": "user", "content": "x" * 5000}], max_tokens=4
            )
        assert long.value.code == "context_length_exceeded"
        with pytest.raises(openai.NotFoundError):
            api.chat.completions.create(model="another", messages=QUESTION)


def test_a_program_without_a_client_uses_the_proxy(world: World) -> None:
    client = world.client()
    with serving(Proxy(client)) as url:
        api = openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0)
        answer = api.chat.completions.create(model=MODEL_NAME, messages=QUESTION, max_tokens=4, temperature=0)
        assert answer.choices[0].message.content == "".join(
            world.client().chat(QUESTION, max_tokens=4, temperature=0)
        )
        with pytest.raises(openai.NotFoundError):
            api.embeddings.create(model=MODEL_NAME, input="x")
    client.close()


def test_verify_on_the_command_line(world: World, tmp_path: Path) -> None:
    relay_url, saved = f"{world.relay_url}/node", tmp_path / "bundle.json"
    options = ["--policy", str(world.policy_file), "--json"]
    done = cloister("verify", "--relay", relay_url, *options, "--save", str(saved))
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["verdict"], result["simulated"], result["error"]) == ("verified", True, None)
    assert [row["id"] for row in result["rows"]][:3] == ["bundle.shape", "policy", "cpu.format"]
    assert (result["runtime"]["leases"], result["runtime"]["draft"]) == (None, None)
    assert "no memory between requests" in result["runtime"]["optimisations"]

    again = cloister("verify", str(saved), *options)
    assert (again.returncode, json.loads(again.stdout)["verdict"]) == (0, "verified")
    later = f"{datetime.now(UTC) + timedelta(days=3):%Y-%m-%dT%H:%M:%SZ}"
    stale = cloister("verify", str(saved), *options, "--at", later)
    assert (stale.returncode, json.loads(stale.stdout)["verdict"]) == (3, "refused")
    shown = cloister("verify", str(saved), "--policy", str(world.policy_file))
    assert "SIMULATED" in shown.stdout

    production = cloister("verify", str(saved), "--json")
    assert production.returncode == 3
    assert json.loads(production.stdout)["error"]["code"] == "chain_untrusted"


def test_chat_on_the_command_line(world: World) -> None:
    options = ["--relay", f"{world.relay_url}/node", "--policy", str(world.policy_file), "--max-tokens", "6"]
    done = cloister("chat", *options, "hello there")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "SIMULATED" in done.stderr
    assert "time to first token" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["verify"], 1, "either a bundle file or --relay"),
        (["verify", "no-such-file.json"], 1, "No such file"),
        (["verify", "--relay", "http://127.0.0.1:9/node"], 1, "relay_unreachable"),
        (["chat", "hello"], 1, "--relay is missing"),
        (["verify", "--no-such-option"], 1, "No such option"),
        (["no-such-command"], 1, "No such command"),
        (["log", "monitor"], 1, "Missing option"),
        (["image", "boot"], 1, "Missing argument"),
    ],
)
def test_exit_codes_mean_what_the_help_says(arguments: list[str], status: int, says: str) -> None:
    done = cloister(*arguments)
    assert done.returncode == status, done.stderr
    assert says in done.stderr


def test_a_truncated_or_oversized_bundle_is_refused_by_name(world: World, tmp_path: Path) -> None:
    data = world.node.bundle()
    for name, content in {"cut": data[: len(data) // 2], "big": data + bytes(4 << 20), "empty": b""}.items():
        path = tmp_path / name
        path.write_bytes(content)
        done = cloister("verify", str(path), "--policy", str(world.policy_file), "--json")
        assert done.returncode == 3
        assert json.loads(done.stdout)["error"]["code"] == "bundle_malformed"


def test_a_node_that_is_gone_is_said_so(world: World) -> None:
    with relay({"node": "http://127.0.0.1:9"}) as url, world.client(f"{url}/node") as client:
        with pytest.raises(RelayUnreachable):
            client.verify()
        with pytest.raises(RelayUnreachable):
            list(client.chat(QUESTION))


def test_many_requests_at_once_all_get_an_answer_or_a_clear_refusal(world: World) -> None:
    def ask(_: int) -> str:
        with world.client() as client:
            try:
                return "answered" if "".join(client.chat(QUESTION, max_tokens=8, temperature=0)) else "empty"
            except NodeRefused as error:
                return error.code
            except ClientError as error:
                return error.code

    with ThreadPoolExecutor(24) as pool:
        outcomes = list(pool.map(ask, range(48)))
    assert set(outcomes) <= {"answered", "overloaded", "node_unavailable"}
    assert outcomes.count("answered") >= 12
    assert ask(0) == "answered"


def test_an_expired_verification_cannot_be_used(world: World) -> None:
    clock = [datetime.now(UTC)]
    with PrivateClient(f"{world.relay_url}/node", world.policy, now=lambda: clock[0]) as client:
        node = client.node()
        request = InnerRequest("GET", "/v1/models", (), b"")
        with pytest.raises(VerificationRefused) as caught:
            node.begin(request, date=clock[0] + timedelta(hours=2), request_id=bytes(16))
        assert caught.value.code == "verification_expired"


def test_a_client_whose_clock_is_a_little_off_is_corrected_once(world: World) -> None:
    class Clock:
        """Right while verifying, wrong by minutes afterwards."""

        offset = timedelta(0)

        def __call__(self) -> datetime:
            return datetime.now(UTC) + self.offset

    clock = Clock()
    with PrivateClient(f"{world.relay_url}/node", world.policy, now=clock) as client:
        client.node()
        clock.offset = timedelta(minutes=5)
        assert "".join(client.chat(QUESTION, max_tokens=3, temperature=0))


def test_policies_with_anything_unknown_are_errors(world: World, tmp_path: Path) -> None:
    good = world.policy_file.read_text()
    cases: dict[str, Any] = {
        good + "\n[surprise]\nx = 1\n": "policy_malformed",
        good.replace("version = 1", "version = 2", 1): "policy_version",
        good.replace("[transparency]", "[transparency]\nskip = true", 1): "TRUST_ROOT_INVALID",
        good + "\n[runtime]\npadding = []\n": "policy_malformed",
        good + "\n[runtime]\npadding = ['any']\n": "policy_malformed",
        good + "\n[runtime]\npadding = 'off'\n": "policy_malformed",
        good + "\n[runtime]\nmodel = 'x'\n": "policy_malformed",
        "runtime = 1\n" + good: "policy_malformed",
        "not toml": "policy_malformed",
        "version = 1\nname = 'x'\n": "policy_malformed",
    }
    for text, code in cases.items():
        path = tmp_path / "policy.toml"
        path.write_text(text)
        with pytest.raises(ClientError) as caught:
            Policy.load(path)
        assert caught.value.code == code
