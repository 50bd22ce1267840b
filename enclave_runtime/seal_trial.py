"""What the seal would look like on this machine: a process that seals itself, says so, and ends.

It holds no model and no key; it goes through the same two steps as a node and reports every piece, those that are
missing here among them. ``python -m enclave_runtime.seal_trial`` prints the report as one line of JSON; with a number
behind it, that of a node that computes on so many GPUs.
"""

import json
import os
import sys
from collections.abc import Sequence

from enclave_runtime import boot, seal, seccomp, wiped_memory
from enclave_runtime.errors import ConfinementError
from enclave_runtime.gpu_access import REQUESTS, GpuAccess


def main(arguments: Sequence[str]) -> int:
    """Seal this process and print the rows of the report, and the policy of the filter."""
    wiped_memory.start_again(os.environ)
    out = os.dup(sys.stdout.fileno())
    gpu = GpuAccess.of("cuda", int(arguments[0])) if arguments else None
    try:
        confined = seal.confine(
            read=boot.code_paths(),
            bind_ports=(0,),
            keep_descriptors={out},
            tolerate=seal.TOLERABLE,
            gpu=gpu,
        )
        report = seal.seal(confined, keep_streams={out}, tolerate=seal.TOLERABLE, gpu=gpu)
    except ConfinementError as error:
        os.write(out, json.dumps({"code": error.code, "detail": error.detail}).encode() + b"\n")
        return int(error.exit_code)
    said = {
        "seal": report.as_json(),
        "calls": seccomp.describe(),
        "gpu_requests": sorted(REQUESTS) if gpu else [],
    }
    os.write(out, json.dumps(said).encode() + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
