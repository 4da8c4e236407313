"""What waits for a neighbour leaves while its address may speak to it, or never (UM-ADDR-9, UM-REL-3, UM-LIS-6, UM-LIS-8)."""

from __future__ import annotations

import asyncio

import pytest
from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet as ScapyPacket

from tapstack.events import DropReason, EventStream
from tapstack.ipv6.addresses import AddressEntry, AddressKind
from tapstack.tcp.layer import Tcp
from tapstack.tcp.listener import Listener
from tapstack.tcp.options import PortMode, SocketOptions
from tapstack.types import address, address_text
from tapstack.udp.layer import Udp
from tests.unit.ipv6.bench import PREFIX, STRANGER, Bench, neighbor_advertisement, only, to_us
from tests.unit.unimux.lan import echo_server, in_use, lan, virtual
from unimux.aio import open_connection
from unimux.sticky import NamedSession

ONE_TIME = PREFIX + "abcd:1234:5678"
LATE, LATE_MAC = PREFIX + "99", "02:00:00:00:00:99"


def sources(packets: list[ScapyPacket], dst: str) -> list[str]:
    """Where the packets to a destination come from, solicitations apart."""
    return [packet[IPv6].src for packet in packets if packet[IPv6].dst == dst and ICMPv6ND_NS not in packet]


def resolved(bench: Bench, neighbor: str = LATE, mac: str = LATE_MAC) -> list[ScapyPacket]:
    """What leaves when a neighbour answers address resolution at last."""
    return bench.feed(neighbor_advertisement(neighbor, mac))


@pytest.mark.proves("UM-ADDR-9", "UM-REL-3", "UM-EA-1")
@pytest.mark.parametrize("session", [None, NamedSession("shop")], ids=["of its own", "of a session, which keeps it"])
def test_a_syn_that_waits_for_its_neighbour_ends_with_its_connection(session: NamedSession | None) -> None:
    async def main() -> None:
        async with lan() as net:
            alice, bob = await net.node(), await net.node()
            await alice.ready(4)
            server = echo_server(bob)
            ssa = await server.issue(lifetime=600)
            target = ssa.address.packed
            net.switch.unlucky = lambda frame: ICMPv6ND_NS in Ether(frame) and frame[62:78] == target
            with pytest.raises(TimeoutError):
                await open_connection(alice, ssa.address, None, timeout=1.2, session=session)
            given_up = alice.now()
            assert len(in_use(alice)) == (session is not None)
            net.switch.unlucky = lambda frame: False
            await asyncio.sleep(10)
            assert [
                at for at, p in net.packets(ICMPv6ND_NA) if p[ICMPv6ND_NA].tgt == str(ssa.address) and at > given_up
            ]
            assert net.packets(TCP) == [], "the resolution has succeeded, and no SYN leaves any more"
            reader, writer = await open_connection(alice, ssa.address, None, session=session)
            writer.write(b"ping")
            assert await reader.readexactly(4) == b"ping", "the SSA was not burnt, and nothing stands half open at it"
            writer.close()
            server.close()

    virtual(main())


@pytest.mark.proves("UM-ADDR-9", "UM-REL-3", "UM-DAS-6")
@pytest.mark.parametrize("size", [8, 4000], ids=["whole", "in fragments"])
def test_a_datagram_that_waits_ends_with_its_flow(size: int) -> None:
    bench = Bench()
    bench.settle()
    udp = Udp(bench.host)
    entry = bench.reserve(ONE_TIME)
    bench.host.addresses.take(entry, AddressKind.EPHEMERAL, bench.now, "a flow")
    flow = udp.open(entry, bench.now, address(LATE), 7)
    other = udp.open(bench.stable, bench.now, address(LATE), 7)
    flow.send(bytes(size), bench.now)
    other.send(b"of another address", bench.now)
    flow.send(bytes(size), bench.now)
    flow.close(bench.now)
    assert address(ONE_TIME) not in bench.host.addresses
    bench.check()
    leaving = resolved(bench)
    assert sources(leaving, LATE) == [address_text(bench.stable.address)], "what others wait to say is said"
    assert bytes(only(leaving, UDP)[0][UDP].payload) == b"of another address"
    assert bench.drops(DropReason.ADDRESS_SILENT) >= 2
    bench.run(120)


@pytest.mark.proves("UM-ADDR-9", "UM-REL-3")
def test_an_advertisement_that_waits_ends_with_the_address() -> None:
    """Somebody asks without a link-layer address of its own, and is resolved before it can be answered."""
    bench = Bench()
    bench.settle()
    entry = bench.ephemeral(ONE_TIME, STRANGER)
    for target in (ONE_TIME, address_text(bench.stable.address)):
        bench.feed(to_us(LATE, target, LATE_MAC, hlim=255) / ICMPv6ND_NS(tgt=target))
    (user,) = entry.users
    bench.host.addresses.drop(entry, user, bench.now, "closed")
    answers = only(resolved(bench), ICMPv6ND_NA)
    assert [answer[ICMPv6ND_NA].tgt for answer in answers] == [address_text(bench.stable.address)]


def service(bench: Bench, listener: Listener, text: str, *, lease: bool = False) -> AddressEntry:
    """An armed SSA of a bench."""
    entry = bench.reserve(text)
    bench.host.addresses.take(entry, AddressKind.SERVICE, bench.now, "issue")
    listener.arm(entry, bench.now, lease=lease)
    bench.out.clear()
    return entry


@pytest.mark.proves("UM-LIS-6", "UM-LIS-8")
@pytest.mark.parametrize("lease", [False, True], ids=["consumed", "leased"])
def test_a_third_party_that_is_resolved_late_hears_nothing_of_a_taken_ssa(lease: bool) -> None:
    bench = Bench()
    bench.settle()
    bench.teach(STRANGER)
    tcp = Tcp(bench.host, bench.timers, EventStream(), bench.counters, bytes(32), lambda frame: bench._transmit(frame))
    bench.host.upper[6] = tcp.input
    listener = tcp.listen(SocketOptions(mode=PortMode.L2), bench.now)
    taken, free = (address_text(address(PREFIX + each)) for each in ("5:5:5:5", "6:6:6:6"))
    for text in (taken, free):
        service(bench, listener, text, lease=lease)
        assert sources(bench.feed(to_us(LATE, text, LATE_MAC) / TCP(sport=1, dport=80, flags="S")), LATE) == []
    (syn_ack,) = bench.feed(to_us(STRANGER, taken) / TCP(sport=5000, dport=80, flags="S", seq=1))
    answer = TCP(sport=5000, dport=80, flags="A", seq=2, ack=syn_ack[TCP].seq + 1)
    bench.feed(to_us(STRANGER, taken) / answer)
    assert listener.accept() is not None
    assert sources(resolved(bench), LATE) == [free], "the SSA that is free still answers"
    bench.run(0.5)
    tcp.check()
