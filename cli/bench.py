"""`retalking bench`: speed of the neural engine, or of the service around it, on this machine."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from cli.extras import MissingExtraError
from retalking_client.cli.common import EXIT_USAGE, CommandError

PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def bench(context: typer.Context) -> None:
    """Measure the neural engine: `retalking bench VIDEO SPEECH --models DIR`; see `retalking bench --help`. The
    service, from its start to an evaluated job: `retalking bench service VIDEO SPEECH`."""
    # An editable installation makes the packages of the wheel known, and `bench` is not among them.
    sys.path.append(str(Path(__file__).resolve().parents[1]))
    try:
        if context.args[:1] == ["service"]:
            from bench.service import main
        else:
            from bench.engine import main
    except ImportError as error:
        if (error.name or "").partition(".")[0] == "bench":
            message = "The benchmarks are part of the repository, not of the package: run this in a checkout."
            raise CommandError("bench_missing", message, EXIT_USAGE) from error
        raise MissingExtraError("gpu", error.name) from error
    main(context.args[1:] if context.args[:1] == ["service"] else context.args)
