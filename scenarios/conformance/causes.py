"""Why a TCP segment had to be sent as it was: read from what the capture shows before it.

tshark flags what is unusual – bytes sent again, acknowledgements without news, gaps – and cannot know whether it was right.
The same capture tells: a segment is sent again rightly if nobody had acknowledged it for long enough, or if the peer had
reported a hole; an acknowledgement says nothing new rightly if something unexpected had arrived that it answers.  What has no
such cause is the sender's fault, and so are bytes that come again for the third time in a round trip.

    unanswered   the bytes had not been acknowledged, and since they were last sent at least a round trip has passed (the sum of
                 what both sides of the point of capture took so far, and `SOONEST`); from the second time on no sooner than
                 each time before (a timer backs off, it never speeds up)
    a hole       the peer had acknowledged something beyond these bytes by SACK, or had said the same acknowledgement twice; not
                 these bytes themselves, unless their sender could not have heard of it yet
    crossing     the acknowledgement was captured, but less than a round trip before, or the wire lost it: the sender could not
                 have had it; or both SYNs of a simultaneous open met
    unread       the same, also of a report, where the sender was behind: the segment's own acknowledgement shows what had come
                 and was not read yet, if its sender has not said more before, or the clock that it echoes does (RFC 7323 §4.3),
                 or what it says then or later from the same address in another connection, in which no bytes are missing; the
                 clock that it echoes also shows what was read, however little before
    a neighbour  the first of them left when the link-layer address of the next hop had just become known: all had waited for it
    an error     an ICMPv6 error that quotes a segment of its sender in this connection was captured since it last sent these
                 bytes: they were dropped further on
    a report     SACK blocks beyond the acknowledgement say that bytes are missing, and the blocks had been sent
    a question   the other side sent something since that is not simply the next segment: bytes again, bytes beyond a hole, a
                 SYN, a probe, an acknowledgement that is out of range
    twice        a D-SACK reports bytes that the capture shows twice; no oftener than they came again, it is also why an
                 acknowledgement says nothing new, however late its sender read them
    late         it, or the copy before, left long after it was made, as the clock in its sender's timestamps shows (RFC 7323):
                 time counts from when it was made
    overtaken    where a kernel carried the frames, bytes that nobody had captured before come moments after later ones: two
                 processors handed it its segments; or two acknowledgements that were captured moments apart came to the receiver
                 in exchanged order, which answers the older clock (RFC 7323 §5.3), once
    urgent       an acknowledgement without news points to urgent data that a closed window keeps back (RFC 9293 §3.8.6.1)
    filled       a gap: its bytes were lost before this point, which their being sent again later shows; where the capture has
                 all that was sent nothing is lost before it

A frame of which a comment says that the wire lost it counts as sent and never as received.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from enum import Enum

from .segments import ACK, FIN, OVERTAKING, RST, SYN, URG, Segment, after, furthest, opened, round_trip
from .unread import shows_read, unread_since

SOONEST = 0.002
"""Seconds: no timer of a TCP is shorter, whatever the round trip."""
AT_ONCE = 0.02
"""Seconds within which what waited for a neighbour's address leaves once it is told."""
SHOWN = 0.001
"""Seconds after it has handed a frame on until a bridge shows it."""
CLOSE_ENOUGH = 0.9
"""Two intervals of a timer count as equal down to this ratio: a clock of 4 ms, a busy machine."""
TICK = 0.001
"""Seconds that one step of a timestamp clock takes at least (RFC 7323 §5.4), and takes in this stack and in Linux."""
LATE = 0.02
"""Seconds behind its own clock from which a segment left late: what is less may be the clock's steps, or the link."""
CHALLENGES = 0.45
"""Seconds between two answers of one connection to what is not acceptable, at least, in this stack and in Linux."""
LONGEST_INTERVAL = 60.0
"""Seconds after which a timer need not back off any more (RFC 6298 §2.5)."""


