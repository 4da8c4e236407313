"""The end of a node's thread while other threads wait for it: each is told, none waits for ever."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from tests.unit.unimux.lan import lan
from unimux import loopthread
from unimux.loopthread import LoopThread
from unimux.node import Node


class Ending:
    """A node whose loop has to wait for a job in another thread before it closes, after it has cancelled all tasks."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self.go_on = threading.Event()

    @asynccontextmanager
    async def node(self) -> AsyncIterator[Node]:
        async with lan(latency=0.0002) as net:
            self._task = asyncio.create_task(self._until_cancelled())
            yield await net.node()
            asyncio.get_running_loop().run_in_executor(None, self.go_on.wait, 20)

    async def _until_cancelled(self) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            self.cancelled.set()


class Waiting:
    """Work that does not end, asked for by a thread of its own."""

    def __init__(self, net: LoopThread) -> None:
        self.begun = threading.Event()
        self.raised: list[BaseException] = []
        self._net = net
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    async def _work(self) -> None:
        self.begun.set()
        await asyncio.sleep(3600)

    def _ask(self) -> None:
        try:
            self._net.run(self._work())
        except BaseException as error:
            self.raised.append(error)

    def outcome(self) -> list[tuple[type[BaseException], int | None]]:
        """What it raised, by type and number; empty where it waits still."""
        self._thread.join(5)
        return [(type(error), getattr(error, "errno", None)) for error in self.raised]


def closed(net: LoopThread) -> Callable[[], None]:
    """Begin to close it in another thread; what waits for the end of that."""
    thread = threading.Thread(target=net.close, daemon=True)
    thread.start()
    return lambda: thread.join(10)


def test_work_under_way_when_the_node_stops_is_an_oserror() -> None:
    ending = Ending()
    net = LoopThread(ending.node).start()
    waiting = Waiting(net)
    assert waiting.begun.wait(10)
    ending.go_on.set()
    net.close()
    assert waiting.outcome() == [(OSError, errno.ENETDOWN)]


def test_whoever_comes_while_the_loop_ends_does_not_wait_for_ever() -> None:
    ending = Ending()
    net = LoopThread(ending.node).start()
    end = closed(net)
    assert ending.cancelled.wait(10)
    waiting = Waiting(net)
    assert waiting.begun.wait(10), "the loop still begins what it is given"
    ending.go_on.set()
    end()
    assert waiting.outcome() == [(OSError, errno.ENETDOWN)]


def test_a_node_that_starts_too_late_is_stopped_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loopthread, "START_TIMEOUT", 0.1)
    go_on, over = threading.Event(), threading.Event()

    @asynccontextmanager
    async def late() -> AsyncIterator[Node]:
        await asyncio.to_thread(go_on.wait, 20)
        async with lan(latency=0.0002) as net:
            yield await net.node()
        over.set()

    with pytest.raises(TimeoutError, match="did not start"):
        LoopThread(late).start()
    go_on.set()
    assert over.wait(10), "nobody holds it, and nobody would end it"
