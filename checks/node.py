"""Node.js programs of the checks: package.json has their exact versions, package-lock.json their hashes."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from docs.making.http_page import read_document

OLDEST_NODE = (20, 19)


def reason_to_skip() -> str | None:
    if not shutil.which("npm") or not shutil.which("node"):
        return "Node.js with npm is not installed"
    version = subprocess.run(["node", "--version"], check=True, capture_output=True, text=True).stdout.strip()
    if tuple(map(int, version.removeprefix("v").split(".")[:2])) < OLDEST_NODE:
        return f"Node.js {version} is older than {'.'.join(map(str, OLDEST_NODE))}"
    return None


def install(folder: Path) -> None:
    """Exactly what package-lock.json names, unless it is installed already."""
    installed, lock = folder / "node_modules" / ".installed-lock.json", folder / "package-lock.json"
    if not installed.is_file() or installed.read_bytes() != lock.read_bytes():
        subprocess.run(["npm", "ci", "--loglevel=error"], cwd=folder, check=True)
        installed.write_bytes(lock.read_bytes())


def write_document(folder: Path) -> Path:
    """The service's OpenAPI document as build/openapi.json of a folder. Returns the build folder."""
    build = folder / "build"
    build.mkdir(exist_ok=True)
    (build / "openapi.json").write_text(json.dumps(read_document()), "utf-8")
    return build
