"""`retalking inspect`: show the tags and the C2PA manifest of a video, and validate its signature."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from retalking_client.cli.common import EXIT_USAGE, AsJson, CommandError

if TYPE_CHECKING:
    from retalking_client.provenance import Manifest, Provenance

_STATES = {
    "trusted": "[green]signed[/], unchanged, trusted signer",
    "valid": "[green]signed[/], unchanged; the identity of the signer is not verified",
    "invalid": "[red]invalid[/]: do not rely on its contents",
}


def inspect(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A video: MP4 or MOV")],
    trust: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="PEM file of certificate authorities to trust"),
    ] = None,
    require_signature: Annotated[
        bool, typer.Option("--require-signature", help="Fail if the file is not signed")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the tags and the C2PA manifest of a video, and validate the signature. Exits with 1 if it is invalid.

    Works offline.
    """
    try:
        from retalking_client.provenance import read_provenance
    except ImportError as error:
        message = "Install the package that reads manifests: pip install 'c2pa-python>=0.38.1,<0.39'"
        raise CommandError("extra_missing", message, EXIT_USAGE) from error
    found = read_provenance(file, trust.read_bytes() if trust else None)
    if as_json:
        typer.echo(json.dumps(asdict(found) | {"says_synthetic": found.says_synthetic}, indent=2))
    else:
        _print(found, Console(soft_wrap=True, highlight=False))
    if found.manifest is not None and found.manifest.state == "invalid":
        raise CommandError("provenance_invalid", f"The manifest of {file.name} is invalid.")
    if found.manifest is None and require_signature:
        raise CommandError("provenance_missing", f"{file.name} is not signed.")


def _print(found: Provenance, console: Console) -> None:
    label = "labeled as synthetic media" if found.says_synthetic else "not labeled as synthetic media"
    console.print(f"[bold]{'file':<11}[/] {found.mime}; {label}")
    for name, value in found.tags.items():
        console.print(f"[bold]{escape(name):<11}[/] {escape(value)}")
    if found.manifest is None:
        console.print(f"[bold]{'manifest':<11}[/] none: the file has no C2PA signature")
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
