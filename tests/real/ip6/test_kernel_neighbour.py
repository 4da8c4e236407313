"""The Linux kernel as neighbour, router and snooping switch of an IPv6 host of ours."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from random import Random

import pytest
from scapy.layers.inet6 import (
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    IPv6,
    IPv6ExtHdrFragment,
    defragment6,
)
from scapy.layers.l2 import Ether

from compat import kernel
from compat.programs import radvd
from scenarios.witness.frames import (
    ALL_NODES,
    ALLOW,
    BLOCK,
    TO_EXCLUDE,
    TO_INCLUDE,
    Advertisement,
    Kind,
    Solicitation,
    solicited_node,
    text,
)
from tapstack.ipv6.addresses import AddressKind
from tapstack.ipv6.neighbors import NeighborState
from tapstack.types import address, address_text, is_link_local

from .. import datagrams
from ..datagrams import TABLE_PATIENCE
from ..wire import (
    advertisements,
    after,
    captured,
    echoes,
    frames,
    packet_socket,
    packets,
    probes,
    questions,
    reports,
)
from .lan import KERNEL, KERNEL_MAC, MAC, PREFIX, Lan, echo, icmp_socket, lan, one_processor

pytestmark = pytest.mark.real("dumpcap", "radvd")

NUD_REACHABLE = 0x02
IFA_F_DADFAILED, IFA_F_TENTATIVE = 0x08, 0x40
OTHER_MAC = KERNEL_MAC[:5] + b"\x77"
MTU = 1500
JOINS, LEAVES = (ALLOW, TO_EXCLUDE), (BLOCK, TO_INCLUDE)
"""Types of MLDv2 records (RFC 3810 §5.2.12)."""
PATIENCE = 30.0


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "offload"])
def net(request: pytest.FixtureRequest) -> Iterator[Lan]:
    with lan(offload=request.param) as made:
        yield made


@contextmanager
def resolved(net: Lan, target: str) -> Iterator[None]:
    """The kernel knows the host's link-layer address for a target without asking."""
    entry = {"dst": target, "ifindex": net.port.index}
    net.legacy.netlink(
        lambda route: route.neigh("replace", lladdr=MAC.hex(":"), state="permanent", **entry), "set a neighbour"
    )
    try:
        yield
    finally:
        net.legacy.netlink(lambda route: route.neigh("del", **entry), "remove a neighbour")


@pytest.mark.proves("ST-IP6-2", "ST-IP6-3")
@pytest.mark.parametrize("size", [0, 1, 1452, 1453, 5000, 65_000])
def test_echoes_of_any_size(net: Lan, size: int, rng: Random, artefacts: Path) -> None:
    data = rng.randbytes(size)
    with captured(net.port, artefacts / "peer.pcapng") as path:
        assert net.run(echo(net, net.stable, data)) == data
    sent = [packet[IPv6] for packet in packets(path) if IPv6 in packet and packet[Ether].src == MAC.hex(":")]
    assert max(map(len, sent)) <= MTU
    pieces = [packet for packet in sent if IPv6ExtHdrFragment in packet]
    assert bool(pieces) == (40 + 8 + size > MTU)
    whole = IPv6(bytes(defragment6(pieces))) if pieces else next(packet for packet in sent if ICMPv6EchoReply in packet)
    assert bytes(whole[ICMPv6EchoReply].data) == data


@pytest.mark.proves("ST-IP6-4")
def test_both_ends_find_each_other_reachable(net: Lan, artefacts: Path) -> None:
    async def main() -> None:
        assert await echo(net, net.stable, b"hello") == b"hello"
        await net.until(lambda: net.kernel_neighbours()[net.stable] == (NUD_REACHABLE, MAC.hex(":")))
        neighbor = net.host.neighbors.get(address(KERNEL))
        assert neighbor is not None
        assert neighbor.mac == KERNEL_MAC
        # The kernel answers our unreachability probe after the delay of five seconds.
        await net.until(lambda: neighbor.state is NeighborState.REACHABLE, PATIENCE)

    net.host.neighbors.clear()
    kernel.forget_neighbors(net.legacy)
    with captured(net.port, artefacts / "peer.pcapng") as path:
        net.run(main())
    seen = frames(path)
    # The kernel resolves with a group as destination, we answer with our link-layer address.
    asked = next(frame for frame in questions(seen, net.stable) if frame.eth_src == KERNEL_MAC)
    assert asked.dst == solicited_node(address(net.stable))
    answer = next(frame for frame in advertisements(after(seen, asked), net.stable) if frame.eth_src == MAC)
    assert isinstance(answer.message, Advertisement)
    assert (answer.message.solicited, answer.message.override, answer.message.link_layer) == (True, True, MAC)
    assert (answer.eth_dst, answer.dst, answer.hop_limit) == (KERNEL_MAC, asked.src, 255)
    # We probe the kernel itself, which answers, not before the delay after our first packet to it.
    reply = next(frame for frame in seen if frame.kind is Kind.ECHO_REPLY)
    probe = next(frame for frame in questions(after(seen, reply), text(asked.src)) if frame.eth_src == MAC)
    assert (probe.eth_dst, probe.dst, probe.hop_limit) == (KERNEL_MAC, asked.src, 255)
    assert probe.time - reply.time >= 4.5, "the delay of five seconds, but for what the capture of the reply lagged"
    assert [frame for frame in advertisements(after(seen, probe), text(asked.src)) if frame.eth_src == KERNEL_MAC]


