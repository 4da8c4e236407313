"""tshark as the second oracle: silent on a good run, loud on faults, and its known remarks explained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from scapy.layers.inet6 import IPv6

from scenarios.witness import Explanation, Finding, Verdict, tshark
from scenarios.witness.tshark import Opinion, Remark, dissectors_agree

from .judged import with_bad_checksum
from .story import EA, EA0, SERVER, SETUP, SSA0, examine, good
from .wire import NODE_MAC, OTHER_MAC, ROUTER_LL, ROUTER_MAC, Wire, tcp, unreachable

OUT = (NODE_MAC, ROUTER_MAC)
ONLY = replace(SETUP, rules=("second-opinion", "dissectors-agree"))


def opinions(folder: Path, lan: Wire, far: Wire, offload_free: bool = True, setup=ONLY) -> dict[str, Finding]:  # type: ignore[no-untyped-def]
    judged = examine(folder, lan, far, setup, tshark=True, offload_free=offload_free)
    return {finding.rule: finding for finding in judged.findings}


def test_a_good_run_needs_one_explanation(tmp_path: Path) -> None:
    found = opinions(tmp_path, *good())
    assert found["second-opinion"].verdict is Verdict.PASSED
    assert "an echo request that a one-time address must not answer" in found["second-opinion"].sentence
    assert found["dissectors-agree"].verdict is Verdict.PASSED


def test_a_wrong_checksum_is_unexplained_without_offload_and_explained_with_it(tmp_path: Path) -> None:
    lan, far = good()
    bent = lan.changed("request:ea", with_bad_checksum)
    finding = opinions(tmp_path, bent, far)["second-opinion"]
    assert finding.verdict is Verdict.FAILED
    assert finding.witnesses[0].number == lan.number("request:ea")
    assert "hecksum" in finding.details[0]
    excused = opinions(tmp_path, bent, far, offload_free=False)["second-opinion"]
    assert excused.verdict is Verdict.PASSED
    assert "left to the offload" in excused.sentence


def with_zero_in_its_other_form(packet) -> None:  # type: ignore[no-untyped-def]
    segment = packet["TCP"]
    del segment.chksum
    segment.urgptr = IPv6(bytes(packet[IPv6]))["TCP"].chksum  # which makes the sum zero, and says nothing without URG
    segment.chksum = 0xFFFF


def test_zero_in_its_other_form_is_no_wrong_checksum(tmp_path: Path) -> None:
    lan, far = good()
    findings = opinions(tmp_path, lan.changed("request:ea", with_zero_in_its_other_form), far)
    assert findings["second-opinion"].verdict is Verdict.PASSED, findings["second-opinion"]
    assert "zero in its other form" in findings["second-opinion"].sentence
    assert findings["dissectors-agree"].verdict is Verdict.PASSED


def test_a_segment_never_captured_is_unexplained(tmp_path: Path) -> None:
    lan, far = good()
    finding = opinions(tmp_path, lan.without("reply0:ea"), far)["second-opinion"]
    assert finding.verdict is Verdict.FAILED
    assert any("captured" in line for line in finding.details)


def test_an_unexpected_reset_is_unexplained_unless_the_scenario_explains_it(tmp_path: Path) -> None:
    lan, far = good()
    bent = lan.after("request:ea", tcp(EA, SERVER, "R", 1101, macs=(NODE_MAC, ROUTER_MAC)))
    finding = opinions(tmp_path, bent, far)["second-opinion"]
    assert finding.verdict is Verdict.FAILED
    said = replace(
        ONLY, explanations=(Explanation("reset", "the client was told to give up"), Explanation(".", "follows from it"))
    )
    assert opinions(tmp_path, bent, far, setup=said)["second-opinion"].verdict is Verdict.PASSED
    broken_on_purpose = opinions(tmp_path, bent, far, setup=replace(ONLY, aborted=(EA,)))["second-opinion"]
    assert not [line for line in broken_on_purpose.details if "reset" in line.lower() and "#" in line]


def overtaken(lan: Wire, after: float) -> Wire:
    """The request once more, `after` seconds later and just after newer data."""
    newer = tcp(EA, SERVER, "PA", 1101, 2**32 - 49, b"n" * 50, ports=(1024, 80), macs=OUT)
    bent = lan.after("request:ea", newer, lan.packet("request:ea"))
    at = bent.number("request:ea") - 1
    for sent in bent.frames[at + 1 :]:
        sent.time = round(sent.time + after, 6)
    return bent


def test_what_is_sent_again_is_no_wrong_order_where_the_capture_shows_it_twice(tmp_path: Path) -> None:
    lan, far = good()
    finding = opinions(tmp_path, overtaken(lan, 0.01), far)["second-opinion"]
    assert finding.verdict is Verdict.PASSED, finding
    assert "sent again, as the capture shows" in finding.sentence
    for real_time in (False, True):
        setup = replace(ONLY, real_time=real_time)
        at_once = opinions(tmp_path, overtaken(lan, 0.0), far, setup=setup)["second-opinion"]
        assert at_once.verdict is Verdict.FAILED, "nobody can know yet that it is missing"
        once = opinions(tmp_path, overtaken(lan, 0.01).without("request:ea"), far, setup=setup)["second-opinion"]
        assert once.verdict is Verdict.FAILED, "sent once and late, by a unified node"
        assert any("out-of-order" in line for line in once.details)


def test_the_order_of_a_kernel_is_its_own_matter_in_real_time(tmp_path: Path) -> None:
    lan, far = good()
    exchanged = lan.without("reply1:ea").after("request:ea", lan.packet("reply1:ea"))
    assert opinions(tmp_path, exchanged, far)["second-opinion"].verdict is Verdict.FAILED, "nobody has two CPUs here"
    finding = opinions(tmp_path, exchanged, far, setup=replace(ONLY, real_time=True))["second-opinion"]
    assert not [line for line in finding.details if "#" in line and ("out-of-order" in line or "Previous" in line)]
    assert "2 × a kernel's order: what two CPUs send at once may be exchanged" in finding.details
    never = opinions(tmp_path, lan.without("reply0:ea"), far, setup=replace(ONLY, real_time=True))["second-opinion"]
    assert any("Previous segment" in line for line in never.details if "#" in line), "what never comes is not late"


def reset_at(lan: Wire, tag: str, source: str) -> Wire:
    """A reset after the frame `tag` of EA's connection to SERVER, by one of them."""
    there, ports, macs = (SERVER, (80, 1024), (ROUTER_MAC, NODE_MAC)) if source == SERVER else (EA, (1024, 80), OUT)
    to = EA if source == SERVER else SERVER
    at = 2**32 - 50 + 1002 if source == SERVER else 1102
    return lan.after(tag, tcp(there, to, "R", at % 2**32, ports=ports, macs=macs))


