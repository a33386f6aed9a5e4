"""Ties a child process to its parent: when the parent is killed, the kernel terminates the child.

Run as `python -m cli.stack.tether PARENT_PID COMMAND...`; becomes COMMAND. A separate program because the request must
be made in the child between fork and exec, where Python code of a threaded parent must not run.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def tether() -> tuple[str, ...]:
    """Prefix of a command that must end with this process. The thread that starts it must stay alive."""
    return (sys.executable, "-P", "-m", "cli.stack.tether", str(os.getpid()))


def end_with_parent(parent_pid: int) -> None:
    """Only Linux has such a tie; elsewhere nothing happens. Exits if that parent is dead already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent_pid:  # the parent died before the tie was made
            sys.exit(1)


def become(parent_pid: int, command: list[str]) -> None:
    """Replace this process by `command`, tied to its parent."""
    end_with_parent(parent_pid)
    os.execv(command[0], command)


if __name__ == "__main__":
    become(int(sys.argv[1]), sys.argv[2:])
