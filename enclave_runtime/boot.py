"""The first and only program of a node: confine, load, prove, warm up, seal, listen.

It is started with one argument, the measured command line (``enclave_runtime.config``). Until the seal it
says on standard error why it refuses to go on; standard output carries a single line, ``{"event":
"listening", "port": N, "seal": [...]}``, when the sealed node listens. After that nothing is said. The exit
status is one of ``enclave_runtime.exit_codes``. No step is tried again in a weaker form.

Its first act is to start itself again under an allocator that wipes what it frees.
"""

import json
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from enclave_runtime import kernel_calls, seal, wiped_memory
from enclave_runtime.config import SIMULATED, HostInputs, NodeConfig
from enclave_runtime.errors import ConfigurationError, NodeError
from enclave_runtime.exit_codes import ExitCode

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
    host, platform_descriptor = HostInputs.parse(os.environ, config.platform)
    if config.platform != SIMULATED:
        from enclave_runtime.devices import start_keeper

        platform_descriptor = start_keeper(config, host)
    confined = seal.confine(
        read=(*code_paths(), host.model, host.staple, *map(Path, DEVICES_AND_FACTS)),
        bind_port=host.port,
        keep_descriptors={platform_descriptor},
        tolerate=config.tolerate,
    )
    # A simulated machine ends with the platform that runs it.
    kernel_calls.prctl(kernel_calls.PR_SET_PDEATHSIG, signal.SIGTERM)
    # Imported only now: the model's libraries start threads, which must be born confined.
    from enclave_runtime import node

    return node.run(config, host, platform_descriptor, confined)


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
