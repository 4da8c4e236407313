"""Servers that take their sessions one by one, as a program with a blocking accept() does (UM-LIS-2, UM-DAS-1).

    acceptor = Acceptor(node)
    reader, writer = await acceptor.accept()

listen() has fixed no address.  accept() sees to it that one is armed before a SYN can arrive: where none is, it
takes one by the node's policy, from the pool (Auto set) or from an agent (DAS required), and waits for it and for the client
within its time-out.  With several calls waiting at once one address is armed for all of them, and the next when that
is used up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from tapstack.tcp.options import PortMode, SocketOptions

from .aio import start_server
from .errors import UnimuxError
from .server import ISSUE_TIMEOUT
from .ssa.issue import DEFAULT_LIFETIME, Client, ServiceAddress

if TYPE_CHECKING:
    from .node import Node

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class AcceptTimeout(UnimuxError, TimeoutError):
    """No session came within the time that accept() would wait.  `seconds`: that time.

    >>> str(AcceptTimeout(2.0))
    'No client came within 2 s: check that it was told the service address.'
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds

    def __str__(self) -> str:
        return f"No client came within {self.seconds:g} s: check that it was told the service address."


class Acceptor:
    """A listening socket whose sessions are asked for.

    auto_arm: SSAs to keep armed whether or not anybody waits in `accept`, for programs that poll.
    armed: told of every SSA when it is armed, so that the client can be told of it.
    client, lifetime: of the SSAs, as for `Server.issue`.
    The other parameters are those of `Node.listen`.
    """

    def __init__(
        self,
        node: Node,
        *,
        mode: PortMode | None = None,
        options: SocketOptions | None = None,
        port: int | None = None,
        auto_arm: int = 0,
        armed: Callable[[ServiceAddress], None] = lambda ssa: None,
        client: Client | None = None,
        lifetime: float | None = DEFAULT_LIFETIME,
    ) -> None:
        self._node = node
        self._armed = armed
        self._client = client
        self._lifetime = lifetime
        self._news: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sessions: deque[Streams] = deque()
        self._arming: asyncio.Task[ServiceAddress] | None = None
        self.server = start_server(node, lambda *streams: self._came(*streams), mode=mode, options=options, port=port)
        if auto_arm:
            self.server.auto_arm(auto_arm, armed, client=client, lifetime=lifetime)

    def _came(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A session: everybody who waits looks, since whoever waits longest may just be giving up."""
        self._sessions.append((reader, writer))
        self._news.set_result(None)
        self._news = asyncio.get_running_loop().create_future()

    async def accept(self, *, timeout: float | None = None) -> Streams:
        """The next session; arms an SSA when none is armed.  An address that was armed stays so when the wait ends in an error.

        Raises `AcceptTimeout` after `timeout` seconds, `NodeStopped`, and what the node's policy raises: `PoolExhausted`,
        `AddressNotSet`.
        """
        deadline = None if timeout is None else self._node.now() + timeout
        try:
            async with asyncio.timeout(timeout):
                while not self._sessions:
                    if not self.server.armed:
                        await self._arm_one(deadline)
                    if not self._sessions:
                        await self._next_change()
        except TimeoutError as error:
            if isinstance(error, UnimuxError) or timeout is None:
                raise
            raise AcceptTimeout(timeout) from None
        return self._sessions.popleft()

    async def _arm_one(self, deadline: float | None) -> None:
        """Arm an SSA; who comes while that is under way waits for the same one, and tries again where it fails."""
        own = self._arming is None
        if self._arming is None:
            left = ISSUE_TIMEOUT if deadline is None else max(deadline - self._node.now(), 0.0)
            issue = self.server.issue(client=self._client, lifetime=self._lifetime, timeout=left)
            self._arming = asyncio.get_running_loop().create_task(issue)
            self._arming.add_done_callback(self._armed_one)
        task = self._arming
        await asyncio.wait([task])
        if own and not task.cancelled():
            task.result()

    def _armed_one(self, task: asyncio.Task[ServiceAddress]) -> None:
        self._arming = None
        if not task.cancelled() and task.exception() is None:
            self._armed(task.result())

    async def _next_change(self) -> None:
        """Wait until a session has come, or nothing is armed any more; raises `NodeStopped`."""
        gone = asyncio.get_running_loop().create_task(self._node.until(lambda: not self.server.armed))
        try:
            await asyncio.wait([self._news, gone], return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                gone.result()
        finally:
            gone.cancel()

    def close(self) -> None:
        """Stop listening, and reset sessions that nobody accepted."""
        if self._arming is not None:
            self._arming.cancel()
        self.server.close()
        while self._sessions:
            self._sessions.popleft()[1].transport.abort()
