"""``python -m client_sdk`` is ``cloister``."""

from .cli import main

main()
