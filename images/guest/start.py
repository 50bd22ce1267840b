"""The first code of a process image: make sure that everything comes from the image, then run the node.

The image's own dynamic loader and interpreter start this file in isolated mode without ``site``. The module
search path becomes four folders of the image and nothing else. If the interpreter, or any code that is mapped
into the process, lies outside the image, the process ends with status 78 before anything of the node is
imported: someone started it by another command than the one in ``image.json``.
"""

import os
import sys

NOT_FROM_IMAGE = 78


def refuse(what: str) -> None:
    """End the process because ``what`` does not come from the image."""
    sys.stderr.write(f"start: {what} does not come from the image\n")
    sys.exit(NOT_FROM_IMAGE)


def isolated() -> bool:
    """Whether neither folders nor settings of the host's reach the interpreter.

    The node starts itself again with one setting of Python's, the allocator (enclave_runtime.wiped_memory), which an
    interpreter in isolated mode would not read.
    """
    settings = {name: value for name, value in os.environ.items() if name.startswith("PYTHON")}
    return bool(
        sys.flags.isolated
        or (sys.flags.safe_path and sys.flags.no_user_site and settings == {"PYTHONMALLOC": "malloc"})
    )


def enter() -> None:
    """Leave only the image's folders in the module search path; refuse to run on anything from outside."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    python = os.path.join(root, "python")
    if sys.prefix != python or sys.exec_prefix != python or not isolated() or not sys.flags.no_site:
        refuse("the interpreter")
    beneath = os.path.join(root, "")  # one slash at the end, also where the root is "/"
    files = (getattr(module, "__file__", None) for module in sys.modules.values())
    if any(file and not str(file).startswith(beneath) for file in files):
        refuse("a module")
    inside = os.path.join(os.path.realpath(root), "")
    with open("/proc/self/maps", "rb") as maps:
        for line in maps:
            fields = line.rstrip(b"\n").split(None, 5)
            if len(fields) == 6 and b"x" in fields[1] and fields[5].startswith(b"/"):
                path = os.fsdecode(fields[5])
                if not os.path.realpath(path).startswith(inside):
                    refuse(path)
    library = os.path.join(python, sys.platlibdir, f"python{sys.version_info.major}.{sys.version_info.minor}")
    sys.path[:] = [
        library,
        os.path.join(library, "lib-dynload"),
        os.path.join(root, "app"),
        os.path.join(root, "site"),
    ]


if __name__ == "__main__":
    enter()
    from enclave_runtime import boot

    sys.exit(boot.main(sys.argv[1:]))
