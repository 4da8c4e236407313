"""Whether the link carries an address: the verdict for every behaviour of link and witness (UM-ADDR-12)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet as ScapyPacket

from tapstack.ipv6.addresses import AddressKind
from tapstack.ipv6.carriage import Carriage
from tapstack.ipv6.host import Host
from tapstack.types import Frame, address, address_text
from tests.unit.ipv6.bench import (
    OFF_LINK,
    OUR_MAC,
    PREFIX,
    ROUTER,
    ROUTER_MAC,
    Bench,
    advertisement,
    only,
    to_us,
)

OURS = PREFIX + "abcd:1234:5678"
Rule = Callable[[ScapyPacket], bool]


class Room(Bench):
    """A bench whose router answers the solicitations for it of which `answers` holds."""

    def __init__(self, answers: Rule) -> None:
        self.answers: Rule = lambda packet: False
        super().__init__()
        self.settle()
        self.answers = answers
        self.warned: list[float] = []
        self.on_warning: Callable[[float], None] = lambda now: None
        self.verdicts: list[tuple[float, Carriage]] = []
        self.entry = self.ephemeral(OURS)
        self.began = self.now

    def _transmit(self, frame: Frame) -> None:
        super()._transmit(frame)
        packet = self.out[-1][1]
        if ICMPv6ND_NS in packet and packet[ICMPv6ND_NS].tgt == ROUTER and self.answers(packet):
            self.timers.timer(lambda now: self.answer(packet[IPv6].src)).set(self.now + 0.001)

    def answer(self, dst: str) -> None:
        head = to_us(ROUTER, dst, ROUTER_MAC, hlim=255)
        self.feed(head / ICMPv6ND_NA(tgt=ROUTER, R=1, S=1, O=0) / ICMPv6NDOptDstLLAddr(lladdr=ROUTER_MAC))

    def test(self) -> bool:
        return self.host.carriage.test(
            self.entry,
            address(OFF_LINK),
            self.now,
            self.warn,
            lambda verdict, now: self.verdicts.append((now, verdict)),
        )

    def warn(self, now: float) -> None:
        self.warned.append(now)
        self.on_warning(now)

    def verdict(self) -> Carriage:
        assert self.test()
        self.run(10.0)
        ((_, verdict),) = self.verdicts
        return verdict


def is_question(packet: ScapyPacket) -> bool:
    return ICMPv6ND_NS in packet


def is_control(packet: ScapyPacket) -> bool:
    return bool(packet[IPv6].src.startswith("fe80"))


def is_full(packet: ScapyPacket) -> bool:
    return not is_control(packet) and ICMPv6NDOptSrcLLAddr in packet


def is_plain(packet: ScapyPacket) -> bool:
    return not is_control(packet) and ICMPv6NDOptSrcLLAddr not in packet


@pytest.mark.proves("UM-ADDR-12", by="api")
@pytest.mark.parametrize(("plain", "control", "full"), list(product([False, True], repeat=3)))
def test_the_link_is_blamed_only_where_another_address_is_answered(plain: bool, control: bool, full: bool) -> None:
    room = Room(lambda p: (plain and is_plain(p)) or (control and is_control(p)) or (full and is_full(p)))
    if plain:
        expected = Carriage.CARRIED
    elif not control:
        expected = Carriage.UNKNOWN
    else:
        expected = Carriage.DEAF if full else Carriage.MUTE
    assert room.verdict() is expected
    assert expected.refused == (control and not plain)
    assert room.warned == ([room.began + 3.0] if expected.refused else [])


@pytest.mark.proves("UM-ADDR-12", by="api")
def test_a_link_that_goes_away_meanwhile_is_not_blamed() -> None:
    """Nor is one whose witness the neighbour cache gave up: silence says nothing of the address then."""
    for forget in (Host.link_down, lambda host, now: host.neighbors.remove(address(ROUTER))):
        room = Room(is_control)
        assert room.test()
        room.run(1.5)
        forget(room.host, room.now)
        room.run(20.0)
        assert [verdict for _, verdict in room.verdicts] == [Carriage.UNKNOWN]
        assert room.warned == []


@pytest.mark.proves("UM-ADDR-12")
def test_the_questions_are_unicast_solicitations_and_few() -> None:
    room = Room(is_control)
    assert room.verdict() is Carriage.MUTE
    asked = only(room.sent, ICMPv6ND_NS)
    assert {(p[Ether].src, p[Ether].dst, p[IPv6].dst, p[IPv6].hlim) for p in asked} == {
        (OUR_MAC, ROUTER_MAC, ROUTER, 255)
    }
    assert [sum(map(kind, asked)) for kind in (is_plain, is_control, is_full)] == [3, 1, 2]
    assert room.verdicts[0][0] - room.began == pytest.approx(5.0)


@pytest.mark.proves("UM-ADDR-12")
@pytest.mark.parametrize("lost", [1, 2])
def test_a_question_that_is_lost_is_asked_again(lost: int) -> None:
    seen: list[ScapyPacket] = []

    def answers(packet: ScapyPacket) -> bool:
        if is_plain(packet):
            seen.append(packet)
        return is_control(packet) or len(seen) > lost

    assert Room(answers).verdict() is Carriage.CARRIED
    assert len(seen) == lost + 1


@pytest.mark.proves("UM-ADDR-12")
def test_a_released_address_ends_its_test_without_a_verdict() -> None:
    room = Room(is_control)
    assert room.test()
    assert not room.test(), "one test of an address at a time"
    room.run(0.5)
    assert only(room.sent, is_question), "it asks while it is in use"
    (user,) = room.entry.users
    room.host.addresses.drop(room.entry, user, room.now, "closed")
    assert [verdict for _, verdict in room.verdicts] == [Carriage.UNKNOWN]
    room.out.clear()
    room.run(10.0)
    assert not only(room.sent, is_question)


@pytest.mark.proves("UM-ADDR-12", "UM-ADDR-5")
def test_only_an_address_in_use_asks_and_only_somebody_who_is_known() -> None:
    room = Room(is_control)
    reserved = room.reserve(PREFIX + "abcd:1:1")
    assert not room.host.carriage.test(reserved, None, room.now, room.warned.append, lambda verdict, now: None)
    room.feed(advertisement(lifetime=0))
    room.host.neighbors.clear()
    assert not room.test()
    assert not only(room.sent, ICMPv6ND_NS)
    assert reserved.kind is AddressKind.RESERVED
    room.feed(advertisement())  # the control: a router is known again
    assert room.test()
    (question,) = only(room.sent, is_question)
    assert (question[IPv6].src, question[IPv6].dst) == (address_text(address(OURS)), ROUTER)


@pytest.mark.proves("UM-ADDR-12", by="api")
def test_the_address_is_given_up_before_the_reason_is_sought_and_then_released() -> None:
    room = Room(is_control)
    (user,) = room.entry.users
    room.on_warning = lambda now: room.host.addresses.drop(room.entry, user, now, "given up")
    assert room.test()
    room.run(3.5)
    assert room.entry.state == "PREFERRED"
    assert len(room.entry.users) == 1
    room.run(3.0)
    assert room.entry.state == "INVALID"
    assert [verdict for _, verdict in room.verdicts] == [Carriage.MUTE]
