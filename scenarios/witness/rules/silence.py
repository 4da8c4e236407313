"""Rules of silence, each proven beside life (conformance: the probe is seen arriving, a permitted one is answered).

Silence is judged on the node's own link, where a packet that arrives there is seen before the node may answer it.
An answer counts wherever it shows that the address exists: a packet from it, a Neighbor Advertisement about it, an
ICMPv6 error that quotes a packet to it.  A router's Address Unreachable is the router's own and not an answer of the
node (UM-REL-3).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from ..capture import merged
from ..evidence import Evidence, NodeStory
from ..finding import Finding, count
from ..frames import ACK, SYN, UNSPECIFIED, Frame, Kind, Quote, Solicitation, text
from ..lifetimes import Lifetime, Phase, is_defence
from ..setup import packed
from .addresses import Problem, describe


def probe_kind(frame: Frame) -> str:
    """The kind of probe that a frame to an address is, for people."""
    if isinstance(frame.message, Solicitation):
        return "DAD probe" if frame.src == UNSPECIFIED else "address resolution"
    if frame.kind is Kind.TCP:
        return "SYN" if frame.flags & (SYN | ACK) == SYN else "TCP segment"
    return {Kind.UDP: "UDP datagram", Kind.ECHO_REQUEST: "echo request", Kind.ERROR: "ICMPv6 error"}.get(
        frame.kind, "other packet"
    )


def _kinds(frames: Iterable[Frame]) -> str:
    counted = Counter(probe_kind(frame) for frame in frames)
    return ", ".join(count(number, kind) for kind, number in sorted(counted.items()))


def _silence(
    evidence: Evidence,
    rule: str,
    requirements: tuple[str, ...],
    phases: frozenset[Phase],
    counts: Callable[[Frame], bool],
    allowed: Callable[[Frame], bool],
    when: str,
) -> Finding:
    """No emission in `phases`; at least one probe arrived in them while a permitted one was answered."""
    problems: list[Problem] = []
    probes: list[Frame] = []
    signs: list[Frame] = []
    dead: list[Frame] = []
    for story in evidence.stories:
        for life in story.lifetimes.values():
            arrived = [frame for frame in life.arrivals if counts(frame) and life.phase(frame) in phases]
            problems += _answers(life, arrived, phases, allowed)
            for probe in arrived:
                sign = story.nearest_sign_of_life(probe)
                if sign is None:
                    dead.append(probe)
                else:
                    probes.append(probe)
                    signs += [sign.probe, sign.answer]
    addresses = {frame.message.target if isinstance(frame.message, Solicitation) else frame.dst for frame in probes}
    missing = f"no probe reached an address that was {when}"
    if dead:
        missing = (
            f"{count(len(dead), 'probe')} to addresses {when} met silence, but nothing shows that the node was alive"
        )
    return evidence.finding(
        rule,
        requirements,
        problems,
        f"{count(len(probes), 'probe')} ({_kinds(probes)}) to {count(len(addresses), 'address', 'addresses')} {when}, "
        f"no answer; {count(len(set(signs)) // 2, 'permitted probe')} nearby answered",
        probes[:6] + signs[:6],
        bool(probes),
        missing,
    )


def _answers(
    life: Lifetime, arrived: list[Frame], phases: frozenset[Phase], allowed: Callable[[Frame], bool]
) -> Iterator[Problem]:
    if not arrived:
        return
    for frame in life.emissions:
        if frame.order > arrived[0].order and life.phase(frame) in phases and not allowed(frame):
            asked = max((probe for probe in arrived if probe.order < frame.order), key=lambda probe: probe.order)
            phase = life.phase(frame)
            yield f"{text(life.address)} ({phase}) answered: {describe(frame)} after a {probe_kind(asked)}", frame


def silence_before(evidence: Evidence) -> Finding:
    """Nothing but a DAD probe is answered before an address is taken (UM-ADDR-3, UM-ADDR-4)."""
    return _silence(
        evidence,
        "silence-before",
        ("UM-ADDR-3", "UM-ADDR-4"),
        frozenset((Phase.TENTATIVE, Phase.UNCERTAIN)),
        lambda frame: not (isinstance(frame.message, Solicitation) and frame.src == UNSPECIFIED),
        is_defence,
        "not taken yet",
    )


def silence_after(evidence: Evidence) -> Finding:
    """Nothing at all is answered after an address was released, not even a DAD probe (UM-ADDR-9, UM-REL-3)."""
    return _silence(
        evidence,
        "silence-after",
        ("UM-ADDR-9", "UM-REL-3"),
        frozenset((Phase.GONE,)),
        lambda frame: True,
        lambda frame: False,
        "already released",
    )


def second_fetch(evidence: Evidence) -> Finding:
    """A SYN to an SSA after its last permitted session never gets a SYN-ACK, nor any answer after release (UM-LIS-6)."""
    asked = packed(evidence.setup.second_fetch)
    problems: list[Problem] = []
    tried: dict[bytes, list[Frame]] = {}
    unproven: list[str] = []
    served: list[Frame | None] = []
    for story in evidence.stories:
        for address, life in story.lifetimes.items():
            last, again = _later_attempts(evidence, story, address)
            if not again or (asked and address not in asked):
                continue
            tried[address] = again
            served.append(last)
            if not _reached(life, again):
                unproven.append(text(address))
            problems += _connected(evidence, address, again)
    missed = sorted(text(address) for address in asked - tried.keys())
    if missed and tried:
        problems.append((f"no second attempt to {', '.join(missed)} was seen", None))
    missing = "no second attempt to a used SSA was seen"
    if unproven:
        missing = f"attempts to {', '.join(unproven)} were seen, but nothing of them reached the node's own link"
    attempts = sum(len({(frame.src, frame.seq) for frame in frames}) for frames in tried.values())
    return evidence.finding(
        "second-fetch",
        ("UM-LIS-6", "UM-LIS-3"),
        problems,
        f"{count(attempts, 'later attempt')} to {count(len(tried), 'used SSA')}, none answered; each had served its session",
        [*(frame for frames in tried.values() for frame in frames[:2]), *served],
        bool(tried) and not unproven,
        missing,
    )


def _later_attempts(evidence: Evidence, story: NodeStory, address: bytes) -> tuple[Frame | None, list[Frame]]:
    """The SYN-ACK of the last permitted session of an SSA, and the SYNs of others that came to it after that session began."""
    begun = [(c.established.offset, c) for c in story.connections if c.server.address == address and c.established]
    begun.sort(key=lambda item: item[0])
    permitted = evidence.setup.sessions.get(text(address), 1)
    if len(begun) < permitted:
        return None, []
    known = {(c.client.address, c.client.isn) for _, c in begun[:permitted]}
    since, last = begun[permitted - 1]
    later = [frame for frame in _syns_to(evidence, address) if frame.offset > since]
    return last.syn_ack, [f for f in later if f.src not in evidence.strangers and (f.src, f.seq) not in known]


def _syns_to(evidence: Evidence, address: bytes) -> list[Frame]:
    return [frame for frame in evidence.handshakes if frame.dst == address and frame.flags & (SYN | ACK) == SYN]


def _reached(life: Lifetime, again: list[Frame]) -> bool:
    """Whether an attempt came as far as the node's link: the SYN itself, or the router asking for the address."""
    since = min(frame.time for frame in again)
    isns = {frame.seq for frame in again}
    for frame in life.arrivals:
        if frame.kind is Kind.TCP and frame.seq in isns and frame.flags & SYN:
            return True
        if isinstance(frame.message, Solicitation) and frame.src != UNSPECIFIED and frame.time >= since:
            return True
    return False


