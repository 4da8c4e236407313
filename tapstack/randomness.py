"""The random numbers of a node: nobody who sees some of them learns others (UM-GEN-7, UM-PORT-10, RFC 6528 §3, RFC 6056 §3).

Model.  A node has one secret, and each purpose a key of its own derived from it: one for the numbers of TCP, one for the stable
addresses, one for each stream of draws.  A stream is BLAKE2b of a counter under its key, a pseudo-random function: draws that
were seen tell neither later nor earlier ones, nor a key, and equal secrets give equal draws, which makes a run repeatable.

`random.Random` has no place here.  624 of its outputs, as fragment identifications or nonces of DAD on the wire are, give away
its whole state, and with that all that it ever drew or will draw.  So whatever a node draws comes from here, delays
included: one rule, and nobody has to ask what can be seen from outside.
"""

from __future__ import annotations

import hashlib
import hmac

from .types import DYNAMIC_PORTS

_BLOCK_BITS = 512
"""What one hash gives."""
_PORT_BITS = 14
_FINEST = 2.0**-53
"""The step of a float between 0 and 1, of which it holds 53 bits."""


def derive_key(key: bytes, purpose: str) -> bytes:
    """A key for one purpose from a key for many: HMAC-SHA-256 as a pseudo-random function (RFC 5869's expand step)."""
    return hmac.digest(key, purpose.encode() + b"\x01", "sha256")


class KeyedRandom:
    """A stream of draws that nobody predicts without the secret.

    secret: 32 bytes or more that nobody else knows.  purpose: streams of one secret for different purposes are unrelated.

    >>> KeyedRandom(bytes(32), "this").randbytes(3) == KeyedRandom(bytes(32), "this").randbytes(3)
    True
    >>> KeyedRandom(bytes(32), "this").randbytes(3) == KeyedRandom(bytes(32), "that").randbytes(3)
    False
    """

    __slots__ = ("_bits", "_blocks", "_key", "_left")

    def __init__(self, secret: bytes, purpose: str) -> None:
        self._key = derive_key(secret, purpose)
        self._blocks = 0
        self._bits = 0  # those of the last block that have not been drawn, and how many
        self._left = 0

    def getrandbits(self, count: int) -> int:
        """A number of so many bits, all as likely."""
        while self._left < count:
            block = hashlib.blake2b(self._blocks.to_bytes(8, "big"), key=self._key).digest()
            self._blocks += 1
            self._bits |= int.from_bytes(block, "big") << self._left
            self._left += _BLOCK_BITS
        drawn = self._bits & ((1 << count) - 1)
        self._bits >>= count
        self._left -= count
        return drawn

    def randbytes(self, count: int) -> bytes:
        """So many bytes."""
        return self.getrandbits(8 * count).to_bytes(count, "big")

    def uniform(self, low: float, high: float) -> float:
        """A number from `low` to `high`, all as likely."""
        return low + (high - low) * self.getrandbits(53) * _FINEST

    def port(self) -> int:
        """A port of `DYNAMIC_PORTS`, for a stack that chooses one by itself."""
        return DYNAMIC_PORTS[self.getrandbits(_PORT_BITS)]
