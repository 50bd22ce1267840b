"""``cloister serve``: start a sealed node from an image, on the simulated platform."""

import contextlib
import json
import signal
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from enclave_runtime.node_launch import RunningNode

_LOOK_EVERY_S = 5.0

OK, USAGE_OR_IO, NOT_AVAILABLE = range(3)

_HELP = """Run a sealed node.

The simulated platform (kept in --state) measures every file of the image, of the model and the command
line, then starts the node, which loads the model, makes its keys and its evidence, seals itself and
listens. One JSON line says where: {"event": "listening", "port": …, "measurement": …}. Behind the seal the
node says nothing more. Ctrl-C or SIGTERM stops it; SIGUSR1 lets it finish what it accepted first. Its metrics are
at http://HOST:METRICS_PORT/metrics. When the staple's file changes, the node takes the new one. Its evidence is
marked as simulated, and only a policy that names this platform's roots accepts it.

--explain-seal shows what the seal of a node would be on this machine: exit status 0 if every piece is in force,
2 if one is missing here.

With --show-policy it only prints the tables of a policy that trusts this platform; with --show-command-line,
the command line that would be measured, for `cloister measure` and `cloister release publish`.
"""


def _explain_seal(wanted: bool) -> None:
    """Before the other options are looked at: it needs none of them."""
    if not wanted:
        return
    from rich.console import Console

    from enclave_runtime import seal_explained

    try:
        report, with_gpu = seal_explained.trial(), seal_explained.trial(gpus=1)
    except seal_explained.TrialFailed as error:
        raise typer.Exit(_failed(str(error))) from None
    console = Console()
    seal_explained.show(report, console)
    seal_explained.show_gpu(with_gpu, console)
    raise typer.Exit(OK if seal_explained.complete(report) else NOT_AVAILABLE)


def register(app: typer.Typer) -> None:
    """Add ``cloister serve``."""
    app.command("serve", help=_HELP)(serve)


def serve(
    model: Annotated[Path, typer.Option(help="The model: a .gguf file or a folder of safetensors.")],
    state: Annotated[
        Path | None, typer.Option(help="The folder where the simulated platform keeps its roots.")
    ] = None,
    evidence: Annotated[
        str,
        typer.Option(
            help="With --show-command-line: a node whose evidence comes from its own machine's devices,"
            " such as tpm or sev-snp."
        ),
    ] = "simulated",
    devices: Annotated[
        str, typer.Option(help='How those devices are found as JSON, such as {"tpm_ak": 2164326432}.')
    ] = "{}",
    image: Annotated[
        Path | None, typer.Option(help="The process image's folder (cloister image build).")
    ] = None,
    staple: Annotated[
        Path | None, typer.Option(help="The staple (cloister release publish --staple).")
    ] = None,
    host: Annotated[str, typer.Option(help="The IP address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port to listen on; 0: a free one.")] = 8080,
    metrics_port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port that shows metrics; 0: a free one.")
    ] = 0,
    admission: Annotated[
        str, typer.Option(help='Limits of what is accepted as JSON, such as {"request_s": 60}.')
    ] = "{}",
    name: Annotated[
        str | None, typer.Option(help="The model's name in requests; by default from its file.")
    ] = None,
    simulated_gpus: Annotated[int, typer.Option(min=0, max=32, help="How many GPUs the platform has.")] = 1,
    engine: Annotated[str, typer.Option(help='Engine settings as JSON, such as {"max_batch": 8}.')] = "{}",
    decoder: Annotated[
        str, typer.Option(help='How the model is computed as JSON, such as {"weights": "int8"}.')
    ] = "{}",
    draft: Annotated[
        Path | None,
        typer.Option(help="A smaller model of the same vocabulary that guesses ahead, beside it."),
    ] = None,
    guesses: Annotated[int, typer.Option(min=1, max=8, help="Tokens that the draft goes ahead.")] = 4,
    leases: Annotated[
        str,
        typer.Option(
            help='Leases as JSON, such as {"count": 4, "tokens": 2048, "seconds": 600}; {} for none.'
        ),
    ] = "{}",
    padding: Annotated[str, typer.Option(help="How answers are paced, as JSON; {} for the default.")] = "{}",
    tokens: Annotated[
        Path | None, typer.Option(help="Ask for blind tokens: a file from `cloister tokens policy`.")
    ] = None,
    transparency: Annotated[
        Path | None,
        typer.Option(
            help="A client's policy file: the node checks its own staples by its table [transparency]."
        ),
    ] = None,
    show_command_line: Annotated[
        bool, typer.Option("--show-command-line", help="Print the measured command line and end.")
    ] = False,
    show_policy: Annotated[
        bool,
        typer.Option(
            "--show-policy", help="Print the policy tables that trust this simulated platform, and end."
        ),
    ] = False,
    explain_seal: Annotated[
        bool,
        typer.Option(
            "--explain-seal", is_eager=True, callback=_explain_seal, help="Show the seal's pieces, and end."
        ),
    ] = False,
) -> int:
    """See ``cloister serve --help``."""
    from attestation.errors import AttestationError
    from attestation.simulated.platform import Platform
    from enclave_runtime import node_launch
    from enclave_runtime.config import SIMULATED, HostInputs, NodeConfig
    from enclave_runtime.errors import ConfigurationError
    from measurements.command_line import waiting
    from ohttp.errors import TokenError
    from ohttp.token_policy import TokenPolicy

    if evidence != SIMULATED and not show_command_line:
        return _failed("here a node runs on the simulated platform alone; see cloister image boot")
    try:
        engine_settings, padding_settings = _object("--engine", engine), _object("--padding", padding)
        asked = {} if tokens is None else _object("--tokens", tokens.read_text())
        if asked:
            TokenPolicy.parse(asked)
        if not (show_command_line or show_policy):
            if image is None or staple is None:
                return _failed("serve needs --image and --staple")
            for path in (image, model, staple):
                if not path.exists():
                    return _failed(f"{path}: there is no such file or folder")
        settings: dict[str, Any] = {
            "engine": engine_settings,
            "padding": padding_settings,
            "tokens": asked,
            "admission": _object("--admission", admission),
            "decoder": _object("--decoder", decoder),
            "draft": _draft(model, draft, guesses),
            "leases": _object("--leases", leases),
            "transparency": _log_table(transparency),
        }
        if evidence != SIMULATED:
            own = NodeConfig(
                name or node_launch.default_model_name(model),
                platform=evidence,
                devices=_object("--devices", devices),
                gpu_count=0,
                **settings,
            )
            NodeConfig.parse(own.encode())
            print(own.encode().decode())
            return OK
        if state is None:
            return _failed("serve needs --state")
        platform = Platform.open(state, lambda: datetime.now(UTC), simulated_gpus)
        config = node_launch.node_config(
            platform.roots,
            model_name=name or node_launch.default_model_name(model),
            gpu_count=simulated_gpus,
            **settings,
        )
        NodeConfig.parse(config.encode())
        if show_policy:
            print(f"[gpu]\ncount = {simulated_gpus}\n\n{platform.policy_table()}")
            return OK
        if show_command_line or image is None or staple is None:
            print(config.encode().decode())
            return OK
        # Absolute paths: the node does not share this program's idea of where it is.
        inputs = HostInputs(model.resolve(), staple.resolve(), host, port, metrics_port=metrics_port)
        with waiting("the node starts: measured, model loaded, evidence made, sealed"):
            node = node_launch.start(platform, image, config, inputs)
    except OSError as error:
        return _failed(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except (node_launch.LaunchFailed, ValueError) as error:
        return _failed(str(error))
    except (ConfigurationError, TokenError) as error:
        return _failed(f"{error.code}: {error.detail}")
    except AttestationError as error:
        return _failed(str(error))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: node.process.terminate())
    signal.signal(signal.SIGUSR1, lambda *_: node.process.send_signal(signal.SIGUSR1))
    threading.Thread(target=_keep_staple_fresh, args=(node, staple), daemon=True).start()
    measurement = node.measurement.hex()
    tell_if_unlisted(measurement, staple)
    event = {
        "event": "listening",
        "port": node.said.port,
        "metrics_port": node.said.metrics_port,
        "measurement": measurement,
        "simulated": True,
        "seal": node.said.seal,
        "seconds": node.said.seconds,
    }
    print(json.dumps(event), flush=True)
    status = node.process.wait()
    if status == 0:
        return OK
    return _failed(f"the node ended with status {status}: {node_launch.meaning_of(status)}")


