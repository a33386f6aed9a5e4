"""`retalking inspect`: what a video says about its origin, and whether that can be believed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from cli.failures import CommandError, MissingExtraError
from cli.service import AsJson

if TYPE_CHECKING:
    from retalking_core.provenance.reading import Manifest, Provenance

_STATES = {
    "trusted": "[green]signed[/], unchanged, by a signer that is trusted here",
    "valid": "[green]signed[/], unchanged; who signed it is not known to be who they say",
    "invalid": "[red]not valid[/]: do not believe what it says",
}


def inspect(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A video: MP4 or MOV")],
    trust: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="PEM file of certificate authorities whose signers are trusted"),
    ] = None,
    require_signature: Annotated[
        bool, typer.Option("--require-signature", help="Fail as well when the file is not signed")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show tags and C2PA manifest of a video, and check the signature. Exits with 1 when it is not valid.

    Nothing is sent or fetched.
    """
    try:
        from retalking_core.provenance.reading import read_provenance
    except ImportError as error:
        raise MissingExtraError("client", error.name) from error
    found = read_provenance(file, trust.read_bytes() if trust else None)
    if as_json:
        typer.echo(json.dumps(asdict(found) | {"says_synthetic": found.says_synthetic}, indent=2))
    else:
        _print(found, Console(soft_wrap=True, highlight=False))
    if found.manifest is not None and found.manifest.state == "invalid":
        raise CommandError("provenance_invalid", f"The manifest of {file.name} does not verify.")
    if found.manifest is None and require_signature:
        raise CommandError("provenance_missing", f"{file.name} is not signed.")


def _print(found: Provenance, console: Console) -> None:
    says = "says that it is synthetic media" if found.says_synthetic else "does not say that it is synthetic"
    console.print(f"[bold]{'file':<11}[/] {found.mime}; it {says}")
    for name, value in found.tags.items():
        console.print(f"[bold]{escape(name):<11}[/] {escape(value)}")
    if found.manifest is None:
        console.print(f"[bold]{'manifest':<11}[/] none: the file is not signed (C2PA)")
        return
    console.print(f"[bold]{'manifest':<11}[/] {_STATES[found.manifest.state]}")
    for name, value in _lines(found.manifest):
        console.print(f"[bold]{name:<11}[/] {escape(value)}")


def _lines(manifest: Manifest) -> Iterator[tuple[str, str]]:
    for code, sentence in manifest.problems:
        yield "problem", f"{sentence} ({code})"
    if manifest.signer or manifest.issuer:
        names = ", ".join(filter(None, (manifest.signer, manifest.issuer)))
        yield "signer", f"{names} ({manifest.algorithm})"
    if manifest.generator:
        yield "made by", manifest.generator
    for action in manifest.actions:
        kind = f" [{action.source_type}]" if action.source_type else ""
        yield "action", f"{action.action}{kind}" + (f": {action.description}" if action.description else "")
    for ingredient in manifest.ingredients:
        more = ", carries a manifest of its own" if ingredient.has_provenance else ""
        about = f"; {ingredient.description}" if ingredient.description else ""
        yield "made from", f"{ingredient.title} ({ingredient.relationship}, {ingredient.format}){more}{about}"
