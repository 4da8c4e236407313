"""How many challenge ACKs this node sends (RFC 5961 §7), without a counter that strangers share.

A node-wide counter is a side channel: who sees it run out learns that somebody else's segments were in a window.  So
the bound is taken in slots.  A keyed hash assigns each address pair to one of `SLOTS`, unpredictably; each slot has a
budget per second that is itself unpredictable within a factor of two.  One connection may use far less than the least
budget (`PER_CONNECTION`), so that none can be seen through another's, and all together at most
`SLOTS` × 2 × `BUDGET` leave per second.
"""

from __future__ import annotations

import hashlib

PER_CONNECTION = 0.5
"""Seconds between two challenge ACKs of one connection: ten in five seconds, RFC 5961's example."""
SLOTS = 64
BUDGET = 32
"""The least budget of a slot per second; the largest is twice that."""


class ChallengeLimiter:
    """The node's bound; see the module's docstring."""

    __slots__ = ("_budget", "_second", "_secret", "_used")

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._second = -1
        self._used: dict[int, int] = {}
        self._budget: dict[int, int] = {}

    def allow(self, pair: bytes, now: float) -> bool:
        """Whether a challenge ACK for this address pair may leave now; counts it."""
        second = int(now)
        if second != self._second:
            self._second = second
            self._used.clear()
            self._budget.clear()
        slot = self._hash(pair) % SLOTS
        budget = self._budget.get(slot)
        if budget is None:
            budget = BUDGET + self._hash(bytes((slot,)) + second.to_bytes(8, "big", signed=True)) % (BUDGET + 1)
            self._budget[slot] = budget
        used = self._used.get(slot, 0)
        if used >= budget:
            return False
        self._used[slot] = used + 1
        return True

    def _hash(self, text: bytes) -> int:
        return int.from_bytes(
            hashlib.blake2b(text, key=self._secret, digest_size=4, person=b"challenge").digest(), "big"
        )
