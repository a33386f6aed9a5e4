"""The `retalking` command of the client. Named errors end in one line and an exit code, never in a traceback.

Exit codes: 0 done; 1 the job failed or the request was refused; 2 wrong usage; 3 the service is unreachable;
4 the service wants another API key; 130 interrupted by Ctrl-C.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, NoReturn

import typer

from retalking_client import RetalkingClientError, __version__
from retalking_client.cli import jobs
from retalking_client.cli.common import EXIT_FAILED, CommandError, command_error
from retalking_client.cli.inspect_command import inspect
from retalking_client.cli.jobs import cancel, delete, download, events, redeliver, retry, wait
from retalking_client.cli.mcp_command import mcp
from retalking_client.cli.submit import batch, batches_app, submit


def new_app(help_text: str) -> typer.Typer:
    """An empty `retalking` command with the options that precede every subcommand."""
    app = typer.Typer(name="retalking", help=help_text, no_args_is_help=True, pretty_exceptions_enable=False)
    app.callback()(_common_options)
    return app


def add_client_commands(app: typer.Typer) -> None:
    app.command()(submit)
    app.command()(batch)
    app.add_typer(batches_app, name="batches")
    app.add_typer(jobs.app, name="jobs")
    for command in (wait, events, download, cancel, delete, redeliver, retry, inspect, mcp):
        app.command()(command)


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Turn every exception into one line on stderr and an exit code. `--traceback` lets unexpected ones through."""
    try:
        yield
    except CommandError as error:
        _exit(error.code, error.message, error.exit_code)
    except RetalkingClientError as error:
        refusal = command_error(error)
        _exit(refusal.code, refusal.message, refusal.exit_code)
    except OSError as error:
        _exit("file_error", f"{error.filename or ''}: {error.strerror or error}".lstrip(": "), EXIT_FAILED)
    except Exception as error:
        if "--traceback" in sys.argv:
            raise
        message = f"{type(error).__name__}: {error} (run retalking --traceback ... for the traceback)"
        _exit("internal_error", message, EXIT_FAILED)


def main() -> None:
    app = new_app("Client of the Retalking lip-sync service: submit jobs, follow them, download results.")
    add_client_commands(app)
    with exit_on_error():
        app(prog_name="retalking")


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"retalking {__version__}")
        raise typer.Exit


def _common_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version")
    ] = False,
    traceback: Annotated[bool, typer.Option("--traceback", help="Print the traceback of an unexpected error")] = False,
) -> None:
    """Typer reads these options from the signature; `exit_on_error` finds --traceback in sys.argv."""


def _exit(code: str, message: str, exit_code: int) -> NoReturn:
    typer.echo(f"error: {code}: {message}", err=True)
    raise SystemExit(exit_code)


if __name__ == "__main__":
    main()
