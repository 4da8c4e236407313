"""Sequence numbers without wrap, and the timestamp clock.

Inside tapstack a sequence number is an ordinary integer that only grows: the initial one is the 32-bit ISN, and the
number on the wire is its low 32 bits.  `unwrap` turns a number from the wire into the one nearest to a reference, so
every comparison in the code is a plain `<` (RFC 9293 §3.4).
"""

from __future__ import annotations

MASK = 0xFFFFFFFF
_HALF = 0x80000000


def timestamp_value(now: float, offset: int) -> int:
    """TSval: a clock of milliseconds that each connection begins elsewhere (RFC 7323 §4.1, §7.1)."""
    return (int(now * 1000) + offset) & MASK


def unwrap(wire: int, reference: int) -> int:
    """The integer nearest to `reference` whose low 32 bits are `wire`.

    >>> unwrap(5, 0xFFFFFFF0) == 0x100000005
    True
    >>> unwrap(0xFFFFFFF0, 0x100000005) == 0xFFFFFFF0
    True
    """
    distance = (wire - reference) & MASK
    return reference + (distance - (MASK + 1) if distance >= _HALF else distance)
