"""The demo with a virtual machine: the same path, the node in an image that boots under QEMU."""

import subprocess
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.panel import Panel
from rich.rule import Rule

from attestation.simulated.platform import Platform
from client_sdk.errors import ClientError

from .attacks import hostile_relay, refusal
from .model import resolve_model
from .processes import Listening, cloister, listening, run
from .story import GPU_FACTS, POLICY_HEAD
from .telling import step

RECIPE = "cpu-dev"
PATIENCE_S = 900.0


class VmStory:
    """One run of ``cloister demo --vm``, with its state in ``folder``."""

    def __init__(self, folder: Path, console: Console) -> None:
        self._folder = folder
        self._console = console
        self._image = folder / "vm"
        self._platform = folder / "platform"
        self._policy = folder / "vm-policy.toml"
        self._staple = folder / "vm-staple.json"

    def tell(self, model: str | None, question: str, max_tokens: int) -> int:
        """Run every step; 0 only if all went as it must. Raises ClientError otherwise."""
        started = time.monotonic()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._prepare(model)
        with ExitStack() as running:
            with step(self._console, "virtual machine: booted, evidence made, sealed, listening") as done:
                node = self._boot(running)
                seconds = time.monotonic() - started
                done.append(f"port {node.port}, {node.event['accelerator']}, {node.event['seconds']} s")
                rows = node.event.get("seal", [])
                held = sum(row.get("state") == "in force" for row in rows)
                done.append(f"{held} of {len(rows)} pieces of the seal in force")
            url = f"http://127.0.0.1:{node.port}"
            relay = running.enter_context(
                listening("the relay", cloister("relay", "--target", f"node={url}", "--port", "0", "--json"))
            )
            self._console.print(Rule("the client, in a process of its own: verify, then ask", style="dim"))
            self._ask(f"http://127.0.0.1:{relay.port}/node", question, max_tokens)
            self._console.print(Rule("an attack", style="dim"))
            with step(self._console, "a relay that swaps the key config for its own") as done:
                swapper = running.enter_context(listening("the hostile relay", hostile_relay(url)))
                met = refusal(f"http://127.0.0.1:{swapper.port}", self._policy, "ohttp_keys_mismatch")
                done.append(f"refused: {met.code} at {met.stage}")
        took = time.monotonic() - started
        self._console.print(
            Panel(
                "The answer came from a virtual machine that the client had verified, and the attack was refused.\n"
                "[bold]SIMULATED[/]: the roots of trust were made on this machine; no hardware vouched for anything.\n"
                f"The image is in [cyan]{self._image}[/]: try 'cloister image audit', 'cloister image verify'.",
                title=f"done in {took:.0f} s, {seconds:.0f} s until the machine answered",
                border_style="green",
            ),
            highlight=False,
        )
        return 0

    def _prepare(self, model: str | None) -> None:
        with step(self._console, "model") as done:
            weights = resolve_model(model, self._folder / "models")
            done.append(weights.name)
        with step(self._console, "simulated platform") as done:
            platform = Platform.open(self._platform, lambda: datetime.now(UTC))
            done.append(f"AMD-format root {platform.roots['amd_root_sha256'][:16]}…")
        with step(self._console, "virtual-machine image: kernel, RAM disk, root and model volumes") as done:
            serve = cloister("serve", "--model", str(weights), "--state", str(self._platform))
            config = self._folder / "vm-config.json"
            config.write_text(run("serve", [*serve, "--show-command-line"]).strip())
            build = cloister("image", "build", RECIPE, "-o", str(self._image), "--model", str(weights))
            told = run("image build", [*build, "--config", str(config)])
            done.append(told.strip().splitlines()[-1])
        with step(self._console, "transparency log and witness; release and active status published") as done:
            log, signer = self._folder / "log", self._folder / "release-signer.key"
            if not log.is_dir():
                run("log init", cloister("log", "init", str(log)))
            if not signer.exists():
                run("release keygen", cloister("release", "keygen", str(signer)))
            publish = cloister(
                "release", "publish", "--log", str(log), "--image", str(self._image), *GPU_FACTS
            )
            publish += ["--signer", str(signer), "--staple", str(self._staple), "--channel", "vm"]
            table = self._folder / "vm-transparency.toml"
            done.append(run("release publish", [*publish, "--policy", str(table)]).splitlines()[0])
        self._policy.write_text("\n".join((POLICY_HEAD, platform.policy_table(), table.read_text())))

    def _boot(self, running: ExitStack) -> Listening:
        socket = self._folder / "platform.sock"
        socket.unlink(missing_ok=True)
        hardware = cloister("platform", "--state", str(self._platform), "--socket", str(socket))
        hardware += ["--cmdline", str(self._image / "cmdline")]
        hardware += [
            "--measure",
            f"kernel={self._image / 'vmlinuz'}",
            "--measure",
            f"initrd={self._image / 'initrd'}",
        ]
        running.enter_context(listening("the platform", hardware))
        boot = cloister(
            "image", "boot", str(self._image), "--staple", str(self._staple), "--platform", str(socket)
        )
        return running.enter_context(
            listening(
                "the virtual machine", [*boot, "--patience", str(int(PATIENCE_S))], patience_s=PATIENCE_S
            )
        )

    def _ask(self, relay: str, question: str, max_tokens: int) -> None:
        self._console.print(f"[bold]?[/] {question}", highlight=False)
        options = ["--policy", str(self._policy), "--memory", str(self._folder / "vm-client-memory.json")]
        command = cloister("chat", "--relay", relay, *options, "--max-tokens", str(max_tokens), question)
        status = subprocess.run(command, check=False).returncode
        if status:
            raise ClientError("demo_step", f"the client ended with status {status}")
