"""What the front end needs from a node, as small interfaces.

A `Dialler` is all that CONNECT takes.  BIND and UDP ASSOCIATE are answered with "command not supported" where the
front end is given no `Binder` or no `DatagramService`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from compat.socks.session import Authenticator, Session
from compat.socks.settings import SocksCounters, SocksLimits
from tapstack.tcp.options import PortMode
from tapstack.types import Buffer
from unimux.purpose import UNNAMED, Purpose


class Dialler(Protocol):
    """Opens connections, each from its own one-time address."""

    async def create_connection(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str,
        port: int,
        *,
        mode: PortMode | None,
        timeout: float,
        session: Session | None,
        purpose: Purpose,
    ) -> tuple[asyncio.Transport, Any]:
        """Connect to `host`, a name or an address as text, within `timeout` seconds.

        mode: how ports are treated; None for the node's default.
        session: connections of equal sessions share one address; None for an address of its own.
        purpose: for the node's journal.
        Raises a `UnimuxError`; may be cancelled.
        """


class Bound(Protocol):
    """A service address that waits for one connection."""

    @property
    def address(self) -> str:
        """Where the peer is to connect to."""

    @property
    def port(self) -> int:
        """The port to name to the peer."""

    def close(self) -> None:
        """Stop waiting; harmless after the connection came."""


class Binder(Protocol):
    """Issues service addresses (SSAs) for BIND."""

    async def bind(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        *,
        client: str | None,
        lifetime: float,
        purpose: Purpose,
    ) -> Bound:
        """Arm a fresh address for one session; the connection gets a protocol of `protocol_factory`.

        client: the only address that may connect, None for any; lifetime: seconds after which it expires.
        purpose: for the node's journal.
        """


class Flow(Protocol):
    """A UDP flow to one remote endpoint, from its own one-time address (UM-DAS-6)."""

    @property
    def peer(self) -> tuple[str, int]:
        """Address and port of the remote endpoint."""

    def send(self, data: Buffer) -> None:
        """Send one datagram; dropped if it cannot be sent."""

    def close(self) -> None:
        """End the flow and give its address back; harmless when called again."""


class DatagramService(Protocol):
    """Opens UDP flows."""

    async def open_flow(
        self,
        host: str,
        port: int,
        receive: Callable[[Buffer], None],
        *,
        session: Session | None,
        purpose: Purpose = UNNAMED,
    ) -> Flow:
        """A flow to `host` and `port`; `receive` is called with each datagram that comes back.

        Raises a `UnimuxError`, and ValueError for what is no unicast address.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What a client's requests are served with.

    authenticator: who may use the front end, None for everybody; mode: how ports are treated, None for the node's default.
    """

    dialler: Dialler
    binder: Binder | None = None
    datagrams: DatagramService | None = None
    authenticator: Authenticator | None = None
    mode: PortMode | None = None
    limits: SocksLimits = field(default_factory=SocksLimits)
    counters: SocksCounters = field(default_factory=SocksCounters)
