"""Files over a blocking socket, as `socket.makefile` gives them."""

from __future__ import annotations

import io
from typing import Any, Protocol


class Owner(Protocol):
    """What a file needs of its socket."""

    def recv_into(self, buffer: Any) -> int:
        """Fill a writable buffer as far as there is something; how much."""

    def send(self, data: Any) -> int:
        """Hand over what there is room for; how much."""

    def hold_file(self) -> None:
        """A file was made, and needs the socket until `release_file`."""

    def release_file(self) -> None:
        """It was closed, or forgotten."""


class _Raw(io.RawIOBase):
    """The unbuffered file, under the others."""

    def __init__(self, sock: Owner, reading: bool, writing: bool) -> None:
        self._sock = sock
        self._reading = reading
        self._writing = writing
        sock.hold_file()

    def readable(self) -> bool:
        return self._reading and not self.closed

    def writable(self) -> bool:
        return self._writing and not self.closed

    def readinto(self, buffer: Any) -> int:
        return self._sock.recv_into(buffer)

    def write(self, data: Any) -> int:
        return self._sock.send(data)

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._sock.release_file()


def socket_file(
    sock: Owner, mode: str, buffering: int | None, encoding: str | None, errors: str | None, newline: str | None
) -> Any:
    """A file over a socket, with the arguments of `socket.makefile`; ValueError for what they cannot be."""
    if not set(mode) <= set("rwb"):
        raise ValueError(f"invalid mode {mode!r} (only r, w, b allowed)")
    size = io.DEFAULT_BUFFER_SIZE if buffering is None or buffering < 0 else buffering
    if size == 0 and "b" not in mode:
        raise ValueError("unbuffered streams must be binary")
    writing = "w" in mode
    reading = "r" in mode or not writing
    raw = _Raw(sock, reading, writing)
    if size == 0:
        return raw
    buffer: Any
    if reading and writing:
        buffer = io.BufferedRWPair(raw, raw, size)
    elif reading:
        buffer = io.BufferedReader(raw, size)
    else:
        buffer = io.BufferedWriter(raw, size)
    return buffer if "b" in mode else io.TextIOWrapper(buffer, encoding, errors, newline)