def test_a_peer_may_forget_a_connection_that_is_over(tmp_path: Path) -> None:
    """The second acknowledgement of a FIN that was sent twice meets a kernel without that connection."""
    lan, far = good()
    finding = opinions(tmp_path, reset_at(lan, "last-ack:ea", SERVER), far)["second-opinion"]
    assert finding.verdict is Verdict.PASSED, finding
    assert "a connection that was over" in finding.sentence
    early = opinions(tmp_path, reset_at(lan, "fin-client:ea", SERVER), far)["second-opinion"]
    assert early.verdict is Verdict.FAILED, "one FIN was not acknowledged yet"
    own = opinions(tmp_path, reset_at(lan, "last-ack:ea", EA), far)["second-opinion"]
    assert own.verdict is Verdict.FAILED, "a unified node is silent"


def quoting(lan: Wire) -> Wire:
    """A router's error that quotes a segment whose checksum no longer fits, as of a segment that was cut."""
    segment = lan.packet("request:ea").copy()
    segment["TCP"].chksum = 0xBEEF
    return lan.after("request:ea", unreachable(ROUTER_LL, EA, segment[IPv6], mac=ROUTER_MAC))


def test_what_an_error_quotes_is_not_held_against_the_error(tmp_path: Path) -> None:
    lan, far = good()
    bent = quoting(lan)
    findings = opinions(tmp_path, bent, far)
    assert findings["dissectors-agree"].verdict is Verdict.PASSED, findings["dissectors-agree"]
    assert "that an ICMPv6 error quotes" in findings["second-opinion"].sentence
    number = bent.number("request:ea") + 1

    def spoil(packet) -> None:  # type: ignore[no-untyped-def]
        packet["ICMPv6DestUnreach"].cksum = 0xBEEF

    bent.frames[number - 1].tag = "error"
    finding = opinions(tmp_path, bent.changed("error", spoil), far)["second-opinion"]
    assert finding.verdict is Verdict.FAILED, "the error's own checksum counts"
    assert finding.witnesses[0].number == number


