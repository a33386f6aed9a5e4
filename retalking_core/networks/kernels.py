"""Compiled kernels of the networks: where they are kept, processes that make them, and the swap while jobs run.

The compiler (TorchInductor) keeps what it made in a folder; with all of it there, compiling takes seconds instead of
minutes. Processes of their own fill that folder, one network each, so that a compiler that crashes, or wants the
interpreter for itself, does not disturb a worker. A bundle is such a folder in one file, for machines like this one.
It holds no weights, but it holds code: what it says is executed.

    python -m retalking_core.networks.kernels NETWORK --folder DIR --device cuda --batch 16     compiles one network
"""

from __future__ import annotations

import argparse
import atexit
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
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from retalking_core import networks
from retalking_core.errors import KernelsUnfitError
from retalking_core.networks import INPUT_SHAPES
from retalking_core.networks.inference import InferenceNetwork, fast_variants, prepare
from retalking_core.threads import Turns

log = logging.getLogger(__name__)

COMPILE_LIMIT_S = 900
# Each compiler takes about four cores.
CORES_EACH = 4
# At once beside a service: each holds a CUDA context and a network of its own on the device.
MOST_BESIDE_JOBS = 2
# Packages whose code the networks run or are compiled by, besides torch.
LIBRARIES = ("triton", "torchvision", "facexlib", "face-alignment", "spandrel")
LOG_TAIL = 2000

# Bundles
FORMAT = 1
SHEET = "kernels.json"
MOST_BUNDLES, MOST_FILES, MOST_BYTES, MOST_SHEET_BYTES = 64, 100_000, 2**32, 2**16
READ_BYTES = 2**20
# NotImplementedError: an unknown compression; RuntimeError: encrypted.
UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, RuntimeError)


# What kernels fit


