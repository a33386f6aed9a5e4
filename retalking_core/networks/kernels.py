"""Compiled kernels of the networks: made by processes of their own, loaded without a compiler, swapped in at run time.

A package holds the kernels of one network (AOTInductor, `.pt2`) and a sheet (`.json`) that says what they fit: GPU
architecture, versions, source of the networks, precision and batch. It holds no weights: those of the loaded network
are bound to it. torch unpacks it below /tmp, from where code must be allowed to run.

    python -m retalking_core.networks.kernels NETWORK --folder DIR --device cuda --batch 16    compiles one
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from retalking_core import networks
from retalking_core.errors import KernelsUnfitError
from retalking_core.networks import INPUT_SHAPES
from retalking_core.networks.inference import (
    HALF_DTYPES,
    InferenceNetwork,
    InferenceVariant,
    fast_variants,
    map_tensors,
    prepare,
    result_tensors,
)

log = logging.getLogger(__name__)

# Measured on an H100 with 16 cores: 93 to 125 s for all networks at once.
COMPILE_LIMIT_S = 900
# Each compiler takes about four cores, and the service beside it needs some.
CORES_EACH = 4
# Packages whose code the networks run, besides torch.
LIBRARIES = ("triton", "torchvision", "facexlib", "face-alignment", "spandrel")
OPTIONS: dict[str, Any] = {
    # No weights in the package: neither as a blob nor, for those of eight numbers and fewer, as literals in the code.
    "aot_inductor.package_constants_in_so": False,
    "always_keep_tensor_constants": True,
    # Every convolution in channels_last, which the compiler would give up for networks whose channels shrink, as
    # decoders' do; the tensor cores read no other layout.
    "force_layout_optimization": True,
}
LOG_TAIL = 2000

Sheet = dict[str, Any]


# What kernels fit


def architecture_of(device: torch.device) -> str:
    """`sm_90`, or the vector instructions of a processor."""
    if device.type == "cuda":
        return "sm_{}{}".format(*torch.cuda.get_device_capability(device))
    return re.sub(r"\W", "_", f"cpu_{torch.backends.cpu.get_cpu_capability()}".lower())


def fit_of(variant: InferenceVariant, device: torch.device) -> Sheet:
    """All that a package depends on, by the name that a refusal gives it."""
    return {
        "architecture": architecture_of(device),
        "torch": torch.__version__,
        "networks": _source_digest(),
        "precision": variant.precision,
        "batch": variant.compiled_batch,
    }


@lru_cache(maxsize=1)
def _source_digest() -> str:
    """Of this package's files and of the libraries' versions."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    for name in LIBRARIES:
        try:
            digest.update(f"{name} {version(name)}".encode())
        except PackageNotFoundError:
            continue
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class KernelPackage:
    """Where the kernels of a network are, or would be."""

    name: str
    folder: Path
    variant: InferenceVariant
    device: torch.device

    @property
    def path(self) -> Path:
        return self.folder / architecture_of(self.device) / f"{self.name}.pt2"

    @property
    def sheet_path(self) -> Path:
        return self.path.with_suffix(".json")

    def check(self) -> Sheet:
        """The sheet. Raises KernelsUnfitError, naming what differs and what to do."""
        try:
            sheet: Sheet = json.loads(self.sheet_path.read_text())
            found = dict(sheet["fit"])
        except FileNotFoundError:
            raise KernelsUnfitError(f"{self.path} does not exist. {self._remedy}") from None
        except (OSError, ValueError, LookupError, TypeError) as error:
            kind = type(error).__name__
            raise KernelsUnfitError(f"{self.sheet_path} cannot be read ({kind}). {self._remedy}") from None
        for key, wanted in fit_of(self.variant, self.device).items():
            if found.get(key) != wanted:
                raise KernelsUnfitError(
                    f"{self.path} was compiled for {key} {found.get(key)}, and here it is {wanted}. {self._remedy}"
                )
        return sheet

    @property
    def _remedy(self) -> str:
        return f"Run `retalking compile --out {self.folder}` on a machine with this GPU."

    def load(self, network: nn.Module) -> Callable[..., tuple[Tensor, ...]]:
        """The kernels, on the weights of this network, which must stay where they are. Results come in the order of
        `result_tensors`. Raises KernelsUnfitError."""
        sheet = self.check()
        weights = _weights_of(network)
        constants: dict[str, Tensor] = {}
        for key, described in sheet["constants"].items():
            if key not in weights or _describe(weights[key]) != described:
                raise KernelsUnfitError(f"{self.path} wants {key} as {described}, which the network has not.")
            constants[key] = weights[key]
        try:
            # Single-threaded: the other way asks the device between its kernels, which no recording survives.
            model = torch._inductor.aoti_load_package(str(self.path), run_single_threaded=True)
            model.load_constants(constants, check_full_update=True, user_managed=True)
        except (RuntimeError, OSError, ValueError) as error:
            first = str(error).partition("\n")[0]
            raise KernelsUnfitError(f"{self.path} cannot be loaded: {first}. {self._remedy}") from error

        def run(
            *inputs: Tensor, kept: Mapping[str, Tensor] = MappingProxyType(constants), **options: Any
        ) -> tuple[Tensor, ...]:
            # `kept` as long as the function: the package holds pointers only.
            return model(*inputs, **options)

        return run

    def adopt(self, network: InferenceNetwork) -> None:
        """Swap the kernels into a network that runs. Raises KernelsUnfitError."""
        kernels = self.load(network.network)
        inputs, options = example_inputs(self.name, self.variant, self.device)
        with network.context():
            structure = map_tensors(network.network(*inputs, **options), lambda x: x.to("meta"))

        def run(*given: Tensor, **more: Any) -> Any:
            found = iter(kernels(*given, **more))
            return map_tensors(structure, lambda _: next(found))

        network.adopt(run, inputs, options)


