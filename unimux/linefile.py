"""A file that lines are appended to, each as a whole, and that only its owner may read: journals and events name people.

A line that the disk had no room for is an error, and what was written of it stands alone: the next one begins on a line of its
own.  Several processes may append to one file.  Where it is a pipe, a line that its reader leaves no room for is such an error,
too: nobody waits for a reader.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path


class LineFile:
    """Opened for appending, made if it is not there.  Raises OSError where that cannot be."""

    def __init__(self, path: Path) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        self._handle = os.open(path, flags, 0o600)
        size = self.size
        self._torn = size > 0 and os.pread(self._handle, 1, size - 1) != b"\n"

    @property
    def size(self) -> int:
        """Bytes in the file now."""
        return os.fstat(self._handle).st_size

    def write(self, line: bytes, *, durable: bool = False) -> None:
        """Append a line, its end included; durable: on disk when this returns.  Raises OSError where not all of it fits."""
        data = b"\n" + line if self._torn else line
        written = os.write(self._handle, data)
        self._torn = written < len(data)
        if self._torn:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if durable:
            os.fsync(self._handle)

    def close(self) -> None:
        """Close it; not to be called again."""
        os.close(self._handle)
