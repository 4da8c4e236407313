"""What TCP hears of the network and tells it: ICMPv6 errors, and doubts about the next hop; with a whole host, in frames."""

from __future__ import annotations

from typing import Any

import pytest
from scapy.layers.inet import TCP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6ND_NS,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    IPv6,
)
from scapy.packet import Packet as ScapyPacket

from tapstack.ipv6.addresses import AddressKind
from tapstack.tcp.connection import Connection, Signal
from tapstack.tcp.layer import Tcp
from tapstack.tcp.options import PortMode, SocketOptions
from tapstack.types import address
from tapstack.wire import ipv6
from tests.unit.ipv6.bench import OFF_LINK, PREFIX, ROUTER, Bench, to_us

US = PREFIX + "abcd:1234:5678"
ROUTER_AWAY = "2001:db8:cccc::1"
ISN = 90_000
REACHABLE = 3600
"""Seconds for which the router says that a neighbour is reachable: in a test none is verified because they are over."""
DELAY_FIRST_PROBE = 5.0
ERRORS = [
    ICMPv6DestUnreach(code=0),
    ICMPv6DestUnreach(code=1),
    ICMPv6DestUnreach(code=3),
    ICMPv6DestUnreach(code=4),
    ICMPv6TimeExceeded(code=0),
    ICMPv6ParamProblem(code=0),
]


class Caller(Bench):
    """A host with TCP; its peer is beyond the router and is made by hand, as the router is."""

    def __init__(self) -> None:
        super().__init__(start=False)
        self.tcp = Tcp(self.host, self.timers, self.host.interface.events, self.counters, bytes(32), self._transmit)
        self.host.upper[ipv6.TCP] = self.tcp.input
        self.host.errors[ipv6.TCP] = self.tcp.error
        self.host.start(self.now)
        self.settle(reachabletime=REACHABLE * 1000)

    def check(self) -> None:
        """What TCP has to say leaves first."""
        self.tcp.flush(self.now)
        self.tcp.check()
        super().check()

    def call(self, port: int, **options: Any) -> Connection:
        """A connection that is being opened from a local port."""
        entry = self.host.addresses.get(address(US)) or self.reserve(US)
        if entry.kind is not AddressKind.EPHEMERAL:
            self.host.addresses.take(entry, AddressKind.EPHEMERAL, self.now, "test")
        asked = SocketOptions(mode=PortMode.AWARE, timestamps=False, sack=False, **options)
        made = self.tcp.connect(entry, address(OFF_LINK), 80, self.now, asked, local_port=port)
        self.check()
        return made

    def answered(self, port: int, **options: Any) -> Connection:
        """One that is established."""
        made = self.call(port, **options)
        (syn,) = self.segments(port)
        self.say(port, "SA", ISN, syn.seq + 1, options=[("MSS", 1440)])
        return made

    def say(self, port: int, flags: str, seq: int, ack: int, **fields: object) -> None:
        """A segment of the peer to one of our ports."""
        self.feed(
            to_us(OFF_LINK, US) / TCP(sport=80, dport=port, flags=flags, seq=seq, ack=ack, window=60_000, **fields)
        )

    def report(self, message: ScapyPacket, about: ScapyPacket) -> None:
        """A router far away sends an ICMPv6 error about a segment that it had from us."""
        self.feed(to_us(ROUTER_AWAY, US) / message.copy() / about[IPv6].copy())

    def segments(self, port: int, since: int = 0) -> list[ScapyPacket]:
        """The segments that left from a port, from that frame in `out` on, as scapy reads them."""
        return [frame[TCP] for _, frame in self.out[since:] if TCP in frame and frame.sport == port]

    def times(self, port: int, since: int = 0) -> list[float]:
        """When they left."""
        return [when for when, frame in self.out[since:] if TCP in frame and frame.sport == port]

    def frame(self, port: int) -> ScapyPacket:
        """The last frame from a port."""
        return next(frame for _, frame in reversed(self.out) if TCP in frame and frame.sport == port)


# -- ICMP ----------------------------------------------------------------------------------------------


