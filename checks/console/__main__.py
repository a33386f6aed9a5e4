"""Type check and lint of the console's JavaScript, where Node.js is installed: `python -m checks.console`.

The types of the service are generated from its OpenAPI document, so the console is checked against the service itself.
Packages: package.json beside this file, with exact versions and hashes in package-lock.json.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from docs.making.http_page import read_document

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
BUILD = HERE / "build"
OLDEST_NODE = (20, 19)


def reason_to_skip() -> str | None:
    if not shutil.which("npm") or not shutil.which("node"):
        return "Node.js with npm is not installed"
    version = subprocess.run(["node", "--version"], check=True, capture_output=True, text=True).stdout.strip()
    if tuple(map(int, version.removeprefix("v").split(".")[:2])) < OLDEST_NODE:
        return f"Node.js {version} is older than {'.'.join(map(str, OLDEST_NODE))}"
    return None


def install() -> None:
    """Exactly what package-lock.json names, unless it is installed already."""
    installed, lock = HERE / "node_modules" / ".installed-lock.json", HERE / "package-lock.json"
    if not installed.is_file() or installed.read_bytes() != lock.read_bytes():
        subprocess.run(["npm", "ci", "--loglevel=error"], cwd=HERE, check=True)
        installed.write_bytes(lock.read_bytes())


def main() -> int:
    reason = reason_to_skip()
    if reason is not None:
        print(f"console not checked: {reason}")
        return 0
    install()
    BUILD.mkdir(exist_ok=True)
    (BUILD / "openapi.json").write_text(json.dumps(read_document()), "utf-8")
    here, build = HERE.relative_to(ROOT), BUILD.relative_to(ROOT)
    commands = {
        "openapi-typescript/bin/cli.js": [f"{build}/openapi.json", "--output", f"{build}/openapi.d.ts"],
        "typescript/bin/tsc": ["--project", str(here)],
        "eslint/bin/eslint.js": ["--config", f"{here}/eslint.config.js", "api/static", "tests/console"],
    }
    for program, arguments in commands.items():
        command = ["node", f"{here}/node_modules/{program}", *arguments]
        run = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
        if run.returncode:
            print(run.stdout, run.stderr, sep="\n")
            return 1
    print("console: types and lint are clean")
    return 0


if __name__ == "__main__":
    sys.exit(main())
