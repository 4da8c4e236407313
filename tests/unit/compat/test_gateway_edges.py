"""The gateway of `unimux run` where two things happen in one moment, or too late; what a long run keeps."""

from __future__ import annotations

import asyncio
from ipaddress import IPv6Address
from typing import Any

import dns.message
import dns.rcode
import pytest
from scapy.all import raw
from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import IPv6

from compat.gateway import calls
from compat.gateway.names import EARLY, PATIENCE, TIMEOUT, Names
from compat.gateway.services import Services
from compat.gateway.sockets import Listening
from compat.publisher import Publisher, PublishLimits
from tapstack.events import DropReason
from tapstack.ipv6.addresses import AddressKind, Trigger
from tapstack.ipv6.packet import Packet
from tapstack.link.errors import LinkLost
from tapstack.signals import Signal
from tapstack.tcp.options import PortMode, SocketOptions
from tapstack.tcp.states import TcpTrigger
from tapstack.types import address
from tests.unit.compat.test_gateway import Collector, place
from tests.unit.unimux.lan import handled, virtual
from unimux.errors import ConnectTimeout
from unimux.node import Node, NodeConfig
from unimux.purpose import Purpose
from unimux.ssa.issue import ServiceAddress
from unimux.state import StateError


class NoSocket:
    """In place of the control socket, which is the kernel's."""

    def __init__(self, service: object) -> None: ...

    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *_: object) -> None: ...


def test_a_syn_that_comes_as_the_patience_ends_is_too_late_and_no_more() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        told = handled()
        packet = Packet(bytes(16), bytes(16), None, memoryview(bytes(60)))
        call = calls._Call(packet, loop.time())

        async def answer() -> None:
            async with asyncio.timeout(call.patience) as call.scope:
                await asyncio.sleep(1000)

        answering = asyncio.create_task(answer())
        await asyncio.sleep(0)
        loop.call_at(loop.time() + call.patience, lambda: call.again(packet, loop.time()))
        with pytest.raises(TimeoutError):
            await answering
        assert not told

    virtual(main())


def test_a_handshake_that_completes_when_nobody_expects_it_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with place() as here:
            told = handled()
            ssa = await here.peer.listen(Collector).issue(sessions=3)
            assert (
                await here.outcome(here.connect(str(ssa.address), 80)) & Signal.ESTABLISHED
            )  # the neighbours are known
            monkeypatch.setattr(calls, "HANDSHAKE_TIMEOUT", 0.00015)  # the program's kernel takes 0.0002 s
            first = here.connect(str(ssa.address), 80)
            await asyncio.sleep(0.0001)
            second = here.connect(str(ssa.address), 80)  # keeps the door open for a moment longer
            assert await here.outcome(first) & Signal.ESTABLISHED
            assert await here.outcome(first) & Signal.CLOSED, "its stream leads nowhere: it hears so"
            await asyncio.sleep(10)
            assert not told and (here.gateway.calls.doors, len(here.gateway.calls.relays)) == (0, 1)
            assert len(list(here.gateway.stack.tcp.demux)) == 1
            second.abort(here.driver.now())

    virtual(main())


def test_a_program_that_listens_anew_again_and_again_leaves_no_services_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compat.gateway.services.control_server", NoSocket)

    async def main() -> None:
        async with place() as here:
            told: list[str] = []
            options: dict[str, Any] = {"count": 1, "sessions": 1, "lifetime": 30.0, "limits": PublishLimits()}
            services = Services(here.gateway, "ftpd", lambda event, facts, text: told.append(event), print, **options)
            for port in range(20_000, 20_050):
                services.update(frozenset({Listening(IPv6Address("::"), port, port)}))
                await asyncio.sleep(1)
            assert told.count("issued") == 50
            assert len(services._publishers) <= 2
            await services.close()

    virtual(main())


