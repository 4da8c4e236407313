"""The console script `unimux`, and `python -m unimux`: what is around the command line, whatever it is called with.

Who interrupts it while it is still loading is not shown where.  A standard stream that was closed is /dev/null: what opens
next would have its number, and be written to as standard output.  At the end nothing is left for Python to write, which would
tell of a full disk in its own way, and with a status of its own.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Load the command line and run it."""
    _open_closed_streams()
    try:
        from unimux.cli.main import run
    except KeyboardInterrupt:
        sys.stderr.write("unimux: Interrupted.\n")
        sys.exit(130)
    status = run(sys.argv[1:])
    _flush()
    sys.exit(status)


def _open_closed_streams() -> None:
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free: this one
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115 - it stays


def _flush() -> None:
    """Write what is still held; what cannot be written has been told of."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


if __name__ == "__main__":
    main()