def example_inputs(
    name: str, variant: InferenceVariant, device: torch.device
) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
    """Noise in the shapes that the engine calls a network with, the batch on the first axis; the same at every call."""
    batch = variant.compiled_batch or 1
    generator = torch.Generator().manual_seed(0)
    inputs = tuple(torch.rand(batch, *shape, generator=generator).to(device) for shape in INPUT_SHAPES[name])
    options: dict[str, Any] = {}
    if name == "enet":
        from retalking_core.networks.enet import ENet

        options["noises"] = [torch.randn(1, 1, n, n, generator=generator).to(device) for n in ENet.noise_sizes]
    return inputs, options


# Compiling


class _Forward(nn.Module):
    """A network's forward as it is exported: its casts inside, a flat tuple of tensors out."""

    def __init__(self, network: nn.Module, half: torch.dtype | None, device: str) -> None:
        super().__init__()
        self.network, self.precision, self.kind = network, half, device

    def forward(self, *inputs: Tensor, **options: Any) -> tuple[Tensor, ...]:
        if self.precision is None:
            return tuple(result_tensors(self.network(*inputs, **options)))
        with torch.autocast(self.kind, dtype=self.precision):
            return tuple(result_tensors(self.network(*inputs, **options)))


def _weights_of(network: nn.Module) -> dict[str, Tensor]:
    """By the names that they have in a package; a tensor that is used in two places has both."""
    pairs = [
        *network.named_parameters(prefix="network", remove_duplicate=False),
        *network.named_buffers(prefix="network", remove_duplicate=False),
    ]
    return {name: tensor.detach() for name, tensor in pairs}


def _describe(tensor: Tensor) -> list[Any]:
    return [str(tensor.dtype), list(tensor.shape), list(tensor.stride())]


def compile_network(package: KernelPackage, network: nn.Module) -> None:
    """Write the package of a prepared network, whose weights' numbers do not matter. The sheet comes last."""
    inputs, options = example_inputs(package.name, package.variant, package.device)
    forward = _Forward(network, HALF_DTYPES.get(package.variant.precision), package.device.type)
    package.path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=package.path.parent, prefix=f".{package.name}-") as folder:
        made = Path(folder) / package.path.name
        with torch.no_grad(), _switched(package.variant):
            exported = torch.export.export(forward, inputs, options, strict=False)
            torch._inductor.aoti_compile_and_package(exported, package_path=str(made), inductor_configs=OPTIONS)
        wanted = torch._inductor.aoti_load_package(str(made), run_single_threaded=True).get_constant_fqns()
        weights = _weights_of(network)
        if foreign := [key for key in wanted if key not in weights]:
            raise KernelsUnfitError(f"{package.name} makes tensors that are not its weights: {', '.join(foreign)}")
        constants = {key: _describe(weights[key]) for key in wanted}
        sheet = {"fit": fit_of(package.variant, package.device), "constants": constants}
        package.sheet_path.unlink(missing_ok=True)
        made.replace(package.path)
        written = Path(folder) / package.sheet_path.name
        written.write_text(json.dumps(sheet, indent=1) + "\n")
        written.replace(package.sheet_path)


