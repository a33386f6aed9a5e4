"""The `retalking` command. Named errors end in one line and an exit code, never in a traceback.

Exit codes: 0 done, 1 the job failed or was refused, 2 wrong usage, 3 a service is not reachable or did not start,
4 it wants another API key, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import sys
from typing import Annotated, NoReturn

import typer

from cli import jobs, keys, provenance, weights
from cli.demo import demo
from cli.doctor import doctor
from cli.evaluate import evaluate
from cli.failures import EXIT_FAILED, CommandError
from cli.inspect import inspect
from cli.job_actions import cancel, delete, download, events, redeliver, wait
from cli.run import run
from cli.service import command_error
from cli.submit import submit
from cli.up import up
from retalking_client import RetalkingClientError
from retalking_core import __version__
from retalking_core.errors import RetalkingError

app = typer.Typer(
    name="retalking",
    help="Audio-driven lip-sync: a talking face and a speech track in, a lip-synced video out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command()(up)
app.command()(demo)
app.command()(submit)
app.add_typer(jobs.app, name="jobs")
for command in (wait, events, download, cancel, delete, redeliver, inspect):
    app.command()(command)
app.command()(run)
app.command()(evaluate)
app.command()(doctor)
app.add_typer(weights.app, name="weights")
app.add_typer(provenance.app, name="provenance")
app.add_typer(keys.app, name="keys")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"retalking {__version__}")
        raise typer.Exit


@app.callback()
def settle(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version")
    ] = False,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where an unexpected error came from")] = False,
) -> None:
    """What holds for every command."""
    context.obj = {"version": version, "traceback": traceback}


def main() -> None:
    try:
        app(prog_name="retalking")
    except CommandError as error:
        _end(error.code, error.message, error.exit_code)
    except RetalkingClientError as error:
        refusal = command_error(error)
        _end(refusal.code, refusal.message, refusal.exit_code)
    except RetalkingError as error:
        _end(error.code, error.message, EXIT_FAILED)
    except OSError as error:
        _end("file_error", f"{error.filename or ''}: {error.strerror or error}".lstrip(": "), EXIT_FAILED)
    except Exception as error:
        if "--traceback" in sys.argv:
            raise
        _end("internal_error", f"{type(error).__name__}: {error} (retalking --traceback ... shows where)", EXIT_FAILED)


def _end(code: str, message: str, exit_code: int) -> NoReturn:
    typer.echo(f"error: {code}: {message}", err=True)
    raise SystemExit(exit_code)


if __name__ == "__main__":
    main()
