"""A release signed without a key at a Sigstore instance: stapled by the node, judged by the client."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from mini_sigstore import SUBJECT, MiniSigstore, Served, identity_token
from private_world import World, cloister, now, private_world
from sealed_node import write_tiny_model

from client_sdk.client import PrivateClient
from client_sdk.policy import Policy
from client_sdk.verify import Verification
from client_sdk.verify_rows import Row
from measurements.sigstore.operator import operator_signature

_PROFILE = 'profile = "tlog+sigstore"'


@dataclass
class Signed:
    world: World
    instance: MiniSigstore

    def verify(self, policy: str) -> Verification:
        url = f"{self.world.relay_url}/node"
        with PrivateClient(url, Policy.parse(policy.encode()), timeout=30) as client:
            return client.verify()


def rows(result: Verification) -> dict[str, Row]:
    return {row.id: row for row in result.rows}


def code(result: Verification) -> str:
    assert result.error is not None
    return result.error.code


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Signed]:
    folder = tmp_path_factory.mktemp("signed")
    instance = MiniSigstore(2, now)
    with Served(instance) as served:
        (folder / "token").write_text(identity_token(now()))
        (folder / "instance.json").write_bytes(served.config)
        signature = operator_signature(token=folder / "token", config=folder / "instance.json", now=now)
        with private_world(folder, write_tiny_model(folder / "model"), signature=signature) as world:
            assert len(served.tokens) == 1
            yield Signed(world, instance)


def test_the_client_checks_the_bundle_beside_the_log(signed: Signed) -> None:
    policy = signed.world.policy_file.read_text()
    assert _PROFILE in policy
    result = signed.verify(policy)
    assert result.require().release.listed
    assert rows(result)["log.sigstore"].outcome == "pass"
    assert SUBJECT in rows(result)["log.sigstore"].detail
    assert rows(result)["log.release"].outcome == "pass"


def test_a_signature_by_anybody_else_is_refused(signed: Signed) -> None:
    policy = signed.world.policy_file.read_text()
    result = signed.verify(policy.replace("refs/tags/v1.2.3", "refs/tags/v1.2.4"))
    assert code(result) == "IDENTITY_MISMATCH"
    assert rows(result)["log.sigstore"].outcome == "fail"
    # The pinned production root knows nothing of this instance.
    lines = policy.splitlines(keepends=True)
    assert (
        code(signed.verify("".join(line for line in lines if not line.startswith("root_json"))))
        == "LOG_UNKNOWN"
    )


def test_sigstore_alone_says_that_the_release_is_not_listed(signed: Signed, tmp_path: Path) -> None:
    head, _, table = signed.world.policy_file.read_text().partition("[transparency]\n")
    _, _, own = table.partition(_PROFILE)
    file = tmp_path / "policy.toml"
    file.write_text(f'{head}[transparency]\nchannel = "prod"\nprofile = "sigstore-only"\n{own}')
    shown = cloister("verify", "--relay", f"{signed.world.relay_url}/node", "--policy", str(file))
    assert shown.returncode == 0
    text = " ".join(shown.stdout.split())
    assert "NOT LISTED: no public log" in text
    assert "NOT LISTED: the policy" in text
    assert "– not required" in text
