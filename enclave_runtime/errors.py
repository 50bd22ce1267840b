"""Why a node refuses to start: one family, each with a code from a closed list and the exit status it ends
in.
"""

from enclave_runtime.exit_codes import ExitCode


class NodeError(Exception):
    """A step of the boot failed; nothing is retried into a weaker state.

    ``code`` is a stable lower-case name, ``detail`` a sentence for the operator. Both exist only before the
    seal, when no prompt has been seen; after it a node ends without a word.
    """

    def __init__(self, code: str, exit_code: ExitCode, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.exit_code = exit_code
        self.detail = detail


class ConfigurationError(NodeError):
    """The measured configuration is not one that a node accepts."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(code, ExitCode.CONFIGURATION, detail)


class ConfinementError(NodeError):
    """A piece of the confinement or of the seal is not in force."""

    def __init__(self, code: str, detail: str = "", exit_code: ExitCode = ExitCode.SEAL) -> None:
        super().__init__(code, exit_code, detail)