def fit_of(device: torch.device, batch: int) -> dict[str, str]:
    """All that compiled kernels depend on, by the name that a refusal gives it.

    The device's name is part of it because the compiler looks its results up by it: an H100 finds nothing of an H200's.
    """
    on_gpu = device.type == "cuda"
    major, minor = torch.cuda.get_device_capability(device) if on_gpu else (0, 0)
    return {
        "architecture": f"sm_{major}{minor}" if on_gpu else f"cpu {torch.backends.cpu.get_cpu_capability()}",
        "device": torch.cuda.get_device_name(device) if on_gpu else "CPU",
        "torch": torch.__version__,
        "python": sysconfig.get_python_version(),
        "networks": _source_digest(),
        "batch": str(batch),
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


def compiled_names() -> tuple[str, ...]:
    """Networks that the fast engine runs compiled, the ones that gain most first; LNet is part of ENet."""
    first = ("gfpgan", "gpen512", "enet", "dnet", "parsenet")
    return (*first, *(name for name in INPUT_SHAPES if name not in first))


class KernelCache:
    """The compiler's folder, and which networks are in it for one device and batch size."""

    def __init__(self, folder: Path, device: torch.device, batch: int) -> None:
        self.folder, self.device, self.batch = folder.resolve(), device, batch
        self.fit = fit_of(device, batch)
        digest = hashlib.sha256(json.dumps(self.fit, sort_keys=True).encode()).hexdigest()[:16]
        self._marks = self.folder / "retalking" / digest

    def has(self, name: str) -> bool:
        return self._mark(name).is_file()

    def missing(self, names: Sequence[str]) -> list[str]:
        return [name for name in names if not self.has(name)]

    def mark(self, name: str) -> None:
        """Say that everything of a network is in the folder."""
        self._marks.mkdir(parents=True, exist_ok=True)
        self._mark(name).touch()

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """One process at a time compiles a network."""
        self._marks.mkdir(parents=True, exist_ok=True)
        with self._mark(name).with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _mark(self, name: str) -> Path:
        return self._marks / f"{name}.compiled"

    @property
    def bundle_name(self) -> str:
        """`sm_90-NVIDIA_H100-torch-2.11.0-<digest>.zip`"""
        parts = (self.fit["architecture"], self.fit["device"], "torch", self.fit["torch"], self._marks.name[:8])
        return re.sub(r"[^\w.+-]", "_", "-".join(parts)) + ".zip"

    def write_bundle(self, folder: Path, names: Sequence[str]) -> Path:
        """Everything in the compiler's folder as one file, in one step."""
        if missing := self.missing(names):
            raise KernelsUnfitError(f"These networks are not compiled: {', '.join(missing)}.")
        folder.mkdir(parents=True, exist_ok=True)
        files = sorted(path for path in self.folder.rglob("*") if path.is_file() and self._belongs(path))
        sheet = {"format": FORMAT, "fit": self.fit, "networks": list(names)}
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".bundle-", delete=False) as file:
            try:
                with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
                    archive.writestr(SHEET, json.dumps(sheet, indent=1))
                    for path in files:
                        archive.write(path, f"cache/{path.relative_to(self.folder).as_posix()}")
                target = folder / self.bundle_name
                os.chmod(file.name, 0o644)
                Path(file.name).replace(target)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
        return target

    def _belongs(self, path: Path) -> bool:
        """Not our marks, the compiler's locks, nor what numba keeps in the same folder."""
        top = path.relative_to(self.folder).parts[0]
        return top not in ("retalking", "numba") and path.suffix != ".lock"

    def find_bundle(self, folder: Path) -> Path:
        """The one that fits. Raises: KernelsUnfitError, naming what is wrong with each bundle there."""
        return self._first_fitting(folder, lambda _archive, _names: None)

    def adopt_bundle(self, folder: Path) -> Path:
        """Unpack the bundle that fits into the compiler's folder, and mark its networks. Its path. Raises as
        `find_bundle` does."""
        return self._first_fitting(folder, self._unpack)

    def _first_fitting(self, folder: Path, use: Callable[[zipfile.ZipFile, list[str]], None]) -> Path:
        reasons = []
        for path in sorted(folder.glob("*.zip"))[:MOST_BUNDLES]:
            try:
                with zipfile.ZipFile(path) as archive:
                    use(archive, self._checked(path, archive))
            except KernelsUnfitError as error:
                reasons.append(error.message)
            except UNREADABLE as error:
                reasons.append(f"{path.name} is damaged or cannot be read: {type(error).__name__}: {error}.")
            else:
                return path
        reason = " ".join(reasons) or f"{folder} holds no bundle (*.zip)."
        raise KernelsUnfitError(f"{reason} Run `retalking compile --out {folder}` on a machine like this one.")

    def _unpack(self, archive: zipfile.ZipFile, names: list[str]) -> None:
        if not self.missing(names):
            return
        for member in archive.infolist():
            target = self.folder / member.filename.removeprefix("cache/")
            if member.filename == SHEET or target.exists():  # the compiler names files by their content
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".unpack-", delete=False) as out:
                try:
                    with archive.open(member) as source:
                        shutil.copyfileobj(source, out, READ_BYTES)  # checks the sum at the end
                    os.chmod(out.name, 0o755 if target.suffix == ".so" else 0o644)
                    Path(out.name).replace(target)
                except BaseException:
                    Path(out.name).unlink(missing_ok=True)
                    raise
        for name in names:
            self.mark(name)

    def _checked(self, path: Path, archive: zipfile.ZipFile) -> list[str]:
        """Names of the networks in a bundle that fits and stays inside the folder. Raises KernelsUnfitError."""
        members = archive.infolist()
        sheets = [member for member in members if member.filename == SHEET]
        if len(sheets) != 1 or sheets[0].file_size > MOST_SHEET_BYTES:
            raise KernelsUnfitError(f"{path.name} is no bundle of compiled kernels: it holds no {SHEET}.")
        sheet: Any = json.loads(archive.read(SHEET))
        is_sheet = (
            isinstance(sheet, dict) and isinstance(sheet.get("fit"), dict) and isinstance(sheet.get("networks"), list)
        )
        if not is_sheet or sheet.get("format") != FORMAT:
            raise KernelsUnfitError(f"{path.name} is a bundle of another format.")
        for key, wanted in self.fit.items():
            if sheet["fit"].get(key) != wanted:
                raise KernelsUnfitError(f"{path.name} was made for {key} {sheet['fit'].get(key)}; this is {wanted}.")
        if len(members) > MOST_FILES or sum(member.file_size for member in members) > MOST_BYTES:
            raise KernelsUnfitError(f"{path.name} is too large: over {MOST_FILES} files or {MOST_BYTES} bytes.")
        for member in members:
            parts = member.filename.split("/")
            if member.filename != SHEET and (parts[0] != "cache" or len(parts) < 2 or not _are_plain(parts)):
                raise KernelsUnfitError(f"{path.name} holds {member.filename!r}, which lies outside of its folder.")
        return [name for name in compiled_names() if name in sheet["networks"]]


