"""The filter's program, run by a small interpreter of classic BPF, on both architectures."""

import re
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
