"""Two hosts of ours on one link, in virtual time: what one sends, the other and the observer hear."""

from __future__ import annotations

import pytest
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6ND_RS, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet as ScapyPacket

from tapstack.events import Counters, EventStream
from tapstack.ipv6.addresses import AddressEntry, AddressKind
from tapstack.ipv6.config import HostConfig
from tapstack.ipv6.host import Host
from tapstack.link.base import LinkProperties
from tapstack.randomness import KeyedRandom
from tapstack.timers import TimerQueue
from tapstack.types import Frame, address, address_text
from tests.plugins import taps
from tests.unit.ipv6.bench import PREFIX, only

TEXT = PREFIX + "abcd:1234:5678"


class Link:
    """A wire between hosts, each frame delivered after a millisecond; `loss` names the frames that get lost, by number."""

    def __init__(self, count: int = 2) -> None:
        self.now = 0.0
        self.wire: list[ScapyPacket] = []
        self.lost: set[int] = set()
        self._reported = 0
        self._flying = TimerQueue()
        self.tap = taps.world("two hosts")
        self.timers = [TimerQueue() for _ in range(count)]
        self.hosts = [self._host(number) for number in range(count)]
        for host in self.hosts:
            host.start(0.0)

    def _host(self, number: int) -> Host:
        mac = bytes.fromhex("0200000000") + bytes([0x10 + number])
        config = HostConfig(dad_initial_delay=0.0, stable_addresses=True)
        host = Host(
            config,
            LinkProperties(1500, mac),
            self.timers[number],
            EventStream(),
            Counters(),
            KeyedRandom(bytes([number]) * 32, "test"),
            bytes([number]) * 16,
            lambda frame: self._send(number, frame),
        )
        host.prefix_list.add_static(address(PREFIX), 64, autonomous=True, now=0.0)
        return host

    def _send(self, sender: int, frame: Frame) -> None:
        data = b"".join(frame)
        self.wire.append(Ether(data))
        lost = len(self.wire) in self.lost
        self.tap.sent(self.now, f"host {sender}", data, [] if lost else None)
        if lost:
            return
        for number, host in enumerate(self.hosts):
            if number != sender:
                self._flying.timer(lambda now, host=host: host.input(data, now)).set(self.now + 0.001)  # type: ignore[misc]

    def run(self, seconds: float) -> list[ScapyPacket]:
        """Let time pass for all; returns what was on the wire since the last call."""
        end = self.now + seconds
        queues = [self._flying, *self.timers]
        while True:
            due = min((queue.deadline() for queue in queues if queue.deadline() is not None), default=None)  # type: ignore[type-var]
            if due is None or due > end:
                break
            self.now = max(self.now, due)
            for queue in queues:
                queue.run(self.now)
            for host in self.hosts:
                host.addresses.check()
                host.neighbors.check()
        self.now = end
        before, self._reported = self._reported, len(self.wire)
        return self.wire[before:]

    def reserve(self, number: int, text: str) -> AddressEntry:
        host = self.hosts[number]
        return host.reserve(address(text), host.prefixes[0], self.now)


@pytest.fixture
def link() -> Link:
    made = Link()
    made.run(5)
    return made


@pytest.mark.proves("ST-IP6-4", "ST-IP6-6")
def test_they_find_each_other(link: Link) -> None:
    one, other = link.hosts
    sources = [next(e for e in host.addresses if e.kind is AddressKind.STABLE) for host in link.hosts]
    heard: list[bytes] = []
    other.upper[253] = lambda packet, now: heard.append(bytes(packet.payload))
    one.send(sources[0].address, sources[1].address, 253, [b"hello---"], link.now)
    wire = link.run(1)
    assert heard == [b"hello---"]
    asked, answered = only(wire, ICMPv6ND_NS), only(wire, ICMPv6ND_NA)
    assert (len(asked), len(answered)) == (1, 1)
    assert answered[0][ICMPv6ND_NA].S == 1
    assert one.path(sources[1].address, link.now).ready(link.now) is not None


@pytest.mark.proves("UM-ADDR-2", "UM-ADDR-10")
def test_a_reserved_address_is_defended_against_the_other(link: Link) -> None:
    first = link.reserve(0, TEXT)
    link.run(2)
    second = link.reserve(1, TEXT)
    wire = link.run(2)
    asked = [packet for packet in only(wire, ICMPv6ND_NS) if packet[ICMPv6ND_NS].tgt == TEXT]
    (defence,) = only(wire, ICMPv6ND_NA)
    assert [packet[Ether].src for packet in (*asked, defence)] == ["02:00:00:00:00:11", "02:00:00:00:00:10"]
    assert (defence[IPv6].dst, defence[ICMPv6ND_NA].tgt) == ("ff02::1", TEXT)
    assert (first.state, second.state) == ("UNCERTAIN", "DUPLICATED")


