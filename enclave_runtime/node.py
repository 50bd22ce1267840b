"""A node from the loaded model to its end: evidence, warm-up, the seal, and the one loop that serves.

Runs confined already (``enclave_runtime.boot``).
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from pathlib import Path

from attestation.device_socket import DeviceSocket
from attestation.errors import AttestationError
from attestation.policy import AttestationPolicy
from enclave_runtime import rehearsal, seal
from enclave_runtime.admission import AdmissionLimits
from enclave_runtime.api import inner_app, outer_app
from enclave_runtime.boot import bind
from enclave_runtime.boot_clock import BootClock
from enclave_runtime.completions import EngineCompletions
from enclave_runtime.config import HostInputs, Inherited, NodeConfig
from enclave_runtime.decoder_choice import DecoderChoice
from enclave_runtime.draft_choice import DraftChoice
from enclave_runtime.egress import Egress
from enclave_runtime.engine.cpu import binding
from enclave_runtime.engine.draft import DEFAULT_GUESSES
from enclave_runtime.engine.engine import Engine
from enclave_runtime.engine.engine_config import EngineConfig
from enclave_runtime.engine.errors import EngineError, ModelError
from enclave_runtime.engine.model import DecoderMaker, LoadedModel, load_model
from enclave_runtime.engine.rank_links import RankLeader, RankLinks
from enclave_runtime.errors import ConfigurationError, NodeError
from enclave_runtime.evidence import EvidenceMaker
from enclave_runtime.exit_codes import ExitCode
from enclave_runtime.gpu_links import check_links
from enclave_runtime.http_server import Server, server_config
from enclave_runtime.identity import Identity
from enclave_runtime.lease_settings import LeaseSettings
from enclave_runtime.leases import Leases
from enclave_runtime.manifest import runtime_manifest
from enclave_runtime.metrics import Metrics, RequestOutcome
from enclave_runtime.optimisations import refuse_by_name
from enclave_runtime.seal import SealReport
from enclave_runtime.standing_thread import StandingThread
from enclave_runtime.staple_check import StapleCheck, check_of
from enclave_runtime.staple_feed import MAX_STAPLE_FILE
from enclave_runtime.staple_intake import take_staples
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


def run(
    config: NodeConfig,
    host: HostInputs,
    inherited: Inherited,
    confined: SealReport,
    egress: Egress,
    links: RankLinks | None = None,
) -> int:
    """Serve until SIGTERM or SIGINT (stop) or SIGUSR1 (finish what was accepted, then stop); the exit status.

    ``links`` lead to the other ranks, where several processes share the model.
    Raises NodeError for every step that fails before, and for an ``egress`` that is gone.
    """
    clock = BootClock()
    limits = AdmissionLimits.from_table(config.admission)
    engine_config, padding, tokens = _engine_config(config), _padding(config), _tokens(config)
    decoder, draft_choice = DecoderChoice.from_table(config.decoder), DraftChoice.from_table(config.draft)
    leases = LeaseSettings.from_table(config.leases)
    _check_pace(engine_config, draft_choice, leases, padding)
    gpu_policy = _policy(config).gpu
    check_links(decoder.kernels, config.gpu_count, gpu_policy.modes)
    staple = _staple(host)
    model = _model(host.model, decoder, links)
    draft = None if draft_choice is None else _draft(host.model, draft_choice, decoder)
    clock.mark("load")
    slow = slowness(model)
    if slow:
        notice = {"event": "notice", "code": "slow_decoder", "detail": slow}
        print(json.dumps(notice), file=sys.stderr, flush=True)
    try:
        engine = Engine(
            model,
            engine_config,
            public_prefix=bool(config.public_prefix),
            draft=draft,
            draft_guesses=DEFAULT_GUESSES if draft_choice is None else draft_choice.guesses,
            leases=0 if leases is None else leases.count,
            lease_tokens=1 if leases is None else leases.tokens,
            lease_store="pool" if leases is None else leases.store,
        )
        engine.start()
        engine.warm_up()
        if config.public_prefix:
            message = {"role": "system", "content": config.public_prefix}
            text = model.chat_template.render([message], add_generation_prompt=False)
            engine.keep_public_prefix(model.tokenizer.encode(text))
    except ModelError as error:  # two models that do not go together
        raise NodeError(error.code, ExitCode.MODEL, error.said) from None
    except EngineError as error:
        raise NodeError(error.code, ExitCode.WARM_UP, error.detail) from None
    clock.mark("warm_up")
    manifest = runtime_manifest(
        model_name=config.model_name,
        model_digest=model.model_digest,
        tokenizer_digest=model.tokenizer_digest,
        engine=engine_config,
        padding=padding,
        confined=confined,
        tokens=tokens,
        public_prefix=config.public_prefix,
        metrics=egress.schema,
        admission=limits,
        decoder=decoder,
        kernels=model.decoder.manifest(),
        draft=draft_choice,
        leases=leases,
    )
    device = _device(inherited.platform)
    identity = Identity(
        EvidenceMaker(device, device, config.gpu_count, gpu_policy, staple, manifest),
        epoch=timedelta(hours=config.epoch_hours),
        now=time.time,
        thread=StandingThread("evidence"),
    )
    check = check_of(config.transparency, identity.current(), time.time)
    if check is not None:
        check.at_boot(staple)
    clock.mark("evidence")
    completions = EngineCompletions(
        engine,
        config.model_name,
        StandingThread("prompts"),
        limits,
        None if leases is None else Leases(engine, leases),
    )
    metrics = Metrics(egress.schema, completions.queue_depth)
    service = Service(completions, identity, metrics, padding, tokens, Sweep(), check)
    try:
        asyncio.run(_serve(service, engine, config, host, inherited, confined, egress, links, clock))
    finally:
        engine.stop()
        if links is not None:
            links.close()  # the other ranks clear their pages and end
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
    staples: StapleCheck | None

    def gateway(self, padding: CellProfile, tokens: TokenPolicy | None) -> Gateway:
        """The node's application: the API behind the encryption, evidence and metrics beside it.

        Spent tokens are kept in the node's own memory: behind the seal there is no other place.
        """
        app: App = inner_app(self.completions, self.identity, self.metrics, time.time)
        if tokens is not None:
            app = TokenGate(app, tokens, MemorySpentTokens(), now=time.time)
        return Gateway(
            app,
            outer=outer_app(self.identity),
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
    service: Service,
    engine: Engine,
    config: NodeConfig,
    host: HostInputs,
    inherited: Inherited,
    confined: SealReport,
    egress: Egress,
    links: RankLinks | None,
    clock: BootClock,
) -> None:
    await _rehearse(service)
    service.metrics.restart()
    listener = bind(host.address, host.port)
    server = Server(server_config(service.gateway(service.padding, service.tokens)))
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda *_: None)
    _obey(loop, server, service.completions)
    # The one descriptor that still leads out; it is closed with the line that says the node listens.
    announcement = os.dup(sys.stdout.fileno())
    if inherited.staples is not None:
        take_staples(loop, inherited.staples, service.identity, service.staples, service.metrics)
    service.sweep.begin()
    named = {announcement, listener.fileno(), egress.pipe, *inherited.descriptors}
    clock.mark("rehearsal")
    if links is not None:
        named |= links.descriptors
        _seal_other_ranks(engine)
    report = seal.seal(confined, keep_streams=named, tolerate=config.tolerate, gpu=config.gpu_access())
    clock.mark("seal")
    said = {
        "event": "listening",
        "port": listener.getsockname()[1],
        "metrics_port": egress.port,
        "seal": report.as_json(),
        "seconds": clock.seconds,
    }
    server.when_listening = lambda: _say_once(announcement, said)
    renewal = loop.create_task(service.identity.keep_renewed())
    showing = loop.create_task(_show_metrics(service.metrics, egress, server))
    try:
        await server.serve([listener])
    finally:
        renewal.cancel()
    if showing.done():
        showing.result()  # it ends only where nobody takes the metrics any more
    showing.cancel()


def _seal_other_ranks(engine: Engine) -> None:
    """Each seals itself, now that every path was taken. Raises NodeError for one that does not."""
    decoder = engine.model.decoder
    assert isinstance(decoder, RankLeader)
    try:
        engine.between_steps(decoder.seal_others).result()
    except EngineError as error:
        raise NodeError("rank_not_sealed", ExitCode.SEAL, str(error)) from None


def _obey(loop: asyncio.AbstractEventLoop, server: Server, completions: EngineCompletions) -> None:
    """The operator's verbs. Other signals mean nothing; metrics are read elsewhere."""

    def drain() -> None:
        completions.close()
        server.drain(completions.limits.request_s)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.stop)
    loop.add_signal_handler(signal.SIGUSR1, drain)
    for number in (signal.SIGHUP, signal.SIGUSR2, signal.SIGQUIT, signal.SIGPIPE, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)