class Kind(Enum):
    """What tshark remarks, by the words of its messages."""

    AGAIN = re.compile(r"[Rr]etransmission|[Oo]ut-[Oo]f-[Oo]rder")
    DUPLICATE = re.compile(r"Duplicate ACK")
    REPORT = re.compile(r"D-SACK")
    GAP = re.compile(r"[Pp]revious segment.* not captured")
    UNSEEN = re.compile(r"ACKed segment that wasn't captured")

    @classmethod
    def of(cls, message: str) -> Kind | None:
        """The kind of a message; None where the order of segments is no reason for it."""
        return next((kind for kind in cls if kind.value.search(message)), None)


def cause(
    talk: Sequence[Segment],
    at: int,
    kind: Kind,
    *,
    errors: Sequence[float] = (),
    processors: bool = False,
    whole: bool = False,
    strays: Sequence[Segment] = (),
    others: Sequence[Sequence[Segment]] = (),
    resolved: float | None = None,
) -> str:
    """Why segment number `at` of a connection was right although tshark remarks it; empty where nothing shows it.

    talk: all segments of the connection in the order of the capture.  errors: when ICMPv6 errors about segments of the sender
    were captured.  processors: a kernel carried the segments, on as many processors as it likes.
    whole: the capture has every segment, those that the wire lost too.
    strays: segments between the same two addresses that nobody acknowledged at their own ports: where ports do not matter,
    they belong to this connection too.  others: the other connections of its sender's address.
    resolved: when a neighbour last told the link-layer address of the destination.
    """
    match kind:
        case Kind.AGAIN if processors and _overtaken(talk, at):
            return "another processor's segments overtook it on the link"
        case Kind.AGAIN:
            return _why_again(talk, at, errors, others, resolved)
        case Kind.DUPLICATE:
            return _why_duplicate(talk, at, strays, processors)
        case Kind.REPORT:
            return _why_report(talk, at, strays)
        case Kind.GAP:
            return "" if whole else _why_gap(talk, at)
        case Kind.UNSEEN:
            return ""


def in_session(talk: Sequence[Segment], at: int, kind: Kind) -> Kind | None:
    """What there is to remark in segment number `at` of a session as a whole, where of a part of it tshark remarks `kind`.

    None where the session shows nothing unusual: the segment is simply the next one of its sender and acknowledges nothing
    that was not sent; an acknowledgement says something new.
    """
    this = talk[at]
    own = [s for s in talk[:at] if s.sender == this.sender]
    if kind is Kind.REPORT:
        return kind
    if kind is Kind.DUPLICATE:
        told = [s for s in own if s.flags & ACK]
        news = not told or after(this.ack, told[-1].ack) > 0 or this.window != told[-1].window
        return None if news else kind
    others = [s.end for s in talk[:at] if s.sender != this.sender]
    if this.flags & ACK and others and after(this.ack, furthest(others)) > 0:
        return Kind.UNSEEN
    ahead = after(this.seq, furthest([s.end for s in own])) if own else 0
    if kind is Kind.UNSEEN or ahead == 0:
        return None
    if ahead > 0:
        return Kind.GAP
    return Kind.AGAIN if this.end != this.seq else None


def asks_for_life(talk: Sequence[Segment], at: int) -> bool:
    """Whether segment number `at` is a keep-alive: one byte, or none, before the next one (RFC 9293 §3.8.4)."""
    this = talk[at]
    own = [s.end for s in talk[:at] if s.sender == this.sender]
    return (
        bool(own) and this.length <= 1 and not this.flags & (RST | SYN | FIN) and after(this.seq, furthest(own)) == -1
    )