def test_a_program_that_calls_again_from_the_same_port_ends_its_earlier_call() -> None:
    """Its kernel forgot the first one before it was answered; nothing of that stays, nor does it touch the second one."""

    async def main() -> None:
        async with place() as here:
            told = handled()
            peers: list[Collector] = []

            def factory() -> Collector:
                peers.append(Collector())
                return peers[-1]

            ssa = await here.peer.listen(factory, mode=PortMode.L2).issue(sessions=2)
            for _ in range(2):
                connection = here.connect(str(ssa.address), 80, local_port=4000)
                if len(peers) == 0:
                    await asyncio.sleep(0.01)
                    connection.owner = None
                    connection.delete(TcpTrigger.DELETE, here.driver.now(), "the socket is closed")
                    await asyncio.sleep(2)
                    assert (here.gateway.calls.waiting, here.gateway.calls.doors) == (0, 1)
            assert await here.outcome(connection) & Signal.ESTABLISHED
            mine = here.begin(connection)
            assert mine.transport is not None
            await asyncio.sleep(2 * calls.HANDSHAKE_TIMEOUT)
            assert not told
            assert peers[0].ended.is_set() and not peers[1].ended.is_set()
            assert (here.gateway.calls.doors, len(here.gateway.calls.relays)) == (0, 1)
            mine.transport.write(b"hello")
            await asyncio.sleep(1)
            assert peers[1].data == b"hello"
            mine.transport.abort()

    virtual(main())


def test_the_newer_call_of_a_port_is_the_one_that_is_answered() -> None:
    """The first is given up while the node still connects for it; the second does not have to wait for its own repetition."""

    async def main() -> None:
        async with place(latency=0.4) as here:
            peers: list[Collector] = []

            def factory() -> Collector:
                peers.append(Collector())
                return peers[-1]

            ssa = await here.peer.listen(factory, mode=PortMode.L2).issue(sessions=2)
            first = here.connect(str(ssa.address), 80, local_port=4000)
            await asyncio.sleep(0.3)
            first.owner = None
            first.delete(TcpTrigger.DELETE, here.driver.now(), "the socket is closed")
            begun = here.driver.now()
            second = here.connect(str(ssa.address), 80, local_port=4000)
            assert await here.outcome(second) & Signal.ESTABLISHED
            assert here.driver.now() - begun < 2
            await asyncio.sleep(2)
            assert len(peers) == 1
            second.abort(here.driver.now())

    virtual(main())


def test_a_syn_that_is_damaged_calls_nobody_and_nobody_stands_in_for_the_program() -> None:
    async def main() -> None:
        async with place() as here:
            ssa = await here.peer.listen(Collector).issue()
            program, far = here.gateway.inside.program, str(ssa.address)
            sound = raw(IPv6(src=program, dst=far) / TCP(sport=4000, dport=80, flags="S"))
            link = here.driver.link
            link.send([sound[:56] + bytes([sound[56] ^ 1]) + sound[57:]])
            link.send([raw(IPv6(src=far, dst=program) / TCP(sport=80, dport=4000, flags="S"))])
            link.send([raw(IPv6(src=far, dst=program) / UDP(sport=80, dport=4000) / b"x")])
            await asyncio.sleep(0.1)
            stack = here.gateway.stack
            assert here.gateway.calls.waiting == 0
            assert stack.counters.drops[DropReason.CHECKSUM] == 1
            assert program.packed not in stack.host.addresses
            link.send([sound])
            await asyncio.sleep(0.01)
            assert here.gateway.calls.waiting == 1

    virtual(main())


def test_a_visitor_is_waited_for_as_long_as_was_said() -> None:
    """The third loss of its SYN is trouble and no end."""

    async def main() -> None:
        async with place() as here:
            listener = here.kernel.tcp.listen(SocketOptions(mode=PortMode.AWARE, backlog=1), here.driver.now(), 8080)
            listener.arm(here.entry, here.driver.now(), sessions=None)
            visitors = [address(f"2001:db8:77::{number}") for number in (7, 8)]
            await here.gateway.visits.connect(Collector, (visitors[0], 4711), 8080, timeout=10)
            await asyncio.sleep(0.1)  # the program's queue is full
            begun = here.driver.now()
            with pytest.raises(ConnectTimeout):
                await here.gateway.visits.connect(Collector, (visitors[1], 4712), 8080, timeout=10)
            assert here.driver.now() - begun == pytest.approx(10)
            listener.accept()
            await asyncio.sleep(30)
            assert listener.accept() is None, "nobody is left who would call again"

    virtual(main())


