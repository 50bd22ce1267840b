"""The demo from start to end: every step by the same commands that an operator and a user would type."""

import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.panel import Panel
from rich.rule import Rule

from attestation.simulated.platform import Platform
from client_sdk.errors import ClientError

from .attacks import hostile_relay, refusal, tamper
from .model import resolve_model
from .processes import Listening, cloister, listening, run
from .telling import step

# What the simulated GPU reports of itself; a real release lists what its operator has tested.
GPU_FACTS = ("--gpu-arch", "HOPPER", "--gpu-driver", "590.12", "--gpu-vbios", "96.00.A5.00.01")
POLICY_HEAD = """\
# Written by `cloister demo`. It trusts the simulated platform below, so it is no policy for real use.
version = 1
name = "demo on the simulated platform"

# What [gpu] leaves out has its strict value: reference measurements and revocation status are required.
[gpu]
count = 1
"""


class Story:
    """One run of the demo, with its state in ``folder``."""

    def __init__(self, folder: Path, console: Console) -> None:
        self._folder = folder
        self._console = console
        self._image = folder / "image"
        self._log = folder / "log"
        self._signer = folder / "release-signer.key"
        self._staple = folder / "staple.json"
        self._policy = folder / "policy.toml"
        self._platform = folder / "platform"
        self._programs: list[Listening] = []

    def tell(self, model: str | None, question: str, max_tokens: int, *, stay: int | None = None) -> int:
        """Run every step; 0 only if all went as it must. Raises ClientError otherwise.

        With ``stay`` the relay listens on that port, and node and relay go on until Ctrl-C.
        """
        started = time.monotonic()
        self._folder.mkdir(parents=True, exist_ok=True)
        weights = self._prepare(model)
        with ExitStack() as running:
            relay = self._start(running, weights, stay or 0)
            self._console.print(Rule("the client, in a process of its own: verify, then ask", style="dim"))
            self._ask(f"{relay}/node", question, max_tokens)
            self._console.print(Rule("two attacks", style="dim"))
            with step(self._console, "a node with one bit of one runtime file changed") as done:
                met = refusal(f"{relay}/tampered", self._policy, "MEASUREMENT_MISMATCH")
                done.append(f"refused: {met.code} at {met.stage}")
            with step(self._console, "a relay that swaps the key config for its own") as done:
                swapper = running.enter_context(listening("the hostile relay", hostile_relay(self._node_url)))
                met = refusal(f"http://127.0.0.1:{swapper.port}", self._policy, "ohttp_keys_mismatch")
                done.append(f"refused: {met.code} at {met.stage}")
            self._conclude(time.monotonic() - started)
            if stay is not None:
                self._stay(relay)
            for program in self._programs:  # all at once; leaving the block waits for each
                program.process.terminate()
        return 0

    def _stay(self, relay: str) -> None:
        self._console.print(
            f"The node is at {relay}/node until Ctrl-C. In another terminal:\n"
            f'  cloister chat --relay {relay}/node --policy {self._policy} "Hello!"',
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        with suppress(KeyboardInterrupt):
            self._programs[0].process.wait()

    def _conclude(self, took: float) -> None:
        self._console.print(
            Panel(
                "The answer came from a node that the client had verified, and both attacks were refused.\n"
                "[bold]SIMULATED[/]: the roots of trust were made on this machine; no hardware vouched for anything.\n"
                f"State is in [cyan]{self._folder}[/]; read its policy.toml, then 'cloister --help'.",
                title=f"done in {took:.0f} s",
                border_style="green",
            ),
            highlight=False,
        )

    def _prepare(self, model: str | None) -> Path:
        with step(self._console, "model") as done:
            weights = resolve_model(model, self._folder / "models")
            done.append(weights.name)
        with step(self._console, "process image: interpreter, libraries, runtime") as done:
            told = run("image build", cloister("image", "build", "process", "-o", str(self._image)))
            done.append(told.strip().splitlines()[-1] if told.strip() else "built")
        with step(
            self._console, "simulated platform, with AMD-format and NVIDIA-format roots of its own"
        ) as done:
            platform = Platform.open(self._platform, lambda: datetime.now(UTC))
            done.append(f"AMD-format root {platform.roots['amd_root_sha256'][:16]}…")
        with step(self._console, "transparency log and witness; release and active status published") as done:
            if not self._log.is_dir():
                run("log init", cloister("log", "init", str(self._log)))
            if not self._signer.exists():
                run("release keygen", cloister("release", "keygen", str(self._signer)))
            done.append(self._publish(weights))
        tables = (platform.policy_table(), (self._folder / "transparency.toml").read_text())
        self._policy.write_text("\n".join((POLICY_HEAD, *tables)))
        return weights

    def _publish(self, weights: Path) -> str:
        serve = cloister("serve", "--model", str(weights), "--state", str(self._platform))
        command_line = run("serve", [*serve, "--show-command-line"]).strip()
        publish = cloister("release", "publish", "--log", str(self._log), "--image", str(self._image))
        publish += [
            "--model",
            str(weights),
            "--cmdline",
            command_line,
            "--signer",
            str(self._signer),
            *GPU_FACTS,
        ]
        publish += ["--staple", str(self._staple), "--policy", str(self._folder / "transparency.toml")]
        return run("release publish", publish).splitlines()[0]

    def _start(self, running: ExitStack, weights: Path, port: int) -> str:
        """Start the node, the tampered node for later, and the relay; the relay's URL."""
        tampered = self._folder / "tampered"
        with step(self._console, "node: measured, booted, evidence made, sealed, listening") as done:
            tamper(self._image, tampered)
            # Both at once, since each takes seconds to load its model.
            with ThreadPoolExecutor(2) as pool:
                genuine = pool.submit(running.enter_context, self._node(self._image, weights))
                other = pool.submit(running.enter_context, self._node(tampered, weights))
                node, changed = genuine.result(), other.result()
            self._programs += [node, changed]
            self._node_url = f"http://127.0.0.1:{node.port}"
            rows = node.event.get("seal", [])
            held = sum(row.get("state") == "in force" for row in rows)
            done.append(f"port {node.port}, {held} of {len(rows)} pieces of the seal in force")
        with step(self._console, "relay") as done:
            targets = [f"node={self._node_url}", f"tampered=http://127.0.0.1:{changed.port}"]
            options = [part for target in targets for part in ("--target", target)]
            relay = running.enter_context(
                listening("the relay", cloister("relay", *options, "--port", str(port), "--json"))
            )
            done.append(f"port {relay.port}")
        return f"http://127.0.0.1:{relay.port}"

    @contextmanager
    def _node(self, image: Path, weights: Path) -> Iterator[Listening]:
        serve = cloister(
            "serve", "--image", str(image), "--model", str(weights), "--staple", str(self._staple)
        )
        with listening("the node", [*serve, "--state", str(self._platform), "--port", "0"]) as node:
            yield node

    def _ask(self, relay: str, question: str, max_tokens: int) -> None:
        self._console.print(f"[bold]?[/] {question}", highlight=False)
        options = ["--policy", str(self._policy), "--memory", str(self._folder / "client-memory.json")]
        command = cloister("chat", "--relay", relay, *options, "--max-tokens", str(max_tokens), question)
        status = subprocess.run(command, check=False).returncode
        if status:
            raise ClientError("demo_step", f"the client ended with status {status}")
