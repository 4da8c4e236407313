"""What an address is for reaches the journal and the agent, whichever way the want came (UM-NODE-4, UM-GEN-3, UM-DAS-3)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path

import dns.message
import dns.tsig
import pytest
from scapy.layers.inet import TCP
from scapy.layers.inet6 import IPv6

from compat.publisher import Backend, Publisher, published
from tapstack.tcp.options import PortMode
from tapstack.types import address_text
from tests.unit.unimux.lan import Lan, lan, virtual
from unimux.aio import open_connection, start_server
from unimux.control import Offer
from unimux.das import AgentCaller, DasRequired, Want
from unimux.events import EventFile
from unimux.journal import JournalPolicy, MemoryJournal, Row, What
from unimux.node import Node
from unimux.purpose import AddressAssigned, Purpose
from unimux.ssa.counters import MemoryCounters
from unimux.ssa.dnsresponder import Asker, DnsPolicy, Responder
from unimux.ssa.dnsserver import DnsServer
from unimux.ssa.secret import SecretWindow, SharedSecret
from unimux.ssa.secretclient import SecretClient

ROUTED = "2001:db8:a::"
SECRET = SharedSecret(b"sixteen bytes or more", "files", "carol")


@dataclass(frozen=True)
class Sticky:
    """A session by name."""

    name: str
    ttl: float | None = 30.0


def journal_of(node: Node, *, peers: bool = True) -> MemoryJournal:
    """A journal of the node from now on."""
    made = MemoryJournal(node.source, JournalPolicy(peers=peers))
    made.watch(node.events)
    return made


def told(row: Row) -> tuple[str, str | None, str | None, str | None]:
    """What a row says of the purpose."""
    return row.what.value, row.front_end, row.who, row.service


def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The server's part: none."""
    writer.close()


async def two(net: Lan, dedicated: bool) -> tuple[Node, Node]:
    """A node that calls and one that serves, on a shared link or on routed prefixes."""
    one = await net.node(dedicated=ROUTED if dedicated else None)
    other = await net.node(dedicated="2001:db8:b::" if dedicated else None)
    for node in (one, other):
        await node.until(lambda node=node: node.stack.host.link_local is not None)  # type: ignore[misc]
    if dedicated:
        for node, router in ((one, other), (other, one)):
            assert router.stack.host.link_local is not None
            node.stack.host.routers.add_static(router.stack.host.link_local, node.now())
    return one, other


@pytest.mark.proves("UM-NODE-4", "UM-GEN-3")
@pytest.mark.parametrize("dedicated", [False, True], ids=["on-link", "dedicated"])
def test_both_ends_of_a_session_know_who_talked_to_whom_when_and_what_for(dedicated: bool) -> None:
    async def main() -> None:
        async with lan() as net:
            one, other = await two(net, dedicated)
            calling, serving = journal_of(one), journal_of(other)
            server = start_server(other, close, service="files", purpose=Purpose(front_end="test"))
            ssa = await server.issue(who="alice's laptop")
            reader, writer = await open_connection(
                one, ssa.address, 80, purpose=Purpose(front_end="socks5", who="alice")
            )
            await reader.read()
            writer.close()
            _, (syn, *_) = zip(*net.packets(TCP), strict=True)
            source, target = syn[IPv6].src, syn[IPv6].dst  # of the wire: what an observer brings to the audit
            gone = (ssa.address.packed, other), (IPv6Address(source).packed, one)
            for packed, node in gone:
                await node.until(lambda packed=packed, node=node: packed not in node.stack.host.addresses, 30)  # type: ignore[misc]
            rows = calling.whois(IPv6Address(source).packed).rows
            assert [told(row) for row in rows] == [
                ("taken", None, None, None),
                ("assigned", "socks5", "alice", None),
                ("connected", "socks5", "alice", None),
                ("released", "socks5", "alice", None),
            ]
            assert {row.peer for row in rows[1:3]} == {target}
            assert rows[0].cause == f"connect to {target}"
            assert [row.time for row in rows] == sorted(row.time for row in rows)
            rows = serving.whois(IPv6Address(target).packed).rows
            assert [told(row) for row in rows] == [
                ("taken", None, None, None),
                ("assigned", "test", "alice's laptop", "files"),
                ("connected", "test", "alice's laptop", "files"),
                ("released", "test", "alice's laptop", "files"),
            ]
            assert (rows[0].cause, rows[2].peer) == ("issued for files", source)
            assert "through test, who alice's laptop, service files" in serving.whois(ssa.address.packed).text()
            server.close()

    virtual(main())


@pytest.mark.proves("UM-NODE-4", "UM-GEN-3", "UM-DAS-4", "UM-DAS-6", by="api")
def test_flows_questions_and_sticky_sessions_are_named_too() -> None:
    async def main() -> None:
        async with lan() as net:
            one, other = await two(net, dedicated=False)
            await one.ready(4, 20)
            journal = journal_of(one)
            where = other.stack.host.link_local
            assert where is not None
            flow = one.datagrams.flow(where, 9, lambda data: None, purpose=Purpose(front_end="socks5", who="bob"))
            flow.send(b"hello")
            await asyncio.sleep(1)
            flow.close()
            with pytest.raises((OSError, TimeoutError)):
                await one.datagrams.exchange(where, b"?", 1.0, purpose=Purpose(front_end="resolver"))
            server = start_server(other, close, mode=PortMode.AWARE)
            ssa = await server.issue(sessions=2)
            session = Sticky("carol's cart")
            purpose = Purpose(front_end="http", who="carol")
            for _ in range(2):
                _, writer = await open_connection(one, ssa.address, None, session=session, purpose=purpose)
                writer.close()
            await asyncio.sleep(60)
            assigned = [row for row in journal.rows() if row.what is What.ASSIGNED]
            assert [(row.front_end, row.who) for row in assigned] == [
                ("socks5", "bob"),
                ("resolver", None),
                ("http", "carol"),
            ]
            assert [row.peer for row in assigned] == [address_text(where)] * 2 + [str(ssa.address)]
            assert sum(row.what is What.CONNECTED and row.who == "carol" for row in journal.rows()) == 2
            server.close()

    virtual(main())


