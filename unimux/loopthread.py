"""A node that lives in a background thread, for programs without a loop of their own."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from contextlib import AbstractAsyncContextManager
from typing import Any, Self, TypeVar

from .node import Node

START_TIMEOUT = 60.0

T = TypeVar("T")


class LoopThread:
    """A node in a thread of its own, for `with`.

    make: what gives the node, called in that thread's loop: `Node(link)`, or `compat.attachment.attached_node(settings)`.
    """

    def __init__(self, make: Callable[[], AbstractAsyncContextManager[Node]]) -> None:
        self._make = make
        self._ready = threading.Event()
        self._stop: asyncio.Event | None = None
        self._failure: BaseException | None = None
        self._over = False
        self._given_up = False
        self._waited_for: set[Future[Any]] = set()
        self._node: Node | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._main, name="unimux-node", daemon=True)

    def start(self) -> Self:
        """Start the node; raises what its start raises."""
        self._thread.start()
        if not self._ready.wait(START_TIMEOUT):
            self._given_up = True  # nobody will hold what comes about yet
            raise TimeoutError(errno.ETIMEDOUT, f"the node did not start within {START_TIMEOUT:g} s")
        if self._failure is not None:
            raise self._failure
        return self

    def close(self) -> None:
        """Stop the node; its connections end.  Harmless when called again.  Raises what its end raises."""
        if self._loop is not None and self._stop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        if self._thread.ident is not None:
            self._thread.join()
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _main(self) -> None:
        try:
            asyncio.run(self._live())
        except BaseException as error:
            self._failure = error
        finally:
            self._over = True
            for future in list(self._waited_for):  # what the loop took in too late to begin or to cancel it
                future.cancel()
            self._ready.set()

    async def _live(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        async with self._make() as node:
            self._node = node
            self._ready.set()
            if not self._given_up:
                await self._stop.wait()

    @property
    def node(self) -> Node:
        """The node; only `run` and `call` may touch it."""
        assert self._node is not None, "the thread has not been started"
        return self._node

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The node's loop."""
        assert self._loop is not None, "the thread has not been started"
        return self._loop

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the node's loop to its end, from another thread."""
        try:
            future = asyncio.run_coroutine_threadsafe(work, self.loop)
        except RuntimeError:
            work.close()
            raise OSError(errno.ENETDOWN, "the node has been stopped") from None
        self._waited_for.add(future)
        if self._over:  # in this order, as the loop's thread has it in the other: one of the two sees the other
            future.cancel()
        try:
            return future.result()
        except CancelledError:
            raise OSError(errno.ENETDOWN, "the node was stopped meanwhile") from None
        except BaseException:
            future.cancel()
            raise
        finally:
            self._waited_for.discard(future)

    def call(self, work: Callable[[], T]) -> T:
        """As `run`, for a plain function."""

        async def inside() -> T:
            return work()

        return self.run(inside())
