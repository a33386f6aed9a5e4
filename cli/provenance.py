"""`retalking provenance`: a test certificate, to try signing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.extras import MissingExtraError
from retalking_client.cli.common import CommandError

app = typer.Typer(no_args_is_help=True, help="Signing of results: try it with a test certificate.")


@app.callback()
def provenance() -> None:
    """Signing of results: try it with a test certificate."""


@app.command("make-test-certificate")
def make_test_certificate(
    folder: Annotated[
        Path, typer.Argument(file_okay=False, help="Where to write authority.pem, chain.pem and key.pem")
    ],
    days: Annotated[int, typer.Option(min=1, max=365, help="Days of validity")] = 30,
) -> None:
    """Create an untrusted authority and signer, and print how to use them. Not for real results."""
    try:
        from retalking_core.provenance import make_trial_certificate
    except ImportError as error:
        raise MissingExtraError("provenance", error.name) from error
    try:
        made = make_trial_certificate(folder, days)
    except FileExistsError as error:
        raise CommandError("file_exists", f"{error.filename} already exists: choose another folder.") from error
    typer.echo(f"RETALKING_C2PA_CERT={made.chain.resolve()}")
    typer.echo(f"RETALKING_C2PA_KEY={made.key.resolve()}")
    typer.echo(f"\nSet both for `retalking up`; then: retalking inspect RESULT --trust {made.authority}", err=True)
