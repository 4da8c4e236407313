"""Connections that share a path: the Packet Too Big that one of them gets concerns all (RFC 8201 §5.2)."""

from __future__ import annotations

from typing import Any

import pytest

from tapstack.ipv6.addresses import AddressKind
from tapstack.ipv6.packet import IcmpError
from tapstack.tcp.connection import Connection
from tapstack.tcp.options import Ecn, PortMode, SocketOptions
from tapstack.wire.icmpv6 import Type

from . import wire
from .pair import End, Pair
from .path import DATA, Path, collect, lose
from .seen import again

pytestmark = pytest.mark.proves("ST-IP6-8")

MTU = 1280


class Narrow:
    """A router on the way from `a` whose next link takes packets of 1280 bytes; `dropped` are those that it could not pass on."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.dropped: list[bytes] = []
        pair.meddle = self

    def __call__(self, end: End, packet: bytes) -> list[bytes | tuple[float, bytes]]:
        if end is self.pair.b or len(packet) <= MTU:
            return [packet]
        self.dropped.append(packet)
        return []

    def tell(self, connection: Connection, most: int = 1000) -> None:
        """Send Packet Too Big for what was dropped of a connection, `most` of them."""
        pair, port = self.pair, connection.local_port.to_bytes(2, "big")
        for packet in [each for each in self.dropped if each[40:42] == port][:most]:
            self.dropped.remove(packet)
            quoted = memoryview(packet)[40:]
            report = IcmpError(
                Type.PACKET_TOO_BIG, 0, MTU, connection.remote, connection.local, connection.remote, 6, quoted
            )
            pair.a.tcp.error(report, pair.now)


def two(pair: Pair, **options: Any) -> tuple[tuple[Connection, Connection], Connection]:
    """Connections from `a` to `b`: one with its other end, and another's."""
    aware = SocketOptions(mode=PortMode.AWARE, **options)
    listener = pair.b.tcp.listen(aware, pair.now, 80)
    listener.arm(pair.b.entry(pair.now, AddressKind.STABLE), pair.now, sessions=None)
    made = []
    for port in (50000, 50001):
        entry = pair.a.entry(pair.now, AddressKind.STABLE)
        client = pair.a.tcp.connect(entry, pair.b.address, 80, pair.now, aware, local_port=port)
        pair.run(1)
        server = listener.accept()
        assert server is not None
        made.append((client, server))
    return made[0], made[1][0]


def test_who_has_nothing_in_flight_sends_smaller_when_another_has_heard() -> None:
    pair = Pair()
    (client, server), other = two(pair)
    router = Narrow(pair)
    cwnd = client.sender.congestion.cwnd
    other.write(DATA[:5000])
    pair.flush()
    router.tell(other)
    pair.run(1)
    router.dropped.clear()
    client.write(DATA[:5000])
    assert collect(pair, server, 5000, 1) == DATA[:5000]
    assert not router.dropped
    assert client.sender.congestion.mss == client.sender.mss == MTU - 72
    assert (client.sender.congestion.cwnd >= cwnd, client.sender.retransmissions) == (True, 0)


def test_so_does_what_a_timer_repeats() -> None:
    """The routers tell one of two: what the other has lost is repaired by its probe, which must fit."""
    pair = Pair()
    (client, server), other = two(pair)
    router = Narrow(pair)
    size = 3 * client.sender.mss  # its last segment, which the probe repeats, is too large as well
    client.write(DATA[:size])
    other.write(DATA[:5000])
    pair.flush()
    router.tell(other, most=1)
    dropped = len(router.dropped)
    assert collect(pair, server, size, 1) == DATA[:size]
    assert len(router.dropped) == dropped
    assert (client.sender.recovery.probes, client.timers.timeouts) == (1, 0)


