"""Overflows of a kernel's neighbour table, as the kernel itself counts them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_PATH = Path("/proc/net/stat/ndisc_cache")
FULL = "table_fulls"
"""The column of neighbours that found no room."""
FORCED = "forced_gc_runs"
"""The column of clearances that made room, by which older neighbours may have gone."""


class Overflows:
    """The kernel's count of neighbours that it could not note because the table was full; or of what `columns` name.

    There is one table, and one counter, for all namespaces of a machine; only the first of them shows it: a name for each
    column, then a line of hexadecimal numbers for each processor.
    """

    def __init__(self, file: IO[bytes], columns: Sequence[str] = (FULL,)) -> None:
        self._file = file
        self._columns = columns
        self._before = self.total()

    def begin(self) -> None:
        """Count from here."""
        self._before = self.total()

    def risen(self) -> bool:
        """Whether the table has overflown since the beginning."""
        return self.total() > self._before

    def total(self) -> int:
        """Overflows since the machine started."""
        names, *lines = self._read().decode().splitlines()
        wanted = [names.split().index(column) for column in self._columns]
        return sum(int(line.split()[column], 16) for line in lines for column in wanted)

    def _read(self) -> bytes:
        """The whole file: a read of such a file ends with a page, however much it asks for."""
        read = b""
        while more := os.pread(self._file.fileno(), 1 << 16, len(read)):
            read += more
        return read


@contextmanager
def overflows(path: Path = _PATH, columns: Sequence[str] = (FULL,)) -> Iterator[Overflows | None]:
    """The counter; None in a namespace that does not show it."""
    try:
        file = path.open("rb", buffering=0)
    except FileNotFoundError:
        yield None
        return
    with file:
        yield Overflows(file, columns)
