"""The Linux kernel as neighbour, router and snooping switch of an IPv6 host of ours."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Iterator
from random import Random

import pytest
from scapy.layers.inet6 import ICMPv6EchoRequest

from compat import kernel
from compat.programs.radvd import Advertisement, router_advertiser
from tapstack.events import DropReason
from tapstack.ipv6.addresses import AddressKind
from tapstack.ipv6.neighbors import NeighborState
from tapstack.types import address, address_text, is_link_local, solicited_node

from .lan import KERNEL, KERNEL_MAC, MAC, PREFIX, Lan, lan

pytestmark = pytest.mark.real("radvd")

NUD_REACHABLE = 0x02
IFA_F_DADFAILED = 0x08
IFA_F_TENTATIVE = 0x40
REPLY = bytes([129])
_TABLE_PATIENCE = 60.0
"""Seconds to wait for room in the neighbour table."""


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "offload"])
def net(request: pytest.FixtureRequest) -> Iterator[Lan]:
    with lan(offload=request.param) as made:
        yield made


def icmp_socket(net: Lan) -> socket.socket:
    """A raw ICMPv6 socket of the kernel."""
    made = net.legacy.run(
        lambda: socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6), "open a socket"
    )
    made.setblocking(False)
    return made


async def echo(net: Lan, dst: str, data: bytes, timeout: float = 5.0) -> bytes | None:
    """Ping from the kernel; the data that came back, None for silence.

    An earlier request may have waited in the kernel for resolution; its answer is not this one's.  A kernel whose neighbour
    table is full sends nothing (EINVAL); the table is the whole machine's, and anything on it may have filled it, so the
    time-out begins when the request has left.
    """
    loop = asyncio.get_running_loop()
    dst = address_text(address(dst))  # as the kernel writes it
    with icmp_socket(net) as ping:
        request = bytes(ICMPv6EchoRequest(id=9, seq=1, data=data))
        async with asyncio.timeout(_TABLE_PATIENCE):
            while True:
                try:
                    await loop.sock_sendto(ping, request, (dst, 0))
                    break
                except OSError as error:
                    if error.errno != errno.EINVAL:
                        raise
                    await asyncio.sleep(0.1)
        try:
            async with asyncio.timeout(timeout):
                while True:
                    answer, sender = await loop.sock_recvfrom(ping, 65536)
                    if answer[:1] == REPLY and sender[0].partition("%")[0] == dst and answer[8:] == data:
                        return bytes(answer[8:])
        except TimeoutError:
            return None


@pytest.mark.proves("ST-IP6-2", "ST-IP6-3", "ST-IP6-4")
@pytest.mark.parametrize("size", [0, 1, 1452, 1453, 5000, 65_000])
def test_echoes_of_any_size(net: Lan, size: int, rng: Random) -> None:
    data = rng.randbytes(size)
    assert net.run(echo(net, net.stable, data)) == data


@pytest.mark.proves("ST-IP6-4")
def test_both_ends_find_each_other_reachable(net: Lan) -> None:
    async def main() -> None:
        assert await echo(net, net.stable, b"hello") == b"hello"
        await net.until(lambda: net.kernel_neighbours()[net.stable] == (NUD_REACHABLE, MAC.hex(":")))
        neighbor = net.host.neighbors.get(address(KERNEL))
        assert neighbor is not None
        assert neighbor.mac == KERNEL_MAC
        # The kernel answers our unreachability probe after the delay of five seconds.
        await net.until(lambda: neighbor.state is NeighborState.REACHABLE, 8.0)

    net.run(main())


@pytest.mark.proves("UM-ADDR-2", "UM-ADDR-3", "UM-ADDR-4", "UM-ADDR-5")
def test_the_kernel_cannot_take_or_reach_an_uncertain_address_until_it_is_used(net: Lan) -> None:
    text = PREFIX + "abcd:1:2:3"

    async def main() -> None:
        entry = await net.reserved(text)
        assert entry.state == "UNCERTAIN"
        with kernel.address(net.port, f"{text}/64", nodad=False):
            await net.until(lambda: bool(net.kernel_addresses()[address_text(address(text))] & IFA_F_DADFAILED))
        assert entry.state == "UNCERTAIN"  # defended, and kept
        assert await echo(net, text, b"?", timeout=1.5) is None
        net.host.addresses.take(entry, AddressKind.STABLE, net.now, "test")
        net.driver.kick()
        assert await echo(net, text, b"now") == b"now"
        net.host.addresses.release(entry, net.now, "test")
        net.driver.kick()
        assert await echo(net, text, b"?", timeout=1.0) is None

    net.run(main())


@pytest.mark.proves("UM-ADDR-10")
def test_an_address_of_the_kernel_fails_dad_here(net: Lan) -> None:
    text = PREFIX + "abcd:4:5:6"

    async def main() -> None:
        with kernel.address(net.port, f"{text}/64"):
            assert (await net.reserved(text)).state == "DUPLICATED"
        assert (await net.reserved(text)).state == "UNCERTAIN"

    net.run(main())


@pytest.mark.proves("UM-ADDR-6")
def test_an_address_that_the_kernel_takes_without_asking_is_given_up(net: Lan) -> None:
    """The kernel skips DAD (nodad) and announces the address: a foreign advertisement."""
    text = PREFIX + "abcd:7:8:9"

    async def main() -> None:
        entry = await net.reserved(text)
        assert entry.state == "UNCERTAIN"
        notify = f"ipv6/conf/{net.port.name}/ndisc_notify"
        with kernel.sysctl(net.legacy, notify, 1), kernel.address(net.port, f"{text}/64"):
            for mac in (
                KERNEL_MAC[:5] + b"\x77",
                KERNEL_MAC,
            ):  # ndisc_notify: each change is advertised for all addresses
                net.set_kernel_mac(mac)
            await net.until(lambda: entry.state == "INVALID")

    net.run(main())


@pytest.mark.proves("ST-IP6-7", "UM-ADDR-7")
def test_a_snooping_switch_with_a_querier_lets_our_groups_through_and_no_others() -> None:
    """The kernel's bridge judges our MLDv2 reports: it forwards a solicitation only where its group was reported."""
    with lan(snooping=True, stable_addresses=True) as net:

        async def main() -> None:
            bridge = kernel.Interface(net.middle, "br-ip6")
            net.middle.netlink(
                lambda route: route.link(
                    "set", index=bridge.index, kind="bridge", br_mcast_query_response_intvl=50, br_mcast_querier=1
                ),
                "make the bridge a querier",
            )
            entry = await net.reserved(PREFIX + "abcd:1:2:3")
            net.host.addresses.take(entry, AddressKind.STABLE, net.now, "test")
            net.driver.kick()
            unknown = address(PREFIX + "66:6666")
            group, foreign = (address_text(solicited_node(each)) for each in (entry.address, unknown))

            async def arrives(dst: str) -> bool:
                """Whether an echo request to a group reaches the host."""
                before = net.host.counters.drops[DropReason.IP_NOT_OURS], len(seen)
                with icmp_socket(net) as ping:
                    ping.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, net.port.index)
                    await asyncio.get_running_loop().sock_sendto(ping, bytes(ICMPv6EchoRequest()), (dst, 0))
                await asyncio.sleep(0.1)
                return (net.host.counters.drops[DropReason.IP_NOT_OURS], len(seen)) != before

            seen: list[bytes] = []
            echo_in = net.host.icmp.handlers[128]

            def note(packet: object, message: object, now: float) -> None:
                seen.append(b"")
                echo_in(packet, message, now)  # type: ignore[arg-type]

            net.host.icmp.handlers[128] = note
            async with asyncio.timeout(20):
                while await arrives(foreign):  # until the bridge trusts its table
                    await asyncio.sleep(0.2)
            assert await arrives(group)
            assert await echo(net, address_text(entry.address), b"x") == b"x"
            net.host.addresses.release(entry, net.now, "test")
            net.driver.kick()
            async with asyncio.timeout(20):
                while await arrives(group):  # last listener query time
                    await asyncio.sleep(0.2)

        net.run(main())


@pytest.mark.proves("ST-IP6-5", "UM-NODE-1")
def test_an_unmodified_router_daemon_configures_the_host_and_says_goodbye() -> None:
    with lan(by_hand=False) as net:

        async def main() -> None:
            with kernel.sysctl(net.legacy, "ipv6/conf/all/forwarding", 1):
                advertised = Advertisement(net.port, PREFIX + "/64", mtu=1400, rdnss=(PREFIX + "53",))
                async with router_advertiser(net.legacy, advertised):
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

        net.run(main())
