"""Rules on the life of an address: DAD, groups, promotion, release (unified-multiplex §1, §7)."""

from __future__ import annotations

from collections.abc import Iterator

from ..evidence import Evidence, NodeStory
from ..finding import Finding, count
from ..frames import UNSPECIFIED, Advertisement, Frame, Kind, Quote, Solicitation, flags_text, text
from ..lifetimes import Lifetime, Phase, is_defence
from ..setup import packed

Problem = tuple[str, Frame | None]
IN_FLIGHT = 0.05
"""seconds within which a probe and the release of its target may have crossed"""


def shared_link(evidence: Evidence) -> Iterator[tuple[NodeStory, Lifetime]]:
    """Every one-time address on a prefix where addresses are announced."""
    for story in evidence.stories:
        if not story.node.dedicated:
            for life in story.lifetimes.values():
                yield story, life


def describe(frame: Frame) -> str:
    """A frame in a few words.

    >>> describe(Frame(0.0, "lan", "a.pcapng", 1, b"", b"", kind=Kind.TCP, flags=2))
    'a TCP segment (SYN)'
    """
    if frame.kind is Kind.TCP:
        return f"a TCP segment ({flags_text(frame.flags)})"
    message = frame.message
    if isinstance(message, Advertisement):
        return f"an NA (S={message.solicited:d} O={message.override:d}) to {text(frame.dst)}"
    if isinstance(message, Quote):
        return f"an ICMPv6 error (type {message.type}, code {message.code})"
    if isinstance(message, Solicitation):
        return "a DAD probe" if frame.src == UNSPECIFIED else "an NS"
    return {
        Kind.UDP: "a UDP datagram",
        Kind.ECHO_REQUEST: "an echo request",
        Kind.ECHO_REPLY: "an echo reply",
        Kind.LISTENER: "an MLD report",
        Kind.FRAGMENT: "a fragment",
    }.get(frame.kind, "a packet")


def dad_first(evidence: Evidence) -> Finding:
    """Every address passed DAD once, with a nonce, before its first use, and needed no second DAD to be promoted."""
    setup = evidence.setup
    problems: list[Problem] = []
    shown: list[Lifetime] = []
    for _, life in shared_link(evidence):
        problems += _dad_problems(life, setup.dad_transmits, setup.dad_tolerance)
        if life.probes and life.taken:
            shown.append(life)
    waits = [life.taken.time - life.probes[0].time for life in shown if life.taken]
    return evidence.finding(
        "dad-first",
        ("UM-ADDR-1", "UM-ADDR-10"),
        problems,
        f"{count(len(shown), 'taken address', 'taken addresses')} had passed DAD; none was probed again"
        + (f"; the shortest time from probe to use was {min(waits):.2f} s" if waits else ""),
        (life.probes[0] for life in shown),
        bool(shown),
        "no address on a shared link was probed and taken in these captures",
    )


def _dad_problems(life: Lifetime, transmits: int, tolerance: float) -> Iterator[Problem]:
    name, taken = text(life.address), life.taken
    if transmits and not life.probes:
        if life.born is not None:
            yield f"{name} was used without a DAD probe: {describe(life.born)}", life.born
        return
    for probe in life.probes:
        if isinstance(probe.message, Solicitation) and not probe.message.nonce:
            yield f"{name}: a DAD probe without a nonce (RFC 7527)", probe
    for extra in life.probes[transmits:]:
        yield f"{name} was probed {len(life.probes)} times, {transmits} expected", extra
    if taken is None or life.dad_end is None:
        return
    if life.conflict is not None and life.conflict.order < taken.order:
        yield f"{name} was used although DAD found another owner", taken
    elif taken.order < life.probes[0].order:
        yield f"{name} was used before its DAD probe", taken
    elif taken.time < life.dad_end - tolerance:
        early = life.dad_end - taken.time
        yield f"{name} was used {early:.2f} s before DAD was over", taken