@contextmanager
def _switched(variant: InferenceVariant) -> Iterator[None]:
    """The compiler asks torch's switches, too. The process is this network's alone."""
    allowed = variant.precision != "fp32"
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed
    yield


def compile_named(package: KernelPackage) -> bool:
    """Compile a network by name unless its package fits; False then. One process at a time does it."""
    package.path.parent.mkdir(parents=True, exist_ok=True)
    with package.path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            package.check()
        except KernelsUnfitError:
            pass
        else:
            return False
        with torch.device(package.device):
            network = networks.build(package.name)
        for tensor in (*network.parameters(), *network.buffers()):
            if tensor.is_floating_point():
                # All different: what is the same everywhere, such as a bias of zeros, the compiler may simplify.
                tensor.data.uniform_(0.01, 0.02)
        prepared = prepare(package.name, network, package.variant)
        compile_network(package, prepared.network)
    return True


def missing_build_tools() -> str | None:
    """What compilation lacks besides torch, and how to install it; None if networks can be compiled.

    The compiler writes C++ against the headers of CUDA, and Triton builds its launchers with Python's.
    """
    if not any(map(shutil.which, filter(None, (os.environ.get("CXX"), "g++", "clang++")))):
        return "There is no C++ compiler: install g++ (Debian: apt-get install g++), or name one in CXX."
    scheme = sysconfig.get_default_scheme()
    # As Triton looks for them: Debian's own scheme names a folder for local packages.
    headers = Path(sysconfig.get_paths("posix_prefix" if scheme == "posix_local" else scheme)["include"])
    if not (headers / "Python.h").is_file():
        return f"Python's headers are not at {headers}: install them (Debian: apt-get install libpython3-dev)."
    if torch.cuda.is_available() and _toolkit() is None:
        return "CUDA's headers are missing: install the extra `gpu` of retalking, or a CUDA toolkit (CUDA_HOME)."
    return None


def _toolkit() -> str | None:
    """Folder with CUDA's headers: of a toolkit, or of the packages that the extra `gpu` brings."""
    nvcc = shutil.which("nvcc")
    major = (torch.version.cuda or "").partition(".")[0]
    homes = (
        os.environ.get("CUDA_HOME"),
        nvcc and Path(nvcc).resolve().parents[1],
        "/usr/local/cuda",
        Path(torch.__file__).parents[1] / "nvidia" / f"cu{major}",
    )
    needed = ("cuda_runtime.h", "crt/host_config.h")
    return next(
        (str(home) for home in homes if home and all((Path(home) / "include" / name).is_file() for name in needed)),
        None,
    )


@contextmanager
def _linkable_driver() -> Iterator[None]:
    """The linker asks for `libcuda.so`, and a driver that is mounted into a container often brings `libcuda.so.1`."""
    with tempfile.TemporaryDirectory(prefix="retalking-driver-") as folder:
        maps = Path("/proc/self/maps").read_text() if Path("/proc/self/maps").exists() else ""
        driver = next((line.split()[-1] for line in maps.splitlines() if "/libcuda.so" in line), None)
        if driver is not None:
            (Path(folder) / "libcuda.so").symlink_to(driver)
            os.environ["LIBRARY_PATH"] = os.pathsep.join(filter(None, (folder, os.environ.get("LIBRARY_PATH"))))
        yield


class Compilation:
    """A process that compiles one network. Ends with this process, and after COMPILE_LIMIT_S."""

    def __init__(self, package: KernelPackage) -> None:
        self.package = package
        self.started_s = time.monotonic()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `finish` and `stop`)
        command = [
            sys.executable,
            "-m",
            "retalking_core.networks.kernels",
            package.name,
            "--folder",
            str(package.folder.resolve()),
        ]
        command += ["--device", str(package.device), "--batch", str(package.variant.compiled_batch)]
        root = str(Path(networks.__file__).parents[2])
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        toolkit = _toolkit()
        # What the compiler and Triton make is loaded as code, which a temporary folder may forbid.
        environment = {"TORCHINDUCTOR_CACHE_DIR": str(package.folder.resolve() / "cache"), **os.environ}
        environment |= {"PYTHONPATH": path} | ({} if toolkit is None else {"CUDA_HOME": toolkit})
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=self._log, stderr=self._log, env=environment
        )

    @property
    def is_over(self) -> bool:
        return self._process.poll() is not None

    def finish(self) -> None:
        """Waits. Raises KernelsUnfitError with the end of what the process said."""
        code = self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()
        with self._log as said:
            said.seek(0)
            text = said.read().decode(errors="replace").strip()
        if code:
            raise KernelsUnfitError(f"{self.package.name} was not compiled (exit code {code}): {text[-LOG_TAIL:]}")

    def stop(self) -> None:
        self._process.kill()
        with self._log:
            self._process.wait()