def test_so_does_what_a_time_out_repeats() -> None:
    pair = Pair()
    (client, server), _ = two(pair, sack=False)
    path = Path(pair, lambda n: None)
    client.write(DATA[:9000])
    pair.flush()
    client.path.mtu = MTU
    before, path.fate = len(pair.packets), lambda n: 0.0
    assert collect(pair, server, 9000, 5) == DATA[:9000]
    assert client.timers.timeouts == 1
    assert max(map(len, pair.sent_by("a", before))) == MTU


@pytest.mark.parametrize("sack", [True, False])
def test_so_does_what_an_acknowledgement_repeats(sack: bool) -> None:
    pair = Pair()
    (client, server), _ = two(pair, sack=sack)
    Path(pair, lose(1))
    client.write(DATA[:14_000])
    pair.flush()
    client.path.mtu = MTU  # another one has heard
    before = len(pair.packets)
    assert collect(pair, server, 14_000, 5) == DATA[:14_000]
    assert client.sender.retransmissions
    assert max(map(len, pair.sent_by("a", before))) == MTU


@pytest.mark.parametrize("mtu", [100, 1279, 9000])
def test_a_report_that_makes_no_sense_repeats_nothing(mtu: int) -> None:
    """RFC 8201 §4, also where segments have become smaller for another reason."""
    pair = Pair(delay=0.05)
    (client, _), _ = two(pair)
    before = len(pair.packets)
    client.write(DATA[:9000])
    pair.flush()
    client.path.mtu = 1400
    client.write(DATA[:500])
    pair.flush()
    quoted = memoryview(pair.packets[before][2])[40:]
    local, remote = client.local, client.remote
    pair.a.tcp.error(IcmpError(Type.PACKET_TOO_BIG, 0, mtu, remote, local, remote, 6, quoted), pair.now)
    pair.flush()
    assert not again(pair, "a", before)


@pytest.mark.parametrize("reduced", [False, True])
def test_its_own_report_counts_where_another_has_heard_first(reduced: bool) -> None:
    """Also where the next new data says CWR, and has left with the new size before."""
    pair = Pair(delay=0.05)
    (client, server), other = two(pair, ecn=Ecn.REQUEST, nodelay=True)
    router = Narrow(pair)
    client.write(DATA[:9996])
    other.write(DATA[:2000])
    pair.flush()
    sender, cwnd = client.sender, client.sender.congestion.cwnd
    assert len(router.dropped) == 8
    if reduced:
        client.window_reduced()
    router.tell(other)
    client.write(DATA[9996:10_096])
    pair.flush()
    assert not sender.unsent
    before, told = len(pair.packets), pair.now
    router.tell(client, most=1)
    pair.flush()
    assert sender.pipe == sender.snd_nxt - sender.snd_una, "all is sent again at once"
    repeated = sender.retransmissions
    assert repeated
    router.tell(client)
    pair.flush()
    assert sender.retransmissions == repeated, "once"
    assert sender.retransmitted_bytes == 9996, "what left with the new size is on its way"
    assert {when for when, _, _ in pair.packets[before:]} == {told}
    assert collect(pair, server, 10_096, 0.06) == DATA[:10_096]
    assert (sender.congestion.mss, sender.mss) == (MTU - 72, MTU - 72)
    assert (sender.congestion.cwnd >= cwnd, client.timers.timeouts) == (True, 0), "size is not congestion"


def test_cwr_goes_in_one_segment_of_the_new_size() -> None:
    pair = Pair(delay=0.05)
    (client, server), other = two(pair, ecn=Ecn.REQUEST)
    router = Narrow(pair)
    client.sender.recovery.reduce(20_000, pair.now)
    other.write(DATA[:2000])
    pair.flush()
    router.tell(other)
    client.write(DATA[:20_000])
    assert collect(pair, server, 20_000, 5) == DATA[:20_000]
    data = [wire.read(p) for p in pair.sent_by("a")]
    assert [len(tcp.payload) for tcp in data if "C" in str(tcp.flags) and "S" not in str(tcp.flags)] == [MTU - 72]
