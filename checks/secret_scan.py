"""Secrets in the repository: `python -m checks.secret_scan [ROOT]`. Ends with 1 and their places when there are any.

detect-secrets looks at every file of the repository, without any network. What it finds and a person judged harmless
(made-up passwords of tests) stands in `.secrets.baseline` by hash, so a line may move; `--accept` writes it anew.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detect_secrets import SecretsCollection
from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
from detect_secrets.settings import default_settings, transient_settings

BASELINE = ".secrets.baseline"
# Numbers and pictures: nothing in them was typed by a person, and looking for random texts in them takes minutes
_SKIPPED = ("tests/golden/", "retalking_core/weights/manifests/", "bench/results/")
_BINARY = (".npz", ".jpg", ".png", ".onnx", ".pdf")
_FOLDERS = {".git", ".venv", "build", "out", "data", "models", "__pycache__"}
# In a repository full of hashes, ids and made-up numbers this one finds nothing but those
_TOO_EAGER = {"HexHighEntropyString"}


def files_of(root: Path) -> list[str]:
    """What git would commit; everything below the folder where there is no git."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(listing, cwd=root, capture_output=True, check=True)
        names = done.stdout.decode().split("\0")
    except (OSError, subprocess.CalledProcessError):
        names = [str(path.relative_to(root)) for path in root.rglob("*") if not _FOLDERS & set(path.parts)]
    return sorted(name for name in names if name and _is_looked_at(root, name))


def _is_looked_at(root: Path, name: str) -> bool:
    if name == BASELINE or name.startswith(_SKIPPED) or name.endswith(_BINARY):
        return False
    return (root / name).is_file()


def find_secrets(root: Path) -> Iterator[dict[str, Any]]:
    """type, filename, hashed_secret and line_number of each."""
    own = Path(__file__).with_name("secret_detector.py").resolve().as_uri()
    with default_settings() as defaults:
        plugins = [{"name": name, **how} for name, how in defaults.plugins.items() if name not in _TOO_EAGER]
    with transient_settings({"plugins_used": [*plugins, {"name": "RetalkingSecretDetector", "path": own}]}):
        get_mapping_from_secret_type_to_class.cache_clear()  # it remembers the plugins without ours
        found = SecretsCollection(root=str(root))
        for name in files_of(root):
            found.scan_file(name)
        for _, secret in found:
            yield secret.json() | {"filename": os.path.relpath(secret.filename, root)}


def _name_of(secret: dict[str, Any]) -> tuple[str, str]:
    return secret["filename"], secret["hashed_secret"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", nargs="?", type=Path, default=Path())
    parser.add_argument("--accept", action="store_true", help="all that is found now is harmless")
    asked = parser.parse_args()
    baseline = asked.root / BASELINE
    found = list(find_secrets(asked.root))
    if asked.accept:
        kept = sorted({_name_of(secret) for secret in found})
        rows = [{"filename": name, "hashed_secret": digest} for name, digest in kept]
        baseline.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
        print(f"{len(kept)} accepted in {baseline}")
        return 0
    accepted = {_name_of(row) for row in json.loads(baseline.read_text("utf-8"))} if baseline.exists() else set()
    fresh = [secret for secret in found if _name_of(secret) not in accepted]
    for secret in fresh:
        print(f"{secret['filename']}:{secret['line_number']}: {secret['type']}")
    if fresh:
        print(
            "Take it out and replace it. "
            "If it is made up: `python -m checks.secret_scan --accept`, and look at the diff."
        )
    else:
        print(f"No secrets in {len(files_of(asked.root))} files ({len(accepted)} made-up ones are known)")
    return 1 if fresh else 0


if __name__ == "__main__":
    sys.exit(main())