@asynccontextmanager
async def publication(net: Lan) -> AsyncIterator[tuple[Node, Publisher, MemoryJournal]]:
    """A published service on a node of its own, and the node's journal."""
    node = await net.node()
    await node.ready(4, 20)
    async with published(node, "files", Backend("127.0.0.1", 9), sessions=1) as publisher:
        yield node, publisher, journal_of(node, peers=False)


@pytest.mark.proves("UM-SSA-1", "UM-SSA-2", "UM-SSA-3", "UM-GEN-3", by="api")
def test_each_delivery_says_by_which_way_an_ssa_was_asked_for() -> None:
    """Printed, asked for by another process, by DNS with a key, by a shared secret: the service and the way are on record."""
    key = dns.tsig.Key("dave", b"0123456789abcdef0123456789abcdef", dns.tsig.HMAC_SHA256)

    async def main() -> None:
        async with lan() as net, publication(net) as (node, publisher, journal):
            printed = await publisher.issue()
            asked = await publisher.issue_for(Offer(new=1))

            async def mint(asker: Asker) -> IPv6Address:
                return (await publisher.issue(front_end="dns", who=asker.key)).address

            policy = DnsPolicy(zone="shop.example", keys={"dave": key.secret})
            async with DnsServer(node, Responder(policy, mint, node.now), IPv6Address("2001:db8:1::53")) as server:
                query = dns.message.make_query("shop.example", "AAAA")
                query.use_tsig({key.name: key}, key.name)
                wire = await server.responder.answer(query.to_wire(), "2001:db8:7::1", stream=False)
                assert wire is not None
                named = dns.message.from_wire(wire, keyring={key.name: key}, request_mac=query.mac).answer[0][0]
            window = SecretWindow(
                SECRET, publisher.server(PortMode.L1).listener, node.pool, node.events, MemoryCounters(), armed=1
            )
            window.start(node.now())
            node.driver.kick()
            await node.until(lambda: window.armed == [0], 10)
            network = IPv6Network("2001:db8:1::/64")
            found = {
                where: {(row.front_end, row.who, row.service) for row in journal.whois(where.packed).rows[1:]}
                for where in (
                    printed.address,
                    IPv6Address(asked["address"]),
                    IPv6Address(named.address),
                    SECRET.address(network, 0),
                )
            }
            assert list(found.values()) == [
                {("publish", None, "files")},
                {("ssa new", None, "files")},
                {("dns", "dave.", "files")},
                {("secret", "carol", "files")},
            ]
            caller = await net.node()
            await caller.ready(1, 20)
            client = SecretClient(caller, SECRET, network, MemoryCounters())
            transport, _ = await client.create_connection(asyncio.Protocol)
            transport.close()
            await asyncio.sleep(1)
            connected = [r for r in journal.whois(SECRET.address(network, 0).packed).rows if r.what is What.CONNECTED]
            assert [(row.who, row.service) for row in connected] == [("carol", "files")]
            window.close(node.now())

    virtual(main())


@pytest.mark.proves("UM-DAS-3", by="api")
def test_an_agent_is_told_what_the_address_is_for() -> None:
    async def main() -> None:
        async with lan() as net:
            one, other = await two(net, dedicated=False)
            server = start_server(other, close)
            das = DasRequired(one.pool, one.events)
            wanted: list[Want] = []

            async def agent(want: Want) -> str:
                wanted.append(want)
                return "2001:db8:1:0:5afe::1"

            das.on_need = AgentCaller(das, agent, one.now, one.driver.kick)
            ssa = await server.issue()
            purpose = Purpose(front_end="socks5", who="alice")
            _, writer = await open_connection(one, ssa.address, 80, das=das, purpose=purpose)
            assert [want.purpose for want in wanted] == [purpose]
            assert writer.get_extra_info("sockname")[0] == "2001:db8:1:0:5afe::1"
            writer.close()
            server.close()

    virtual(main())


@pytest.mark.proves("UM-NODE-4", by="api")
def test_the_events_tell_it_as_json_and_ordinary_addresses_are_assigned_to_nobody(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    seen: list[AddressAssigned] = []

    async def main() -> None:
        async with lan() as net:
            one, other = await two(net, dedicated=False)
            one.watch(lambda event: seen.append(event) if isinstance(event, AddressAssigned) else None)
            server = start_server(other, close)
            with EventFile(path, one.events):
                ssa = await server.issue()
                _, writer = await open_connection(one, ssa.address, 80, purpose=Purpose(who="alice"))
                writer.close()
                await asyncio.sleep(1)
            server.close()

    virtual(main())
    (event,) = seen
    assert event.text().endswith("for alice")
    assert '"event":"assigned"' in path.read_text()
    assert '"who":"alice"' in path.read_text()
