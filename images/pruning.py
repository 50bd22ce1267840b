"""What a node never needs, so that it is neither measured nor there to be misused.

Every rule leaves the imports of a node working (the tests start an image and import them); what is dropped is
test code, build material, command-line programs, the packages that download models, and the parts of the
standard library that read a terminal, draw windows or install software.
"""

import re

LEFT_OUT_DISTRIBUTIONS: dict[str, str] = {
    # What only the client's command line and transport use.
    "typer": "command line",
    "rich": "command line",
    "httpx2": "client transport",
    "httpcore2": "client transport",
    "sigstore": "a client's check of Sigstore bundles; a node staples them unread",
    # What their dependents import only on demand: downloading, and symbolic shapes for a compiler.
    "setuptools": "torch names it for building extensions",
    "huggingface-hub": "tokenizers names it for downloading; a node reads its model from a measured volume",
    "requests": "gguf names it for reading remote files",
    "fsspec": "torch names it for remote checkpoints",
    "filelock": "torch names it for extension build folders",
    "sympy": "torch names it for symbolic shapes of compiled graphs",
    "networkx": "torch names it for partitioning compiled graphs",
    "pycparser": "cffi names it for parsing C declarations at build time",
}
"""Distributions that are not followed when the closure is resolved, with the reason."""

_SITE = re.compile(
    r"""
      (^|/)(tests?|testing_data|examples?|benchmarks?|__pycache__)/
    | \.(a|h|hpp|hh|c|cc|cpp|cu|cuh|cmake|pxd|pyx|pyi|lib|md|rst)$
    | ^torch/(include|share|test|_dynamo|_inductor|onnx)/
    | ^torch/bin/(?!torch_shm_manager$)
    | ^torch/lib/(libaoti_custom_ops|libbackend_with_compiler|libjitbackend_test|libtorchbind_test)\.so$
    | ^functorch/
    | ^numpy/(f2py|distutils)/
    | \.dist-info/(RECORD|INSTALLER|REQUESTED|WHEEL|direct_url\.json|top_level\.txt|.*\.pem|sboms/.*)$
    """,
    re.VERBOSE,
)

_LIBRARY_FOLDERS = {
    "__pycache__",
    "distutils",
    "ensurepip",
    "idlelib",
    "lib2to3",
    "pydoc_data",
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "tkinter",
    "turtledemo",
    "venv",
}

_LIBRARY = re.compile(
    r"""
      ^config-[^/]*/
    | ^(antigravity|this|turtle|pty|telnetlib|ftplib|smtpd|poplib|imaplib|nntplib|smtplib|sitecustomize
        |usercustomize|webbrowser|cgi|cgitb|crypt|nis|cProfile|profile|pstats|tabnanny|pyclbr)\.py$
    | ^(dbm|curses|msilib|wsgiref|xmlrpc|sqlite3)/
    | ^lib-dynload/(_tkinter|_test[a-z]*|_ctypes_test|_xx[a-z]*|xxlimited[_0-9]*|nis|readline|_curses(_panel)?
        |_dbm|_gdbm|_crypt|_sqlite3|ossaudiodev|spwd|audioop)\.[^/]*so$
    | \.(exe|ico|gif|png|a|o|bat|ps1|csh|fish)$
    """,
    re.VERBOSE,
)

_OURS_KINDS = (".py", ".toml", ".json", ".so")


def keeps_site(path: str) -> bool:
    """Whether a file of an installed distribution, at ``path`` below its site folder, belongs in a node."""
    return _SITE.search(path) is None


def keeps_library(path: str) -> bool:
    """Whether a file of the standard library, at ``path`` below its folder, belongs in a node."""
    return _LIBRARY_FOLDERS.isdisjoint(path.split("/")[:-1]) and _LIBRARY.search(path) is None


def keeps_ours(path: str) -> bool:
    """Whether a file of one of our packages belongs in a node: the command line's part does not."""
    parts = path.split("/")
    hidden = any(part.startswith((".", "__pycache__")) for part in parts)
    return not hidden and path.endswith(_OURS_KINDS) and parts[-1] != "commands.py"