async def refused(net: Lan, target: str) -> None:
    """Let the kernel try to take an address, until its DAD has failed.

    A kernel whose neighbour table is full probes nobody and takes it (see `datagrams`), and so does one that is defended too
    late: then it gives it up and tries again.
    """
    name = address_text(address(target))
    async with asyncio.timeout(TABLE_PATIENCE):
        flags = 0
        while not flags & IFA_F_DADFAILED:
            with kernel.address(net.port, f"{target}/64", nodad=False):
                while (flags := net.kernel_addresses()[name]) & (IFA_F_TENTATIVE | IFA_F_DADFAILED) == IFA_F_TENTATIVE:
                    await asyncio.sleep(0.01)


@pytest.mark.proves("UM-ADDR-2", "UM-ADDR-3", "UM-ADDR-4", "UM-ADDR-5")
def test_the_kernel_cannot_take_or_reach_an_uncertain_address_until_it_is_used(net: Lan, artefacts: Path) -> None:
    target = PREFIX + "abcd:1:2:3"

    async def main() -> float:
        entry = await net.reserved(target)
        assert entry.state == "UNCERTAIN"
        await refused(net, target)
        assert entry.state == "UNCERTAIN"  # defended, and kept
        assert await echo(net, target, b"unresolved", timeout=3.0) is None
        with resolved(net, target):
            assert await echo(net, target, b"resolved", timeout=0.5) is None
        assert await echo(net, net.stable, b"alive") == b"alive"
        taken = time.time()
        net.host.addresses.take(entry, AddressKind.STABLE, net.now, "test")
        net.driver.kick()
        assert await echo(net, target, b"now") == b"now"
        net.host.addresses.release(entry, net.now, "test")
        net.driver.kick()
        kernel.forget_neighbors(net.legacy)
        assert await echo(net, target, b"late", timeout=1.0) is None
        return taken

    with captured(net.port, artefacts / "peer.pcapng") as path:
        taken = net.run(main())
    seen = frames(path)
    ours = [frame for frame in seen if frame.eth_src == MAC]
    foreign = [frame for frame in probes(seen, target) if frame.eth_src == KERNEL_MAC]
    used = next(frame for frame in echoes(seen, Kind.ECHO_REPLY, src=target))
    uncertain = [frame for frame in seen if frame.time < taken]
    assert not [frame for frame in uncertain if frame.src == address(target) and frame.eth_src == MAC], "it spoke"
    # The kernel's probes (one where it tried once) are all that is answered, for all nodes and from another address.
    defences = [frame for frame in advertisements(uncertain, target) if frame.eth_src == MAC]
    assert 1 <= len(defences) <= len(foreign)
    for probe, defence in zip(foreign, defences, strict=False):
        assert isinstance(defence.message, Advertisement)
        assert (defence.message.solicited, defence.message.override, defence.message.link_layer) == (False, True, MAC)
        assert defence.order > probe.order
        assert defence.dst == ALL_NODES
        assert is_link_local(defence.src)
    # Resolution and echo requests arrived, and the same host answered what it may: silence beside life.
    assert len([frame for frame in questions(uncertain, target) if frame.eth_src == KERNEL_MAC]) >= 2
    assert echoes(uncertain, Kind.ECHO_REQUEST, dst=target)
    assert len(echoes(uncertain, Kind.ECHO_REPLY, src=net.stable)) == 1
    assert not [frame for frame in ours if frame.kind is Kind.ERROR]
    # After its release nobody finds it.
    late = [frame for frame in questions(after(seen, used), target) if frame.dst == solicited_node(address(target))]
    assert len(late) >= 1
    assert not [frame for frame in after(ours, late[0]) if frame.src == address(target)]
    assert not advertisements(after(ours, late[0]), target)


