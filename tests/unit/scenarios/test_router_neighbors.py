"""The router's neighbour cache against RFC 4861."""

from __future__ import annotations

import pytest
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    IPv6,
)

from scenarios.engine.router import (
    NeighborLimits,
    NudState,
    RouterConfig,
    RouterDrop,
    UntrackedNa,
)
from tapstack.types import address
from tests.unit.scenarios.routerbench import MAC_B, ROUTER_B, B, Bench, group_mac, ns, ping, raw


def test_a_neighbour_in_use_is_probed_and_fails_when_silent() -> None:
    bench = Bench()
    bench.put(ping())
    bench.resolve_b(0.1)
    assert bench.state_of_b() is NudState.REACHABLE
    assert bench.run(60) == []
    assert bench.state_of_b() is NudState.STALE
    bench.put(ping(), 60.0)
    assert bench.state_of_b() is NudState.DELAY
    probes = [(when, frame.dst, frame[IPv6].dst) for when, _, frame in bench.run(67.5)]
    assert probes == [(65.0 + n, MAC_B, B) for n in range(3)]
    assert bench.state_of_b() is NudState.PROBE
    bench.resolve_b(67.5)
    assert bench.state_of_b() is NudState.REACHABLE
    bench.run(160)
    bench.put(ping(), 160.0)
    bench.run(200)
    assert bench.state_of_b() is NudState.FAILED
    bench.resolve_b(200.0)
    assert bench.state_of_b() is NudState.FAILED  # Linux takes no news of a failed neighbour but a question from it
    bench.put(ns(B, ROUTER_B, lladdr=MAC_B), 201.0, port=1, src=MAC_B, dst=group_mac(ns(B, ROUTER_B)))
    assert bench.state_of_b() is NudState.DELAY  # the answer has been sent to it
    assert bench.router.neighbors.created == 1


def test_one_in_constant_use_goes_from_reachable_to_delay() -> None:
    bench = Bench()
    bench.put(ping())
    bench.resolve_b(0.1)
    states = set()
    for second in range(1, 120):
        now = float(second)
        for _, _, frame in bench.run(now):
            assert frame.dst == MAC_B
            bench.resolve_b(now)
        bench.put(ping(), now)
        states.add(bench.state_of_b())
    assert states == {NudState.REACHABLE, NudState.DELAY, NudState.PROBE} or states == {
        NudState.REACHABLE,
        NudState.DELAY,
    }


@pytest.mark.parametrize(
    ("flags", "mac", "state", "known"),
    [
        ({"S": 1, "O": 1}, "02:00:00:00:00:99", NudState.REACHABLE, "02:00:00:00:00:99"),
        ({"S": 0, "O": 1}, "02:00:00:00:00:99", NudState.STALE, "02:00:00:00:00:99"),
        ({"S": 0, "O": 0}, "02:00:00:00:00:99", NudState.STALE, MAC_B),
        ({"S": 0, "O": 1}, MAC_B, NudState.REACHABLE, MAC_B),
        ({"S": 0, "O": 0}, MAC_B, NudState.REACHABLE, MAC_B),
    ],
)
def test_advertisements_change_an_entry_as_rfc_4861_has_it(
    flags: dict[str, int], mac: str, state: NudState, known: str
) -> None:
    bench = Bench()
    bench.put(ping())
    bench.resolve_b()
    na = IPv6(src=B, dst="ff02::1" if not flags["S"] else ROUTER_B, hlim=255)
    na /= ICMPv6ND_NA(tgt=B, R=0, **flags) / ICMPv6NDOptDstLLAddr(lladdr=mac)
    bench.put(na, 1.0, port=1, src=mac, dst=None if flags["S"] else "33:33:00:00:00:01")
    entry = bench.router.neighbors.get(1, address(B))
    assert entry is not None
    assert (entry.state, entry.mac) == (state, raw(known))


@pytest.mark.parametrize(
    ("untracked", "src", "made"),
    [
        (UntrackedNa.NO, B, False),
        (UntrackedNa.ANY, B, True),
        (UntrackedNa.ANY, "2001:db8:c::1", True),
        (UntrackedNa.SAME_SUBNET, B, True),
        (UntrackedNa.SAME_SUBNET, "2001:db8:c::1", False),
    ],
)
def test_untracked_advertisements(untracked: UntrackedNa, src: str, made: bool) -> None:
    bench = Bench(untracked=untracked)
    na = IPv6(src=src, dst="ff02::2", hlim=255) / ICMPv6ND_NA(tgt=B, R=0, S=0, O=0) / ICMPv6NDOptDstLLAddr(lladdr=MAC_B)
    assert bench.put(na, port=1, src=MAC_B, dst="33:33:00:00:00:02") == []
    assert bench.state_of_b() is (NudState.STALE if made else None)
    ((_, frame),) = bench.put(ping())
    assert (ICMPv6ND_NS in frame) is not made


def test_a_full_table_refuses_and_old_entries_make_room() -> None:
    limits = NeighborLimits(gc_thresh1=4, gc_thresh2=8, gc_thresh3=16)
    bench = Bench(RouterConfig(neighbors=limits), untracked=UntrackedNa.ANY)

    def appear(number: int, now: float) -> None:
        target = f"2001:db8:b::{number:x}"
        na = IPv6(src=target, dst="ff02::2", hlim=255) / ICMPv6ND_NA(tgt=target, R=0, S=0, O=0)
        bench.put(na / ICMPv6NDOptDstLLAddr(lladdr=MAC_B), now, port=1, src=MAC_B, dst="33:33:00:00:00:02")

    table = bench.router.neighbors
    for number in range(20):
        appear(0x100 + number, 1.0)
    assert (len(table), table.overflows, table.peak) == (16, 4, 16)
    assert bench.put(ping(dst="2001:db8:b::999"), 2.0) == []  # lost without a word
    assert bench.drops == {RouterDrop.NEIGHBOR_TABLE: 1}
    appear(0x200, 6.5)
    assert len(table) == 9  # what is older than 5 s went, down to gc_thresh2
    bench.run(100)
    assert len(table) == 0  # unused for a minute


def test_the_queue_of_an_unresolved_neighbour_is_bounded() -> None:
    bench = Bench(RouterConfig(neighbors=NeighborLimits(unres_qlen=3)))
    for number in range(5):
        bench.put(ping(hlim=10 + number))
    assert bench.drops == {RouterDrop.NEIGHBOR_QUEUE: 2}
    answer = IPv6(src=B, dst="fe80::ff:fe00:f1") / ICMPv6ND_NA(tgt=B, S=1, O=1) / ICMPv6NDOptDstLLAddr(lladdr=MAC_B)
    assert [frame[IPv6].hlim for _, frame in bench.put(answer, 0.1, port=1, src=MAC_B)] == [11, 12, 13]