def packages_of(variants: Mapping[str, InferenceVariant], folder: Path, device: torch.device) -> list[KernelPackage]:
    """Of all networks that an engine runs compiled; LNet is part of ENet."""
    return [
        KernelPackage(name, folder, variant, device)
        for name, variant in variants.items()
        if variant.compiled_batch is not None and name in INPUT_SHAPES
    ]


def compile_all(packages: Sequence[KernelPackage], failures: dict[str, str] | None = None) -> Iterator[str]:
    """Compile side by side, each in a process of its own; the names as they are done. Those that failed are put into
    `failures` with the reason; without it, raises KernelsUnfitError for the first."""
    most = max(1, (os.cpu_count() or 1) // CORES_EACH)
    waiting, running = list(packages), dict[str, Compilation]()
    try:
        while waiting or running:
            while waiting and len(running) < most:
                package = waiting.pop(0)
                running[package.name] = Compilation(package)
            for name in [name for name, each in running.items() if each.is_over]:
                try:
                    running.pop(name).finish()
                except KernelsUnfitError as error:
                    if failures is None:
                        raise
                    failures[name] = error.message
                else:
                    yield name
            time.sleep(0.1)
    finally:
        for each in running.values():
            each.stop()


def main(arguments: Sequence[str] | None = None) -> None:
    """Compile one network in this process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", choices=list(INPUT_SHAPES))
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--batch", type=int, required=True)
    asked = parser.parse_args(arguments)
    signal.alarm(COMPILE_LIMIT_S)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.nice(10)
    warnings.simplefilter("ignore")
    device, variant = torch.device(asked.device), fast_variants(asked.batch)[asked.network]
    if device.type == "cuda":
        torch.cuda.init()
    with _linkable_driver():
        compile_named(KernelPackage(asked.network, asked.folder, variant, device))


def _end_with_parent() -> None:
    """The parent holds the other end of this pipe."""
    sys.stdin.buffer.read()
    os._exit(1)


# Serving meanwhile


class KernelSwap:
    """Gives networks their compiled kernels, one network after the other, while others call them.

    Packages that do not fit are compiled first, where a compiler is installed. A network without kernels keeps the
    plain ones: slower, and as exact.
    """

    def __init__(self, loaded: Mapping[str, InferenceNetwork], folder: Path) -> None:
        self._networks = {name: each for name, each in loaded.items() if each.awaits_kernels and name in INPUT_SHAPES}
        self._packages = {
            name: KernelPackage(name, folder, each.variant, each.device) for name, each in self._networks.items()
        }
        self.failures: dict[str, str] = {}
        """Network -> why it keeps its plain kernels."""

    def start(self) -> threading.Thread:
        """`run` in a daemon thread."""
        thread = threading.Thread(target=self.run, name="kernels", daemon=True)
        thread.start()
        return thread

    def run(self) -> None:
        """Returns when every network has its kernels, or was given up. Raises nothing."""
        began = time.perf_counter()
        for name in self._packages:
            self._attempt(name)
        unfit = [self._packages[name] for name in self.failures]
        if unfit and (missing := missing_build_tools()) is not None:
            log.error("networks keep plain kernels, several times slower: %s", missing)
        elif unfit:
            try:
                for name in compile_all(unfit, self.failures):
                    self._attempt(name)
            except OSError as error:  # no process can be started, or no folder written
                log.error("networks cannot be compiled: %s", error)
        for name, reason in self.failures.items():
            log.error("plain kernels for %s: %s", name, reason)
        done = len(self._packages) - len(self.failures)
        log.info("compiled kernels: %s of %s networks, %.1f s", done, len(self._packages), time.perf_counter() - began)

    def _attempt(self, name: str) -> None:
        try:
            self._packages[name].adopt(self._networks[name])
        except KernelsUnfitError as error:
            self.failures[name] = error.message
        except Exception as error:  # of the compiler's or the driver's: the service goes on with what it has
            log.exception("kernels of %s", name)
            self.failures[name] = f"{type(error).__name__}: {error}"
        else:
            self.failures.pop(name, None)


if __name__ == "__main__":
    main()