@pytest.mark.proves("UM-ADDR-10")
def test_an_address_of_the_kernel_fails_dad_here(net: Lan, artefacts: Path) -> None:
    target = PREFIX + "abcd:4:5:6"

    async def main() -> None:
        with kernel.address(net.port, f"{target}/64"):
            async with asyncio.timeout(TABLE_PATIENCE):
                while (entry := await net.reserved(target)).state != "DUPLICATED":
                    # A kernel whose neighbour table is full cannot object; one that objects late invalidates the address.
                    if entry.state == "UNCERTAIN":
                        net.host.addresses.discard(entry, net.now, "test")
                        net.driver.kick()
                    await asyncio.sleep(0.1)
        assert (await net.reserved(target)).state == "UNCERTAIN"

    with captured(net.port, artefacts / "peer.pcapng") as path:
        net.run(main())
    seen = frames(path)
    asked = probes(seen, target)
    objections = advertisements(seen, target)
    assert len(asked) >= 2 and objections
    assert {probe.eth_src for probe in asked} == {MAC}
    assert {objection.eth_src for objection in objections} == {KERNEL_MAC}
    assert asked[0].order < objections[0].order
    assert objections[-1].order < asked[-1].order, "the last probe found nobody"
    nonces = [probe.message.nonce for probe in asked if isinstance(probe.message, Solicitation)]
    assert all(len(nonce) >= 6 for nonce in nonces)
    assert len(set(nonces)) == len(asked)


@pytest.mark.proves("UM-ADDR-6")
def test_an_address_that_the_kernel_takes_without_asking_is_given_up(net: Lan, artefacts: Path) -> None:
    """The kernel skips DAD (nodad) and announces the address: a foreign advertisement."""
    target = PREFIX + "abcd:7:8:9"

    async def main() -> None:
        entry = await net.reserved(target)
        assert entry.state == "UNCERTAIN"
        notify = f"ipv6/conf/{net.port.name}/ndisc_notify"
        with kernel.sysctl(net.legacy, notify, 1), kernel.address(net.port, f"{target}/64"):
            # ndisc_notify: each change is advertised for all addresses, unless the neighbour table is full
            async with asyncio.timeout(TABLE_PATIENCE):
                while entry.state != "INVALID":
                    for mac in (OTHER_MAC, KERNEL_MAC):
                        net.set_kernel_mac(mac)
                    await asyncio.sleep(0.1)
            net.driver.kick()
            await asyncio.sleep(0.3)

    with captured(net.port, artefacts / "peer.pcapng") as path:
        net.run(main())
    seen, group = frames(path), solicited_node(address(target))
    (probe,) = probes(seen, target)
    claim = advertisements(seen, target)[0]
    assert probe.eth_src == MAC
    assert claim.eth_src in (OTHER_MAC, KERNEL_MAC)
    assert next(frame.order for frame in reports(seen, group, *JOINS) if frame.eth_src == MAC) < probe.order
    assert [frame for frame in reports(after(seen, claim), group, *LEAVES) if frame.eth_src == MAC]
    assert not [frame for frame in advertisements(seen, target) if frame.eth_src == MAC], "it was defended"


_numbers = count(1)


async def arrives(net: Lan, dst: str, port_of_the_host: socket.socket) -> bool:
    """Whether an echo request of the kernel to a group leaves the bridge towards the host.

    Behind it comes one to all nodes, which every switch lets through: where that is seen alone, the first was kept back.
    """
    number = next(_numbers)
    asked, last = b"to a group: %08d" % number, b"to all nodes: %08d" % number
    loop = asyncio.get_running_loop()
    with icmp_socket(net) as ping, one_processor():
        ping.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, net.port.index)
        await datagrams.send(ping, bytes(ICMPv6EchoRequest(data=asked)), (dst, 0))
        await datagrams.send(ping, bytes(ICMPv6EchoRequest(data=last)), (text(ALL_NODES), 0))
    async with asyncio.timeout(PATIENCE):
        while not (frame := await loop.sock_recv(port_of_the_host, 2000)).endswith((asked, last)):
            pass
    return frame.endswith(asked)


