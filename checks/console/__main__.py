"""Type check and lint of the console's JavaScript, where Node.js is installed: `python -m checks.console`.

The types of the service are generated from its OpenAPI document, so the console is checked against the service itself.
Packages: package.json beside this file, with exact versions and hashes in package-lock.json.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from checks.node import install, reason_to_skip, write_document

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def main() -> int:
    reason = reason_to_skip()
    if reason is not None:
        print(f"console not checked: {reason}")
        return 0
    install(HERE)
    here, build = HERE.relative_to(ROOT), write_document(HERE).relative_to(ROOT)
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
