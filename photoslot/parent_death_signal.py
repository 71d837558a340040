"""Executes another program that gets SIGTERM when its parent process dies, however that dies.

    python -m photoslot.parent_death_signal <parent's pid> <program> <arguments>

Otherwise a supervisor killed with -9 would leave its children at work, and the port taken. Linux only; elsewhere the
program runs without that signal.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # <sys/prctl.h>; survives the exec below


def main(parent: str, *command: str) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):
        sys.exit("The parent was gone before its child had started.")
    os.execv(command[0], command)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main(*sys.argv[1:])
