"""`retalking compile`: the networks of the neural engine, compiled for this machine's GPU, as one file."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cli.extras import MissingExtraError
from retalking_client.cli.common import CommandError


def compile_kernels(
    out: Annotated[Path, typer.Option("--out", help="Folder to write to; RETALKING_KERNELS_DIR of the workers")],
    batch: Annotated[
        int,
        typer.Option(
            min=1, max=32, envvar="RETALKING_INFERENCE_BATCH", help="RETALKING_INFERENCE_BATCH of the workers"
        ),
    ] = 16,
) -> None:
    """Compile the networks for this machine's GPU into a bundle, so that workers with the same GPU and packages start
    without compiling. Needs no weights. Bundles for several GPUs can lie in one folder."""
    try:
        import torch

        from retalking_core.networks.kernels import (
            KernelCache,
            compile_all,
            compiled_names,
            compilers_at_once,
            missing_build_tools,
        )
    except ImportError as error:
        raise MissingExtraError("gpu", error.name) from error
    if not torch.cuda.is_available():
        raise CommandError("kernels_unfit", "There is no CUDA device: kernels are compiled for the GPU that is here.")
    if (missing := missing_build_tools()) is not None:
        raise CommandError("kernels_unfit", missing)
    out.mkdir(parents=True, exist_ok=True)
    began, console, failures = time.perf_counter(), Console(stderr=True), dict[str, str]()
    # A folder of its own, or the bundle would hold what was compiled for other versions before.
    with tempfile.TemporaryDirectory(dir=out, prefix=".compile-") as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        cache = KernelCache(Path(folder), torch.device("cuda"), batch)
        for name in compile_all(cache, compiled_names(), compilers_at_once(), failures):
            console.print(f"{name}: {time.perf_counter() - began:.0f} s", highlight=False)
        if failures:
            raise CommandError("kernels_unfit", " ".join(failures.values()))
        bundle = cache.write_bundle(out, compiled_names())
    typer.echo(bundle)
