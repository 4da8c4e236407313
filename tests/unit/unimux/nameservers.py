"""Name servers in virtual time for the resolver: each answers as it is told."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Iterable
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rrset

from tapstack.randomness import KeyedRandom
from unimux.errors import PoolExhausted
from unimux.purpose import Purpose
from unimux.resolver import Resolver


def packed(text: str) -> bytes:
    return ipaddress.IPv6Address(text).packed


S1, S2 = packed("2001:db8::53"), packed("2001:db8::54")
SOA = "example. 300 IN SOA ns.example. admin.example. 1 2 3 4 60"
Reply = Callable[[dns.message.Message, bytes], "dns.message.Message | bytes | Exception | None"]


def rrset(text: str) -> dns.rrset.RRset:
    name, ttl, kind, *data = text.split()
    return dns.rrset.from_text(name, int(ttl), "IN", kind, " ".join(data))


def respond(
    query: dns.message.Message, answer: Iterable[str] = (), *, rcode: int = 0, soa: bool = False
) -> dns.message.Message:
    """A response with records written "name ttl type data"."""
    response = dns.message.make_response(query)
    response.set_rcode(dns.rcode.Rcode(rcode))
    response.answer = [rrset(text) for text in answer]
    if soa:
        response.authority = [rrset(SOA.replace(" IN", ""))]
    return response


def zone(records: dict[tuple[str, str], list[str]], *, soa: bool = True) -> Reply:
    """A server that knows these records by (name, type), follows its aliases, and denies the rest."""

    def reply(query: dns.message.Message, server: bytes) -> dns.message.Message:
        (question,) = query.question
        name, kind = str(question.name), question.rdtype.name
        answer: list[str] = []
        while ("CNAME" not in (kind,)) and (name, "CNAME") in records:
            line = records[name, "CNAME"][0]
            answer.append(line)
            name = line.split()[-1]
        answer += records.get((name, kind), [])
        known = any(owner == name for owner, _ in records)
        found = bool(answer) and answer[-1].split()[2] == kind
        return respond(query, answer, rcode=0 if known else dns.rcode.NXDOMAIN, soa=soa and not found)

    return reply


class Servers:
    """The transports of a node, with `reply` at the other end; also keeps what was asked."""

    def __init__(self, reply: Reply, *, delay: float = 0.01) -> None:
        self.reply = reply
        self.delay = delay
        self.empty = False
        """whether there is no address to ask from"""
        self.asked: list[tuple[bytes, dns.message.Message, str]] = []

    async def exchange(
        self,
        server: bytes,
        payload: bytes,
        timeout: float,
        *,
        patience: float,
        asked: Callable[[], None],
        purpose: Purpose,
    ) -> bytes:
        assert purpose.front_end == "resolver"
        until = asyncio.get_running_loop().time() + patience
        while self.empty:
            if asyncio.get_running_loop().time() >= until:
                raise PoolExhausted(patience)
            await asyncio.sleep(min(0.5, until - asyncio.get_running_loop().time()))
        asked()
        got = self._answer(server, payload, "udp")
        if got is None:
            await asyncio.sleep(timeout)
            raise TimeoutError
        await asyncio.sleep(self.delay)
        return got

    def _answer(self, server: bytes, payload: bytes, way: str) -> bytes | None:
        query = dns.message.from_wire(payload)
        self.asked.append((server, query, way))
        got = self.reply(query, server)
        if isinstance(got, Exception):
            raise got
        if isinstance(got, dns.message.Message):
            return got.to_wire(max_size=65535)
        return got

    async def create_connection(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str,
        port: int,
        *,
        timeout: float,
        purpose: Purpose,
    ) -> tuple[asyncio.Transport, Any]:
        assert port == 53
        assert purpose.front_end == "resolver"
        protocol = protocol_factory()
        assert isinstance(protocol, asyncio.Protocol)
        transport = _Stream(self, packed(host), protocol)
        protocol.connection_made(transport)
        return transport, protocol


class _Stream(asyncio.Transport):
    def __init__(self, servers: Servers, server: bytes, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._servers, self._server, self._protocol = servers, server, protocol

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        assert int.from_bytes(data[:2]) == len(data) - 2
        loop = asyncio.get_running_loop()
        got = self._servers._answer(self._server, bytes(data[2:]), "tcp")
        if got is None:
            loop.call_later(0.1, self._protocol.connection_lost, None)
            return
        for index, byte in enumerate(len(got).to_bytes(2) + got):
            loop.call_later(0.001 * index, self._protocol.data_received, bytes([byte]))

    def close(self) -> None:
        asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)


def make(reply: Reply, servers: tuple[bytes, ...] = (S1, S2), **options: Any) -> tuple[Resolver, Servers]:
    transports = Servers(reply)
    return Resolver(transports, transports, lambda: servers, KeyedRandom(bytes(32), "test"), **options), transports


WWW = {
    ("www.example.", "AAAA"): ["www.example. 60 AAAA 2001:db8::1", "www.example. 60 AAAA 2001:db8::2"],
    ("alias.example.", "CNAME"): ["alias.example. 30 CNAME second.example."],
    ("second.example.", "CNAME"): ["second.example. 90 CNAME www.example."],
    ("old.example.", "A"): ["old.example. 60 A 192.0.2.1"],
    ("mail.example.", "MX"): [],
    ("once.example.", "AAAA"): ["once.example. 0 AAAA 2001:db8::77"],
}
