"""What the seal demands, tolerates and reports; each case in a child process, since a seal stays."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from enclave_runtime import seal
from enclave_runtime.exit_codes import MEANING, ExitCode
from enclave_runtime.wiped_memory import SETTINGS

REPOSITORY = Path(__file__).resolve().parent.parent.parent.parent

CHILD = """
import json, os, sys, threading
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from enclave_runtime import kernel_calls, landlock, seal
from enclave_runtime.errors import ConfinementError
from enclave_runtime.seal import Piece
def read_paths():
    return [Path(p) for p in (sys.prefix, sys.base_prefix, sys.argv[1])]
out = os.dup(1)
LOCK = (Piece.MEMORY_LOCKED,)
def main():
<body>
try:
    answer = main()
except ConfinementError as error:
    answer = [error.code, int(error.exit_code), error.detail]
os.write(out, json.dumps(answer).encode())
"""


def child(body: str, *arguments: str, **environment: str):
    source = CHILD.replace("<body>", "\n".join("    " + line for line in body.strip().splitlines()))
    command = [sys.executable, "-B", "-c", source, str(REPOSITORY), *arguments]
    done = subprocess.run(
        command, capture_output=True, timeout=30, check=False, env={**SETTINGS, **environment}
    )
    assert done.stderr == b""
    return json.loads(done.stdout)


def test_every_piece_is_in_force_here():
    """Whether memory may be locked depends on the limits that a process starts with."""
    rows = child("""
confined = seal.confine(
    read=read_paths(), bind_ports=(0,), keep_descriptors=(out,), tolerate=(Piece.MEMORY_LOCKED,)
)
return seal.seal(confined, keep_streams=(out,), tolerate=(Piece.MEMORY_LOCKED,)).as_json()
""")
    assert {row["piece"] for row in rows} == {piece.value for piece in seal.Piece} - {"landlock.devices"}
    assert {row["state"] for row in rows if row["piece"] != "memory.locked"} == {"in force"}


def test_a_gpu_adds_a_piece_and_is_told_in_the_others():
    rows = child("""
from enclave_runtime.gpu_access import GpuAccess
gpu = GpuAccess((Path("/dev/zero"), Path("/dev/absent")))
confined = seal.confine(read=read_paths(), bind_ports=(0,), keep_descriptors=(out,), tolerate=LOCK, gpu=gpu)
held, pipe = os.open("/dev/zero", os.O_RDWR), os.pipe()
return seal.seal(confined, keep_streams=(out,), tolerate=LOCK, gpu=gpu).as_json()
""")
    details = {row["piece"]: row["detail"] for row in rows if row["state"] == "in force"}
    assert "/dev/zero /dev/absent (not here: /dev/absent)" in details["landlock.devices"]
    assert (
        details["descriptors.audited"]
        == "1 named by the node, 1 of the GPU's driver, 2 pipe within the process"
    )
    assert "requests to the GPU's driver" in details["seccomp"]


def test_a_kernel_that_cannot_hold_device_control_down_is_an_error():
    code, status, detail = child("""
from enclave_runtime.gpu_access import GpuAccess
landlock.abi_version = lambda: 4
pieces = (*LOCK, Piece.LANDLOCK_SCOPE)
seal.confine(read=(), bind_ports=(0,), keep_descriptors=(out,), tolerate=pieces, gpu=GpuAccess.of("cuda", 1))
""")
    assert (code, status) == ("piece_missing", ExitCode.KERNEL)
    assert "landlock.devices" in detail


def test_half_a_pipe_is_a_door_with_a_gpu_too():
    code, *_ = child("""
from enclave_runtime.gpu_access import GpuAccess
gpu = GpuAccess((Path("/dev/zero"),))
confined = seal.confine(read=read_paths(), bind_ports=(0,), keep_descriptors=(out,), tolerate=LOCK, gpu=gpu)
taken, given = os.pipe()
os.close(taken)
seal.seal(confined, keep_streams=(out,), tolerate=LOCK, gpu=gpu)
""")
    assert code == "descriptor"


@pytest.mark.parametrize("raised", [True, False])
def test_memory_is_locked_where_no_limit_can_stand_in_the_way(raised):
    """The limit is beyond what these tests may raise, so its raising is what they stand in for."""
    rows = child(f"""
def setrlimit(which, limits):
    if which == seal.resource.RLIMIT_MEMLOCK and not {raised}: raise ValueError("not allowed")
    if which != seal.resource.RLIMIT_MEMLOCK: keep(which, limits)
keep, seal.resource.setrlimit = seal.resource.setrlimit, setrlimit
kernel_calls.mlockall = lambda flags: None
return seal.confine(
    read=read_paths(), bind_ports=(0,), keep_descriptors=(out,), tolerate=(Piece.MEMORY_LOCKED,)
).as_json()
""")
    states = {row["piece"]: row["state"] for row in rows}
    assert states["memory.locked"] == ("in force" if raised else "missing, tolerated")


@pytest.mark.parametrize("allowed", [True, False])
def test_whoever_seals_itself_locks_its_memory_again(allowed):
    """A fork is confined as its parent is, but its memory is not locked."""
    rows = child(f"""
