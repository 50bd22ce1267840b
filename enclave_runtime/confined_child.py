"""Processes that a node forks from itself while it is confined and before it has threads, and that end with it."""

import os
import signal
from collections.abc import Callable, Collection

from enclave_runtime import kernel_calls

_VERBS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def fork(work: Callable[[], object], *, close: Collection[int]) -> None:
    """Do ``work`` in a process of its own, which inherits the confinement; the descriptors ``close`` are none of its
    business. Whatever goes wrong there goes no further. Call it while this is the only thread.
    """
    node = os.getpid()
    if os.fork():
        return
    status = 1
    try:
        for descriptor in close:
            os.close(descriptor)
        kernel_calls.prctl(kernel_calls.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == node:
            for number in _VERBS:
                signal.signal(number, signal.SIG_IGN)  # it ends when the node does
            work()
        status = 0
    finally:
        os._exit(status)
