"""Other implementations, in JavaScript, as partners in a conversation: installed from a lock, driven by JSON.

A driver is a file beside ``tests/interop/package.json``. It reads one JSON value from standard input and
writes one to standard output; bytes travel as lower-case hex.
"""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

INTEROP = Path(__file__).resolve().parent / "interop"

_MINIMUM = 20
_INSTALL_TIMEOUT_S = 120
_RUN_TIMEOUT_S = 120


class NodePeers:
    """The packages of ``tests/interop/package-lock.json``, in a folder of their own, and a Node.js to run them."""

    def __init__(self, node: str, folder: Path) -> None:
        self._node = node
        self._folder = folder

    @classmethod
    def installed(cls, cache: Path) -> "NodePeers":
        """Install what the lock names below ``cache``, once; skips the test, with a reason, where that fails."""
        node, npm = shutil.which("node"), shutil.which("npm")
        if node is None or npm is None:
            pytest.skip("peers in JavaScript need node and npm on the path")
        version = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=30)
        major = version.stdout.strip().removeprefix("v").partition(".")[0]
        if version.returncode or not major.isdigit() or int(major) < _MINIMUM:
            pytest.skip(f"peers in JavaScript need Node.js {_MINIMUM} or newer")
        lock = (INTEROP / "package-lock.json").read_bytes()
        folder = cache / hashlib.sha256(lock).hexdigest()[:16]
        complete = folder / "installed"
        if not complete.exists():
            folder.mkdir(parents=True, exist_ok=True)
            for name in ("package.json", "package-lock.json"):
                shutil.copyfile(INTEROP / name, folder / name)
            install = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]
            try:
                done = subprocess.run(install, cwd=folder, capture_output=True, timeout=_INSTALL_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                pytest.skip("npm could not install the peers in JavaScript: it took too long")
            if done.returncode:
                pytest.skip(f"npm could not install the peers in JavaScript (exit status {done.returncode})")
            complete.touch()
        return cls(node, folder)

    def ask(self, driver: str, question: Any) -> Any:
        """What ``tests/interop/<driver>`` answers to ``question``; fails the test where it does not."""
        # Modules are looked up from where a script lies, so it is put beside them.
        script = self._folder / driver
        shutil.copyfile(INTEROP / driver, script)
        done = subprocess.run(
            [self._node, script.name],
            cwd=self._folder,
            input=json.dumps(question).encode(),
            capture_output=True,
            timeout=_RUN_TIMEOUT_S,
        )
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        return json.loads(done.stdout)