def beyond_windows(talk: Sequence[Segment]) -> list[int]:
    """For each segment how many of its bytes lie beyond every window that its receiver had offered by then.

    RFC 9293 §3.8.6; one byte may, as a probe.  0 where the receiver has said nothing yet that can be read.  An offer that was
    captured just after the segment counts too: a bridge hands a frame on before it shows it.
    """
    edges: dict[str, int] = {}
    found, read = [], 0
    for this in talk:
        while read < len(talk) and talk[read].time <= this.time + SHOWN:
            offer = talk[read]
            read += 1
            if offer.flags & ACK and offer.window is not None:
                edge = offer.ack + offer.window
                before = edges.get(offer.sender)
                edges[offer.sender] = edge if before is None or after(edge, before) > 0 else before
        offered = [edge for sender, edge in edges.items() if sender != this.sender]
        beyond = after(this.seq + this.length, offered[0]) if offered and this.length else 0
        is_probe = beyond == this.length == 1
        found.append(0 if beyond <= 0 or is_probe else min(beyond, this.length))
    return found


def _why_again(
    talk: Sequence[Segment],
    at: int,
    errors: Sequence[float],
    others: Sequence[Sequence[Segment]],
    resolved: float | None,
) -> str:
    segment = talk[at]
    seq, end, sender = segment.seq, segment.end, segment.sender
    if end == seq:
        return ""
    opening = opened(talk[:at])
    talk, at = talk[opening:], at - opening
    earlier = [s for s in talk[:at] if s.sender == sender]
    before = [s for s in earlier if s.end != s.seq and after(s.end, seq) > 0 and after(end, s.seq) > 0]
    answers = [s for s in talk[:at] if s.sender != sender and not s.lost]
    trip = round_trip(talk[:at])
    made = _made(earlier[: earlier.index(before[0])] if before else earlier)
    times = [made(s) for s in (*before, segment)]
    dropped = any(not before or when >= before[-1].time for when in errors)
    if not dropped and any(
        _storm([made(s) for s in before if _covers(s, byte)], times[-1], trip) for byte in (seq, end - 1)
    ):
        return ""
    told = [answer.time for answer in answers if answer.acknowledges(end)]
    knew = min(times[-1], unread_since(segment, answers, earlier, others))
    if told:
        crosses = told[0] >= knew - trip and not shows_read(segment, answers, earlier, end)
        return "it crosses its acknowledgement" if crosses else ""
    if any(s.sender != sender and s.lost and s.acknowledges(end) for s in talk[:at]):
        return "its acknowledgement was lost"
    if dropped:
        return "an ICMPv6 error says that it was dropped"
    if segment.flags & SYN and any(s.flags & (SYN | ACK) == SYN for s in answers):
        return "two SYNs cross"
    if before and any(s.lost for s in before):
        return "what it repeats was lost"
    if before and resolved is not None and before[0].time >= resolved >= segment.time - AT_ONCE:
        return "both waited for the neighbour's address"
    since = before[0].time if before else None
    news = [s for s in answers if since is None or s.time >= since]
    known = [s for s in news if s.time < min(times[-1] - trip, knew)]
    if any(after(seq, left) >= 0 and after(right, end) >= 0 for s in known for left, right in s.sacks):
        return ""
    if any(after(right, end) > 0 for s in news for _, right in s.sacks) or _said_twice(news):
        return "the peer reports a hole"
    return _why_unanswered(times, trip)


def _covers(segment: Segment, byte: int) -> bool:
    """Whether a sequence number is one of the segment's."""
    return after(byte, segment.seq) >= 0 and after(segment.end, byte) > 0


def _storm(times: Sequence[float], now: float, trip: float) -> bool:
    """Whether a byte comes for the third time in a round trip, not counting when it came first.

    Twice it may: a time-out that was begun with the first transmission is not begun anew by every stack when it fills a hole.
    """
    return len(times) > 2 and now - times[-2] < CLOSE_ENOUGH * trip


def _overtaken(talk: Sequence[Segment], at: int) -> bool:
    """Whether the segment's bytes were never captured before, and all that lies beyond them was only moments ago."""
    this = talk[at]
    own = [s for s in talk[:at] if s.sender == this.sender]
    earlier = (s for s in own if s.end != s.seq)
    new = this.end != this.seq and all(after(s.end, this.seq) <= 0 or after(s.seq, this.end) >= 0 for s in earlier)
    beyond = [s for s in own if after(s.seq, this.end) >= 0]  # an acknowledgement without bytes overtakes, too
    return new and bool(beyond) and this.time - beyond[0].time <= OVERTAKING


