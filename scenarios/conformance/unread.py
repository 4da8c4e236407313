"""What the sender of a segment had read when it made it, as that segment and others of the capture show."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from .segments import ACK, OVERTAKING, RST, SYN, Segment, after


def unread_since(
    segment: Segment, answers: Sequence[Segment], earlier: Sequence[Segment], others: Sequence[Sequence[Segment]]
) -> float:
    """When the first of `answers` came of which something shows that the sender of `segment` had not read it; infinity if none.

    answers: what the other side sent before, as far as it was not lost.  earlier: what its own sender sent before.
    others: the other connections of its sender's address.
    """
    return min(
        _beyond_acknowledgement(segment, answers, earlier),
        min((a.time for a in _recorded(segment, answers, earlier) if _echoes_before(segment, a)), default=math.inf),
        _elsewhere(segment, others),
    )


def shows_read(segment: Segment, answers: Sequence[Segment], earlier: Sequence[Segment], end: int) -> bool:
    """Whether the sender of `segment` had read an acknowledgement up to `end`, as the clock that it echoes shows.

    Of answers with one clock the first was read.
    """
    first: dict[int | None, Segment] = {}
    for answer in answers:
        first.setdefault(answer.clock, answer)
    read = (a for a in _recorded(segment, answers, earlier) if not _echoes_before(segment, a))
    return any(a.acknowledges(end) and (_echoes_past(segment, a) or first[a.clock] is a) for a in read)


def _echoes_before(segment: Segment, answer: Segment) -> bool:
    """Whether a segment echoes an older clock than that of `answer`."""
    return answer.clock is not None and segment.echo is not None and after(answer.clock, segment.echo) > 0


def _echoes_past(segment: Segment, answer: Segment) -> bool:
    """Whether a segment echoes a later clock than that of `answer`."""
    return answer.clock is not None and segment.echo is not None and after(segment.echo, answer.clock) > 0


def _recorded(segment: Segment, answers: Sequence[Segment], earlier: Sequence[Segment]) -> Iterator[Segment]:
    """Those of `answers` whose clock is echoed from when they are read.

    They begin at or before the last acknowledgement sent, and bring what follows it or nothing (RFC 7323 §4.3).
    """
    if segment.echo is None or not segment.flags & ACK:
        return
    edge = sent = None
    own = iter(earlier)
    mine = next(own, None)
    for answer in answers:
        while mine is not None and mine.time <= answer.time:
            if mine.flags & ACK:
                edge = mine.ack if edge is None or after(mine.ack, edge) > 0 else edge
            sent = mine.end if sent is None or after(mine.end, sent) > 0 else sent
            mine = next(own, None)
        if edge is None or sent is None or answer.clock is None or answer.flags & (SYN | RST):
            continue
        brings = (
            answer.seq == edge if answer.end == answer.seq else after(answer.seq, edge) <= 0 < after(answer.end, edge)
        )
        if brings and after(answer.ack, sent) <= 0:
            yield answer


def _beyond_acknowledgement(segment: Segment, answers: Sequence[Segment], earlier: Sequence[Segment] = ()) -> float:
    """When bytes came that the sender of `segment` had not read yet: its next ones, which it does not acknowledge.

    earlier: what it sent before.  Where it said more than it says now, it repeats what it had made then.  Bytes with an older
    clock than the one that it echoes were read, and not taken.
    """
    if not segment.flags & ACK:
        return math.inf
    if any(after(s.ack, segment.ack) > 0 for s in earlier if s.flags & ACK and s.time < segment.time - OVERTAKING):
        return math.inf
    came = (a for a in answers if after(a.seq, segment.ack) <= 0 < after(a.end, segment.ack))
    return next((a.time for a in came if not _echoes_past(segment, a)), math.inf)


def _elsewhere(segment: Segment, others: Sequence[Sequence[Segment]]) -> float:
    """When bytes of other connections came that the sender of `segment` had not read yet, as it shows there then or later.

    Frames come in the order of the capture: what was captured after these bytes had not been read either.
    """
    since = math.inf
    address = segment.sender.rpartition("/")[0]
    for talk in others:
        came = [s for s in talk if s.time < segment.time and not s.lost and s.sender.rpartition("/")[0] != address]
        said = (s for s in talk if s.time >= segment.time and s.sender.rpartition("/")[0] == address)
        shows = next((s for s in said if not s.sacks and not s.flags & RST), None)
        if shows is not None:
            since = min(since, _beyond_acknowledgement(shows, came))
    return since
