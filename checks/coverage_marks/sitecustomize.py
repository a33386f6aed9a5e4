"""Measures branch coverage in this process: loads our modules as `checks.branch_coverage` compiled them.

Python imports this module at the start of every process that has this folder on PYTHONPATH. The marks are one file
that all processes map, so a process that is killed or forked loses nothing, and none writes anything at its end. A
process that may not write there, of another user, is not measured.
"""

from __future__ import annotations

import builtins
import marshal
import mmap
import os
from importlib.machinery import SourceFileLoader
from types import CodeType

_FOLDER = os.environ.get("BRANCH_COVERAGE_MARKS", "")
_plain = SourceFileLoader.get_code


def _get_code(loader: SourceFileLoader, name: str) -> CodeType | None:
    try:
        with open(f"{_FOLDER}{loader.path}c", "rb") as file:
            return marshal.load(file)
    except FileNotFoundError:  # a file that is not measured
        return _plain(loader, name)


if _FOLDER and os.access(f"{_FOLDER}/marks", os.W_OK):
    with open(f"{_FOLDER}/marks", "r+b") as _file:
        builtins._coverage_marks = mmap.mmap(_file.fileno(), 0)  # type: ignore[attr-defined]
    SourceFileLoader.get_code = _get_code  # type: ignore[method-assign]
