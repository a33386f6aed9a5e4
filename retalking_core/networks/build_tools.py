"""What compiling a network needs of the machine besides torch: Triton builds its launchers with a C compiler."""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path


def missing_build_tools() -> str | None:
    """What is missing, with the way out; None where networks can be compiled."""
    if not any(map(shutil.which, filter(None, (os.environ.get("CC"), "gcc", "clang")))):
        return "There is no C compiler: install g++ (Debian: apt-get install g++), or name one in CC."
    scheme = sysconfig.get_default_scheme()
    # As Triton looks for them: Debian's own scheme names a folder for local packages.
    headers = Path(sysconfig.get_paths("posix_prefix" if scheme == "posix_local" else scheme)["include"])
    if not (headers / "Python.h").is_file():
        return f"Python's headers are not at {headers}: install them (Debian: apt-get install libpython3-dev)."
    return None
