"""``cloister``, and ``python -m client_sdk``.

The command line imports for half a second before it can catch anything; a Ctrl-C then must not end in a traceback.
"""

import sys


def main() -> None:
    """Run the command line and leave with its status; 130 where Ctrl-C came while it was loaded."""
    try:
        from .cli import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
