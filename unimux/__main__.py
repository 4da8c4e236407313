"""The console script `unimux`, and `python -m unimux`: who interrupts it while it is still loading is not shown where."""

from __future__ import annotations

import sys


def main() -> None:
    """Load the command line and run it."""
    try:
        from unimux.cli.main import run
    except KeyboardInterrupt:
        sys.stderr.write("unimux: Interrupted.\n")
        sys.exit(130)
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
