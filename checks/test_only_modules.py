"""No module of the library that only tests import: `python -m checks.test_only_modules`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = "retalking_core"
# Who may be the reader of a module: the product, and the programs that measure and document it.
READERS = ("api", "bench", "cli", "deploy", "docs", "examples", "jobs", "worker", LIBRARY)


def unread_modules(library: Iterable[Path], readers: Iterable[Path], root: Path) -> list[str]:
    """Dotted names of the library's modules that no other file names: in an import, a string or a configuration."""
    texts = {path: path.read_text(encoding="utf-8") for path in readers}
    unread = []
    for path in sorted(library):
        if path.name in ("__init__.py", "__main__.py"):
            continue
        package, _, leaf = ".".join(path.relative_to(root).with_suffix("").parts).rpartition(".")
        dotted = rf"{re.escape(package)}\.{leaf}\b"
        listed = rf"from {re.escape(package)} import [^\n]*\b{leaf}\b"
        # `networks` names its modules by their last part.
        named = re.compile(rf'{dotted}|{listed}|\("{leaf}", "')
        if not any(named.search(text) for other, text in texts.items() if other != path):
            unread.append(f"{package}.{leaf}")
    return unread


def main() -> int:
    library = list((ROOT / LIBRARY).rglob("*.py"))
    readers = [path for folder in READERS for path in (ROOT / folder).rglob("*.py")] + [ROOT / "pyproject.toml"]
    unread = unread_modules(library, readers, ROOT)
    print("\n".join(f"only tests import {name}" for name in unread) or f"every module of {LIBRARY} has a reader")
    return 1 if unread else 0


if __name__ == "__main__":
    sys.exit(main())
