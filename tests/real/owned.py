"""What carries an owner's tag on this machine."""

from __future__ import annotations

from pathlib import Path

from compat.kernel.owner import Owner


def programs(owner: Owner) -> list[int]:
    """The live programs that it started; not itself."""
    pids = [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]
    return [pid for pid in pids if Owner.of_pid(pid) is not None and Owner.of_program(pid) == owner]