def group_held(evidence: Evidence) -> Finding:
    """The solicited-node group was joined before the first probe and held to the end of life (UM-ADDR-7)."""
    problems: list[Problem] = []
    joined = []
    for _, life in shared_link(evidence):
        first = life.probes[0] if life.probes else life.born
        if life.join is None:
            problems.append((f"{text(life.address)}: its solicited-node group was not joined before DAD", first))
        else:
            joined.append(life)
        if life.leave is not None:
            late = [frame for frame in life.emissions if frame.order > life.leave.order]
            if late:
                name = text(life.address)
                problems.append((f"{name}: its group was left while it still spoke ({describe(late[0])})", late[0]))
    left = sum(life.leave is not None for life in joined)
    return evidence.finding(
        "group-held",
        ("UM-ADDR-7",),
        problems,
        f"{count(len(joined), 'address', 'addresses')} joined before DAD; {left} left at release",
        (life.join for life in joined),
        bool(joined),
        "no address joined a solicited-node group in these captures",
    )


def promotion_once(evidence: Evidence) -> Finding:
    """Each taken address sent exactly one promotion NA, before its first packet; the others sent none (UM-ADDR-8)."""
    problems: list[Problem] = []
    taken = []
    for _, life in shared_link(evidence):
        name = text(life.address)
        if life.taken is None:
            continue
        taken.append(life)
        if not life.promotions:
            problems.append((f"{name} was used without a promotion NA", life.taken))
            continue
        for extra in life.promotions[1:]:
            problems.append((f"{name} sent {len(life.promotions)} promotion NAs", extra))
        message = life.promotions[0].message
        if isinstance(message, Advertisement) and not message.link_layer:
            problems.append((f"{name}: a promotion NA without the link-layer address option", life.promotions[0]))
    used = sum(bool(life.traffic) for life in taken)
    return evidence.finding(
        "promotion-once",
        ("UM-ADDR-8",),
        problems,
        f"{count(len(taken), 'taken address', 'taken addresses')}, one promotion NA each; {used} then carried traffic",
        (life.promotions[0] for life in taken if life.promotions),
        bool(taken),
        "no address on a shared link was taken in these captures",
    )


def speaks_within_life(evidence: Evidence) -> Finding:
    """No packet from a one-time address, and nothing on its behalf, outside PREFERRED; defence NAs apart."""
    problems: list[Problem] = []
    lives = spoken = 0
    for story in evidence.stories:
        for life in story.lifetimes.values():
            lives += 1
            spoken += len(life.emissions)
            problems += _outside(life, evidence.setup.answer_within)
    first = [life.traffic[0] for life in evidence.lifetimes if life.traffic]
    return evidence.finding(
        "speaks-within-life",
        ("UM-ADDR-4", "UM-ADDR-9", "UM-DAS-1"),
        problems,
        f"{count(spoken, 'frame')} on behalf of {count(lives, 'address', 'addresses')}, all within their lifetimes",
        first,
        bool(first),
        "no one-time address sent anything in these captures",
    )


def _outside(life: Lifetime, within: float) -> Iterator[Problem]:
    if life.node.dedicated:
        for frame in life.emissions:
            if life.phase(frame) is Phase.GONE:
                yield f"{text(life.address)} spoke after its end: {describe(frame)}", frame
        return
    for frame in life.emissions:
        phase = life.phase(frame)
        if phase is Phase.PREFERRED or (
            phase is Phase.UNCERTAIN and is_defence(frame) and _provoked(life, frame, within)
        ):
            continue
        yield f"{text(life.address)} spoke while {phase}: {describe(frame)}", frame


def _provoked(life: Lifetime, defence: Frame, within: float) -> bool:
    """Whether another node's DAD probe stands shortly before a defence NA."""
    return any(
        probe.src == UNSPECIFIED and probe.order < defence.order and defence.time - probe.time <= within
        for probe in life.arrivals
        if probe.kind is Kind.SOLICITATION
    )