def tell_if_unlisted(measurement: str, staple: Path) -> None:
    """Say so where the staple's release is about another launch: every client will refuse this node.

    Most often an option, the model or the platform's folder is another than when the release was published.
    """
    from measurements.dsse import Envelope
    from measurements.errors import TransparencyError
    from measurements.release import Release
    from measurements.staple import Staple
    from measurements.statement import Statement

    try:
        release = Release.parse(
            Statement.parse(Envelope.parse(Staple.parse(staple.read_bytes()).release_leaf).payload)
        )
    except (OSError, TransparencyError):
        return  # the node has read it; what is there now is another file
    if not any(element.get("launchDigest") == measurement for element in release.measurements):
        print(
            f"warning: the release in {staple} lists other measurements than {measurement[:16]}…, so clients will"
            " refuse this node. Publish a release of what 'serve --show-command-line' prints with these options.",
            file=sys.stderr,
        )


def _keep_staple_fresh(node: "RunningNode", staple: Path) -> None:
    """Hand the staple over again whenever its file has changed."""
    seen = _changed_at(staple)
    while node.process.poll() is None:
        time.sleep(_LOOK_EVERY_S)
        now = _changed_at(staple)
        if now is None or now == seen:
            continue
        seen = now
        with contextlib.suppress(OSError):
            node.renew_staple(staple.read_bytes())


def _changed_at(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def _object(option: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ValueError(f"{option} is not a JSON object")
    return value


def _log_table(policy: Path | None) -> dict[str, Any]:
    """The table [transparency] of a policy file, as JSON can say it. Raises ValueError, OSError."""
    if policy is None:
        return {}
    import tomllib

    from measurements.statement import instant_text

    try:
        table = tomllib.loads(policy.read_text()).get("transparency")
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{policy}: {error}") from None
    if not isinstance(table, dict):
        raise ValueError(f"{policy} has no table [transparency]")
    return {
        name: instant_text(value) if isinstance(value, datetime) else value for name, value in table.items()
    }


def _draft(model: Path, draft: Path | None, guesses: int) -> dict[str, str | int]:
    """The table that names ``draft`` by its digest. Raises ValueError."""
    if draft is None:
        return {}
    from enclave_runtime.draft_choice import DraftChoice
    from enclave_runtime.engine.errors import ModelError
    from enclave_runtime.engine.model import stored_digest

    try:
        choice = DraftChoice(draft.name, stored_digest(draft).hex(), guesses)
    except ModelError as error:
        raise ValueError(f"{draft}: {error}") from None
    if choice.beside(model).resolve() != draft.resolve():
        raise ValueError(f"{draft}: a draft lies beside the model's file, or in the model's folder")
    return choice.manifest()


def _failed(message: str) -> int:
    print(f"error {message}", file=sys.stderr)
    return USAGE_OR_IO
