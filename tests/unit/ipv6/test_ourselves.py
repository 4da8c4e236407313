"""A node and its own addresses: packets turn round inside the host and never touch the link."""

from __future__ import annotations

import pytest
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6EchoRequest, IPv6

from tapstack.events import DropReason
from tapstack.ipv6.ourselves import LOOPED_QUEUE
from tapstack.ipv6.packet import Packet
from tapstack.types import address_text
from tapstack.wire import icmpv6
from tests.unit.ipv6.bench import PREFIX, Bench, to_us


@pytest.fixture(params=[False, True], ids=["plain", "offload"])
def bench(request: pytest.FixtureRequest) -> Bench:
    made = Bench(vnet=request.param)
    made.settle()
    return made


def ping(bench: Bench, src: bytes, dst: bytes, size: int = 8) -> list[tuple[bytes, bytes]]:
    """Ask an address of the host from another one of it; the replies, as (source, data)."""
    heard: list[tuple[bytes, bytes]] = []

    def reply(packet: Packet, message: icmpv6.Icmpv6, now: float) -> None:
        heard.append((packet.src, bytes(message.body)))

    bench.host.icmp.on_echo_reply = reply
    body = bytes(4) + bytes(range(256)) * (size // 256) + bytes(size % 256)
    request = icmpv6.pack(src, dst, icmpv6.Type.ECHO_REQUEST, 0, body)
    bench.host.send(src, dst, 58, [request], bench.now)
    assert heard == [], "not within the call"
    bench.run(1.0)
    assert all(data == body for _, data in heard)
    return heard


@pytest.mark.parametrize("size", [8, 1400, 9000])
def test_the_host_reaches_itself_without_a_frame(bench: Bench, size: int) -> None:
    link_local, own = bench.host.link_local, bench.stable.address
    assert link_local is not None
    bench.out.clear()
    assert [src for src, _ in ping(bench, link_local, own, size)] == [own]
    assert [src for src, _ in ping(bench, own, own, size)] == [own]
    assert bench.out == []


@pytest.mark.proves("UM-ADDR-4", "UM-EA-1", by="api")
def test_a_silent_address_is_silent_to_its_own_node_too(bench: Bench) -> None:
    own = bench.stable.address
    reserved = bench.reserve()
    used = bench.ephemeral(PREFIX + "7:7:7:7", peer="2001:db8:99::1")
    assert bench.host.link_local is not None
    assert len(ping(bench, own, bench.host.link_local)) == 1, "an ordinary address answers"
    assert ping(bench, own, reserved.address) == []
    assert ping(bench, own, used.address) == []
    assert bench.drops(DropReason.ADDRESS_UNCERTAIN) == 1
    assert bench.out == []


def test_from_the_link_a_source_of_ours_is_still_a_lie(bench: Bench) -> None:
    own = address_text(bench.stable.address)
    assert bench.feed(to_us(bench.link_local, own) / ICMPv6EchoRequest()) == []
    assert bench.drops(DropReason.IP_BAD_SOURCE) == 1


def test_an_address_that_is_gone_is_looked_for_on_the_link_again(bench: Bench) -> None:
    entry = bench.ephemeral(PREFIX + "7:7:7:7")
    path = bench.host.path(entry.address, bench.now)
    assert path.ready(bench.now) is None
    (user,) = entry.users
    bench.host.addresses.drop(entry, user, bench.now, "closed")
    bench.out.clear()
    bench.host.transmit_queued(path, [bytes(IPv6(src=bench.link_local, dst=PREFIX + "7:7:7:7", nh=59))], bench.now)
    assert len(bench.out) == 1, "a solicitation"
    assert ICMPv6DestUnreach not in bench.out[0][1]


def test_what_is_on_its_way_is_bounded(bench: Bench) -> None:
    own = bench.stable.address
    for _ in range(LOOPED_QUEUE + 5):
        bench.host.send(own, own, 253, [bytes(8)], bench.now)
    assert bench.drops(DropReason.NEIGHBOR_QUEUE) == 5
    bench.run(1.0)
    bench.host.send(own, own, 253, [bytes(8)], bench.now)
    assert bench.drops(DropReason.NEIGHBOR_QUEUE) == 5
