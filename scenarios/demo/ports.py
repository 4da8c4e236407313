"""Port numbers that change with every segment: what a connection at L0 does not notice (UM-PORT-1)."""

from __future__ import annotations

from random import Random


class RestlessPorts:
    """A `SegmentTransform` that writes other ports into each segment after the first two."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._calm = 2
        self.changes = 0

    def outbound(self, header: bytearray) -> None:
        """Replace both ports."""
        if self._calm:
            self._calm -= 1
            return
        self.changes += 1
        header[0:2] = self._random.randrange(1024, 65536).to_bytes(2, "big")
        header[2:4] = self._random.randrange(1024, 65536).to_bytes(2, "big")
