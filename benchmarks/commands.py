"""``cloister bench`` and its commands, and the benches of components that other files bring."""

import typer

from benchmarks import (
    compare_command,
    decode_command,
    model_command,
    perplexity_command,
    run_command,
    traffic_command,
)


def register(app: typer.Typer) -> None:
    """Add ``cloister bench`` and its commands."""
    bench = typer.Typer(name="bench", help="Measure what privacy costs.", no_args_is_help=True)
    bench.command("run", help=run_command.HELP)(run_command.run)
    bench.command("compare", help=compare_command.HELP)(compare_command.compare)
    bench.command("model", help=model_command.HELP)(model_command.model)
    bench.command("traffic", help=traffic_command.HELP)(traffic_command.traffic)
    bench.command("decode", help=decode_command.HELP)(decode_command.decode)
    bench.command("perplexity", help=perplexity_command.HELP)(perplexity_command.perplexity)
    app.add_typer(bench)
