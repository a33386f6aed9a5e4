"""`retalking doctor`: what is wrong around the service, and what mends it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from cli import diagnosis
from cli.diagnosis import Finding
from cli.store_address import store_settings
from jobs.objects import ObjectStoreError
from jobs.settings import Settings

_COLOURS = {"well": "green", "note": "yellow", "bad": "red"}


def doctor(
    data: Annotated[
        Path | None,
        typer.Option(help="Data folder of a `retalking up` that runs now  [default: RETALKING_DATA_DIR, else data]"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON")] = False,
) -> None:
    """Look at Redis, object store, clock, secrets, keys, workers, disk, weights and CUDA, with the settings of this
    environment. Ends with 1 when something is bad; a note is a limit to know of."""
    findings = list(examine(store_settings(data)))
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        _print(findings)
    if any(finding.state == "bad" for finding in findings):
        raise typer.Exit(1)


def examine(settings: Settings) -> Iterator[Finding]:
    """One that breaks hides none of the others."""
    yield from _examine_redis(settings)
    yield from _examine_objects(settings)
    yield from diagnosis.look_at_secrets(settings)
    yield from diagnosis.look_at_disk(settings)
    yield diagnosis.look_at_weights(settings)
    yield diagnosis.look_at_cuda(settings)


def _examine_redis(settings: Settings) -> Iterator[Finding]:
    import redis

    from jobs.opening import open_store

    client = redis.Redis.from_url(settings.redis_url.get_secret_value(), socket_timeout=5, socket_connect_timeout=5)
    try:
        client.ping()  # before the store, whose client would try again for seconds
        yield from diagnosis.look_at_redis(client)
        yield diagnosis.look_at_clock(client)
        store = open_store(settings)
        yield diagnosis.look_at_keys(settings, store)
        yield diagnosis.look_at_workers(settings, store)
    except redis.RedisError as fault:
        remedy = "Start it, or correct RETALKING_REDIS_URL (host, port, password)."
        yield Finding("redis", "bad", f"does not answer ({type(fault).__name__})", remedy)


def _examine_objects(settings: Settings) -> Iterator[Finding]:
    from jobs.opening import open_objects

    try:
        yield from diagnosis.look_at_objects(open_objects(settings))
    except (ObjectStoreError, ValueError) as fault:
        remedy = "Correct RETALKING_S3_ENDPOINT and its neighbours, or the rights of the data folder."
        yield Finding("objects", "bad", f"can not be opened: {fault}", remedy)


def _print(findings: list[Finding]) -> None:
    table = Table("", "what", "found", "what to do", box=None)
    for finding in findings:
        colour = _COLOURS[finding.state]
        table.add_row(f"[{colour}]{finding.state}[/]", finding.subject, finding.found, finding.remedy)
    (Console() if sys.stdout.isatty() else Console(width=240)).print(table)  # in a pipe no cell is cut
