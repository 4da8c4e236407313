"""Bytes read as instructions: what a fuzzer mutates, and a test replays."""

from __future__ import annotations


class Script:
    """Takes values from the front of some bytes; an exhausted script gives zeros and is `over`."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def over(self) -> bool:
        """Whether nothing is left."""
        return self._at >= len(self._data)

    def take(self, length: int) -> bytes:
        """The next `length` bytes, or what is left of them."""
        piece = self._data[self._at : self._at + length]
        self._at += length
        return piece

    def byte(self) -> int:
        """One byte."""
        piece = self.take(1)
        return piece[0] if piece else 0

    def word(self) -> int:
        """Two bytes."""
        return self.byte() << 8 | self.byte()

    def signed(self) -> int:
        """Two bytes as a number between -32768 and 32767."""
        value = self.word()
        return value - 65536 if value & 0x8000 else value

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(len(self._data) - self._at if not self.over else 0)

    def block(self) -> bytes:
        """A byte with a length, and so many bytes."""
        return self.take(self.byte())
