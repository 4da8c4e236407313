"""What was on the wire of a pair, read from the raw bytes: quick enough for whole transfers, and without the stack's code."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from .pair import Pair

FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10
_WRAP = 1 << 32
_HALF = _WRAP // 2


@dataclass(frozen=True, slots=True)
class Seen:
    """One segment as it was sent; numbers as in its header."""

    when: float
    who: str
    ports: tuple[int, int]
    seq: int
    ack: int
    flags: int
    window: int
    payload: bytes


def segments(pair: Pair, who: str, since: int = 0) -> list[Seen]:
    """What one end sent from packet `since` of the pair on."""
    return [seen for seen in _read(pair, since) if seen.who == who]


def data(pair: Pair, who: str, since: int = 0) -> list[Seen]:
    """Of these, those with text."""
    return [seen for seen in segments(pair, who, since) if seen.payload]


def ending(pair: Pair, since: int) -> list[tuple[str, str]]:
    """Who sent which of SYN, FIN, RST and ACK, in order; segments with text apart."""
    return [(seen.who, _letters(seen.flags)) for seen in _read(pair, since) if not seen.payload]


def stream(pair: Pair, who: str) -> bytes:
    """All octets that the only connection of an end put on the wire behind its SYN, each where its number places it.

    AssertionError where one was sent again and was another, or one is missing.
    """
    text, there = bytearray(), bytearray()
    first = _isn(pair, who) + 1
    for seen in data(pair, who):
        at = (seen.seq - first) % _WRAP
        end = at + len(seen.payload)
        missing = bytes(max(0, end - len(text)))  # so far
        text += missing
        there += missing
        if any(there[at:end]):
            each = zip(there[at:end], text[at:end], seen.payload, strict=True)
            assert all(not sent or old == new for sent, old, new in each), f"octet sent again as another at {seen.when}"
        text[at:end] = seen.payload
        there[at:end] = b"\1" * len(seen.payload)
    assert all(there), "an octet that was never sent"
    return bytes(text)


def again(pair: Pair, who: str, since: int = 0) -> list[Seen]:
    """The segments with text of which an octet had been sent before; `since` is where they are looked for."""
    everything, found = data(pair, who), []
    earlier = len(everything) - len(data(pair, who, since))
    highest = everything[0].seq if everything else 0
    for number, seen in enumerate(everything):
        if (seen.seq - highest) % _WRAP >= _HALF and number >= earlier:
            found.append(seen)
        end = (seen.seq + len(seen.payload)) % _WRAP
        if (end - highest) % _WRAP < _HALF:
            highest = end
    return found


def acknowledged(pair: Pair, who: str) -> int:
    """How many octets of the other's text one end has acknowledged, at most one FIN apart."""
    last = segments(pair, who)[-1]
    return (last.ack - _isn(pair, "b" if who == "a" else "a") - 1) % _WRAP


def flights(pair: Pair, who: str, since: int = 0) -> Iterator[tuple[float, int]]:
    """(time, octets in flight) at each segment with text: what was sent and not acknowledged by what had come in by then.

    Acknowledgements take the delay of the pair: not for paths that hold them back.
    """
    acks = [seen for seen in _read(pair, since) if seen.who != who]
    base: int | None = None
    heard = highest = 0
    for seen in data(pair, who, since):
        if base is None:
            base = seen.seq
        highest = max(highest, (seen.seq + len(seen.payload) - base) % _WRAP)
        while acks and acks[0].when + pair.delay <= seen.when:
            moved = (acks.pop(0).ack - base) % _WRAP
            heard = max(heard, moved if moved < _HALF else 0)
        yield seen.when, highest - heard


def _letters(flags: int) -> str:
    return "".join(letter for letter, bit in (("S", SYN), ("F", FIN), ("R", RST), ("A", ACK)) if flags & bit)


def _isn(pair: Pair, who: str) -> int:
    return next(seen.seq for seen in segments(pair, who) if seen.flags & SYN)


def _read(pair: Pair, since: int) -> Iterator[Seen]:
    for when, who, packet in pair.packets[since:]:
        source, to, seq, ack, offset, flags, window = struct.unpack_from("!HHIIBBH", packet, 40)
        yield Seen(when, who, (source, to), seq, ack, flags, window, packet[40 + (offset >> 4) * 4 :])
