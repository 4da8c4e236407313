"""A node whose service delivers SSAs by DNS, in virtual time, and the queries that it is asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import IPv6Address
from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.tsig
import dns.tsigkeyring
from scapy.layers.inet import UDP

from tapstack.ipv6.addresses import AddressEntry
from tapstack.types import address
from tests.unit.unimux.lan import Hello, Lan, lan, virtual
from unimux.aio import open_connection
from unimux.node import Node
from unimux.server import Server
from unimux.ssa.dnsresponder import Asker, DnsPolicy, Responder
from unimux.ssa.dnsserver import DnsServer, hold_address

NS = IPv6Address("2001:db8:1::53")
KEY = b"0123456789abcdef0123456789abcdef"


class Stage:
    """A node with a responder and a service, and a node that asks."""

    def __init__(
        self, net: Lan, bob: Node, alice: Node, service: Server, server: DnsServer, asked: list[Asker]
    ) -> None:
        self.net = net
        self.bob = bob
        self.alice = alice
        self.service = service
        self.server = server
        self.asked = asked
        self.entry: AddressEntry | None = None

    @property
    def counters(self) -> Any:
        return self.server.responder.counters

    async def udp(self, query: dns.message.Message | bytes, *, timeout: float = 3.0) -> dns.message.Message | None:
        """Ask over UDP from a port of its own; None where nothing comes back."""
        node = self.alice
        if self.entry is None:
            self.entry = await hold_address(node, IPv6Address("2001:db8:1::aaaa"))
        flow = node.stack.udp.open(self.entry, node.now(), address(str(NS)), 53)
        came = asyncio.Event()
        flow.owner = lambda bits: came.set()
        flow.send(query if isinstance(query, bytes) else query.to_wire(), node.now())
        node.driver.kick()
        try:
            async with asyncio.timeout(timeout):
                await came.wait()
            assert flow.receive() is not None
            port = flow.local_port  # what came is read from the wire
            data = next(bytes(p[UDP].payload) for _, p in reversed(self.net.packets(UDP)) if p[UDP].dport == port)
            if isinstance(query, bytes):  # whose signature, if there is one, is not to be checked
                return dns.message.from_wire(data, keyring=False)
            return dns.message.from_wire(data, keyring=query.keyring, request_mac=query.mac)
        except TimeoutError:
            return None
        finally:
            flow.close(node.now())
            node.driver.kick()

    async def tcp(self, *queries: dns.message.Message) -> list[dns.message.Message]:
        """Ask over one TCP connection, all at once."""
        reader, writer = await open_connection(self.alice, NS, 53)
        for query in queries:
            wire = query.to_wire()
            writer.write(len(wire).to_bytes(2, "big") + wire)
        writer.write_eof()
        found = []
        while length := await reader.read(2):
            found.append(dns.message.from_wire(await reader.readexactly(int.from_bytes(length, "big"))))
        writer.close()
        return found

    async def fetch(self, where: str) -> bytes:
        reader, writer = await open_connection(self.alice, where, None)
        data = await reader.read()
        writer.close()
        return data


@asynccontextmanager
async def stage(policy: DnsPolicy | None = None, delay: float = 0.0, **options: Any) -> AsyncIterator[Stage]:
    async with lan() as net:
        bob, alice = await net.node(), await net.node()
        service = bob.listen(Hello)
        asked: list[Asker] = []

        async def mint(asker: Asker) -> IPv6Address:
            asked.append(asker)
            await asyncio.sleep(delay)
            return (await service.issue(client=asker.client, lifetime=30, timeout=2)).address

        def free(address: IPv6Address) -> bool:
            return address in service.armed

        made = policy or DnsPolicy(zone="shop.example", server=str(NS), **options)
        async with DnsServer(bob, Responder(made, mint, bob.now, free), NS) as server:
            yield Stage(net, bob, alice, service, server, asked)


def aaaa(name: str = "shop.example", **options: Any) -> dns.message.Message:
    return dns.message.make_query(name, "AAAA", **options)


def only(response: dns.message.Message | None) -> str:
    """The one address of an answer."""
    assert response is not None
    assert response.rcode() == dns.rcode.NOERROR
    (rrset,) = response.answer
    assert rrset.ttl == 0
    (record,) = rrset
    return str(record.address)


def run(scene: Callable[[Stage], Any], **options: Any) -> None:
    async def main() -> None:
        async with stage(**options) as made:
            await scene(made)

    virtual(main())
