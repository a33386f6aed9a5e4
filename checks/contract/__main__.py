"""Lint of the OpenAPI document by Redocly's recommended rules, where Node.js is installed: `python -m checks.contract`.

Packages: package.json beside this file. tests/contract/test_generated_clients.py uses its TypeScript generator.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from checks.node import install, reason_to_skip, write_document

HERE = Path(__file__).parent


def main() -> int:
    reason = reason_to_skip()
    if reason is not None:
        print(f"OpenAPI document not linted: {reason}")
        return 0
    install(HERE)
    write_document(HERE)
    program = "node_modules/@redocly/cli/bin/cli.js"
    command = ["node", program, "lint", "build/openapi.json", "--config", "redocly.yaml", "--max-problems", "1000"]
    quiet = {"REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true"}
    run = subprocess.run(command, cwd=HERE, env=os.environ | quiet, check=False, capture_output=True, text=True)
    if run.returncode or "Your API description is valid" not in run.stdout + run.stderr:
        print(run.stdout, run.stderr, sep="\n")
        return 1
    print("OpenAPI document: lint is clean")
    return 0


if __name__ == "__main__":
    sys.exit(main())
