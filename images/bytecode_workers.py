"""Compiling a tree's modules in several processes of the interpreter that the image carries."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import SimpleQueue
from subprocess import PIPE, Popen
from threading import Thread

from images import bytecode
from images.errors import ImageError


def compile_tree(
    tree: Path, paths: Sequence[str], python: Sequence[str], processes: int = 2
) -> Iterator[str]:
    """Compile the modules at ``paths`` (relative to ``tree``) in place; yields each path when it is done.

    ``python`` is the command that runs the interpreter, whose bytecode it becomes.

    The result depends neither on ``processes`` nor on the order. Raises :class:`ImageError` if a process
    dies.
    """
    shares = [share for index in range(processes) if (share := paths[index::processes])]
    command = [*python, "-I", "-S", "-B", str(Path(bytecode.__file__).resolve()), str(tree)]
    workers = [Popen(command, stdin=PIPE, stdout=PIPE) for _ in shares]
    done: SimpleQueue[str | None] = SimpleQueue()
    try:
        for worker, share in zip(workers, shares, strict=True):
            Thread(target=_feed, args=(worker, share), daemon=True).start()
            Thread(target=_collect, args=(worker, done), daemon=True).start()
        running = len(workers)
        while running:
            path = done.get()
            if path is None:
                running -= 1
            else:
                yield path
        for worker in workers:
            if (status := worker.wait()) != 0:
                raise ImageError("compile_failed", f"a compiling process ended with status {status}")
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


def _feed(worker: "Popen[bytes]", paths: Sequence[str]) -> None:
    assert worker.stdin is not None
    try:
        with worker.stdin as jobs:
            jobs.writelines(json.dumps(path).encode() + b"\n" for path in paths)
    except OSError:
        return  # The process died; its exit status says so to the reader.


def _collect(worker: "Popen[bytes]", done: "SimpleQueue[str | None]") -> None:
    assert worker.stdout is not None
    with worker.stdout as results:
        for line in results:
            done.put(json.loads(line))
    done.put(None)