async def _show_metrics(metrics: Metrics, egress: Egress, server: Server) -> None:
    """Hand the numbers over once in an interval. A node whose metrics nobody takes ends: raises NodeError."""
    try:
        while True:
            egress.send(metrics.values())
            await asyncio.sleep(egress.schema.interval_s)
    finally:
        server.stop()


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
            leases=service.completions.leases is not None,
        )
    except rehearsal.RehearsalFailed as error:
        raise NodeError("rehearsal", ExitCode.WARM_UP, str(error)) from None


def _say_once(descriptor: int, event: dict[str, object]) -> None:
    with contextlib.suppress(OSError):  # nobody listens any more
        os.write(descriptor, json.dumps(event).encode() + b"\n")
    os.close(descriptor)


def _engine_config(config: NodeConfig) -> EngineConfig:
    refuse_by_name(config.engine)
    known = {field.name for field in fields(EngineConfig)}
    for name in sorted(config.engine.keys() - known):
        raise ConfigurationError(
            "config_engine", f"unknown setting {name!r}; there are {', '.join(sorted(known))}"
        )
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


def _model(path: Path, decoder: DecoderChoice, links: RankLinks | None = None) -> LoadedModel:
    try:
        if links is not None:
            return load_model(path, _leader(links))
        return load_model(path, decoder.wanted, activations=decoder.activations)
    except EngineError as error:
        raise NodeError(error.code, ExitCode.MODEL, error.said) from None


