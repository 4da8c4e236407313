"""While a test runs, what its stacks put on wires in memory is recorded, and what they say of themselves beside it.

The harnesses of the tests ask `tests.plugins.taps` for a tap themselves.  In-memory links belong to the stack's package, which
knows nothing of that: here each gets a tap.  On real links dumpcap takes the frames, and only the stack's events are recorded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from functools import cache, wraps
from typing import TYPE_CHECKING, Any

import pytest

from scenarios.conformance.labels import BY_HAND
from tests.plugins import taps

if TYPE_CHECKING:
    from tapstack.stack import Stack


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    _wrap()
    taps.recording = taps.Recording()
    try:
        return (yield)
    finally:
        taps.recording = None


def _after(made: Any, then: Callable[..., None]) -> None:
    """Have `then(object, its arguments …)` called whenever an object of the class `made` has been made."""
    make = made.__init__

    @wraps(make)
    def making(self: object, *arguments: object, **options: object) -> None:
        make(self, *arguments, **options)
        then(self, *arguments, **options)

    made.__init__ = making


def _fabric(fabric: Any, *_: object, **__: object) -> None:
    """Every in-memory fabric has a tap."""
    if taps.recording is None:
        return
    tap: taps.Tap | None = None
    fabric.tap_owners = {}

    def observe(now: float, port: int, frame: bytes, delivered: list[Any] | None = None) -> None:
        nonlocal tap
        if tap is None:
            ports = fabric._ports
            link_type = taps.RAW_IP if ports and ports[port].properties.mac is None else taps.ETHERNET
            tap = fabric.tap = taps.world(type(fabric).__name__.removeprefix("Memory").lower(), link_type)
            if getattr(fabric, "tap_disturbed", False):
                tap.disturb()
        tap.sent(now, fabric.tap_owners.get(port, BY_HAND), frame, delivered)

    fabric.observe(observe)
    fabric.tap_lost = lambda now, port, frame: observe(now, port, frame, [])


def _impaired(_: object, link: object, *__: object, **___: object) -> None:
    """Which knows of a wire that is impaired."""
    fabric = getattr(_below(link), "_fabric", None)
    if fabric is not None:
        fabric.tap_disturbed = True


def _driver(_: object, stack: Stack, link: object, *__: object, **___: object) -> None:
    """Who sends on a fabric is known from the drivers on its ports, all else is made by hand; and each stack is listened to."""
    below = _below(link)
    fabric = getattr(below, "_fabric", None)
    if fabric is None:
        name = getattr(below, "name", "")
        stack.events.subscribe(lambda event: _told(name, event))
    elif hasattr(fabric, "tap_owners"):
        who = fabric.tap_owners[below.port] = f"node {len(fabric.tap_owners) + 1}"
        stack.events.subscribe(lambda event: getattr(fabric, "tap", taps.FORGETFUL).say(f"{who} says: {event.text()}"))


def _told(name: str, event: object) -> None:
    if taps.recording is not None:
        taps.recording.told.append((time.time(), name, event))


def _below(link: Any) -> Any:
    while hasattr(link, "_link"):
        link = link._link
    return link


@cache
def _wrap() -> None:
    """Once, and only in a process that runs tests: it loads the stack."""
    from tapstack import driver
    from tapstack.link import impairment, memory

    _after(memory._Fabric, _fabric)
    _after(impairment.ImpairedLink, _impaired)
    _after(driver.Driver, _driver)