def _are_plain(parts: Sequence[str]) -> bool:
    return all(part not in ("", ".", "..") and "\\" not in part and "\0" not in part for part in parts)


# Compiling


def example_call(name: str, device: torch.device) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
    """Noise in the shapes of the engine's calls, one sample; the same each time."""
    generator = torch.Generator().manual_seed(0)
    inputs = tuple(torch.rand(1, *shape, generator=generator).to(device) for shape in INPUT_SHAPES[name])
    options: dict[str, Any] = {}
    if name == "enet":
        from retalking_core.networks.enet import ENet

        options["noises"] = [torch.randn(1, 1, n, n, generator=generator).to(device) for n in ENet.noise_sizes]
    return inputs, options


def compile_named(cache: KernelCache, name: str) -> bool:
    """Compile a network, whose weights do not matter, into the cache; False if it is there already."""
    with cache.locked(name):
        if cache.has(name):
            return False
        with torch.device(cache.device):
            network = networks.build(name)
        prepared = prepare(name, network, fast_variants(cache.batch)[name])
        inputs, options = example_call(name, cache.device)
        prepared.compile_kernels(*inputs, check=False, **options)
        cache.mark(name)
    return True


def missing_build_tools() -> str | None:
    """What compilation lacks besides torch, and how to install it; None if networks can be compiled.

    Triton builds its launchers with a C compiler.
    """
    if not any(map(shutil.which, filter(None, (os.environ.get("CC"), "gcc", "clang")))):
        return "There is no C compiler: install g++ (Debian: apt-get install g++), or name one in CC."
    scheme = sysconfig.get_default_scheme()
    # As Triton looks for them: Debian's own scheme names a folder for local packages.
    headers = Path(sysconfig.get_paths("posix_prefix" if scheme == "posix_local" else scheme)["include"])
    if not (headers / "Python.h").is_file():
        return f"Python's headers are not at {headers}: install them (Debian: apt-get install libpython3-dev)."
    return None


