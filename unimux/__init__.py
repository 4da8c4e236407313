"""Unified Multiplex: an own IPv6 address for every connection.

    import unimux

    async with unimux.Node(link) as node:
        reader, writer = await unimux.open_connection(node, "example.org", 80)

The names below are imported when they are first used, so that `unimux --help` does not wait for them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tapstack.tcp.options import PortMode, SocketOptions, TimeWait

    from .aio import open_connection, start_server
    from .node import Node, NodeConfig
    from .poolstate import PoolConfig, WhenEmpty
    from .server import Server
    from .ssa.issue import ServiceAddress

_PLACES = {
    "Node": "unimux.node",
    "NodeConfig": "unimux.node",
    "PoolConfig": "unimux.poolstate",
    "PortMode": "tapstack.tcp.options",
    "Server": "unimux.server",
    "ServiceAddress": "unimux.ssa.issue",
    "SocketOptions": "tapstack.tcp.options",
    "TimeWait": "tapstack.tcp.options",
    "WhenEmpty": "unimux.poolstate",
    "open_connection": "unimux.aio",
    "start_server": "unimux.aio",
}

__all__ = [
    "Node",
    "NodeConfig",
    "PoolConfig",
    "PortMode",
    "Server",
    "ServiceAddress",
    "SocketOptions",
    "TimeWait",
    "WhenEmpty",
    "open_connection",
    "start_server",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'unimux' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)
