"""A node from the loaded model to its end: evidence, warm-up, the seal, and the one loop that serves.

Runs confined already (``enclave_runtime.boot``).
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass, replace
from datetime import timedelta

from attestation.device_socket import DeviceSocket
from attestation.errors import AttestationError
from attestation.policy import AttestationPolicy
from enclave_runtime import rehearsal, seal
from enclave_runtime.api import inner_app, outer_app
from enclave_runtime.completions import EngineCompletions
from enclave_runtime.config import HostInputs, NodeConfig
from enclave_runtime.engine.engine import Engine, EngineConfig
from enclave_runtime.engine.errors import EngineError
from enclave_runtime.engine.model import LoadedModel, load_model
from enclave_runtime.errors import ConfigurationError, NodeError
from enclave_runtime.evidence import EvidenceMaker
from enclave_runtime.exit_codes import ExitCode
from enclave_runtime.http_server import Server, server_config
from enclave_runtime.identity import Identity
from enclave_runtime.manifest import runtime_manifest
from enclave_runtime.metrics import Metrics, RequestOutcome
from enclave_runtime.optimisations import refuse_by_name
from enclave_runtime.seal import SealReport
from enclave_runtime.standing_thread import StandingThread
from enclave_runtime.sweep import Sweep
from measurements.errors import TransparencyError
from measurements.staple import Staple
from ohttp.asgi import App
from ohttp.errors import TokenError
from ohttp.gateway import ExchangeEnd, Gateway
from ohttp.padding import CellProfile
from ohttp.replay import ReplayWindow
from ohttp.spent_tokens import MemorySpentTokens
from ohttp.token_gate import TokenGate
from ohttp.token_policy import TokenPolicy

MAX_STAPLE_FILE = 512 * 1024


def run(config: NodeConfig, host: HostInputs, platform_descriptor: int, confined: SealReport) -> int:
    """Serve until SIGTERM or SIGINT; the exit status. Raises NodeError for every step that fails before."""
    engine_config, padding, tokens = _engine_config(config), _padding(config), _tokens(config)
    gpu_policy = _policy(config).gpu
    staple = _staple(host)
    model = _model(host)
    try:
        engine = Engine(model, engine_config)
        engine.start()
        engine.warm_up()
    except EngineError as error:
        raise NodeError(error.code, ExitCode.WARM_UP, error.detail) from None
    manifest = runtime_manifest(
        model_name=config.model_name,
        model_digest=model.model_digest,
        tokenizer_digest=model.tokenizer_digest,
        engine=engine_config,
        padding=padding,
        confined=confined,
        tokens=tokens,
    )
    device = _device(platform_descriptor)
    identity = Identity(
        EvidenceMaker(device, device, config.gpu_count, gpu_policy, staple, manifest),
        epoch=timedelta(hours=config.epoch_hours),
        now=time.time,
        thread=StandingThread("evidence"),
    )
    completions = EngineCompletions(engine, config.model_name, StandingThread("prompts"))
    metrics = Metrics(time.monotonic, completions.queue_depth)
    service = Service(completions, identity, metrics, padding, tokens, Sweep())
    asyncio.run(_serve(service, config, host, confined, platform_descriptor))
    engine.stop()
    return int(ExitCode.STOPPED)


@dataclass(frozen=True, slots=True)
class Service:
    """Everything that answers requests."""

    completions: EngineCompletions
    identity: Identity
    metrics: Metrics
    padding: CellProfile
    tokens: TokenPolicy | None
    sweep: Sweep

    def gateway(self, padding: CellProfile, tokens: TokenPolicy | None) -> Gateway:
        """The node's application: the API behind the encryption, evidence and metrics beside it.

        Spent tokens are kept in the node's own memory: behind the seal there is no other place.
        """
        app: App = inner_app(self.completions, self.identity, self.metrics, time.time)
        if tokens is not None:
            app = TokenGate(app, tokens, MemorySpentTokens(), now=time.time)
        return Gateway(
            app,
            outer=outer_app(self.identity, self.metrics),
            keyring=self.identity.keyring,
            is_live=self.identity.is_live,
            replay=ReplayWindow(),
            profile=padding,
            now=time.time,
            observe=self._count_at_the_door,
        )

    def _count_at_the_door(self, end: ExchangeEnd) -> None:
        """Count what the gateway turns away; what it lets in is counted inside. Then forget it."""
        self.sweep.soon()
        outcome = _TURNED_AWAY.get(end)
        if outcome is not None:
            self.metrics.request_ended(outcome)


_TURNED_AWAY = {
    ExchangeEnd.REFUSED: RequestOutcome.REFUSED,
    ExchangeEnd.OVERLOADED: RequestOutcome.OVERLOADED,
}


async def _serve(
    service: Service, config: NodeConfig, host: HostInputs, confined: SealReport, platform_descriptor: int
) -> None:
    await _rehearse(service)
    service.metrics.restart()
    listener = _bind(host)
    server = Server(server_config(service.gateway(service.padding, service.tokens)))
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda *_: None)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.stop)
    # The one descriptor that still leads out; it is closed with the line that says the node listens.
    announcement = os.dup(sys.stdout.fileno())
    service.sweep.begin()
    named = {announcement, platform_descriptor, listener.fileno()}
    report = seal.seal(confined, keep_streams=named, tolerate=config.tolerate)
    said = {"event": "listening", "port": listener.getsockname()[1], "seal": report.as_json()}
    server.when_listening = lambda: _say_once(announcement, said)
    renewal = loop.create_task(service.identity.keep_renewed())
    try:
        await server.serve([listener])
    finally:
        renewal.cancel()


async def _rehearse(service: Service) -> None:
    """Run every kind of request once, so that what Python imports late is imported before the seal."""
    # The same code at a quicker pace: only the time between cells differs.
    padding = service.padding if service.padding.name == "off" else replace(service.padding, interval_ms=1)
    tokens = None if service.tokens is None else rehearsal.RehearsedTokens(service.tokens, time.time)
    config = server_config(service.gateway(padding, None if tokens is None else tokens.policy))
    try:
        await rehearsal.rehearse(
            config,
            service.identity.keyring().configs,
            service.identity.current(),
            service.completions.model_name,
            tokens,
        )
    except rehearsal.RehearsalFailed as error:
        raise NodeError("rehearsal", ExitCode.WARM_UP, str(error)) from None


def _say_once(descriptor: int, event: dict[str, object]) -> None:
    with contextlib.suppress(OSError):  # nobody listens any more
        os.write(descriptor, json.dumps(event).encode() + b"\n")
    os.close(descriptor)


def _bind(host: HostInputs) -> socket.socket:
    family = socket.AF_INET6 if ":" in host.address else socket.AF_INET
    # Named as TCP, so that asyncio sends each cell when it is due instead of waiting to fill a packet.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host.address, host.port))
    except OSError as error:
        listener.close()
        detail = f"{host.address} port {host.port}: {error.strerror}"
        raise NodeError("cannot_bind", ExitCode.BIND, detail) from None
    return listener


def _engine_config(config: NodeConfig) -> EngineConfig:
    refuse_by_name(config.engine)
    try:
        return EngineConfig(**config.engine)
    except (TypeError, EngineError) as error:
        raise ConfigurationError("config_engine", str(error)) from None


def _padding(config: NodeConfig) -> CellProfile:
    try:
        return CellProfile(**config.padding)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise ConfigurationError("config_padding", str(error)) from None


def _tokens(config: NodeConfig) -> TokenPolicy | None:
    try:
        return TokenPolicy.parse(config.tokens) if config.tokens else None
    except TokenError as error:
        raise ConfigurationError("config_tokens", str(error)) from None


def _policy(config: NodeConfig) -> AttestationPolicy:
    try:
        return AttestationPolicy.from_table(config.gpu_policy)
    except AttestationError as error:
        raise ConfigurationError("config_gpu_policy", str(error)) from None


def _staple(host: HostInputs) -> Staple:
    try:
        with host.staple.open("rb") as file:
            data = file.read(MAX_STAPLE_FILE + 1)
        if len(data) > MAX_STAPLE_FILE:
            raise NodeError("staple_too_large", ExitCode.STAPLE, f"at most {MAX_STAPLE_FILE} bytes")
        return Staple.parse(data)
    except OSError as error:
        raise NodeError("staple_missing", ExitCode.STAPLE, error.strerror or "") from None
    except TransparencyError as error:
        raise NodeError("staple_malformed", ExitCode.STAPLE, str(error)) from None


def _model(host: HostInputs) -> LoadedModel:
    try:
        return load_model(host.model)
    except EngineError as error:
        raise NodeError(error.code, ExitCode.MODEL, str(error)) from None


def _device(descriptor: int) -> DeviceSocket:
    try:
        return DeviceSocket.from_fd(descriptor)
    except AttestationError as error:
        raise NodeError(error.code, ExitCode.PLATFORM, error.detail) from None
