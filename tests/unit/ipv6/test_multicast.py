"""The multicast listener (RFC 3810, RFC 2710, RFC 3590)."""

from __future__ import annotations

import pytest
from scapy.layers.inet6 import (
    HBHOptUnknown,
    ICMPv6EchoRequest,
    ICMPv6MLDone,
    ICMPv6MLQuery,
    ICMPv6MLQuery2,
    ICMPv6MLReport,
    ICMPv6MLReport2,
    ICMPv6Unknown,
    IPv6,
    IPv6ExtHdrHopByHop,
    RouterAlert,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet as ScapyPacket

from tapstack.events import DropReason
from tapstack.types import address, address_text, solicited_node
from tests.unit.ipv6.bench import (
    PREFIX,
    ROUTER,
    ROUTER_MAC,
    Bench,
    checksum_is_right,
    group_of,
    one,
    only,
    records,
    to_group,
)

GROUP_A = "ff02::1:ff00:a"
GROUP_B = "ff02::1:ff00:b"


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.settle(prefix=None)
    return bench


def query(
    group: str = "::",
    *,
    delay: int = 1000,
    version: int = 2,
    sources: tuple[str, ...] = (),
    src: str = ROUTER,
    hlim: int = 1,
    alert: bool = True,
    **fields: int,
) -> ScapyPacket:
    """A query of the router's."""
    packet = to_group(src, "ff02::1" if group == "::" else group, ROUTER_MAC, hlim=hlim)
    options = [RouterAlert()] if alert else [HBHOptUnknown(otype=0x1E)]
    packet = packet / IPv6ExtHdrHopByHop(options=options)
    if version == 1:
        return packet / ICMPv6MLQuery(mladdr=group, mrd=delay)
    return packet / ICMPv6MLQuery2(mladdr=group, mrd=delay, sources=list(sources), **fields)


def own_groups(bench: Bench) -> set[str]:
    return {group_of(bench.link_local)}


@pytest.mark.proves("ST-IP6-7", "UM-ADDR-7", "RFC8504-4", "RFC8504-6.1/1")
def test_a_report_is_as_the_rfc_has_it(bench: Bench) -> None:
    bench.host.multicast.join(address(GROUP_A), bench.now)
    (report,) = bench.sent
    assert report[Ether].dst == "33:33:00:00:00:16"
    assert (report[IPv6].src, report[IPv6].dst, report[IPv6].hlim) == (bench.link_local, "ff02::16", 1)
    assert any(isinstance(option, RouterAlert) for option in report[IPv6ExtHdrHopByHop].options)
    assert records([report]) == [(4, GROUP_A)]
    assert checksum_is_right(report)


@pytest.mark.proves("ST-IP6-7")
def test_changes_are_repeated_within_a_second_and_the_repetition_says_what_holds_then(bench: Bench) -> None:
    start = bench.now
    bench.host.multicast.join(address(GROUP_A), bench.now)
    bench.host.multicast.leave(address(GROUP_A), bench.now)
    assert records(bench.sent) == [(4, GROUP_A), (3, GROUP_A)]
    bench.run(5)
    assert records(bench.sent)[2:] == [(3, GROUP_A)]
    assert start < bench.out[-1][0] <= start + 1


@pytest.mark.proves("ST-IP6-7")
def test_the_querier_says_how_often_changes_are_repeated(bench: Bench) -> None:
    bench.feed(query(QRV=4))
    bench.run(2)
    bench.out.clear()
    bench.host.multicast.join(address(GROUP_A), bench.now)
    bench.run(10)
    assert records(bench.sent) == [(4, GROUP_A)] * 4


@pytest.mark.proves("ST-IP6-7")
def test_a_general_query_is_answered_once_with_all_groups_within_its_delay(bench: Bench) -> None:
    bench.host.multicast.join(address(GROUP_A), bench.now)
    bench.run(3)
    bench.out.clear()
    start = bench.now
    bench.feed(query(delay=10_000))
    bench.feed(query(delay=10_000))
    bench.run(30)
    assert len(bench.out) == 1
    when, _ = bench.out[0]
    assert start <= when <= start + 10
    assert set(records(bench.sent)) == {(2, GROUP_A)} | {(2, group) for group in own_groups(bench)}


@pytest.mark.proves("ST-IP6-7")
def test_a_query_for_a_group_and_for_its_sources(bench: Bench) -> None:
    bench.host.multicast.join(address(GROUP_A), bench.now)
    bench.run(3)
    bench.out.clear()
    bench.feed(query(GROUP_A))
    bench.run(2)
    assert records(bench.sent) == [(2, GROUP_A)]
    bench.out.clear()
    bench.feed(query(GROUP_A, sources=("2001:db8::1", "2001:db8::2")))
    bench.run(2)
    ((report),) = bench.sent
    record = report[ICMPv6MLReport2].records[0]
    assert (record.rtype, record.dst, record.sources) == (1, GROUP_A, ["2001:db8::1", "2001:db8::2"])
    bench.out.clear()
    # With more sources than are remembered the answer is for the whole group.
    bench.feed(query(GROUP_A, sources=tuple(f"2001:db8::{number:x}" for number in range(80))))
    bench.run(2)
    assert records(bench.sent) == [(2, GROUP_A)]
    bench.out.clear()
    bench.feed(query(GROUP_B))
    bench.run(2)
    assert bench.out == []


@pytest.mark.proves("ST-IP6-7")
@pytest.mark.parametrize("seed", range(5))
def test_a_later_query_puts_off_no_answer_that_is_due(seed: int) -> None:
    """RFC 3810 §6.2: the earlier of the two times holds."""
    bench = Bench(seed=seed)
    bench.settle()
    bench.host.multicast.join(address(GROUP_A), bench.now)
    bench.run(3)
    bench.out.clear()
    bench.feed(query(GROUP_A, delay=1000))
    bench.feed(query(GROUP_A, delay=30_000))
    bench.run(1)
    assert records(bench.sent) == [(2, GROUP_A)]


@pytest.mark.proves("ST-IP6-7")
def test_two_source_queries_merge_and_a_group_query_covers_them(bench: Bench) -> None:
    bench.host.multicast.join(address(GROUP_A), bench.now)
    bench.run(3)
    bench.out.clear()
    bench.feed(query(GROUP_A, sources=("2001:db8::1",)))
    bench.feed(query(GROUP_A, sources=("2001:db8::2",)))
    bench.run(2)
    assert bench.sent[0][ICMPv6MLReport2].records[0].sources == ["2001:db8::1", "2001:db8::2"]
    bench.out.clear()
    bench.feed(query(GROUP_A, sources=("2001:db8::1",)))
    bench.feed(query(GROUP_A))
    bench.run(2)
    assert records(bench.sent) == [(2, GROUP_A)]


@pytest.mark.proves("ST-IP6-7", "RFC8504-5.11")
@pytest.mark.parametrize(
    "bad",
    [
        query(src=PREFIX + "fe"),
        query(hlim=2),
        query(alert=False),
        to_group(ROUTER, "ff02::1", hlim=1) / ICMPv6MLQuery2(mrd=1),
    ],
)
def test_invalid_queries_are_ignored(bench: Bench, bad: ScapyPacket) -> None:
    """RFC 3810 §5.1.14."""
    bench.feed(bad)
    bench.run(20)
    assert bench.out == []
    assert bench.drops(DropReason.MLD_INVALID) == 1


@pytest.mark.proves("ST-IP6-7")
def test_version_1_is_spoken_to_a_version_1_querier_and_for_a_while_after(bench: Bench) -> None:
    bench.host.multicast.join(address(GROUP_A), bench.now)
    bench.run(3)
    bench.out.clear()
    start = bench.now
    bench.feed(query(delay=1000, version=1))
    bench.run(2)
    assert {(packet[IPv6].dst, packet[ICMPv6MLReport].mladdr) for packet in bench.sent} == {
        (group, group) for group in {GROUP_A, *own_groups(bench)}
    }
    bench.out.clear()
    bench.host.multicast.join(address(GROUP_B), bench.now)
    bench.host.multicast.leave(address(GROUP_A), bench.now)
    assert bench.sent[0][ICMPv6MLReport].mladdr == GROUP_B
    assert bench.sent[0][Ether].dst == "33:33:ff:00:00:0b"
    assert (bench.sent[1][IPv6].dst, bench.sent[1][ICMPv6MLDone].mladdr) == ("ff02::2", GROUP_A)
    bench.run_until(start + 252)
    bench.out.clear()
    bench.host.multicast.leave(address(GROUP_B), bench.now)
    assert records(bench.sent) == [(3, GROUP_B)]


@pytest.mark.proves("ST-IP6-7")
def test_in_version_1_another_listeners_report_is_enough(bench: Bench) -> None:
    bench.host.multicast.join(address(GROUP_A), bench.now)
    bench.run(3)
    bench.out.clear()
    bench.feed(query(GROUP_A, delay=10_000, version=1))
    report = to_group("fe80::9", GROUP_A, hlim=1) / IPv6ExtHdrHopByHop(options=[RouterAlert()])
    bench.feed(report / ICMPv6MLReport(mladdr=GROUP_A))
    bench.run(20)
    assert bench.out == []
    # The control: where no other listener reports, this one does.
    bench.feed(query(GROUP_A, delay=10_000, version=1))
    bench.run(20)
    assert one(bench.sent, ICMPv6MLReport)[ICMPv6MLReport].mladdr == GROUP_A


def test_the_all_nodes_group_is_never_reported(bench: Bench) -> None:
    bench.feed(query())
    bench.feed(query("ff02::1"))
    bench.run(5)
    assert "ff02::1" not in {group for _, group in records(bench.sent)}


@pytest.mark.proves("ST-IP6-7")
def test_reports_before_the_link_local_address_are_from_nowhere_and_repeated_after() -> None:
    """RFC 3590 §4."""
    bench = Bench()
    bench.run(0.9)
    early = only([packet for when, packet in bench.out if when < 1000.9], ICMPv6MLReport2)
    assert {packet[IPv6].src for packet in early} == {"::"}
    bench.run(2)
    late = only([packet for when, packet in bench.out if when >= 1001], ICMPv6MLReport2)
    assert {packet[IPv6].src for packet in late} == {bench.link_local}
    assert (4, group_of(bench.link_local)) in records(late)


@pytest.mark.proves("UM-ADDR-7")
def test_many_groups_need_few_reports_and_each_fits_the_minimum_mtu(bench: Bench) -> None:
    groups = [solicited_node(number.to_bytes(16, "big")) for number in range(1, 301)]
    for group in groups:
        bench.host.multicast.join(group, bench.now)
    bench.run(5)
    bench.out.clear()
    bench.feed(query())
    bench.run(2)
    reports = only(bench.sent, ICMPv6MLReport2)
    assert all(len(bytes(report[IPv6])) <= 1280 for report in reports)
    assert len(reports) <= 6
    assert {group for _, group in records(reports)} >= {address_text(group) for group in groups}
    bench.out.clear()
    bench.host.multicast.leave_all(bench.now)
    assert len(bench.out) <= 6
    bench.run(10)
    assert len(bench.out) <= 6


def test_a_storm_of_joins_and_leaves_is_not_quadratic(bench: Bench) -> None:
    """Each change costs its own report and one record in one repetition, however many others are waiting."""
    for number in range(1, 501):
        bench.host.multicast.join(solicited_node(number.to_bytes(16, "big")), bench.now)
    bench.run(5)
    assert len(records(bench.sent)) == 1000


def test_a_group_that_nobody_joined_is_not_ours(bench: Bench) -> None:
    assert bench.feed(to_group(ROUTER, GROUP_A) / ICMPv6EchoRequest()) == []
    assert bench.drops(DropReason.IP_NOT_OURS) == 1


@pytest.mark.parametrize("length", [4, 19, 21, 23])
def test_malformed_queries_are_counted(bench: Bench, length: int) -> None:
    head = to_group(ROUTER, "ff02::1", hlim=1) / IPv6ExtHdrHopByHop(options=[RouterAlert()])
    bench.feed(head / ICMPv6Unknown(type=130, msgbody=bytes(length)))
    assert dict(bench.counters.drops) == {DropReason.ICMP_MALFORMED: 1}
    bench.run(20)
    assert bench.out == []


@pytest.mark.proves("ST-IP6-7")
def test_reports_that_nobody_asks_for_go_on_until_somebody_asks(bench: Bench) -> None:
    assert bench.host.multicast.report_unasked(bench.now)
    assert bench.host.multicast.report_unasked(bench.now), "once is enough"
    bench.run(5)
    assert set(records(bench.sent)) == {(4, group) for group in own_groups(bench)}
    before = len(only(bench.sent, ICMPv6MLReport2))
    bench.run(1250)
    assert len(only(bench.sent, ICMPv6MLReport2)) == before * 11
    bench.feed(query())
    bench.run(5)
    bench.out.clear()
    bench.run(1250)
    assert not only(bench.sent, ICMPv6MLReport2)
    bench.feed(query())
    assert not bench.host.multicast.report_unasked(bench.now)
    bench.run(261)
    assert bench.host.multicast.report_unasked(bench.now), "the querier is gone"