@pytest.mark.proves("MUST-54", "MUST-56", "SHLD-26", "UM-PORT-13")
@pytest.mark.proves("SHLD-25", by="api")
@pytest.mark.parametrize("message", ERRORS, ids=lambda error: f"{error.type}-{error.code}")
def test_an_icmp_error_is_told_and_does_not_end_an_established_connection(message: ScapyPacket) -> None:
    caller = Caller()
    client = caller.answered(5000)
    client.write(b"lost once")
    caller.check()
    first = caller.segments(5000)[-1]
    client.signals = 0
    told = len(caller.out)
    caller.report(message, caller.frame(5000))
    assert client.signals & Signal.TROUBLE and isinstance(client.soft_error, OSError)
    caller.run(1)
    again = caller.segments(5000, told)
    assert again, "it is sent again, as if nothing had been heard"
    assert {(tcp.seq, str(tcp.flags), bytes(tcp.payload)) for tcp in again} == {(first.seq, "PA", b"lost once")}
    caller.say(5000, "A", ISN + 1, first.seq + 9)
    client.write(b"goes on")
    caller.check()
    last = caller.segments(5000)[-1]
    assert (last.seq, bytes(last.payload)) == (first.seq + 9, b"goes on")


@pytest.mark.proves("MUST-54", "SHLD-26", "UM-PORT-13")
@pytest.mark.parametrize("message", ERRORS, ids=lambda error: f"{error.type}-{error.code}")
def test_before_it_is_established_an_icmp_error_ends_it_and_no_other(message: ScapyPacket) -> None:
    caller = Caller()
    caller.call(5000)
    about = caller.frame(5000)
    caller.call(5001)
    forged = about.copy()
    forged[TCP].seq += 1
    caller.report(message, forged)
    caller.run(1.5)
    assert [len(caller.segments(port)) for port in (5000, 5001)] == [2, 2], (
        "a number that is not in flight proves nothing"
    )
    caller.report(message, about)
    told = len(caller.out)
    caller.run(10)
    assert not caller.segments(5000, told), "no SYN any more"
    assert [str(segment.flags) for segment in caller.segments(5001, told)] == ["S", "S"], "the other goes on trying"


@pytest.mark.proves("ST-IP6-8", "UM-PORT-13")
@pytest.mark.parametrize(("beside", "mtu"), [(0, 1300), (-1, 1300), (1_000_000, 1300), (1 << 31, 1300), (0, 1500)])
def test_a_packet_too_big_makes_segments_smaller_where_it_quotes_what_is_in_flight(beside: int, mtu: int) -> None:
    caller = Caller()
    client = caller.answered(5000)
    before = len(caller.out)
    client.write(bytes(6 * 1440))
    caller.check()
    flight = caller.segments(5000, before)
    assert [len(tcp.payload) for tcp in flight] == [1440] * 6
    about = caller.out[before][1].copy()
    about[TCP].seq = (about[TCP].seq + beside) % (1 << 32)
    told = len(caller.out)
    caller.report(ICMPv6PacketTooBig(mtu=mtu), about)
    again = caller.segments(5000, told)
    if (beside, mtu) == (0, 1300):
        ends = [(tcp.seq + len(tcp.payload) - flight[0].seq) % (1 << 32) for tcp in again]
        assert [(tcp.seq - flight[0].seq) % (1 << 32) for tcp in again] == [0, *ends[:-1]], "without a gap"
        assert ends[-1] == 6 * 1440, "all of it, at once"
        assert max(len(frame[IPv6]) for _, frame in caller.out[told:]) == 1300
    else:
        assert not again
        caller.run(2)
        assert len(caller.segments(5000, told)[0].payload) == 1440, "a time-out repeats it as it was"


# -- the next hop --------------------------------------------------------------------------------------


def verified(caller: Caller, since: int) -> list[float]:
    """When the host asked its router, and nobody else, whether it is still there."""
    return [when for when, frame in caller.out[since:] if ICMPv6ND_NS in frame and frame[IPv6].dst == ROUTER]


@pytest.mark.proves("MUST-20", "SHLD-10", "MUST-22")
@pytest.mark.parametrize("opening", [False, True])
def test_after_three_retransmissions_the_next_hop_is_verified(opening: bool) -> None:
    """R1: the IP layer hears of it (RFC 9293 §3.8.3), and what is sent then begins the wait for its probe (RFC 4861 §7.3.3)."""
    caller = Caller()
    client = caller.answered(5000)
    client.write(b"heard")
    caller.check()
    caller.say(5000, "A", ISN + 1, caller.segments(5000)[-1].seq + 5)  # which confirms the router
    quiet = len(caller.out)
    caller.run(60)
    port, begun = 5001 if opening else 5000, len(caller.out)
    if opening:
        caller.call(port)
    else:
        client.write(b"nobody answers")
    caller.check()
    caller.run(30)
    times = caller.times(port, begun)
    assert len(times) > 4
    assert verified(caller, quiet)[0] == pytest.approx(times[3] + DELAY_FIRST_PROBE), (
        "with the third repetition, not before"
    )
