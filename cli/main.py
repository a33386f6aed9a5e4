"""The `retalking` command of the service: the client's commands, and those that run or measure a service.

Exit codes: see `retalking_client.cli.main`; 3 also when a part of the service did not start.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cli import bench, keys, provenance, weights
from cli.analyze import analyze
from cli.doctor import doctor
from cli.evaluate import evaluate
from cli.run import run
from cli.up import demo, up
from cli.weights import compile_kernels
from retalking_client.cli.common import CommandError
from retalking_client.cli.main import add_client_commands, exit_on_error, new_app
from retalking_core.errors import RetalkingError

app = new_app("Audio-driven lip-sync: a talking face and a speech track in, a lip-synced video out.")
app.command()(up)
app.command()(demo)
add_client_commands(app)
app.command()(run)
app.command()(analyze)
app.command()(evaluate)
app.command()(doctor)
app.command("compile")(compile_kernels)
app.command(context_settings=bench.PASS_ON)(bench.bench)
app.add_typer(weights.app, name="weights")
app.add_typer(provenance.app, name="provenance")
app.add_typer(keys.app, name="keys")


def main() -> None:
    with exit_on_error(), _named_core_errors():
        app(prog_name="retalking")


@contextmanager
def _named_core_errors() -> Iterator[None]:
    """Errors of retalking_core have a public code, but the client does not know their class."""
    try:
        yield
    except RetalkingError as error:
        raise CommandError(error.code, error.message) from error


if __name__ == "__main__":
    main()
