"""`retalking compile`: compiled kernels of the neural engine's networks, for this machine's GPU."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cli.extras import MissingExtraError
from retalking_client.cli.failures import EXIT_USAGE, CommandError


def compile_kernels(
    out: Annotated[Path, typer.Option("--out", help="Folder to write to; RETALKING_KERNELS_DIR of the workers")],
    batch: Annotated[int, typer.Option(min=1, max=32, help="RETALKING_INFERENCE_BATCH of the workers")] = 16,
    check: Annotated[bool, typer.Option("--check", help="Compile nothing; fail if something does not fit")] = False,
) -> None:
    """Compile the networks for this machine's GPU, so that workers start without compiling. Needs no weights, and
    skips what fits already. The kernels of several GPU architectures can lie in one folder."""
    try:
        import torch

        from retalking_core.networks.inference import fast_variants
        from retalking_core.networks.kernels import KernelPackage, compile_all, missing_build_tools, packages_of
    except ImportError as error:
        raise MissingExtraError("gpu", error.name) from error
    if not torch.cuda.is_available():
        raise CommandError("kernels_unfit", "There is no CUDA device: kernels are compiled for the GPU that is here.")
    packages: list[KernelPackage] = packages_of(fast_variants(batch), out, torch.device("cuda"))
    if check:
        for package in packages:
            package.check()
        return
    if (missing := missing_build_tools()) is not None:
        raise CommandError("kernels_unfit", missing, EXIT_USAGE)
    began, console = time.perf_counter(), Console(stderr=True)
    for name in compile_all(packages):
        console.print(f"{name}: {time.perf_counter() - began:.0f} s", highlight=False)