def _leader(links: RankLinks) -> DecoderMaker:
    try:
        from enclave_runtime.engine.tensor_parallel import LinkedRanks, lead
    except ImportError:
        why = (
            "several 'ranks' compute on PyTorch, which is not installed: cloister's extra 'runtime' brings it"
        )
        raise NodeError("no_decoder", ExitCode.MODEL, why) from None
    return lead(LinkedRanks(links))


def slowness(model: LoadedModel) -> str:
    """Why the model is computed slowly, in words for the operator; empty where it is not."""
    if model.decoder.manifest()["decoder"] != "torch":
        return ""
    if binding.library() is None:
        return (
            "the model is computed by torch in float32, about ten times slower than it could be: the compiled decoder"
            " was not built. Install a C compiler (gcc or clang), then cloister again with its extra 'runtime'"
        )
    return "the model is computed by torch in float32, about ten times slower than by the compiled decoder"


def _draft(model: Path, choice: DraftChoice, decoder: DecoderChoice) -> LoadedModel:
    path = choice.beside(model)
    if not path.exists():
        raise NodeError(
            "draft_missing", ExitCode.MODEL, "a draft lies beside the model's file, or in its folder"
        )
    draft = _model(path, decoder)
    if draft.model_digest.hex() != choice.digest:
        raise NodeError(
            "draft_digest", ExitCode.MODEL, "the draft is not the one that the configuration names"
        )
    return draft


def _check_pace(
    engine: EngineConfig, draft: DraftChoice | None, leases: LeaseSettings | None, padding: CellProfile
) -> None:
    """How many guesses come true is told by the words, and how much of a prompt was kept by the turn before: both would
    be heard in any rhythm but the cells' own.
    """
    if (engine.speculate or draft is not None) and padding.name != "constant":
        raise ConfigurationError("config_speculation", "guessing ahead needs cells at a constant pace")
    if leases is not None and padding.name != "constant":
        raise ConfigurationError("config_leases", "leases need cells at a constant pace")
    if engine.speculate and draft is not None:
        raise ConfigurationError("config_speculation", "'speculate' and a draft: one or the other")


def _device(descriptor: int) -> DeviceSocket:
    try:
        return DeviceSocket.from_fd(descriptor)
    except AttestationError as error:
        raise NodeError(error.code, ExitCode.PLATFORM, error.detail) from None
