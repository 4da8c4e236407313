"""What the host's tables weigh, at rest and under attack (RFC 6583; P-9).  The figures go into the report of the test run."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random

import pytest
from scapy.layers.inet import UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6PacketTooBig, IPv6, IPv6ExtHdrFragment
from scapy.packet import Raw

from tapstack.ipv6.config import HostConfig
from tapstack.types import address_text
from tests.unit.ipv6.bench import (
    OFF_LINK,
    ROUTER,
    STRANGER,
    Bench,
    advertisement,
    neighbor_advertisement,
    probe,
    solicitation,
    to_us,
)

FLOOD = 20_000


class Quiet(Bench):
    """A bench that keeps no record of what was sent, so that only the host is weighed."""

    def __init__(self, config: HostConfig) -> None:
        super().__init__(config)
        self.settle()
        self.host.interface._transmit = lambda frame: None
        self.host.addresses._events._subscribers = ()

    def advance(self, seconds: float) -> None:
        """Run timers without the bench's checks, which would be quadratic here."""
        end = self.now + seconds
        while (due := self.timers.deadline()) is not None and due <= end:
            self.now = due
            self.timers.run(due)
        self.now = end


@contextmanager
def weighed() -> Iterator[Callable[[], int]]:
    """Yields a function that says how many bytes more are allocated than at the beginning."""
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]

    def growth() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - before

    try:
        yield growth
    finally:
        tracemalloc.stop()


def test_an_uncertain_address_weighs_at_most_512_bytes(record_property: Callable[[str, object], None]) -> None:
    count = 5000
    bench = Quiet(HostConfig(dad_initial_delay=0.0, dad_pace=0.0001, dad_concurrent=count))
    random = Random(1)
    with weighed() as growth:
        for _ in range(count):
            bench.host.reserve(bench.prefix.prefix[:8] + random.randbytes(8), bench.prefix, bench.now)
        bench.advance(10)
        each = growth() / count
    assert sum(entry.state == "UNCERTAIN" for entry in bench.host.addresses) == count
    record_property("bytes per UNCERTAIN address", round(each))
    assert each <= 512


def last_words_vary(frame: bytes, at: int) -> Callable[[int], bytes]:
    """The frame with two words of an address changed such that their sum, and so the checksum, stays."""
    changed = bytearray(frame)

    def vary(number: int) -> bytes:
        changed[at : at + 4] = ((0xFFFF - number) & 0xFFFF).to_bytes(2, "big") + (number & 0xFFFF).to_bytes(2, "big")
        return bytes(changed)

    return vary


def floods(us: str) -> dict[str, Callable[[int], bytes]]:
    """Attacks, each as a function from a serial number to a frame."""
    varied = "2001:db8:1::ffff:0"
    quoted = IPv6(src=us, dst=OFF_LINK) / UDP(sport=5000, dport=53) / Raw(bytes(8))
    fragment = bytearray(bytes(to_us(STRANGER, us) / IPv6ExtHdrFragment(id=0, offset=1, m=1, nh=17) / Raw(bytes(1024))))

    def fragments(number: int) -> bytes:
        fragment[58:62] = number.to_bytes(4, "big")
        fragment[36:38] = (number % 64).to_bytes(2, "big")
        return bytes(fragment)

    return {
        "solicitations from spoofed neighbours": last_words_vary(bytes(solicitation(us, src=varied)), 34),
        "unsolicited advertisements": last_words_vary(bytes(neighbor_advertisement(varied, src=STRANGER)), 74),
        "DAD probes for a scan of the prefix": last_words_vary(bytes(probe(varied)), 74),
        "fragments that never become whole": fragments,
        "router advertisements from many routers": last_words_vary(bytes(advertisement(source="fe80::ffff:0")), 34),
        "errors from anywhere": last_words_vary(bytes(to_us(varied, us) / ICMPv6DestUnreach() / quoted), 34),
        "too big from anywhere": last_words_vary(bytes(to_us(varied, us) / ICMPv6PacketTooBig(mtu=1300) / quoted), 34),
        "echo requests from anywhere": last_words_vary(bytes(to_us(varied, us, nh=200) / Raw(bytes(100))), 34),
    }


NAMES = list(floods("2001:db8::1"))


@pytest.mark.proves("ST-IP6-4", "ST-IP6-2", by="api")
@pytest.mark.parametrize("name", NAMES)
def test_memory_stays_bounded_under_attack(name: str, record_property: Callable[[str, object], None]) -> None:
    bench = Quiet(HostConfig(dad_initial_delay=0.0))
    attack = floods(address_text(bench.stable.address))[name]
    with weighed() as growth:
        for number in range(FLOOD // 2):
            bench.host.input(attack(number), bench.now)
        full = growth()
        for number in range(FLOOD // 2, FLOOD):
            bench.host.input(attack(number), bench.now)
        more = growth() - full
    bench.check()
    record_property(f"bytes after {FLOOD} frames: {name}", full + more)
    assert full < 2 << 20
    assert more < 64 << 10  # what is full is replaced, not enlarged
    # Life goes on: the router is known and the host still answers.
    assert bench.host.routes.is_reachable(bytes.fromhex("fe80" + "00" * 13 + "fe"))
    assert ROUTER == "fe80::fe"
    bench.advance(3600)
    bench.check()
    assert len(bench.host.reassembler) == 0
