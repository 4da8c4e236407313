"""The event stream: everybody gets every event, whoever comes or goes meanwhile."""

from __future__ import annotations

from tapstack.events import Event, EventStream, LinkNotice


def notice(time: float) -> LinkNotice:
    return LinkNotice(time=time, subject="link", cause="test")


def test_who_ends_itself_in_its_call_takes_no_event_from_those_behind_it() -> None:
    stream, once, always = EventStream(), list[float](), list[float]()

    def see_once(event: Event) -> None:
        once.append(event.time)
        end()
        stream.subscribe(lambda event: None)

    end = stream.subscribe(see_once)
    end_always = stream.subscribe(lambda event: always.append(event.time))
    for time in (1.0, 2.0):
        stream.emit(notice(time))
    assert (once, always) == ([1.0], [1.0, 2.0])
    end_always()
    assert stream.active


def test_ending_twice_ends_nobody_else() -> None:
    stream, seen = EventStream(), list[Event]()
    ends = [stream.subscribe(seen.append) for _ in range(2)]
    ends[0]()
    ends[0]()
    stream.emit(notice(1.0))
    assert len(seen) == 1 and stream.active
    ends[1]()
    assert not stream.active