def test_a_malformed_packet_is_unexplained(tmp_path: Path) -> None:
    lan, far = good()

    def shorten(packet) -> None:  # type: ignore[no-untyped-def]
        packet["ICMPv6NDOptDstLLAddr"].len = 9

    finding = opinions(tmp_path, lan.changed("answer:ea", shorten), far)["second-opinion"]
    assert finding.verdict is Verdict.FAILED
    assert finding.witnesses[0].number == lan.number("answer:ea")


def test_dissectors_that_disagree_are_found(tmp_path: Path) -> None:
    """The comparison itself: a second reading with another target, and one with a frame more."""
    lan, far = good()
    evidence = examine(tmp_path, lan, far).evidence
    opinion = tshark.consult(evidence.captures[0])
    assert dissectors_agree(evidence, [opinion]).verdict is Verdict.PASSED
    bent = [
        r._replace(targets=("2001:db8::bad",)) if r.number == lan.number("probe:ea") else r for r in opinion.remarks
    ]
    finding = dissectors_agree(evidence, [Opinion(opinion.capture, bent, opinion.version)])
    assert finding.verdict is Verdict.FAILED
    assert finding.witnesses[0].number == lan.number("probe:ea")
    more = [*opinion.remarks, Remark(10_000, b"", b"", (), ("2001:db8::1",), (), False)]
    assert dissectors_agree(evidence, [Opinion(opinion.capture, more, opinion.version)]).verdict is Verdict.FAILED


def test_a_message_may_hold_any_punctuation() -> None:
    """Which severity belongs to which message is told by their places: a semicolon within one must not move the others."""
    fields = dict.fromkeys(tshark._FIELDS, "")
    fields["frame.number"] = "7"
    between = tshark._BETWEEN
    fields["_ws.expert.severity"] = between.join(("0x400000", "0x600000"))
    fields["_ws.expert.message"] = between.join(("D-SACK; a note", "Connection reset (RST)"))
    remark = tshark._remark("\t".join(fields.values()))
    assert remark.messages == ("Connection reset (RST)",)


def test_without_tshark_nothing_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scenarios.witness.tshark.shutil.which", lambda _: None)
    found = opinions(tmp_path, *good())
    assert {finding.verdict for finding in found.values()} == {Verdict.NOT_SHOWN}
    assert found["second-opinion"].sentence == "tshark is not installed"


def test_a_file_that_tshark_cannot_read_is_an_error_of_its_own(tmp_path: Path) -> None:
    lan, _ = good()
    capture = examine(tmp_path, lan, lan).evidence.captures[0]
    with pytest.raises(tshark.TsharkError, match="could not read nowhere"):
        tshark.consult(replace(capture, path=tmp_path / "nowhere"))


def test_an_empty_capture_is_no_pass(tmp_path: Path) -> None:
    found = opinions(tmp_path, Wire(), Wire())
    assert {finding.verdict for finding in found.values()} == {Verdict.NOT_SHOWN}


def test_what_tshark_says_before_it_fails_is_no_opinion(tmp_path: Path) -> None:
    """A file that ends in the middle of a frame: tshark reads what is before it, complains, and ends with an error."""
    lan, far = good()
    whole = examine(tmp_path, lan, far).evidence.captures[0]
    path = tmp_path / "cut.pcapng"
    path.write_bytes(whole.path.read_bytes()[:-10])
    with pytest.raises(tshark.TsharkError, match="could not read cut"):
        tshark.consult(replace(whole, path=path))


@pytest.mark.parametrize(
    ("tag", "fault"),
    [
        ("reply-ack1:l0", tcp(EA0, SSA0, "A", 1101, 5000, ports=(7, 9), macs=(NODE_MAC, OTHER_MAC))),
        ("fin-server:l0", tcp(EA0, SSA0, "PA", 4000, 951, b"later", ports=(11, 13), macs=(NODE_MAC, OTHER_MAC))),
    ],
    ids=["what was never sent is acknowledged", "bytes are missing"],
)
def test_ports_that_change_explain_no_fault_of_the_connection_itself(tmp_path: Path, tag: str, fault: IPv6) -> None:
    lan, far = good()
    fine = opinions(tmp_path, lan, far)["second-opinion"]
    assert fine.verdict is Verdict.PASSED
    bent = lan.after(tag, fault)
    number = bent.number(tag) + 1
    finding = opinions(tmp_path, bent, far)["second-opinion"]
    assert finding.verdict is Verdict.FAILED
    assert number in {witness.number for witness in finding.witnesses}, finding