def released(evidence: Evidence) -> Finding:
    """Every taken address was given back: its group was left after its last packet (UM-REL-1)."""
    problems: list[Problem] = []
    held = packed(evidence.setup.held)
    lags = []
    left = []
    for _, life in shared_link(evidence):
        name, taken = text(life.address), life.taken
        if taken is None or life.address in held:
            continue
        if life.leave is None:
            last = life.emissions[-1] if life.emissions else taken
            problems.append((f"{name} was taken and never released before the capture ended", last))
            continue
        left.append(life)
        if life.traffic and life.traffic[-1].order < life.leave.order:
            lags.append(life.leave.time - life.traffic[-1].time)
    longest = f"; at most {max(lags):.2f} s after the last packet" if lags else ""
    return evidence.finding(
        "released",
        ("UM-REL-1", "UM-ADDR-9"),
        problems,
        f"{count(len(left), 'taken address', 'taken addresses')} released{longest}",
        (life.leave for life in left),
        bool(left),
        "no address on a shared link was taken in these captures",
    )


def never_again(evidence: Evidence) -> Finding:
    """An address that is gone is not probed, announced or used again by its node (UM-ADDR-9, UM-GEN-1)."""
    problems: list[Problem] = []
    gone = []
    for _, life in shared_link(evidence):
        if life.leave is None:
            continue
        gone.append(life)
        for frame in life.probes + life.promotions:
            if frame.order > life.leave.order:
                problems.append((f"{text(life.address)} was issued again: {describe(frame)}", frame))
    return evidence.finding(
        "never-again",
        ("UM-ADDR-9", "UM-GEN-1"),
        problems,
        f"none of {count(len(gone), 'released address', 'released addresses')} came back",
        (life.leave for life in gone),
        bool(gone),
        "no address was released in these captures",
    )


def defended(evidence: Evidence) -> Finding:
    """A DAD probe of another node for an UNCERTAIN or PREFERRED address is answered by the defence NA.

    That NA has S=0 and O=1, goes to all-nodes with the link-layer option, and comes from the link-local
    address while the address is UNCERTAIN (UM-ADDR-2, UM-ADDR-5).
    """
    problems: list[Problem] = []
    answered: list[Frame] = []
    for _, life in shared_link(evidence):
        for probe in life.arrivals:
            if not isinstance(probe.message, Solicitation) or probe.src != UNSPECIFIED:
                continue
            phase = life.phase(probe)
            if phase not in (Phase.UNCERTAIN, Phase.PREFERRED):
                continue
            until = probe.time + evidence.setup.answer_within
            answers = [f for f in life.emissions if is_defence(f) and f.order > probe.order and f.time <= until]
            if not answers:
                if life.leave is None or life.leave.time > probe.time + IN_FLIGHT:
                    problems.append((f"{text(life.address)} ({phase}) did not answer a DAD probe", probe))
                continue
            answered += [probe, answers[0]]
            problems += _defence_problems(life, answers[0], phase)
    return evidence.finding(
        "defended",
        ("UM-ADDR-2", "UM-ADDR-5"),
        problems,
        f"{count(len(answered) // 2, 'DAD probe')} of other nodes answered by an NA to all-nodes",
        answered,
        bool(answered),
        "no other node probed an address in use or reserved",
    )


def _defence_problems(life: Lifetime, answer: Frame, phase: Phase) -> Iterator[Problem]:
    message = answer.message
    if phase is Phase.UNCERTAIN and not (answer.src[0] == 0xFE and answer.src[1] & 0xC0 == 0x80):
        yield f"{text(life.address)} was defended from {text(answer.src)}, not from a link-local address", answer
    if isinstance(message, Advertisement) and not message.link_layer:
        yield f"{text(life.address)} was defended without the link-layer address option", answer
