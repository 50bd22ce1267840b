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

TPM_AK = 0x81010020
"""Where `cloister image boot --tpm` keeps the attestation key of its virtual TPM."""

TPM_POLICY = """\
# Written by `cloister demo`. It trusts a virtual TPM whose authority lies on this machine: no policy for real use.
version = 1
name = "demo with a virtual TPM"

[gpu]
count = 0

[cpu]
accept = ["tpm"]

# The firmware of the demo has no Secure Boot keys; what it starts is in the registers either way.
[cpu.tpm]
secure_boot = false

[cpu.tpm.ak]
ca = ["{root}"]
"""


class VmStory:
    """One run of ``cloister demo --vm``, with its state in ``folder``.

    Evidence comes from the simulated platform, or with ``tpm`` from a virtual TPM: quotes over the registers of a
    measured boot, under a root that was made on this machine.
    """

    def __init__(self, folder: Path, console: Console, *, tpm: bool = False) -> None:
        kind = "tpm" if tpm else "vm"
        self._tpm = folder / "tpm" if tpm else None
        self._folder = folder
        self._console = console
        self._image = folder / ("vm-tpm" if tpm else "vm")
        self._platform = folder / "platform"
        self._policy = folder / f"{kind}-policy.toml"
        self._staple = folder / f"{kind}-staple.json"
        self._table = folder / f"{kind}-transparency.toml"
        self._memory = folder / f"{kind}-client-memory.json"
        self._channel = kind

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
            self._write_policy()
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
        trusted = "the roots of trust were made on this machine; no hardware vouched for anything."
        if self._tpm is not None:
            trusted = "the TPM is a program, and its root was made on this machine. The boot was measured in earnest."
        self._console.print(
            Panel(
                "The answer came from a virtual machine that the client had verified, and the attack was refused.\n"
                f"[bold]SIMULATED[/]: {trusted}\n"
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
        if self._tpm is None:
            with step(self._console, "simulated platform") as done:
                platform = Platform.open(self._platform, lambda: datetime.now(UTC))
                done.append(f"AMD-format root {platform.roots['amd_root_sha256'][:16]}…")
        with step(self._console, "virtual-machine image: kernel, RAM disk, root and model volumes") as done:
            serve = cloister("serve", "--model", str(weights), "--show-command-line")
            if self._tpm is None:
                serve += ["--state", str(self._platform)]
            else:
                serve += ["--evidence", "tpm", "--devices", f'{{"tpm_ak": {TPM_AK}}}']
            config = self._folder / f"{self._channel}-config.json"
            config.write_text(run("serve", serve).strip())
            build = cloister("image", "build", RECIPE, "-o", str(self._image), "--model", str(weights))
            told = run("image build", [*build, "--config", str(config)])
            done.append(told.strip().splitlines()[-1])
        with step(self._console, "transparency log and witness; release and active status published") as done:
            log, signer = self._folder / "log", self._folder / "release-signer.key"
            if not log.is_dir():
                run("log init", cloister("log", "init", str(log)))
            if not signer.exists():
                run("release keygen", cloister("release", "keygen", str(signer)))
            publish = cloister("release", "publish", "--log", str(log), "--image", str(self._image))
            publish += GPU_FACTS if self._tpm is None else ()
            publish += ["--signer", str(signer), "--staple", str(self._staple), "--channel", self._channel]
            told = run("release publish", [*publish, "--policy", str(self._table)])
            done.append(told.splitlines()[0])

    def _write_policy(self) -> None:
        """The policy of the client, when everything that it has to trust is there."""
        if self._tpm is not None:
            trusted = TPM_POLICY.format(root=(self._tpm / "root.sha256").read_text().strip())
        else:
            platform = Platform.open(self._platform, lambda: datetime.now(UTC))
            trusted = f"{POLICY_HEAD}\n{platform.policy_table()}"
        self._policy.write_text(f"{trusted}\n{self._table.read_text()}")

    def _boot(self, running: ExitStack) -> Listening:
        boot = cloister("image", "boot", str(self._image), "--staple", str(self._staple))
        boot += ["--patience", str(int(PATIENCE_S))]
        if self._tpm is not None:
            boot += ["--tpm", str(self._tpm)]
        else:
            socket = self._folder / "platform.sock"
            socket.unlink(missing_ok=True)
            hardware = cloister("platform", "--state", str(self._platform), "--socket", str(socket))
            hardware += ["--cmdline", str(self._image / "cmdline")]
            for name, file in (("kernel", "vmlinuz"), ("initrd", "initrd")):
                hardware += ["--measure", f"{name}={self._image / file}"]
            running.enter_context(listening("the platform", hardware))
            boot += ["--platform", str(socket)]
        return running.enter_context(listening("the virtual machine", boot, patience_s=PATIENCE_S))

    def _ask(self, relay: str, question: str, max_tokens: int) -> None:
        self._console.print(f"[bold]?[/] {question}", highlight=False)
        options = ["--policy", str(self._policy), "--memory", str(self._memory)]
        command = cloister("chat", "--relay", relay, *options, "--max-tokens", str(max_tokens), question)
        status = subprocess.run(command, check=False).returncode
        if status:
            raise ClientError("demo_step", f"the client ended with status {status}")