@pytest.mark.proves("ST-IP6-7", "UM-ADDR-7")
def test_a_snooping_switch_with_a_querier_lets_our_groups_through_and_no_others(artefacts: Path) -> None:
    """The kernel's bridge judges our MLDv2 reports: it forwards to the host's port only what was reported there."""
    with lan(snooping=True, stable_addresses=True) as net:
        port = kernel.Interface(net.middle, "tap-ip6")
        target, unknown = PREFIX + "abcd:1:2:3", PREFIX + "66:6666"
        group, foreign = (address_text(solicited_node(address(each))) for each in (target, unknown))

        async def main() -> None:
            bridge = kernel.Interface(net.middle, "br-ip6")
            net.middle.netlink(
                lambda route: route.link(
                    "set", index=bridge.index, kind="bridge", br_mcast_query_response_intvl=50, br_mcast_querier=1
                ),
                "make the bridge a querier",
            )
            entry = await net.reserved(target)
            net.host.addresses.take(entry, AddressKind.STABLE, net.now, "test")
            net.driver.kick()
            with packet_socket(port) as seen:
                async with asyncio.timeout(60):
                    while await arrives(net, foreign, seen):  # until the bridge trusts its table
                        await asyncio.sleep(0.2)
                assert await arrives(net, group, seen)
                assert await echo(net, target, b"x") == b"x"
                net.host.addresses.release(entry, net.now, "test")
                net.driver.kick()
                async with asyncio.timeout(60):
                    while await arrives(net, group, seen):  # last listener query time
                        await asyncio.sleep(0.2)

        with (
            captured(net.port, artefacts / "kernel.pcapng") as outside,
            captured(port, artefacts / "host.pcapng") as inside,
        ):
            net.run(main())
    sent, arrived = frames(outside), frames(inside)
    joined = reports(sent, address(group), *JOINS)[0]
    (left, *_) = reports(sent, address(group), *LEAVES)
    assert joined.eth_src == left.eth_src == MAC
    last = echoes(sent, Kind.ECHO_REQUEST, dst=group)[-1]
    assert joined.order < left.order < last.order
    for dst in (group, foreign):  # the last request to either is one that the switch kept back
        passed = len(echoes(arrived, Kind.ECHO_REQUEST, dst=dst))
        assert passed < len(echoes(sent, Kind.ECHO_REQUEST, dst=dst))
        assert passed or dst == foreign
    assert not reports(sent, address(foreign), *JOINS)
    assert len(echoes(arrived, Kind.ECHO_REPLY, src=target)) == 1


@pytest.mark.proves("ST-IP6-5", "UM-NODE-1")
def test_an_unmodified_router_daemon_configures_the_host_and_says_goodbye(artefacts: Path) -> None:
    with lan(by_hand=False) as net:

        async def main() -> None:
            with kernel.sysctl(net.legacy, "ipv6/conf/all/forwarding", 1):
                advertised = radvd.Advertisement(net.port, PREFIX + "/64", mtu=1400, rdnss=(PREFIX + "53",))
                async with radvd.router_advertiser(net.legacy, advertised):
                    await net.until(lambda: bool(net.host.routes.default_routers))
                    host = net.host
                    assert host.link_mtu == 1400
                    assert host.rdnss == [address(PREFIX + "53")]
                    assert [str(prefix) for prefix in host.prefixes] == [PREFIX + "/64"]
                    (router,) = host.routes.default_routers
                    assert is_link_local(router)
                    path = host.path(address("2001:db8:ffff::1"), net.now)
                    assert path.next_hop == router
                    header = path.ready(net.now)
                    assert header is not None
                    assert header[:6] == KERNEL_MAC
                    await net.until(lambda: any(e.kind is AddressKind.STABLE for e in host.addresses))
                    await net.until(lambda: "PREFERRED" in [e.state for e in host.addresses if e.kind == "stable"])
                    assert await echo(net, net.stable, bytes(2000)) == bytes(2000)
                await net.until(lambda: not net.host.routes.default_routers)

        with captured(net.port, artefacts / "peer.pcapng") as path:
            net.run(main())
        stable = net.stable
    seen = packets(path)
    told = [number for number, packet in enumerate(seen) if ICMPv6ND_RA in packet and packet.src == KERNEL_MAC.hex(":")]
    assert seen[told[0]][ICMPv6ND_RA].routerlifetime > 0
    assert seen[told[-1]][ICMPv6ND_RA].routerlifetime == 0, "the router said goodbye"
    formed = next(n for n, packet in enumerate(seen) if ICMPv6ND_NS in packet and packet[ICMPv6ND_NS].tgt == stable)
    assert formed > told[0], "the address was formed of what the router advertised"
    assert (seen[formed].src, seen[formed][IPv6].src) == (MAC.hex(":"), "::")
    sent = [packet[IPv6] for packet in seen[formed:] if IPv6 in packet and packet.src == MAC.hex(":")]
    assert max(map(len, sent)) <= 1400, "the MTU that the router advertised"
    reply = IPv6(bytes(defragment6([packet for packet in sent if IPv6ExtHdrFragment in packet])))
    assert (reply.src, bytes(reply[ICMPv6EchoReply].data)) == (stable, bytes(2000))