def test_a_service_that_cannot_go_on_says_why_and_begins_again_with_the_next_news(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("compat.gateway.services.control_server", NoSocket)
    issue = Publisher.issue

    async def main() -> None:
        async with place() as here:
            told: list[str] = []
            complaints: list[str] = []
            options: dict[str, Any] = {"count": 1, "sessions": 1, "lifetime": 30.0, "limits": PublishLimits()}
            services = Services(
                here.gateway, "ftpd", lambda event, facts, text: told.append(event), complaints.append, **options
            )

            async def failing(self: Publisher, **terms: Any) -> ServiceAddress:
                raise StateError("the state in /var/lib/x cannot be written: No space left on device")

            monkeypatch.setattr(Publisher, "issue", failing)
            here_it_is = Listening(IPv6Address("::"), 2121, 1)
            services.update(frozenset({here_it_is}))
            await asyncio.sleep(1)
            assert told == ["listening", "closed"]
            assert complaints == [
                "ftpd-2121 has no more addresses: the state in /var/lib/x cannot be written: No space left on device"
            ]
            monkeypatch.setattr(Publisher, "issue", issue)
            services.update(frozenset({here_it_is, Listening(IPv6Address("::"), 2122, 2)}))
            await asyncio.sleep(1)
            assert told.count("issued") == 2
            await services.close()

    virtual(main())


def test_a_device_that_the_program_deletes_is_complained_of() -> None:
    async def main() -> None:
        async with place() as here:
            here.gateway.driver._lose(
                LinkLost("The network device 'unimux0' is gone (no such device): open the link again.")
            )
            assert len(here.complaints) == 1
            assert here.complaints[0].startswith(
                "The program has no network any more: the device of its namespace is gone"
            )

    virtual(main())


def test_a_question_that_waits_for_a_name_server_outlives_the_node() -> None:
    async def main() -> None:
        async with place() as here:
            query = dns.message.make_query("www.example", "AAAA")
            asyncio.get_running_loop().call_later(1, here.node.driver._lose, LinkLost("the device is gone"))
            response = await here.gateway.names.answer(query.to_wire(), stream=False)
            assert response is not None
            assert dns.message.from_wire(response).rcode() == dns.rcode.SERVFAIL

    virtual(main())


def test_a_first_question_waits_for_an_address_longer_than_an_answer_is_waited_for() -> None:
    """Where the router's advertisement is late, the name server is known, from the configuration, and no address is."""

    async def main() -> None:
        async with place() as here:
            server = here.peer.stack.host.addresses.add(
                address("2001:db8:1::53"), AddressKind.STABLE, here.peer.now(), trigger=Trigger.ADD_WITHOUT_DAD
            )
            flow = here.peer.stack.udp.open(server, here.peer.now(), local_port=53)

            def answered(bits: int) -> None:
                while (datagram := flow.receive()) is not None:
                    response = dns.message.make_response(dns.message.from_wire(datagram.data))
                    flow.send(response.to_wire(), here.peer.now(), datagram.remote, datagram.remote_port)
                    here.peer.driver.kick()

            flow.owner = answered
            late = Node(
                here.net.switch.connect(bytes([2, 0, 0, 0, 0, 9])), NodeConfig(name_servers=("2001:db8:1::53",))
            )
            async with late:
                prefixes = late.stack.host.prefix_list
                prefix = address("2001:db8:1::")

                def announced() -> None:
                    prefixes.add_static(prefix, 64, autonomous=True, now=late.now())
                    late.driver.kick()

                asyncio.get_running_loop().call_later(2 * TIMEOUT, announced)
                query = dns.message.make_query("www.example", "AAAA").to_wire()
                began = here.peer.now()
                response = await Names(late, Purpose(front_end="run")).answer(query, stream=False)
                assert response is not None and dns.message.from_wire(response).rcode() == dns.rcode.NOERROR
                assert 2 * TIMEOUT < here.peer.now() - began < PATIENCE
            flow.owner = None
            flow.close(here.peer.now())

    virtual(main())


def test_that_no_name_server_is_known_is_told_once_and_early() -> None:
    async def main() -> None:
        async with place() as here:
            query = dns.message.make_query("www.example", "AAAA").to_wire()
            asking = asyncio.create_task(here.gateway.names.answer(query, stream=False))
            await asyncio.sleep(EARLY + 0.1)
            assert not asking.done()
            assert len(here.complaints) == 1 and "no router has announced a name server" in here.complaints[0]
            for response in (await asking, await here.gateway.names.answer(query, stream=False)):
                assert response is not None and dns.message.from_wire(response).rcode() == dns.rcode.SERVFAIL
            assert len(here.complaints) == 1

    virtual(main())
