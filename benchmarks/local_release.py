"""A release of a node as an arm runs it, in a log of the bench's own, by the commands an operator would type."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from client_sdk.demo.processes import cloister, run
from client_sdk.policy import Policy

_GPU_FACTS = ("--gpu-arch", "HOPPER", "--gpu-driver", "590.12", "--gpu-vbios", "96.00.A5.00.01")


@dataclass(frozen=True, slots=True)
class Released:
    """What a node needs to be started (``options`` of ``cloister serve``) and a client to verify it."""

    image: Path
    staple: Path
    policy: Policy
    options: tuple[str, ...]


def release(state: Path, model: Path, engine: Mapping[str, int], padding: Mapping[str, str]) -> Released:
    """Build the process image (or take it as it is), publish a release of this configuration, and staple it.

    Everything lies under ``state``: ``image`` and ``platform`` are shared with the demo, ``bench`` holds one log,
    staple and policy for each configuration. Raises ClientError where a command fails.
    """
    image, platform = state / "image", state / "platform"
    settings = ("--engine", json.dumps(dict(engine)), "--padding", json.dumps(dict(padding)))
    folder = state / "bench" / hashlib.sha256("\0".join(settings).encode()).hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    options = ("--state", str(platform), *settings)
    run("image build", cloister("image", "build", "process", "-o", str(image)))
    if not (folder / "log").is_dir():
        run("log init", cloister("log", "init", str(folder / "log")))
    if not (folder / "signer.key").exists():
        run("release keygen", cloister("release", "keygen", str(folder / "signer.key")))
    serve = cloister("serve", "--model", str(model), *options)
    command_line = run("serve", [*serve, "--show-command-line"]).strip()
    publish = cloister("release", "publish", "--log", str(folder / "log"), "--image", str(image))
    publish += ["--model", str(model), "--cmdline", command_line, "--signer", str(folder / "signer.key")]
    publish += [*_GPU_FACTS, "--staple", str(folder / "staple.json")]
    run("release publish", [*publish, "--policy", str(folder / "transparency.toml")])
    tables = run("serve", [*serve, "--show-policy"])
    policy = folder / "policy.toml"
    head = 'version = 1\nname = "bench on the simulated platform"\n'
    if name := padding.get("name"):  # without one, a policy takes the default profile alone
        head += f'\n[runtime]\npadding = ["{name}"]\n'
    policy.write_text("\n".join((head, tables, (folder / "transparency.toml").read_text())))
    return Released(image, folder / "staple.json", Policy.load(policy), options)