def _made(earlier: Sequence[Segment]) -> Callable[[Segment], float]:
    """When a segment was made: as much before it was captured as its clock is behind those of its sender's `earlier` ones."""
    clocks = [(s.time, s.clock) for s in earlier if s.clock is not None]

    def made(segment: Segment) -> float:
        late = 0.0
        if segment.clock is not None:
            steps = ((segment.time - time, after(segment.clock, clock) * TICK) for time, clock in clocks)
            late = max((passed - counted for passed, counted in steps), default=0.0)
        return segment.time - (late if late >= LATE else 0.0)

    return made


def _why_unanswered(times: Sequence[float], trip: float) -> str:
    """`times`: when each copy was made, this one last."""
    waits = [later - earlier for earlier, later in itertools.pairwise(times)]
    if not waits or waits[-1] < max(SOONEST, trip):
        return ""
    if len(waits) >= 2 and waits[-1] < CLOSE_ENOUGH * min(max(waits[:-1]), LONGEST_INTERVAL):
        return ""
    return "nobody has acknowledged it"


def _said_twice(answers: Sequence[Segment]) -> bool:
    """Whether the peer's latest acknowledgements include two equal ones in a row."""
    pure = [s for s in answers if s.flags & ACK]
    return any(a.ack == b.ack and not b.length for a, b in itertools.pairwise(pure))


def _why_duplicate(talk: Sequence[Segment], at: int, strays: Sequence[Segment], processors: bool) -> str:
    this = talk[at]
    offered = [s.window for s in talk[:at] if s.sender != this.sender and s.flags & ACK]
    if this.flags & URG and offered and offered[-1] == 0:
        return "it points to urgent data that waits for the window"
    trip = max(SOONEST, round_trip(talk[:at]))
    own_address = this.sender.rpartition("/")[0]
    asked = _questions([s for s in talk[:at] if s.sender != this.sender])
    asked += [s for s in strays if s.time < this.time and s.sender.rpartition("/")[0] != own_address]
    own = [s for s in talk[:at] if s.sender == this.sender]
    last = max((s.time for s in own if this.time - s.time > trip), default=-1.0)
    # An answer too, and no probe, whose number would be an earlier one.
    answered = sum(s.time > last and (s.seq, s.ack, s.length) == (this.seq, this.ack, 0) for s in own)
    if _reports_a_hole(talk, at):
        return "it reports a hole"
    if _reports_what_came_again(talk, at):
        return "it reports bytes that the capture shows twice"
    enough = sum(s.time > last for s in asked) >= max(1, answered)
    # Where the receiver was late, one acknowledgement of new bytes comes long after the questions, and an answer to each follows.
    other = max((s.time for s in own if (s.seq, s.ack, s.length) != (this.seq, this.ack, 0)), default=-1.0)
    same = sum(s.time > other for s in own)
    enough |= 1 <= same <= sum(s.time > other for s in asked)
    if not enough and processors and _answers_an_older_clock(talk[:at], this):
        return "it answers an older clock: another processor's segment overtook it behind the capture"
    return "it answers a segment that was not the next one" if enough else ""


def _answers_an_older_clock(talk: Sequence[Segment], this: Segment) -> bool:
    """Whether of two acknowledgements without bytes that came moments apart the later clock has just been read.

    One answer for both, and as seldom as a stack challenges.
    """
    own = [s for s in talk if s.sender == this.sender and s.end == s.seq]
    for older, newer in itertools.pairwise(s for s in talk if s.sender != this.sender):
        if newer.time - older.time > OVERTAKING or older.end != older.seq or newer.end != newer.seq:
            continue
        if older.clock is None or newer.clock is None or this.echo is None:
            continue
        exchanged = after(newer.clock, older.clock) > 0 and after(newer.ack, older.ack) > 0
        just_read = 0 <= after(this.echo, newer.clock) * TICK <= LATE
        if exchanged and just_read and all(s.time < min(newer.time, this.time - CHALLENGES) for s in own):
            return True
    return False


