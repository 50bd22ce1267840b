"""The filter's program, run by a small interpreter of classic BPF, on both architectures."""

import hashlib
import re
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave_runtime.gpu_access import REQUESTS, GpuAccess
from enclave_runtime.seccomp import ALLOW, ENOSYS, EPERM, KILL_PROCESS, OneOf, Rule, assemble, policy
from enclave_runtime.syscalls import ARCHITECTURES, NUMBERS, number

OWN = 4242
CALL_ARGUMENTS = st.lists(st.integers(0, 2**64 - 1), min_size=6, max_size=6)


def run_filter(program: bytes, audit: int, call: int, arguments: list[int]) -> int:
    data = struct.pack("<iIQ6Q", call, audit, 0, *arguments)
    instructions = list(struct.iter_unpack("=HBBI", program))
    accumulator, position = 0, 0
    while True:
        code, then, unless, value = instructions[position]
        position += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif code == 0x06:
            return value
        else:
            held = {
                0x15: accumulator == value,
                0x35: accumulator >= value,
                0x45: accumulator & value != 0,
            }[code]
            position += then if held else unless


@pytest.fixture(scope="module", params=ARCHITECTURES)
def answer(request):
    architecture = request.param
    program = assemble(policy(OWN), architecture)

    def ask(name: str, *arguments: int) -> int | None:
        call = number(name, architecture)
        padded = [*arguments, *[0] * (6 - len(arguments))]
        return None if call is None else run_filter(program, ARCHITECTURES[architecture][0], call, padded)

    return ask


@pytest.mark.parametrize("name", ["read", "write", "futex", "accept4", "epoll_ctl", "recvfrom", "exit_group"])
def test_what_a_node_needs_is_allowed(answer, name):
    assert answer(name) == ALLOW


@pytest.mark.parametrize(
    "name", ["execve", "ptrace", "fork", "mount", "bpf", "io_uring_setup", "kill", "clone"]
)
def test_what_only_an_intruder_does_kills(answer, name):
    assert answer(name) in {KILL_PROCESS, None}


def test_arguments_decide(answer):
    assert answer("mmap", 0, 4096, 3) == ALLOW
    assert answer("mmap", 0, 4096, 4) == EPERM
    assert answer("mprotect", 0, 4096, 7) == EPERM
    assert answer("ioctl", 3, 0x5421) == ALLOW
    assert answer("ioctl", 3, 0x5412) == EPERM
    assert answer("sendto", 3, 1, 1, 0, 0, 0) == ALLOW
    assert answer("sendto", 3, 1, 1, 0, 1 << 40, 16) == EPERM
    assert answer("setsockopt", 3, 6, 1) == ALLOW
    assert answer("setsockopt", 3, 1, 9) == ALLOW
    assert answer("setsockopt", 3, 1, 26) == EPERM
    assert answer("tgkill", OWN, OWN, 15) == ALLOW
    assert answer("tgkill", OWN + 1, OWN + 1, 15) == EPERM
    assert answer("clone", 0x3D0F00) == EPERM
    assert answer("clone", 0x1200011) == KILL_PROCESS
    assert answer("clone3") == ENOSYS


PINNED = {
    "x86_64": "de02bca3b3b45bc989727d53d099dc5e049567fbf4403be46748722d2266ea5d",
    "aarch64": "c4f00fef8f49bdfd551f11a084547d5acedd520052b26bf33f91be74cb7f00fa",
}
"""SHA-256 of the program of a node that computes on its processor, for process `OWN`."""


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_without_a_gpu_the_program_is_the_known_one(architecture):
    """What a node may do behind its seal changes by intention alone."""
    assert hashlib.sha256(assemble(policy(OWN), architecture)).hexdigest() == PINNED[architecture]


def rm(number: int, size: int) -> int:
    return 3 << 30 | size << 16 | 0x46 << 8 | number