locked = []
def mlockall(flags):
    locked.append(os.getpid())
    if len(locked) > 1 and not {allowed}: raise OSError(1, "not allowed")
kernel_calls.mlockall = mlockall
seal.resource.setrlimit = lambda which, limits: None
confined = seal.confine(read=read_paths(), bind_ports=(0,), keep_descriptors=(out,))
seal.seal(confined, keep_streams=(out,))
return len(locked)
""")
    assert rows == 2 if allowed else rows[:2] == ["piece_missing", ExitCode.KERNEL]


def test_memory_that_is_not_wiped_ends_the_node():
    code, status, detail = child(
        "seal.confine(read=(), bind_ports=(0,), keep_descriptors=(out,), tolerate=LOCK)",
        PYTHONMALLOC="pymalloc",
    )
    assert (code, status) == ("piece_missing", ExitCode.KERNEL)
    assert "memory.wiped_on_free" in detail


def test_a_missing_piece_ends_the_node_unless_tolerated():
    without = "landlock.abi_version = lambda: 0\n"
    code, status, detail = child(
        without + "seal.confine(read=(), bind_ports=(0,), keep_descriptors=(out,), tolerate=LOCK)"
    )
    assert (code, status) == ("piece_missing", ExitCode.KERNEL)
    assert "landlock.files" in detail
    rows = child(
        without
        + """
pieces = (*LOCK, Piece.LANDLOCK_FILES, Piece.LANDLOCK_NETWORK, Piece.LANDLOCK_SCOPE)
return seal.confine(read=(), bind_ports=(0,), keep_descriptors=(out,), tolerate=pieces).as_json()
"""
    )
    missing = [row["piece"] for row in rows if row["state"] == "missing, tolerated"]
    assert [piece for piece in missing if piece != "memory.locked"] == [
        "landlock.files",
        "landlock.network",
        "landlock.scope",
    ]


def test_an_older_interface_shows_what_it_does_not_cover():
    rows = child("""
landlock.abi_version = lambda: 3
pieces = (*LOCK, Piece.LANDLOCK_NETWORK, Piece.LANDLOCK_SCOPE)
return seal.confine(read=(), bind_ports=(0,), keep_descriptors=(out,), tolerate=pieces).as_json()
""")
    states = {row["piece"]: row["state"] for row in rows}
    assert states["landlock.files"] == "in force"
    assert states["landlock.network"] == "missing, tolerated"


def test_some_pieces_are_never_tolerated():
    code, status, detail = child("""
kernel_calls.prctl = lambda *a: 2
seal.confine(read=(), bind_ports=(0,), keep_descriptors=(out,), tolerate=tuple(Piece))
""")
    assert (code, status) == ("piece_missing", ExitCode.KERNEL)
    assert "not_dumpable" in detail


def test_confining_after_a_thread_exists_is_an_error():
    code, *_ = child("""
threading.Thread(target=threading.Event().wait, daemon=True).start()
seal.confine(read=(), bind_ports=(0,), keep_descriptors=(out,), tolerate=LOCK)
""")
    assert code == "landlock_threads"


@pytest.mark.parametrize(
    "opened", ["os.open(sys.argv[2], os.O_WRONLY)", "os.open(sys.argv[2], os.O_RDWR)", "os.pipe()"]
)
def test_a_door_left_open_is_an_error(opened, tmp_path):
    (tmp_path / "file").touch()
    body = f"""
confined = seal.confine(read=read_paths(), bind_ports=(0,), keep_descriptors=(out,), tolerate=tuple(Piece))
landlock_free = {opened}
seal.seal(confined, keep_streams=(out,))
"""
    without_landlock = "landlock.abi_version = lambda: 0\n"
    code, status, _ = child(without_landlock + body, str(tmp_path / "file"))
    assert (code, status) == ("descriptor", ExitCode.SEAL)


def test_a_seal_that_does_not_hold_is_an_error():
    code, status, detail = child("""
from enclave_runtime import seccomp
confined = seal.confine(read=read_paths(), bind_ports=(0,), keep_descriptors=(out,), tolerate=LOCK)
seccomp.install = lambda program: None
seal.seal(confined, keep_streams=(out,))
""")
    assert (code, status) == ("seal_open", ExitCode.SEAL)
    assert "socket" in detail or "open" in detail


def test_inherited_descriptors_are_closed():
    assert (
        child("""
extra = os.open("/dev/null", os.O_RDONLY)
seal.confine(read=read_paths(), bind_ports=(0,), keep_descriptors=(out,), tolerate=LOCK)
try:
    os.fstat(extra)
    return "open"
except OSError:
    return "closed"
""")
        == "closed"
    )


def test_every_exit_code_has_a_meaning():
    assert set(MEANING) == set(ExitCode)
    assert len(set(MEANING.values())) == len(ExitCode)
