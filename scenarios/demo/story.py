"""What both ways of telling the story share: sizes, patience, and the last look."""

from __future__ import annotations

import contextlib

from tapstack.tcp.options import SocketOptions, TimeWait
from unimux.node import Node

from .outcome import Outcome

SMALL_BYTES = 64 * 1024
SMALL_FILES = 20
READY_TIMEOUT = 15.0
RELEASE_TIMEOUT = 20.0
OPTIONS = SocketOptions(time_wait=TimeWait.SHORT, nodelay=True)


async def all_released(name: str, node: Node, outcome: Outcome) -> None:
    """Wait until no one-time address is in use, and note whether it came to that."""

    def held() -> list[str]:
        return [repr(e) for e in node.stack.host.addresses if e.kind.one_time and e.users]

    with contextlib.suppress(TimeoutError):
        await node.until(lambda: not held(), RELEASE_TIMEOUT)
    left = held()
    outcome.fact(f"{name} holds no address when all is over", not left, left[0] if left else "none", "UM-REL-1")