@pytest.mark.proves("UM-ADDR-10", by="api")
@pytest.mark.parametrize("gap", [0.0, 0.0005])
def test_of_two_that_probe_at_once_neither_gets_the_address(link: Link, gap: float) -> None:
    """RFC 4862 §5.4.3: each hears the other's probe, with a nonce that is not its own."""
    first = link.reserve(0, TEXT)
    link.run(gap)
    second = link.reserve(1, TEXT)
    link.run(3)
    assert (first.state, second.state) == ("DUPLICATED", "DUPLICATED")


@pytest.mark.proves("UM-ADDR-10", by="api")
def test_of_two_that_probe_one_after_the_other_only_the_later_gets_the_address(link: Link) -> None:
    """The earlier one, still testing, hears the later probe and gives up; the later one hears nothing."""
    first = link.reserve(0, TEXT)
    link.run(0.5)
    second = link.reserve(1, TEXT)
    link.run(3)
    assert (first.state, second.state) == ("DUPLICATED", "UNCERTAIN")


def test_a_duplicate_that_a_lost_probe_let_through_ends_with_the_first_defence(link: Link) -> None:
    """Both hold the address UNCERTAIN; a third probe is defended by both, and each takes the other's defence for a claim."""
    first = link.reserve(0, TEXT)
    link.run(2)
    link.lost = set(range(len(link.wire) + 1, len(link.wire) + 4))  # report, probe and what answers it
    second = link.reserve(1, TEXT)
    link.run(2)
    assert (first.state, second.state) == ("UNCERTAIN", "UNCERTAIN")
    link.hosts[1].addresses.take(second, AddressKind.EPHEMERAL, link.now, "connect")
    link.run(1)
    assert second.state == "PREFERRED"  # announced to routers only: the other host is none
    assert first.state == "UNCERTAIN"
    link.hosts[1].discovery.advertise(second, address("ff02::1"), override=True)
    link.run(1)
    assert first.state == "INVALID"
    assert second.state == "PREFERRED"


@pytest.mark.proves("UM-EA-1", "UM-ADDR-9")
def test_a_conversation_between_two_one_time_addresses(link: Link) -> None:
    class Peer:
        def __init__(self, remote: str) -> None:
            self.remote = address(remote)

        heard = True

        def serves(self, remote: bytes) -> bool:
            return remote == self.remote

    here, there = PREFIX + "1:1:1:1", PREFIX + "2:2:2:2"
    entries = [link.reserve(0, here), link.reserve(1, there)]
    link.run(2)
    users = [Peer(there), Peer(here)]
    for host, entry, user in zip(link.hosts, entries, users, strict=True):
        host.addresses.take(entry, AddressKind.EPHEMERAL, link.now, "test")
        host.addresses.acquire(entry, user)
    heard: list[bytes] = []
    link.hosts[1].upper[253] = lambda packet, now: heard.append(packet.src)
    link.hosts[0].send(address(here), address(there), 253, [bytes(8)], link.now)
    wire = link.run(1)
    assert heard == [address(here)]
    assert [p[IPv6].src for p in only(wire, ICMPv6ND_NS)] == [address_text(address(here))]
    for host, entry, user in zip(link.hosts, entries, users, strict=True):
        host.addresses.drop(entry, user, link.now, "closed")
    stable = next(e.address for e in link.hosts[0].addresses if e.kind is AddressKind.STABLE)
    link.run(3)
    link.hosts[0].send(stable, address(there), 253, [bytes(8)], link.now)
    wire = link.run(20)
    assert heard == [address(here)]
    # The host that asks has the address in its cache, sends, and probes; nothing answers.
    from_there = [packet for packet in wire if packet[Ether].src.endswith(":11") and ICMPv6ND_RS not in packet]
    assert from_there == []


def test_many_hosts_start_at_once_and_all_get_their_addresses() -> None:
    link = Link(12)
    link.run(10)
    for host in link.hosts:
        assert [entry.state for entry in host.addresses] == ["PREFERRED", "PREFERRED"]
    formed = [entry.address for host in link.hosts for entry in host.addresses]
    assert len(set(formed)) == 24
