"""Names inside the namespace: questions of the program's resolver, asked on by the node from one-time addresses.

A question goes to the node's name servers as it is, and the answer back as it is, with two exceptions, since there is no
IPv4 inside: addresses of IPv4 are left out, and a name that has nothing else is answered with the addresses that the node
makes up for it behind a NAT64 gateway, where there is one (as DNS64 does, RFC 6147).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import dns.exception
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdatatype
import dns.rrset

from compat.gateway.inside import OPTIONS
from tapstack.driver import Driver
from tapstack.ipv6.addresses import AddressEntry
from tapstack.stack import Stack
from tapstack.tcp.listener import Listener
from tapstack.types import address_text
from tapstack.udp.flow import Datagram, FlowClosed, UdpFlow
from unimux.dnsstream import DNS_PORT, ask_over_stream
from unimux.errors import NodeStopped, UnimuxError
from unimux.node import Node
from unimux.purpose import Purpose
from unimux.transport import SessionTransport

LIMIT = 256
"""Questions and streams at a time; one more is dropped, and asked again by the program."""
EARLY = 2.0
"""Seconds after which a lack of name servers is told, while one is still waited for."""
TIMEOUT = 3.0
"""Seconds that a name server is given before the next is asked."""
PATIENCE = 10.0
"""Seconds that a question waits for what it needs to leave, the announcement of a name server and an address: as long as
programs ask (three solicitations take eight)."""
STREAM_IDLE = 10.0
"""Seconds of silence after which a stream of questions is ended."""


class Names:
    """Answers at port 53 of one address of a stack, over UDP and TCP."""

    def __init__(self, node: Node, purpose: Purpose, complain: Callable[[str], None] = lambda text: None) -> None:
        self._node = node
        self._complain = complain
        self._complained = False
        self._purpose = purpose
        self._tasks: set[asyncio.Task[None]] = set()
        self._flow: UdpFlow | None = None
        self._listener: Listener | None = None

    def listen(self, stack: Stack, driver: Driver, entry: AddressEntry) -> None:
        """Begin to answer at an address of `stack`."""
        self._driver = driver
        flow = self._flow = stack.udp.open(entry, driver.now(), local_port=DNS_PORT)
        listener = self._listener = stack.tcp.listen(OPTIONS, driver.now(), DNS_PORT)
        listener.arm(entry, driver.now(), sessions=None)

        def datagrams(bits: int) -> None:
            while (datagram := flow.receive()) is not None:
                self._spawn(self._datagram(flow, datagram))

        def streams(bits: int) -> None:
            while (connection := listener.accept()) is not None:
                reader = asyncio.StreamReader()
                protocol = asyncio.StreamReaderProtocol(reader)
                transport = SessionTransport(driver, connection)
                transport.start(protocol)
                if not self._spawn(self._stream(transport, reader)):
                    transport.abort()

        flow.owner = datagrams
        listener.owner = streams

    def _spawn(self, work: Coroutine[Any, Any, None]) -> bool:
        if len(self._tasks) >= LIMIT:
            work.close()
            return False
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def close(self) -> None:
        """End everything."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._flow is not None and self._listener is not None:
            self._flow.owner = None
            self._flow.close(self._driver.now())
            self._listener.close(self._driver.now())

    async def _datagram(self, flow: UdpFlow, datagram: Datagram) -> None:
        response = await self.answer(datagram.data, stream=False)
        if response is not None:
            try:
                flow.send(response, self._driver.now(), datagram.remote, datagram.remote_port)
            except (FlowClosed, OSError):
                return
            self._driver.kick()

    async def _stream(self, transport: asyncio.Transport, reader: asyncio.StreamReader) -> None:
        """One question after the other, each after two bytes of length (RFC 7766)."""
        try:
            while True:
                async with asyncio.timeout(STREAM_IDLE):
                    length = int.from_bytes(await reader.readexactly(2))
                    question = await reader.readexactly(length)
                response = await self.answer(question, stream=True)
                if response is None:
                    break
                transport.write(len(response).to_bytes(2, "big") + response)
        except (OSError, asyncio.IncompleteReadError):  # a time-out is one
            pass
        finally:
            transport.close()

    # -- answers -----------------------------------------------------------------------------------

    async def answer(self, wire: bytes, *, stream: bool) -> bytes | None:
        """The response to a question; None for what is not one."""
        try:
            query = dns.message.from_wire(wire)
        except (dns.exception.DNSException, ValueError, IndexError):
            return None
        if query.flags & dns.flags.QR or not isinstance(query, dns.message.QueryMessage) or len(query.question) != 1:
            return None
        if query.opcode() != dns.opcode.QUERY:
            return _failure(query, dns.rcode.NOTIMP)
        response = await self._ask(query, wire, stream)
        if response is None:
            return _failure(query, dns.rcode.SERVFAIL)
        return await self._fitting(query, response)

    async def _ask(self, query: dns.message.Message, wire: bytes, stream: bool) -> dns.message.Message | None:
        """The first answer that one of the node's name servers gives, under the id of the question."""
        time = asyncio.get_running_loop().time
        until = time() + PATIENCE
        if not self._node.name_servers:  # the program asks sooner than the router's first advertisement comes
            await self._until_announced()
        for server in self._node.name_servers:
            question = os.urandom(2) + wire[2:]
            try:
                if stream:
                    said = await ask_over_stream(self._node, server, question, TIMEOUT, self._purpose)
                else:
                    patience = until - time()
                    said = await self._node.datagrams.exchange(
                        server, question, TIMEOUT, patience=patience, purpose=self._purpose
                    )
                response = dns.message.from_wire(said)
            except (OSError, UnimuxError, dns.exception.DNSException, ValueError, IndexError):
                continue  # a time-out is an OSError
            if response.id == int.from_bytes(question[:2]) and response.question == query.question:
                response.id = query.id
                return response
        return None

    async def _until_announced(self) -> None:
        """Wait for a name server, and say once that there is none yet."""
        for seconds in (EARLY, PATIENCE - EARLY):
            with suppress(TimeoutError):
                try:
                    await self._node.until(lambda: bool(self._node.name_servers), seconds)
                except NodeStopped:
                    pass
                return
            if not self._complained:
                self._complained = True
                self._complain(
                    "The program asks for a name, and no router has announced a name server: name one "
                    "(UNIMUX_NODE_NAME_SERVERS, or name_servers in the configuration)."
                )

    async def _fitting(self, query: dns.message.Message, response: dns.message.Message) -> bytes:
        """The response as it suits a place without IPv4."""
        asked = query.question[0]
        if asked.rdtype == dns.rdatatype.A:
            response.answer = [rrset for rrset in response.answer if rrset.rdtype != dns.rdatatype.A]
        elif asked.rdtype == dns.rdatatype.AAAA and response.rcode() == dns.rcode.NOERROR:
            absent = not any(rrset.rdtype == dns.rdatatype.AAAA for rrset in response.answer)
            if absent and not response.flags & dns.flags.TC:
                made_up = await self._made_up(asked.name.to_text(omit_final_dot=True))
                if made_up:
                    response.answer = [dns.rrset.from_text(asked.name, 0, "IN", "AAAA", *made_up)]
        return response.to_wire()

    async def _made_up(self, name: str) -> list[str]:
        """The addresses behind a NAT64 gateway of a name that has IPv4 only."""
        try:
            return [address_text(each) for each in await self._node.resolve(name, timeout=2 * TIMEOUT)]
        except (UnimuxError, OSError):
            return []


def _failure(query: dns.message.Message, code: dns.rcode.Rcode) -> bytes:
    response = dns.message.make_response(query)
    response.set_rcode(code)
    return response.to_wire()
