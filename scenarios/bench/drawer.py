"""Draws addresses and says which: the processes of P-17.

    python -m scenarios.bench.drawer STATE WITNESS COUNT

An identifier is written, as eight bytes, when it has been drawn; what a killed process had drawn and not yet written is lost, as
in a node that crashes between drawing an address and using it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from unimux.diskstate import DiskState
from unimux.source import AddressSource

_BLOCK = 9_973
"""A prime, so that a process is killed in the midst of one."""


def main(state: str, witness: str, count: str) -> None:
    """Draw `count` addresses."""
    left = int(count)
    out = sys.stdout.buffer
    with DiskState(Path(state), witness=Path(witness)) as disk:
        source = AddressSource(disk)
        while left:
            drawn = source.draw_many(min(left, _BLOCK))
            out.write(drawn.astype(">u8").tobytes())
            left -= len(drawn)
        out.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
