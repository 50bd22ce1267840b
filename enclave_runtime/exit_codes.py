"""The closed list of ways a node ends.

A node says nothing after it is sealed, so its exit status is all that an operator learns then. The list
holds no value that depends on a prompt. A process that the kernel killed for a forbidden call ends by
signal SIGSYS, which a supervisor sees as status 159 (128 + 31) or -31.
"""

import enum


class ExitCode(enum.IntEnum):
    """Exit statuses of a node; the text of each is in :data:`MEANING`."""

    STOPPED = 0
    INTERNAL = 70
    CONFIGURATION = 80
    HOST_INPUT = 81
    KERNEL = 82
    MODEL = 83
    PLATFORM = 84
    GPU = 85
    STAPLE = 86
    WARM_UP = 87
    BIND = 88
    SEAL = 89
    SERVE = 90
    EGRESS = 91


MEANING: dict[ExitCode, str] = {
    ExitCode.STOPPED: "told to stop, and stopped",
    ExitCode.INTERNAL: "a fault that no other code names",
    ExitCode.CONFIGURATION: "the measured configuration is missing, malformed or asks for what is not there",
    ExitCode.HOST_INPUT: "what the host handed over (volumes, port, descriptors) is missing or malformed",
    ExitCode.KERNEL: "the kernel lacks a piece of confinement that the configuration demands",
    ExitCode.MODEL: "the model cannot be loaded, or is not the one that was measured",
    ExitCode.PLATFORM: "the CPU gave no evidence",
    ExitCode.GPU: "the node's own GPUs gave no evidence, or evidence that does not verify",
    ExitCode.STAPLE: "the transparency staple is missing, malformed or too large",
    ExitCode.WARM_UP: "the engine, or a request through the whole stack, failed before sealing",
    ExitCode.BIND: "the port cannot be bound",
    ExitCode.SEAL: "the seal did not close, or did not hold when it was tried",
    ExitCode.SERVE: "serving ended by a fault after the seal",
    ExitCode.EGRESS: "the process that shows metrics did not start, or is gone",
}
