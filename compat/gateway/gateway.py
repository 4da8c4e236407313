"""Where the programs of a namespace meet the node: a second stack, on a TUN device, that answers for the whole Internet.

    program ── its kernel ── TUN ── this stack │ relays, flows │ node's stack ── network
               PROGRAM     default route         one-time addresses

Model.  The namespace has one address (`Inside.program`) and a default route to the TUN device.  Whatever the program sends
arrives at this stack, which takes the part of the far end: `StandIns` lets it answer for any address.  Streams are
`calls` (the program connects) and `visits` (somebody connects to the program), datagrams are `datagrams`; each is an
ordinary connection or flow of the node at the other side, with an address of its own.

* A SYN of the program is answered only after the node's own connect has succeeded; a failure goes back as what the
  program's kernel would have met without us: RST, an ICMPv6 error, or silence (`refusals`).
* A visitor appears under its own address and port, since this stack can speak for any address.
* Names are asked of a resolver at `Inside.resolver` (`names`).

Invariants: this stack never sends to the network, and nothing reaches the network but through the node's public calls;
everything is bounded: stand-ins, calls that wait, flows.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from compat.gateway.calls import Calls
from compat.gateway.datagrams import Carrier
from compat.gateway.inside import Inside
from compat.gateway.names import Names
from compat.gateway.standins import StandIns
from compat.gateway.visits import Visits
from tapstack.driver import Driver
from tapstack.ipv6.addresses import AddressKind, Trigger
from tapstack.ipv6.config import HostConfig
from tapstack.ipv6.packet import Packet
from tapstack.link.base import Link
from tapstack.link.errors import LinkLost
from tapstack.stack import Stack
from tapstack.wire import icmpv6, ipv6
from unimux.node import Node
from unimux.purpose import UNNAMED, Purpose

_HOST = HostConfig(
    stable_addresses=False,
    solicit_routers=False,
    dad_transmits=0,
    advertise_promotion=False,
    icmp_error_rate=1e6,
    icmp_error_burst=1_000_000,  # the limit protects a network; here the only hearer is the program's kernel
)


class Gateway:
    """Joins a namespace's TUN device to a node, from `__aenter__` to `__aexit__`.

    link: the TUN device.  complain: told, once per cause, what the program cannot know: the pool is empty, for instance, or the
    device is gone.  purpose: what the addresses are for, for the journal and for agents.
    """

    def __init__(
        self,
        node: Node,
        link: Link,
        inside: Inside,
        *,
        complain: Callable[[str], None] = lambda text: None,
        purpose: Purpose = UNNAMED,
    ) -> None:
        self.node = node
        self.purpose = purpose
        self.inside = inside
        self.stack = Stack(link.properties, os.urandom(32), _HOST)
        self.stack.tcp.budget.limit = node.config.buffer_budget
        host = self.stack.host
        self.stand_ins = StandIns(host.addresses, self.stack.timers, inside.program.packed)
        self._complain = complain
        self.driver = Driver(self.stack, self.stand_ins.link(link), self._lost)
        self.calls = Calls(self.stack, self.driver, node, self.stand_ins, complain, purpose)
        self.visits = Visits(self.stack, self.driver, self.stand_ins, inside.program.packed)
        self.datagrams = Carrier(self.stack, self.driver, node, inside.resolver.packed, purpose)
        self.names = Names(node, purpose, complain)
        host.upper[ipv6.TCP] = self.calls.input
        host.upper[ipv6.UDP] = self.datagrams.input
        host.icmp.handlers[icmpv6.Type.ECHO_REQUEST] = self._echo_request

    def _lost(self, error: LinkLost) -> None:
        """A program that may do so has deleted the device."""
        self._complain("The program has no network any more: the device of its namespace is gone. Run it again.")

    def _echo_request(self, packet: Packet, message: icmpv6.Icmpv6, now: float) -> None:
        """No ping is carried: a node's one-time address is for a session.  Whoever asks is told so."""
        kind, code = icmpv6.Type.DESTINATION_UNREACHABLE, icmpv6.UnreachableCode.PROHIBITED
        self.stack.host.icmp_error(packet, kind, code, 0, now)

    async def __aenter__(self) -> Gateway:
        self.driver.start()
        now = self.driver.now()
        entry = self.stack.host.addresses.add(
            self.inside.resolver.packed, AddressKind.STABLE, now, trigger=Trigger.ADD_WITHOUT_DAD, per_address_nd=False
        )
        self.names.listen(self.stack, self.driver, entry)
        self.driver.kick()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.names.close()
        await self.calls.close()
        self.datagrams.close()
        self.driver.close()
