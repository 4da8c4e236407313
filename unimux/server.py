"""Listening on one-time addresses: LISTEN_o until an SSA is issued, a connection per session, LISTEN_o again.

    server = node.listen(ProtocolFactory)
    ssa = await server.issue(client="2001:db8::/32", lifetime=60)
    print(ssa.address)               # tell the client, by whatever means

Issuing arms the address before it is disclosed (UM-LIS-2).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from typing import TYPE_CHECKING

from tapstack.ipv6.addresses import AddressKind
from tapstack.tcp.connection import Signal
from tapstack.tcp.listener import Listener
from tapstack.tcp.options import SocketOptions
from tapstack.tcp.states import TcpState
from tapstack.types import address_text

from .transport import SessionTransport

if TYPE_CHECKING:
    from .node import Node

DEFAULT_LIFETIME = 300.0
ISSUE_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class ServiceAddress:
    """An SSA that was issued: `sessions` sessions until `expires` (the node's clock, seconds), None for no end."""

    address: IPv6Address
    sessions: int
    expires: float | None
    client: IPv6Network | None

    def __str__(self) -> str:
        return str(self.address)


class Server:
    """A service of a node.  Made by `Node.listen`."""

    def __init__(
        self, node: Node, protocol_factory: Callable[[], asyncio.BaseProtocol], options: SocketOptions
    ) -> None:
        self._node = node
        self._factory = protocol_factory
        self._listener: Listener = node.stack.tcp.listen(options, node.now())
        self._listener.owner = self._on_signals

    @property
    def state(self) -> TcpState:
        """LISTEN_o, or LISTEN while an SSA is armed."""
        return self._listener.state

    @property
    def armed(self) -> list[IPv6Address]:
        """The SSAs that can be connected to now."""
        return [IPv6Address(address) for address in self._listener.armed]

    async def issue(
        self,
        *,
        sessions: int = 1,
        client: str | IPv6Network | IPv6Address | None = None,
        lifetime: float | None = DEFAULT_LIFETIME,
        timeout: float = ISSUE_TIMEOUT,
    ) -> ServiceAddress:
        """A fresh SSA, armed for `sessions` sessions of `client` (an address or prefix; None for anybody) for `lifetime` seconds.

        Waits at most `timeout` seconds for an address; raises `PoolExhausted` or `NoPrefix`.
        """
        only = None if client is None else IPv6Network(client)
        entry = await self._node.take_address(AddressKind.SERVICE, None, timeout=timeout, cause="issued")
        now = self._node.now()
        expires = None if lifetime is None else now + lifetime
        named = None if only is None else (only.network_address.packed, only.prefixlen)
        self._listener.arm(entry, now, sessions=sessions, client=named, expires=expires)
        self._node.driver.kick()
        return ServiceAddress(IPv6Address(entry.address), sessions, expires, only)

    def withdraw(self, ssa: ServiceAddress) -> None:
        """Disarm an SSA that is no longer wanted; harmless when it was used up."""
        self._listener.disarm(ssa.address.packed, self._node.now(), "withdrawn")
        self._node.driver.kick()

    def close(self) -> None:
        """Stop listening; established connections go on."""
        self._listener.close(self._node.now())
        self._node.driver.kick()

    def _on_signals(self, bits: int) -> None:
        if not bits & Signal.ACCEPTABLE:
            return
        while (connection := self._listener.accept()) is not None:
            SessionTransport(self._node.driver, connection).start(self._factory())

    def __repr__(self) -> str:
        return f"<Server {self.state} {[address_text(a.packed) for a in self.armed]}>"