class Compilation:
    """A process that compiles one network. It ends with this process, and after COMPILE_LIMIT_S."""

    def __init__(self, cache: KernelCache, name: str) -> None:
        self.name = name
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `finish` and `stop`)
        command = [sys.executable, "-m", "retalking_core.networks.kernels", name, "--folder", str(cache.folder)]
        command += ["--device", str(cache.device), "--batch", str(cache.batch)]
        root = str(Path(networks.__file__).parents[2])
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        environment = os.environ | {"PYTHONPATH": path, "TORCHINDUCTOR_CACHE_DIR": str(cache.folder)}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=self._log, stderr=self._log, env=environment
        )

    @property
    def is_over(self) -> bool:
        return self._process.poll() is not None

    def finish(self) -> None:
        """Wait. Raises KernelsUnfitError with the end of what the process printed."""
        code = self._process.wait()
        self._close_stdin()
        with self._log as printed:
            printed.seek(0, os.SEEK_END)
            printed.seek(max(0, printed.tell() - LOG_TAIL))
            text = printed.read().decode(errors="replace").strip()
        if code:
            raise KernelsUnfitError(f"{self.name} was not compiled (exit code {code}): {text}")

    def stop(self) -> None:
        self._process.kill()
        self._close_stdin()
        with self._log:
            self._process.wait()

    def _close_stdin(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()


def compile_all(
    cache: KernelCache,
    names: Sequence[str],
    at_once: int,
    failures: dict[str, str],
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[str]:
    """Compile side by side, each in a process of its own; the names as they are done. Why the others were not is put
    into `failures`."""
    waiting, running = list(names), dict[str, Compilation]()
    try:
        while (waiting or running) and not stopped():
            while waiting and len(running) < at_once:
                name = waiting.pop(0)
                running[name] = Compilation(cache, name)
            for name in [name for name, each in running.items() if each.is_over]:
                try:
                    running.pop(name).finish()
                except KernelsUnfitError as error:
                    failures[name] = error.message
                else:
                    yield name
            time.sleep(0.1)
    finally:
        for each in running.values():
            each.stop()


def compilers_at_once() -> int:
    return max(1, (os.cpu_count() or 1) // CORES_EACH)


def main(arguments: Sequence[str] | None = None) -> None:
    """Compile one network in this process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", choices=list(INPUT_SHAPES))
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--batch", type=int, required=True)
    asked = parser.parse_args(arguments)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(COMPILE_LIMIT_S)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.nice(10)
    warnings.simplefilter("ignore")
    compile_named(KernelCache(asked.folder, torch.device(asked.device), asked.batch), asked.network)
    # Not the usual end of a process: threads of the compiler are still about.
    sys.stdout.flush()
    os._exit(0)


def _end_with_parent() -> None:
    """The parent holds the other end of this pipe."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


# Serving meanwhile


class KernelSwap:
    """Gives the networks of a running engine their compiled kernels, one network at a time, between two jobs.

    What is not in the cache is taken from a bundle, or compiled by processes of its own. A network without compiled
    kernels keeps the plain ones: slower, and as exact.

    loaded: the networks that the engine holds now. They are asked for anew each time: one that is loaded again in
    float32 must not stay in memory here.
    """

    def __init__(
        self,
        loaded: Callable[[], Mapping[str, InferenceNetwork]],
        cache: KernelCache,
        turns: Turns,
        bundles: Path | None = None,
    ) -> None:
        self._loaded = loaded
        self._cache, self._turns, self._bundles = cache, turns, bundles
        self._stopped = threading.Event()
        self.failures: dict[str, str] = {}
        """Network -> why it keeps its plain kernels."""

    def start(self) -> threading.Thread:
        """`run` in a thread. A process that ends as usual lets it finish the network at hand, since the compiler does
        not survive the interpreter; one that ends with os._exit, as workers do, does not wait."""
        thread = threading.Thread(target=self.run, name="kernels", daemon=True)
        thread.start()

        def finish() -> None:
            self.stop()
            thread.join()

        atexit.register(finish)
        return thread

    def stop(self) -> None:
        """Begin nothing more, and end the processes that compile. Returns at once."""
        self._stopped.set()

    def run(self, at_once: int = MOST_BESIDE_JOBS) -> None:
        """Returns when every network has its kernels, or was given up. Raises nothing."""
        began, wanted = time.perf_counter(), self._waiting()
        try:
            self._run(wanted, at_once)
        except Exception as error:  # no process can be started, no folder written: the service goes on without
            log.exception("compiled kernels given up")
            for name in self._waiting():
                self.failures.setdefault(name, f"{type(error).__name__}: {error}")
        for name, reason in self.failures.items():
            log.error("network %s keeps plain kernels: %s", name, reason)
        done = len(wanted) - len(self._waiting())
        log.info("compiled kernels: %s of %s networks, %.1f s", done, len(wanted), time.perf_counter() - began)

    def _run(self, wanted: Sequence[str], at_once: int) -> None:
        if self._bundles is not None and self._cache.missing(wanted):
            try:
                log.info("compiled kernels from %s", self._cache.adopt_bundle(self._bundles))
            except KernelsUnfitError as error:
                log.warning("no bundle of compiled kernels is used: %s", error.message)
        unmade = self._cache.missing(wanted)
        for name in wanted:
            if name not in unmade:
                self._swap(name)
        if unmade and (missing := missing_build_tools()) is not None:
            self.failures |= dict.fromkeys(unmade, missing)
            return
        for name in compile_all(self._cache, unmade, at_once, self.failures, self._stopped.is_set):
            self._swap(name)

    def _waiting(self) -> list[str]:
        loaded = self._loaded()
        return [name for name in compiled_names() if name in loaded and loaded[name].awaits_kernels]

    def _swap(self, name: str) -> None:
        """Compile with a filled cache, which takes seconds, while no job runs."""
        with self._turns.between_jobs(self._stopped.is_set) as is_free:
            network = self._loaded().get(name)
            if not is_free or network is None or not network.awaits_kernels:
                return
            began = time.perf_counter()
            inputs, options = example_call(name, network.device)
            try:
                network.compile_kernels(*inputs, **options)
            except KernelsUnfitError as error:
                self.failures[name] = error.message
            except Exception as error:  # of the compiler's or the driver's
                log.exception("kernels of %s", name)
                self.failures[name] = f"{type(error).__name__}: {error}"
            if network.device.type == "cuda":
                torch.cuda.empty_cache()  # of trying out algorithms; the device may have other slots
            log.info("kernels of %s: %.1f s", name, time.perf_counter() - began)


if __name__ == "__main__":
    main()
