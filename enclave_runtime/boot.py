"""The first and only program of a node: confine, load, prove, warm up, seal, listen.

It is started with one argument, the measured command line (``enclave_runtime.config``). Until the seal it
says on standard error why it refuses to go on, or that it computes slowly; standard output carries a single
line, ``{"event": "listening", "port": N, "seal": [...]}``, when the sealed node listens. After that nothing
is said. The exit status is one of ``enclave_runtime.exit_codes``. No step is tried again in a weaker form.

Its first act is to start itself again under an allocator that wipes what it frees.
"""

import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from enclave_runtime import egress, kernel_calls, rank_processes, seal, wiped_memory
from enclave_runtime.config import SIMULATED, HostInputs, NodeConfig
from enclave_runtime.decoder_choice import DecoderChoice
from enclave_runtime.draft_choice import DraftChoice
from enclave_runtime.errors import ConfigurationError, NodeError
from enclave_runtime.exit_codes import ExitCode
from enclave_runtime.metrics_schema import MetricsSchema

#: What a node's libraries read besides code and volumes: randomness, and facts of the processor and the memory.
DEVICES_AND_FACTS = (
    *("/dev/urandom", "/proc/cpuinfo", "/proc/meminfo"),
    *("/sys/devices/system/cpu", "/sys/devices/system/node"),
)


def main(arguments: Sequence[str]) -> int:
    """Run a node until it is told to stop; the exit status."""
    try:
        return _boot(arguments)
    except NodeError as error:
        refused = {
            "event": "refused",
            "exit": int(error.exit_code),
            "code": error.code,
            "detail": error.detail,
        }
        print(json.dumps(refused), file=sys.stderr, flush=True)
        return int(error.exit_code)
    except Exception:
        traceback.print_exc()  # behind the seal this prints nothing, and goes to /dev/null
        return int(ExitCode.INTERNAL)


def _boot(arguments: Sequence[str]) -> int:
    if len(arguments) != 1:
        raise ConfigurationError("config_missing", "the measured command line is the only argument")
    wiped_memory.start_again(os.environ)
    config = NodeConfig.parse(arguments[0].encode("utf-8", "surrogateescape"))
    host, inherited = HostInputs.parse(os.environ, config.platform)
    if config.platform != SIMULATED:
        from enclave_runtime.devices import start_keeper

        inherited = replace(inherited, platform=start_keeper(config, host))
    draft = DraftChoice.from_table(config.draft)
    models = [host.model] if draft is None else [host.model, draft.beside(host.model)]
    decoder = DecoderChoice.from_table(config.decoder)
    confined = seal.confine(
        read=(*code_paths(), *models, host.staple, *map(Path, DEVICES_AND_FACTS)),
        bind_ports=(host.port, host.metrics_port),
        keep_descriptors=inherited.descriptors,
        tolerate=config.tolerate,
        gpu=config.gpu_access(),
    )
    # A simulated machine ends with the platform that runs it.
    kernel_calls.prctl(kernel_calls.PR_SET_PDEATHSIG, signal.SIGTERM)
    shown_at = bind(host.address, host.metrics_port)
    schema = MetricsSchema.parse(config.metrics)
    metrics = egress.start(
        schema, shown_at, confined, tolerate=config.tolerate, close=tuple(inherited.descriptors)
    )
    ranks = None
    if decoder.ranks > 1:
        close = (*inherited.descriptors, metrics.pipe)
        ranks = rank_processes.start(
            decoder.ranks, host.model, confined, tolerate=config.tolerate, close=close
        )
    # Imported only now: the model's libraries start threads, which must be born confined.
    from enclave_runtime import node

    return node.run(config, host, inherited, confined, metrics, ranks)


def bind(address: str, port: int) -> socket.socket:
    """A TCP socket that is bound and does not listen yet. Raises NodeError (BIND)."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    # Named as TCP, so that asyncio sends each cell when it is due instead of waiting to fill a packet.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
    except OSError as error:
        listener.close()
        detail = f"{address} port {port}: {error.strerror}"
        raise NodeError("cannot_bind", ExitCode.BIND, detail) from None
    return listener


def code_paths() -> tuple[Path, ...]:
    """Where this process has its code from: module folders, interpreter, and the folders of mapped
    libraries.
    """
    folders = {Path(entry) for entry in (*sys.path, sys.prefix, sys.base_prefix) if entry}
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        for line in maps:
            fields = line.rstrip("\n").split(None, 5)
            if len(fields) == 6 and "x" in fields[1] and fields[5].startswith("/"):
                folders.add(Path(fields[5]).parent)
    return tuple(sorted(folder for folder in folders if folder != Path("/")))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
