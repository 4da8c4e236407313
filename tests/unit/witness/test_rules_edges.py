"""What is no breach, or counts once: shared groups, other hosts, offload, cut frames, permitted sessions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from scenarios.witness import CaptureFile, Setup, Verdict, judge
from tests.unit.witness.judged import IN, OUT, found, second_session, with_bad_checksum

from .story import EA, SERVER, SETUP, SSA, SSA0, THIRD, birth, end, examine, good, session
from .wire import (
    NODE_LL,
    NODE_MAC,
    OTHER_LL,
    OTHER_MAC,
    ROUTER_LL,
    TO_EXCLUDE,
    Wire,
    echo,
    echo_reply,
    listener_report,
    packet_block,
    probe,
    promotion,
    solicitation,
    statistics_block,
    tcp,
)


@pytest.fixture(scope="module")
def right() -> tuple[Wire, Wire]:
    """The wires of the run in which all is right."""
    return good()


def test_witnesses_come_in_the_order_of_the_run(tmp_path: Path) -> None:
    """Not in that of a set: equal captures have equal findings in every process."""
    lan = Wire()
    own = [f"2001:db8:a::{number:x}:1" for number in range(1, 9)]
    for address in own:
        birth(lan, address, address)
    lan.wait(1.1)
    lan.put(echo(ROUTER_LL, NODE_LL))
    lan.put(echo_reply(NODE_LL, ROUTER_LL))
    for address in own:
        lan.put(tcp(THIRD, address, "S", 5, ports=(666, 80), macs=IN))
    numbers = [witness.number for witness in found(examine(tmp_path, lan, lan), "third-host").witnesses]
    assert len(numbers) == 8  # six SYNs and a sign of life
    assert numbers[:6] == sorted(numbers[:6])


def test_no_connection_is_a_failure(tmp_path: Path) -> None:
    lan = Wire()
    birth(lan, "ea", EA)
    judgement = examine(tmp_path, lan, lan)
    assert found(judgement, "complete").verdict is Verdict.FAILED
    assert found(judgement, "own-pair").verdict is Verdict.NOT_SHOWN


def test_a_router_that_asks_on_for_a_released_ssa_counts_as_an_arrival(
    right: tuple[Wire, Wire], tmp_path: Path
) -> None:
    """A SYN to a released address ends at the router: what reaches the node is the router's question."""
    lan, far = right
    asked = lan.after("again", solicitation(SSA)).without("again")
    assert found(examine(tmp_path, asked, far), "second-fetch").verdict is Verdict.PASSED


def test_two_addresses_of_one_group_end_with_the_last(tmp_path: Path) -> None:
    """24 bits are shared: one join, one leave, and the address that ended first does not break a rule."""
    low = "2001:db8:a:0:1:0:1:e1"
    lan = Wire()
    lan.put(listener_report(EA, TO_EXCLUDE))
    lan.put(probe(EA))
    lan.put(probe(low))
    lan.wait(1.1)
    for name, address, isn in (("one", EA, 1), ("two", low, 9000)):
        lan.put(promotion(address))
        session(lan, name, address, SERVER, OUT, isn=(isn, 50))
    end(lan, "both", EA)
    judgement = examine(tmp_path, lan, lan, replace(SETUP, connections=2))
    lives = {life.address: life for life in judgement.lifetimes}
    assert len(lives) == 2
    assert all(len(life.shares_group) == 1 and life.leave is not None for life in lives.values())
    for rule in ("dad-first", "group-held", "promotion-once", "speaks-within-life", "released", "own-pair"):
        assert found(judgement, rule).verdict is Verdict.PASSED, rule


def test_addresses_of_other_hosts_in_the_prefix_are_left_alone(right: tuple[Wire, Wire], tmp_path: Path) -> None:
    lan, far = right
    router = "2001:db8:a::1"
    busy = lan.after("probe:ssa0", tcp(router, SERVER, "S", 1, macs=("02:00:00:00:00:01", "02:00:00:00:00:77")))
    judgement = examine(tmp_path, busy, far)
    assert not [finding for finding in judgement.findings if finding.verdict is not Verdict.PASSED]
    assert len(judgement.lifetimes) == 5


def test_stable_addresses_are_not_one_time(right: tuple[Wire, Wire], tmp_path: Path) -> None:
    lan, far = right
    stable = "2001:db8:a::5"
    nodes = (replace(SETUP.nodes[0], stable=(stable,)), SETUP.nodes[1])
    busy = lan.after("probe:ssa0", tcp(stable, SERVER, "S", 1), tcp(stable, SERVER, "S", 2))
    assert found(examine(tmp_path, busy, far, replace(SETUP, nodes=nodes)), "own-pair").verdict is Verdict.PASSED
    assert found(examine(tmp_path, busy, far), "own-pair").verdict is Verdict.FAILED