def _reports_a_hole(talk: Sequence[Segment], at: int) -> bool:
    """Whether SACK blocks beyond the acknowledgement say that bytes are missing, and these blocks had been sent."""
    this = talk[at]
    beyond = [(left, right) for left, right in this.sacks if after(left, this.ack) > 0]
    sent = [s for s in talk[:at] if s.sender != this.sender]
    return bool(beyond) and all(any(after(s.end, right) >= 0 for s in sent) for _, right in beyond)


def _questions(asked: Sequence[Segment]) -> list[Segment]:
    """Those of one side's segments that a receiver has to acknowledge although they do not bring the next bytes."""
    found: list[Segment] = []
    edge = top = None
    beyond: list[tuple[int, int]] = []
    for segment in asked:
        seq, end = segment.seq, segment.end
        if segment.lost:
            continue
        if edge is None or top is None:
            edge = top = end
        elif seq == edge:
            edge = end
        elif end == seq and seq == top:
            continue  # beyond a hole there is nothing wrong with an acknowledgement
        else:
            found.append(segment)
            if after(seq, edge) > 0:
                beyond.append((seq, end))
            elif after(end, edge) > 0:
                edge = end
        if after(end, top) > 0:
            top = end
        for left, right in sorted(beyond, key=lambda piece: after(piece[0], seq)):
            if after(left, edge) <= 0 < after(right, edge):
                edge = right
    return found


def _why_report(talk: Sequence[Segment], at: int, strays: Sequence[Segment]) -> str:
    this = talk[at]
    if not this.sacks:
        return ""
    left, right = this.sacks[0]

    if len(_with_bytes_of(this, talk[:at], left, right)) >= 2:
        return "it reports bytes that the capture shows twice"
    return "it reports a segment that belongs to no session" if _with_bytes_of(this, strays, left, right) else ""


def _with_bytes_of(this: Segment, segments: Sequence[Segment], left: int, right: int) -> list[Segment]:
    """The other side's segments until `this` that carry bytes between `left` and `right`."""
    return [
        s
        for s in segments
        if s.sender != this.sender and s.time <= this.time and after(s.seq, right) < 0 and after(s.end, left) > 0
    ]


def _reports_what_came_again(talk: Sequence[Segment], at: int) -> bool:
    """Whether a D-SACK says that acknowledged bytes came again, and they came oftener than it was said so far."""
    this = talk[at]
    if not this.sacks or after(this.sacks[0][1], this.ack) > 0:
        return False
    left, right = this.sacks[0]
    told = sum(s.sender == this.sender and s.sacks[:1] == this.sacks[:1] for s in talk[:at])
    return len(_with_bytes_of(this, talk[:at], left, right)) - 1 > told


def _why_gap(talk: Sequence[Segment], at: int) -> str:
    segment = talk[at]
    earlier = [s.end for s in talk[:at] if s.sender == segment.sender]
    if not earlier:
        return ""
    start = max(earlier, key=lambda end: after(end, earlier[0]))
    missing = [(start, segment.seq)]
    for later in talk[at + 1 :]:
        if later.sender == segment.sender:
            missing = [piece for gap in missing for piece in _without(gap, later.seq, later.end)]
    return "" if missing else "its bytes were lost before this point, and are sent again"


def _without(gap: tuple[int, int], seq: int, end: int) -> list[tuple[int, int]]:
    """What is left of a gap when the bytes from `seq` to `end` are there."""
    left, right = gap
    if after(end, left) <= 0 or after(seq, right) >= 0:
        return [gap]
    pieces = [(left, seq), (end, right)]
    return [(a, b) for a, b in pieces if after(b, a) > 0]
