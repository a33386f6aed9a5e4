"""Fills the compiler's cache: every network of the fast engine compiled in a process of its own, all at once.

    TORCHINDUCTOR_CACHE_DIR=DIR python -m bench.compile [--batch N]

A worker that finds the cache reads it instead of compiling. Weights do not matter to the compiler, so none are needed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

import torch

from retalking_core import networks
from retalking_core.engines.videoretalking.engine import warm_up_network
from retalking_core.networks.inference import fast_variants, prepare


def compile_one(name: str, batch: int) -> float:
    """Seconds from a bare network to its first result."""
    with torch.device("cuda"):
        network = networks.build(name)
    began = time.perf_counter()
    warm_up_network(name, prepare(name, network, fast_variants(batch)[name]), torch.device("cuda"))
    torch.cuda.synchronize()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--network", help="only this one, in this process")
    arguments = parser.parse_args()
    if arguments.network:
        print(f"{arguments.network}: {compile_one(arguments.network, arguments.batch):.1f} s", flush=True)
        return
    variants = fast_variants(arguments.batch)
    names = [name for name in variants if variants[name].compiled_batch and name != "lnet"]
    command = [sys.executable, "-m", "bench.compile", "--batch", str(arguments.batch), "--network"]
    processes = {name: subprocess.Popen([*command, name]) for name in names}
    failed = [name for name, process in processes.items() if process.wait()]
    if failed:
        raise SystemExit(f"not compiled: {', '.join(failed)}")


if __name__ == "__main__":
    main()
