"""What both ways of telling the story share: sizes, patience, and what is looked at in the end."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from tapstack.ipv6.addresses import AddressState
from tapstack.tcp.options import SocketOptions, TimeWait
from unimux.node import Node

from .outcome import Outcome

SMALL_BYTES = 64 * 1024
SMALL_FILES = 20
READY_TIMEOUT = 15.0
RELEASE_TIMEOUT = 20.0
OPTIONS = SocketOptions(time_wait=TimeWait.SHORT)


async def all_released(name: str, node: Node, outcome: Outcome) -> None:
    """Wait until no one-time address is in use, and note whether it came to that."""
    addresses = node.stack.host.addresses
    with contextlib.suppress(TimeoutError):
        await node.until(lambda: not addresses.held(), RELEASE_TIMEOUT)
    left = addresses.held()
    outcome.fact(f"{name} holds no address when all is over", not left, repr(left[0]) if left else "none", "UM-REL-1")


def reserved_address(node: Node) -> bytes:
    """An address of the node's pool that nothing uses yet."""
    return next(e.address for e in node.stack.host.addresses if e.state is AddressState.UNCERTAIN)


def listener_changed(states: Sequence[str], outcome: Outcome) -> None:
    """Note whether a listener was in LISTEN while its SSA was armed, and in LISTEN_o before and after."""
    outcome.fact(
        "LISTEN_o before and after, LISTEN between",
        list(states) == ["LISTEN_o", "LISTEN", "LISTEN_o"],
        " → ".join(states),
        "UM-LIS-1",
        "UM-LIS-2",
    )