def _connected(evidence: Evidence, address: bytes, again: list[Frame]) -> Iterator[Problem]:
    expected = {(frame.src, (frame.seq + 1) % (1 << 32)) for frame in again}
    for frame in evidence.handshakes:
        if frame.src == address and (frame.dst, frame.ack) in expected:
            yield f"a second attempt to {text(address)} was answered: {describe(frame)}", frame


def third_host(evidence: Evidence) -> Finding:
    """A host that is no party to a session gets nothing from a one-time address (UM-EA-1, UM-LIS-6)."""
    strangers = evidence.strangers
    problems: list[Problem] = []
    probes: dict[bytes, Frame] = {}
    one_time = {address for story in evidence.stories for address in story.lifetimes}
    for frame in merged(evidence.points):
        if frame.src in strangers and frame.dst in one_time:
            probes.setdefault(frame.dst, frame)
        elif frame.dst in strangers and (about := _about(frame, one_time)) is not None and _by_node(evidence, frame):
            problems.append((f"{text(about)} answered the third host {text(frame.dst)}: {describe(frame)}", frame))
    here: list[Frame] = []
    signs: list[Frame] = []
    for story in evidence.stories:
        for address, life in story.lifetimes.items():
            if address not in probes:
                continue
            seen = _strangers_at(life, strangers, probes[address].time)
            here += seen
            for frame in seen:
                sign = story.nearest_sign_of_life(frame)
                if sign is not None:
                    signs += [sign.probe, sign.answer]
    missing = (
        "the scenario named no third host"
        if not strangers
        else "no packet of a third host to a one-time address was seen"
    )
    if probes and not here:
        missing = "the third host's packets never reached the node's own link"
    elif here and not signs:
        missing = "the third host met silence, but nothing shows that the node was alive"
    return evidence.finding(
        "third-host",
        ("UM-EA-1", "UM-LIS-6"),
        problems,
        f"{count(len(here), 'probe')} on behalf of {count(len(strangers), 'third host')} reached the node "
        f"({_kinds(here)}), none answered; permitted peers were answered",
        here[:6] + signs[:6],
        bool(here) and bool(signs),
        missing,
    )


def _strangers_at(life: Lifetime, strangers: frozenset[bytes], since: float) -> list[Frame]:
    """Packets of third hosts on the node's link, or a router's vain question for an address that is not in use."""
    own = [frame for frame in life.arrivals if frame.src in strangers]
    if own:
        return own
    return [
        frame
        for frame in life.arrivals
        if isinstance(frame.message, Solicitation)
        and frame.src != UNSPECIFIED
        and frame.time >= since
        and life.phase(frame) is not Phase.PREFERRED
    ][:1]


def _about(frame: Frame, one_time: set[bytes]) -> bytes | None:
    """The one-time address on whose behalf a frame answers, address resolution apart."""
    if frame.src in one_time:
        return None if frame.kind is Kind.ADVERTISEMENT else frame.src
    if isinstance(frame.message, Quote) and frame.message.dst in one_time:
        return frame.message.dst
    return None


def _by_node(evidence: Evidence, frame: Frame) -> bool:
    """Whether a node sent it: a router's error about an address that nobody answers for is the router's."""
    if not isinstance(frame.message, Quote):
        return True
    return any(_sent(story, frame) for story in evidence.stories)


def _sent(story: NodeStory, frame: Frame) -> bool:
    return frame.where == story.node.where and story.member.sent(frame)
