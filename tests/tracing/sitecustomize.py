"""Pauses the measuring of coverage in this process while packages of others are imported.

Before Python 3.14 coverage sees every line of every package in order to leave out those that are not ours, which adds
half to the CPU time of an import. `tests/conftest.py` puts this folder on PYTHONPATH, so Python imports this module
at the start of every process that a test starts, after coverage.
"""

from __future__ import annotations

import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

_ROOT = f"{Path(__file__).resolve().parents[2]}/"
_plain = SourceFileLoader.exec_module


def _exec_module(loader: SourceFileLoader, module: ModuleType) -> None:
    ours = loader.path.startswith(_ROOT) and "/site-packages/" not in loader.path
    tracer = sys.gettrace()
    if ours or tracer is None:
        _plain(loader, module)
        return
    sys.settrace(None)
    try:
        _plain(loader, module)
    finally:
        sys.settrace(tracer)
        _call()


def _call() -> None:
    """A tracer written in C takes up its work at a call: this one, or it would miss that `_exec_module`, whose start it
    saw, returns, and count lines to another file."""


SourceFileLoader.exec_module = _exec_module  # type: ignore[method-assign]
