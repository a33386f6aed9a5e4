"""What the two wheels install, read from wheels built of a copy of the sources; no network."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

from tests.api.running import ROOT

SERVICE = {"api", "cli", "jobs", "retalking_client", "retalking_core", "worker"}


def build(source: Path, out: Path) -> zipfile.ZipFile:
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(out)]
    command = [sys.executable, "-m", "pip", "wheel", *options, str(source)]
    subprocess.run(command, check=True, timeout=240)
    (wheel,) = out.glob("*.whl")
    return zipfile.ZipFile(wheel)


def copy_sources(target: Path) -> Path:
    """A checkout without what builds and runs left in ours."""
    leftovers = shutil.ignore_patterns(
        ".*", "__pycache__", "*.egg-info", "build", "dist", "out", "data", "node_modules"
    )
    return Path(shutil.copytree(ROOT, target, ignore=leftovers))


def metadata_of(wheel: zipfile.ZipFile, name: str) -> str:
    (path,) = (path for path in wheel.namelist() if path.endswith(f".dist-info/{name}"))
    return wheel.read(path).decode()


def top_level(wheel: zipfile.ZipFile) -> set[str]:
    return {path.partition("/")[0] for path in wheel.namelist() if ".dist-info/" not in path}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_sources(tmp_path_factory.mktemp("sources") / "checkout")


@pytest.fixture(scope="module")
def client_wheel(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    return build(sources / "retalking_client", tmp_path_factory.mktemp("client"))


def test_the_client_wheel_installs_one_package_and_one_command(client_wheel: zipfile.ZipFile) -> None:
    assert top_level(client_wheel) == {"retalking_client"}
    modules = {path for path in client_wheel.namelist() if path.startswith("retalking_client/")}
    written = {
        str(path.relative_to(ROOT)) for path in (ROOT / "retalking_client").rglob("*.py") if "build" not in path.parts
    }
    assert modules == written | {"retalking_client/py.typed"}
    scripts = configparser.ConfigParser()
    scripts.read_string(metadata_of(client_wheel, "entry_points.txt"))
    assert dict(scripts["console_scripts"]) == {"retalking": "retalking_client.cli.main:main"}


def test_the_client_wheel_requires_no_package_of_the_service(client_wheel: zipfile.ZipFile) -> None:
    headers = HeaderParser().parsestr(metadata_of(client_wheel, "METADATA"))
    required = {str(re.match(r"[\w-]+", line)[0]) for line in headers.get_all("Requires-Dist", [])}
    assert required == {
        "c2pa-python",  # extra `inspect`
        "mcp",  # extra `mcp`
        "httpx",
        "pydantic",
        "rich",
        "standardwebhooks",
        "typer",
        "typing-extensions",
    }
    assert metadata_of(client_wheel, "licenses/LICENSE") == (ROOT / "LICENSE").read_text()


def test_the_client_wheel_runs_without_the_service(client_wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    """The unpacked wheel alone on the path, outside the checkout: no module of the service is imported."""
    client_wheel.extractall(tmp_path)
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import retalking_client;"
        "assert not {'typer', 'retalking_client.cli'} & set(sys.modules), 'the library imports the commands';"
        f"assert retalking_client.__file__.startswith({str(tmp_path)!r}), retalking_client.__file__;"
        "from retalking_client.cli.main import main; sys.argv = ['retalking', '--help'];\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "foreign = {'api', 'bench', 'cli', 'jobs', 'retalking_core', 'worker'} & set(sys.modules)\n"
        "assert not foreign, foreign"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert {"submit", "jobs", "wait", "download", "inspect"} <= set(done.stdout.split())


def test_the_service_wheel_holds_the_service_alone(
    sources: Path, client_wheel: zipfile.ZipFile, tmp_path: Path
) -> None:
    """After a build of the client, which leaves `build` in its folder."""
    assert (sources / "retalking_client" / "build").is_dir()
    wheel = build(sources, tmp_path)
    assert top_level(wheel) == SERVICE
    assert not [path for path in wheel.namelist() if "/build/" in path]
    assert {"api/static/index.html", "retalking_client/cli/main.py"} <= set(wheel.namelist())
    assert any(path.endswith(".lua") for path in wheel.namelist())