def test_offload_exempts_from_checksum_and_size_only(right: tuple[Wire, Wire], tmp_path: Path) -> None:
    lan, far = right
    bent = lan.changed("request:ea", with_bad_checksum)
    judgement = examine(tmp_path, bent, far, offload_free=False)
    assert found(judgement, "checksums").verdict is Verdict.NOT_SHOWN
    assert found(judgement, "within-mtu").verdict is Verdict.NOT_SHOWN
    assert found(judgement, "complete").verdict is Verdict.PASSED


def test_frames_lost_while_capturing_and_malformed_frames_of_a_node_fail(
    right: tuple[Wire, Wire], tmp_path: Path
) -> None:
    lan, far = right
    path = tmp_path / "lan.pcapng"
    files = [CaptureFile(path, "lan"), CaptureFile(far.save(tmp_path / "far.pcapng"), "far")]
    whole = lan.save(path).read_bytes()
    path.write_bytes(whole + statistics_block(3))
    assert "lost 3 frames" in found(judge(files, SETUP, consult_tshark=False), "captures-whole").sentence
    broken = bytes(lan.packet("syn:ea"))[:60]
    path.write_bytes(whole + packet_block(lan.now + 1, broken))
    finding = found(judge(files, SETUP, consult_tshark=False), "captures-whole")
    assert finding.verdict is Verdict.FAILED
    assert finding.witnesses[0].number == len(lan.frames) + 1
    path.write_bytes(whole + packet_block(lan.now + 1, b"\x33\x33" + bytes(10) + broken[12:]))
    finding = found(judge(files, SETUP, consult_tshark=False), "captures-whole")
    assert finding.verdict is Verdict.PASSED
    assert "1 malformed frame of other nodes" in finding.sentence


def test_retransmissions_are_counted_once(right: tuple[Wire, Wire], tmp_path: Path) -> None:
    lan, far = right
    again = lan.after("reply1:ea", lan.packet("reply1:ea"))
    finding = found(examine(tmp_path, again, far), "complete")
    assert "3,300 bytes carried and acknowledged, 500 of them sent again" in finding.sentence


def test_cut_frames_are_judged_as_far_as_they_go(right: tuple[Wire, Wire], tmp_path: Path) -> None:
    judgement = examine(tmp_path, *right, snap=96)
    verdicts = {finding.rule: finding.verdict for finding in judgement.findings}
    assert all(verdict is Verdict.PASSED for verdict in verdicts.values()), verdicts
    assert "too short in the capture to check" in found(judgement, "checksums").sentence
    assert "3,300 bytes carried" in found(judgement, "complete").sentence


def test_sessions_permitted_by_the_scenario(right: tuple[Wire, Wire], tmp_path: Path) -> None:
    lan, far = right
    twice = second_session(lan)
    assert found(examine(tmp_path, twice, far, replace(SETUP, sessions={SSA: 2})), "own-pair").verdict is Verdict.PASSED


def test_a_dedicated_prefix_needs_no_dad_and_ends_with_its_connection(tmp_path: Path) -> None:
    lan = Wire()
    session(lan, "one", EA, SERVER, OUT)
    setup = Setup(nodes=(replace(SETUP.nodes[0], dedicated=True),), time_wait=0.5)
    late = tcp(EA, SERVER, "RA", 7, macs=OUT)
    assert found(examine(tmp_path, lan, lan, setup), "speaks-within-life").verdict is Verdict.PASSED
    bent = lan.after("last-ack:one", late, delay=1.0)
    assert found(examine(tmp_path, bent, bent, setup), "speaks-within-life").verdict is Verdict.FAILED


def test_simultaneous_open_is_one_connection(tmp_path: Path) -> None:
    lan = Wire()
    birth(lan, "ea", EA)
    birth(lan, "ssa0", SSA0, OTHER_MAC, OTHER_LL)
    lan.wait(1.1)
    lan.put(promotion(EA))
    lan.put(promotion(SSA0, OTHER_MAC))
    there, back = (NODE_MAC, OTHER_MAC), (OTHER_MAC, NODE_MAC)
    lan.put(tcp(EA, SSA0, "S", 100, macs=there))
    lan.put(tcp(SSA0, EA, "S", 500, macs=back))
    lan.put(tcp(EA, SSA0, "SA", 100, 501, macs=there))
    lan.put(tcp(SSA0, EA, "SA", 500, 101, macs=back))
    lan.put(tcp(EA, SSA0, "FA", 101, 501, macs=there))
    lan.put(tcp(SSA0, EA, "FA", 501, 102, macs=back))
    lan.put(tcp(EA, SSA0, "A", 102, 502, macs=there))
    judgement = examine(tmp_path, lan, lan)
    assert len(judgement.connections) == 1
    assert judgement.connections[0].complete
    assert found(judgement, "own-pair").verdict is Verdict.PASSED
