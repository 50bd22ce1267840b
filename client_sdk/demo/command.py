"""``cloister demo``: the whole path on one machine, and two attacks on it."""

import signal
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

QUESTION = "Explain in two sentences what encryption is."

_RELAY_PORT = 8443

_HELP = """Run everything once, on this machine: build, publish, boot, verify, ask; then two attacks that must fail.

A sealed node runs under a simulated platform; a relay and a client run in processes of their own. All state lies in
one folder, so a second run is quick. The exit status is 0 only if the answer came from a verified node and both
attacks were refused with the error they should meet.

With --vm the node runs in a sealed virtual-machine image, built here and booted under QEMU (Debian package
qemu-system-x86); without usable KVM it is emulated, which takes minutes. With --vm --tpm the image is measured as
it boots into a virtual TPM (Debian packages swtpm and swtpm-tools), whose signed registers are the evidence.
"""


def register(app: typer.Typer) -> None:
    """Add ``cloister demo``."""
    app.command(name="demo", help=_HELP)(demo)


def demo(
    state: Annotated[Path, typer.Option(help="The folder for model, image, log and platform.")] = Path(
        ".cloister"
    ),
    model: Annotated[
        str | None,
        typer.Option(
            help="A .gguf file, a folder (safetensors and tokenizer) or a hub id, instead of the demo model."
        ),
    ] = None,
    question: Annotated[str, typer.Option(help="What to ask.")] = QUESTION,
    max_tokens: Annotated[int, typer.Option(min=1, help="The longest answer, in tokens.")] = 96,
    vm: Annotated[
        bool, typer.Option("--vm", help="Boot the node in a virtual machine (QEMU) instead of a process.")
    ] = False,
    tpm: Annotated[
        bool, typer.Option("--tpm", help="With --vm: evidence from a virtual TPM and a measured boot.")
    ] = False,
    stay: Annotated[
        bool, typer.Option("--stay", help="Leave node and relay (port 8443) running until Ctrl-C.")
    ] = False,
    fetch_only: Annotated[bool, typer.Option("--fetch-only", help="Fetch the demo model and stop.")] = False,
) -> int:
    """See ``cloister demo --help``."""
    from .model import resolve_model
    from .story import Story

    # A demo that is told to end must not leave its node and relay behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console()
    if fetch_only:
        console.print(f"model ready: {resolve_model(model, state / 'models').name}", highlight=False)
        return 0
    if tpm and not vm:
        raise typer.BadParameter("--tpm goes with --vm")
    if stay and vm:
        raise typer.BadParameter("--stay does not go with --vm: see 'cloister image boot'")
    if vm:
        from .vm_story import VmStory

        return VmStory(state, console, tpm=tpm).tell(model, question, max_tokens)
    return Story(state, console).tell(model, question, max_tokens, stay=_RELAY_PORT if stay else None)
