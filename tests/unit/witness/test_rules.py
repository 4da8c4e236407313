"""Each rule passes on a run in which all is right, and fails on one that breaks just it (the negative controls)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scenarios.witness import TITLES, Judgement, Setup, Verdict
from scenarios.witness.rules import RULES
from tests.unit.witness.judged import OUT, Bend, found, on_lan, second_session, with_bad_checksum

from .story import CLIENT, EA, EA0, IDLE, SERVER, SETUP, SSA, SSA0, THIRD, birth, end, examine, good, session
from .wire import (
    NODE_LL,
    OTHER_LL,
    OTHER_MAC,
    ROUTER_LL,
    Wire,
    advertisement,
    defence,
    echo_reply,
    probe,
    promotion,
    resolved,
    solicitation,
    tcp,
    unreachable,
)


def with_wrong_sequence(packet: Any) -> None:
    packet["TCP"].seq += 3


def again_from_ea(wire: Wire) -> Wire:
    """The EA opens a second connection before it is released."""
    more = Wire()
    session(more, "more", EA, "2001:db8:f::81", OUT)
    return wire.after("last-ack:ea", *(sent.packet for sent in more.frames))


def reborn(wire: Wire) -> Wire:
    """A released address is made again."""
    more = Wire()
    birth(more, "again", EA)
    return wire.after("leave-again:ea", *(sent.packet for sent in more.frames))


BREACHES: list[tuple[str, str, str, Bend]] = [
    ("captures-whole", "empty", "the capture at far is empty", lambda lan, far: (lan, Wire())),
    ("own-pair", "an EA for two", "opened a second connection", on_lan(again_from_ea)),
    ("own-pair", "an SSA for two", "served 2 connections, 1 permitted", on_lan(second_session)),
    (
        "complete",
        "no FIN",
        "no FIN from the opener",
        on_lan(lambda w: w.without("fin-client:ea").without("last-ack:ea")),
    ),
    ("complete", "FIN not acknowledged", "FIN was not acknowledged", on_lan(lambda w: w.without("last-ack:ssa"))),
    (
        "complete",
        "reset",
        "reset",
        on_lan(
            lambda w: (
                w.without("fin-client:ea")
                .without("last-ack:ea")
                .after("fin-server:ea", tcp(EA, SERVER, "R", 1101, macs=OUT))
            )
        ),
    ),
    (
        "complete",
        "data after FIN",
        "beyond its FIN",
        on_lan(lambda w: w.after("last-ack:ea", tcp(EA, SERVER, "PA", 1102, 0, b"x" * 9))),
    ),
    (
        "complete",
        "ACK of the future",
        "what 2001:db8:f::80 had not sent was acknowledged",
        on_lan(lambda w: w.after("reply-ack1:ea", tcp(EA, SERVER, "A", 1101, 5000, macs=OUT))),
    ),
    ("dad-first", "no probe", "without a DAD probe", on_lan(lambda w: w.without("probe:ea"))),
    (
        "dad-first",
        "no nonce",
        "without a nonce",
        on_lan(lambda w: w.after("join:ea", probe(EA, nonce=b"")).without("probe:ea")),
    ),
    ("dad-first", "too early", "before DAD was over", on_lan(lambda w: w.moved("probe:ea", 0.9))),
    ("dad-first", "a second DAD", "was probed 2 times", on_lan(lambda w: w.after("udp-early:ea", probe(EA)))),
    (
        "dad-first",
        "a duplicate used",
        "another owner",
        on_lan(lambda w: w.after("probe:ea", defence(EA, OTHER_MAC, OTHER_LL))),
    ),
    ("group-held", "no join", "not joined before DAD", on_lan(lambda w: w.without("join:ssa"))),
    ("group-held", "join after the probe", "not joined before DAD", on_lan(lambda w: w.moved("join:ea", 0.5))),
    ("group-held", "left too early", "left while it still spoke", on_lan(lambda w: w.moved("leave:ea", -0.41))),
    ("promotion-once", "none", "without a promotion NA", on_lan(lambda w: w.without("promotion:ssa"))),
    ("promotion-once", "two", "sent 2 promotion NAs", on_lan(lambda w: w.after("synack:ea", promotion(EA)))),
    (
        "promotion-once",
        "no option",
        "without the link-layer address option",
        on_lan(
            lambda w: w.after(
                "promotion:ea", advertisement(EA, EA, "ff02::2", eth="33:33:00:00:00:02", option=False)
            ).without("promotion:ea")
        ),
    ),
    ("defended", "silent", "did not answer a DAD probe", on_lan(lambda w: w.without("defence:idle"))),
    (
        "defended",
        "from the reserved address",
        "not from a link-local address",
        on_lan(lambda w: w.after("foreign-probe:idle", defence(IDLE, source=IDLE)).without("defence:idle")),
    ),
    (
        "defended",
        "no option",
        "without the link-layer address option",
        on_lan(
            lambda w: w.after("foreign-probe:idle", advertisement(IDLE, NODE_LL, "ff02::1", o=1, option=False)).without(
                "defence:idle"
            )
        ),
    ),
    (
        "speaks-within-life",
        "after release",
        "spoke while GONE",
        on_lan(lambda w: w.after("leave:ea", tcp(EA, SERVER, "A", 1102))),
    ),
    (
        "speaks-within-life",
        "in DAD",
        "spoke while TENTATIVE",
        on_lan(lambda w: w.after("probe:ea", tcp(EA, SERVER, "S", 1000))),
    ),
    (
        "speaks-within-life",
        "reserved",
        "spoke while UNCERTAIN",
        on_lan(lambda w: w.after("udp-early:ea", tcp(EA, SERVER, "S", 1))),
    ),
    (
        "speaks-within-life",
        "unasked defence",
        "spoke while UNCERTAIN",
        on_lan(lambda w: w.after("udp-early:ea", defence(EA))),
    ),
    ("silence-before", "resolution", "answered: an NA (S=1", on_lan(lambda w: w.after("ask-early:ea", resolved(EA)))),
    (
        "silence-before",
        "RST",
        "answered: a TCP segment",
        on_lan(lambda w: w.after("syn-early:ssa", tcp(SSA, CLIENT, "RA", 0, 78))),
    ),
    (
        "silence-before",
        "echo reply",
        "answered: an echo reply",
        on_lan(lambda w: w.after("echo-early:ea", echo_reply(EA, SERVER))),
    ),
    (
        "silence-before",
        "port unreachable",
        "answered: an ICMPv6 error",
        on_lan(lambda w: w.after("udp-early:ea", unreachable(NODE_LL, SERVER, w.packet("udp-early:ea")["IPv6"]))),
    ),
    ("silence-after", "resolution", "answered: an NA", on_lan(lambda w: w.after("ask-late:ea", resolved(EA)))),
    (
        "silence-after",
        "RST",
        "answered: a TCP segment (RST,ACK)",
        on_lan(lambda w: w.after("again", tcp(SSA, CLIENT, "RA", 0, 100))),
    ),
    (
        "silence-after",
        "DAD probe",
        "answered: an NA (S=0 O=1)",
        on_lan(lambda w: w.after("ask-late:ea", probe(EA, OTHER_MAC), defence(EA))),
    ),
    ("released", "never", "never released", on_lan(lambda w: w.without("leave:ea").without("leave-again:ea"))),
    ("never-again", "reborn", "was issued again: a DAD probe", on_lan(reborn)),
    (
        "second-fetch",
        "connects",
        "was answered: a TCP segment (SYN,ACK)",
        on_lan(lambda w: w.after("again", tcp(SSA, CLIENT, "SA", 9, 100))),
    ),
    (
        "second-fetch",
        "refused aloud",
        "was answered: a TCP segment (RST,ACK)",
        on_lan(lambda w: w.after("again", tcp(SSA, CLIENT, "RA", 0, 100))),
    ),
    ("third-host", "RST", "answered the third host", on_lan(lambda w: w.after("third", tcp(SSA, THIRD, "RA", 0, 6)))),
    (
        "third-host",
        "far away",
        "answered the third host",
        lambda lan, far: (lan, far.after("third-far", tcp(SSA, THIRD, "SA", 0, 6))),
    ),
    (
        "third-host",
        "ICMPv6 error",
        "an ICMPv6 error",
        on_lan(lambda w: w.after("third", unreachable(NODE_LL, THIRD, w.packet("third")["IPv6"]))),
    ),
    (
        "ports-free",
        "a gap",
        "a gap in the sequence space",
        on_lan(lambda w: w.changed("reply0:l0", with_wrong_sequence)),
    ),
    (
        "ports-free",
        "RST",
        "a RST after the ports changed",
        on_lan(lambda w: w.after("reply1:l0", tcp(EA0, SSA0, "R", 1101))),
    ),
    ("ports-free", "stuck", "not complete", on_lan(lambda w: w.without("last-ack:l0"))),
    (
        "hop-limits",
        "hop limit 64",
        "with hop limit 64, not 255",
        on_lan(lambda w: w.changed("answer:ea", lambda p: setattr(p["IPv6"], "hlim", 64))),
    ),
    ("checksums", "TCP", "has a wrong checksum", on_lan(lambda w: w.changed("request:ea", with_bad_checksum))),
    (
        "checksums",
        "ICMPv6",
        "has a wrong checksum",
        on_lan(lambda w: w.changed("answer:ea", lambda p: setattr(p["ICMPv6ND_NA"], "cksum", 1))),
    ),
    (
        "within-mtu",
        "1,600 bytes",
        "on a link with MTU 1500",
        on_lan(lambda w: w.after("request:ea", tcp(EA, SERVER, "A", 1, 1, bytes(1600)))),
    ),
]


@pytest.fixture(scope="module")
def right() -> tuple[Wire, Wire]:
    """The wires of the run in which all is right."""
    return good()


@pytest.fixture(scope="module")
def passed(right: tuple[Wire, Wire], tmp_path_factory: pytest.TempPathFactory) -> Judgement:
    """Its judgement."""
    return examine(tmp_path_factory.mktemp("good"), *right)


@pytest.mark.parametrize("rule", [rule.id for rule in RULES])
def test_every_rule_passes_when_all_is_right(passed: Judgement, rule: str) -> None:
    finding = found(passed, rule)
    assert finding.verdict is Verdict.PASSED, finding
    assert finding.title == TITLES[rule]


@pytest.mark.parametrize(
    ("rule", "sentence", "bend"), [pytest.param(r, s, b, id=f"{r}: {n}") for r, n, s, b in BREACHES]
)
def test_every_rule_fails_when_broken(
    right: tuple[Wire, Wire], tmp_path: Path, rule: str, sentence: str, bend: Bend
) -> None:
    finding = found(examine(tmp_path, *bend(*right)), rule)
    assert finding.verdict is Verdict.FAILED, finding
    assert any(sentence in line for line in (finding.sentence, *finding.details)), finding


def test_every_rule_has_a_negative_control() -> None:
    assert {rule for rule, *_ in BREACHES} == {rule.id for rule in RULES}


@pytest.mark.parametrize(
    ("rule", "bend", "setup"),
    [
        (
            "silence-before",
            on_lan(
                lambda w: (
                    w.without("ask-early:ea").without("echo-early:ea").without("syn-early:ssa").without("udp-early:ea")
                )
            ),
            SETUP,
        ),
        ("silence-after", on_lan(lambda w: w.without("ask-late:ea").without("ask-late:ea0").without("again")), SETUP),
        ("second-fetch", lambda lan, far: (lan.without("again"), far.without("again-far")), SETUP),
        ("second-fetch", on_lan(lambda w: w.without("again")), SETUP),
        ("third-host", lambda lan, far: (lan.without("third"), far), SETUP),
        ("third-host", lambda lan, far: (lan, far), replace(SETUP, strangers=())),
        ("defended", on_lan(lambda w: w.without("foreign-probe:idle").without("defence:idle")), SETUP),
        ("ports-free", lambda lan, far: (lan, far), replace(SETUP, port_changes=2)),
    ],
    ids=[
        "no probe before",
        "no probe after",
        "no second fetch",
        "it never arrived",
        "no third host arrived",
        "no third host named",
        "nobody probed",
        "too few port changes",
    ],
)
def test_what_was_not_tried_is_not_shown(
    right: tuple[Wire, Wire], tmp_path: Path, rule: str, bend: Bend, setup: Setup
) -> None:
    assert found(examine(tmp_path, *bend(*right), setup), rule).verdict is Verdict.NOT_SHOWN


def test_silence_without_life_is_not_shown(tmp_path: Path) -> None:
    """A node that is simply dead is silent too: without an answered probe in the same capture nothing is proven."""
    lan = Wire()
    birth(lan, "ea", EA)
    lan.wait(1.1)
    lan.put(solicitation(EA))
    end(lan, "ea", EA)
    lan.put(solicitation(EA))
    judgement = examine(tmp_path, lan, lan)
    for rule in ("silence-before", "silence-after"):
        finding = found(judgement, rule)
        assert finding.verdict is Verdict.NOT_SHOWN
        assert "nothing shows that the node was alive" in finding.sentence


def test_an_unknown_rule_is_an_error(right: tuple[Wire, Wire], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such rule: nonsense"):
        examine(tmp_path, *right, replace(SETUP, rules=("nonsense",)))


def test_a_node_without_a_capture_is_an_error(right: tuple[Wire, Wire], tmp_path: Path) -> None:
    lost = replace(SETUP.nodes[0], where="nowhere")
    with pytest.raises(ValueError, match="no capture was taken"):
        examine(tmp_path, *right, replace(SETUP, nodes=(lost,)))


def test_lifetimes_are_those_of_the_wire(passed: Judgement, right: tuple[Wire, Wire]) -> None:
    life = next(life for life in passed.lifetimes if str(life.address.hex()).endswith("000100e1"))
    lan = right[0]
    times = {sent.tag: sent.time for sent in reversed(lan.frames)}
    phases = [(i.phase.value, round(i.begin, 4), round(i.end, 4)) for i in life.intervals(passed.evidence.span[1])]
    assert phases == [
        ("TENTATIVE", times["probe:ea"], round(times["probe:ea"] + 1, 4)),
        ("UNCERTAIN", round(times["probe:ea"] + 1, 4), times["promotion:ea"]),
        ("PREFERRED", times["promotion:ea"], times["leave:ea"]),
    ]
    assert life.traffic[0].number == lan.number("syn:ea")
    assert ROUTER_LL
