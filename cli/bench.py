"""`retalking bench`: how fast the neural engine is on this machine."""

from __future__ import annotations

import typer

from cli.extras import MissingExtraError

PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def bench(context: typer.Context) -> None:
    """Measure the neural engine: `retalking bench VIDEO SPEECH --models DIR`; `retalking bench --help` has the rest."""
    try:
        from bench.engine import main
    except ImportError as error:
        raise MissingExtraError("gpu", error.name) from error
    main(context.args)
