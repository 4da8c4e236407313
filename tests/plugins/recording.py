"""While a test runs, what its stacks put on wires in memory is recorded, and what they say of themselves beside it.

The harnesses of the tests ask `tests.plugins.taps` for a tap themselves.  In-memory links belong to the stack's package, which
knows nothing of that: here each gets a tap.  On real links dumpcap takes the frames, and only the stack's events are recorded.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any

import pytest

from scenarios.conformance.labels import BY_HAND
from tests.plugins import taps


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    taps.recording = taps.Recording()
    try:
        return (yield)
    finally:
        taps.recording = None


def _watch_fabrics() -> None:
    """Every in-memory fabric has a tap, which knows of a wire that is impaired."""
    from tapstack.link import impairment, memory

    make_fabric, make_impaired = memory._Fabric.__init__, impairment.ImpairedLink.__init__

    def fabric(self: Any, *arguments: Any, **options: Any) -> None:
        make_fabric(self, *arguments, **options)
        if taps.recording is None:
            return
        tap: taps.Tap | None = None
        self.tap_owners = {}

        def observe(now: float, port: int, frame: bytes, delivered: list[Any] | None = None) -> None:
            nonlocal tap
            if tap is None:
                link_type = taps.RAW_IP if self._ports and self._ports[port].properties.mac is None else taps.ETHERNET
                tap = self.tap = taps.world(type(self).__name__.removeprefix("Memory").lower(), link_type)
                if getattr(self, "tap_disturbed", False):
                    tap.disturb()
            tap.sent(now, self.tap_owners.get(port, BY_HAND), frame, delivered)

        self.observe(observe)
        self.tap_lost = lambda now, port, frame: observe(now, port, frame, [])

    def impair(self: Any, link: Any, *arguments: Any, **options: Any) -> None:
        make_impaired(self, link, *arguments, **options)
        fabric_of = getattr(_below(link), "_fabric", None)
        if fabric_of is not None:
            fabric_of.tap_disturbed = True

    memory._Fabric.__init__ = fabric  # type: ignore[method-assign]
    impairment.ImpairedLink.__init__ = impair  # type: ignore[method-assign]


def _watch_drivers() -> None:
    """Who sends on a fabric is known from the drivers on its ports, all else is made by hand; and each stack is listened to."""
    from tapstack import driver

    make_driver = driver.Driver.__init__

    def drive(self: Any, stack: Any, link: Any, *arguments: Any, **options: Any) -> None:
        make_driver(self, stack, link, *arguments, **options)
        below = _below(link)
        fabric_of = getattr(below, "_fabric", None)
        if fabric_of is None:
            name = getattr(below, "name", "")
            stack.events.subscribe(lambda event: _told(name, event))
        elif hasattr(fabric_of, "tap_owners"):
            who = fabric_of.tap_owners[below.port] = f"node {len(fabric_of.tap_owners) + 1}"
            stack.events.subscribe(
                lambda event: getattr(fabric_of, "tap", taps.FORGETFUL).say(f"{who} says: {event.text()}")
            )

    driver.Driver.__init__ = drive  # type: ignore[method-assign]


def _told(name: str, event: object) -> None:
    if taps.recording is not None:
        taps.recording.told.append((time.time(), name, event))


def _below(link: Any) -> Any:
    while hasattr(link, "_link"):
        link = link._link
    return link


def pytest_configure() -> None:
    _watch_fabrics()
    _watch_drivers()