GPU_REFUSED = {
    "a request in memory": rm(0xD3, 16),
    "a file made a client": rm(0xC9, 4),
    "memory of the host": rm(0x27, 56),
    "memory seen by the processor": rm(0x4E, 56),
    "an object of another client": rm(0x34, 28),
    "an object for others": rm(0x35, 28),
    "memory for another device": rm(0xD9, 2592),
    "the driver's settings": rm(0x4D, 32),
    "another size": rm(0x2A, 40),
    "another family": rm(0x2A, 32) ^ 1 << 8,
    "read a process": 62,
    "write a process": 63,
    "access between GPUs": 29,
    "a new client of managed memory": 0x3000_0001,
    "a terminal": 0x5412,
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_with_a_gpu_its_requests_are_left_and_no_other(architecture):
    program = assemble(policy(OWN, tuple(REQUESTS.values())), architecture)
    plain = assemble(policy(OWN), architecture)
    audit, call = ARCHITECTURES[architecture][0], number("ioctl", architecture)
    assert call is not None
    for request in REQUESTS.values():
        assert run_filter(program, audit, call, [9, request, 0, 0, 0, 0]) == ALLOW
        assert run_filter(plain, audit, call, [9, request, 0, 0, 0, 0]) == EPERM
    for request in GPU_REFUSED.values():
        assert run_filter(program, audit, call, [9, request, 0, 0, 0, 0]) == EPERM
    assert REQUESTS["NV_ESC_RM_CONTROL"] == 0xC020_462A  # as traces of programs that use CUDA show it


def test_only_a_configuration_that_computes_on_gpus_reaches_them():
    assert [GpuAccess.of(kernels, 1) for kernels in ("auto", "compiled", "torch")] == [None] * 3
    access = GpuAccess.of("cuda", 2)
    assert access is not None
    assert [str(file) for file in access.files] == [
        "/dev/nvidiactl",
        "/dev/nvidia-uvm",
        "/dev/nvidia0",
        "/dev/nvidia1",
    ]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@given(call=st.integers(0, 2**31 - 1), arguments=CALL_ARGUMENTS)
def test_a_call_outside_the_table_gets_the_default(architecture, call, arguments):
    known = {number(name, architecture) for name in NUMBERS}
    audit, _ = ARCHITECTURES[architecture]
    got = run_filter(assemble(policy(OWN), architecture), audit, call, arguments)
    if call not in known:
        assert got == (KILL_PROCESS if architecture == "x86_64" and call >= 1 << 30 else EPERM)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@given(audit=st.integers(0, 2**32 - 1), call=st.integers(0, 500), arguments=CALL_ARGUMENTS)
def test_another_instruction_set_kills(architecture, audit, call, arguments):
    if audit != ARCHITECTURES[architecture][0]:
        assert run_filter(assemble(policy(OWN), architecture), audit, call, arguments) == KILL_PROCESS


def test_executable_memory_is_refused_whatever_the_other_arguments(answer):
    for protection in range(8):
        assert (answer("mmap", 0, 1, protection) == ALLOW) == (protection & 4 == 0)


def test_a_jump_out_of_reach_is_an_error():
    with pytest.raises(ValueError, match="reach"):
        assemble([Rule("ioctl", ALLOW, (OneOf(1, tuple(range(300))),))], "x86_64")


def test_unknown_names_are_errors():
    with pytest.raises(KeyError):
        assemble([Rule("no_such_call", ALLOW)], "x86_64")
    with pytest.raises(KeyError):
        assemble(policy(OWN), "mips")


def test_the_numbers_are_the_kernels():
    header = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
    if not header.is_file():
        pytest.skip("the kernel's headers are not on this machine")
    defined = dict(re.findall(r"#define __NR_(\w+) (\d+)", header.read_text()))
    assert {name: int(defined[name]) for name in NUMBERS} == {name: row[0] for name, row in NUMBERS.items()}
