"""A host has a measured program launched with a library of its own, which hides from the program's own look."""

import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from attestation.errors import PlatformFault
from attestation.simulated.platform import Platform

HIDING = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <string.h>
int open64(const char *path, int flags, int mode) {
    int (*real)(const char *, int, int) = (int (*)(const char *, int, int))dlsym(RTLD_NEXT, "open64");
    return real(strcmp(path, "/proc/self/maps") ? path : "/dev/null", flags, mode);
}
int geteuid(void) { return 4242; }
"""
LOOKING = (
    "import os; print('hiding' in open('/proc/self/maps').read(), os.geteuid() == 4242)"  # seen, in force
)


@pytest.fixture
def library(tmp_path: Path) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler here")
    source, built = tmp_path / "hiding.c", tmp_path / "hiding.so"
    source.write_text(HIDING)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", built, source, "-ldl"], check=True)
    return built


def test_preloading_a_library_that_hides(tmp_path: Path, library: Path) -> None:
    command = [sys.executable, "-I", "-S", "-c", LOOKING]
    run = subprocess.run(command, capture_output=True, env={"LD_PRELOAD": str(library)}, check=True)
    assert run.stdout == b"False True\n", "control: it is in force, and the program does not see it"

    (tmp_path / "image").mkdir()
    (tmp_path / "image" / "start.json").write_text(json.dumps(command))
    platform = Platform.open(tmp_path / "state", lambda: datetime.now(UTC), 0)
    for name in ("LD_PRELOAD", "LD_AUDIT", "LD_LIBRARY_PATH", "GLIBC_TUNABLES", "PYTHONPATH", "LC_CTYPE"):
        with pytest.raises(PlatformFault) as caught:
            platform.launch(
                volumes={"image": tmp_path / "image"}, cmdline=b"{}", env={name: str(library)}, stdout=-1
            )
        assert (caught.value.code, caught.value.found) == ("launch_environment", name)
