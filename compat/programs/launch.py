"""Enters a network namespace and becomes another program: python -I -S launch.py NAMESPACE-FD PARENT-PID PROGRAM ARGUMENTS…

It is a program of its own because the work between fork and exec must not be Python code of a process that may
have threads (locks held by threads that do not exist in the child).  Here the process is fresh and has one thread.
It imports nothing of this project and starts in about 15 ms.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

CLONE_NEWNET = 0x40000000
PR_SET_PDEATHSIG = 1
CANNOT_START = 126


def main(arguments: list[str]) -> None:
    """Never returns: the process becomes the program, or ends with `CANNOT_START` and a sentence on standard error."""
    namespace, parent, program = int(arguments[0]), int(arguments[1]), arguments[2:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, CLONE_NEWNET) != 0:
        sys.exit(f"cannot enter the network namespace: {os.strerror(ctypes.get_errno())}")
    os.close(namespace)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the line above
        os.kill(os.getpid(), signal.SIGKILL)
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and exec would hand that on
        signal.signal(ignored, signal.SIG_DFL)
    try:
        os.execv(program[0], program)
    except OSError as error:
        print(f"cannot run {program[0]}: {error.strerror}", file=sys.stderr)
        sys.exit(CANNOT_START)


if __name__ == "__main__":
    main(sys.argv[1:])
