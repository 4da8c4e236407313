"""Rules on single packets, and on the captures themselves."""

from __future__ import annotations

from collections import Counter

from ..capture import Point
from ..evidence import Evidence
from ..finding import Finding, Verdict, Witness, count
from ..frames import DISCOVERY, Checksum, Frame, Kind, text
from .addresses import Problem, describe


def captures_whole(evidence: Evidence) -> Finding:
    """Every capture can be read, holds frames, lost none, and no unified node sent a frame that cannot be parsed."""
    broken: list[str] = []
    frames = strange = 0
    witness: list[Witness] = []
    for point in evidence.points.values():
        frames += len(point.frames)
        broken += point.unreadable
        if not point.frames and not point.unreadable:
            broken.append(f"the capture at {point.where} is empty")
        if point.dropped:
            broken.append(f"the capture at {point.where} lost {count(point.dropped, 'frame')}")
        for fault in point.faults:
            of_node = any(s.node.where == fault.where and fault.sender in s.member.macs for s in evidence.stories)
            if of_node or not fault.sender:
                broken.append(f"{fault.file}#{fault.number}: {fault.reason}")
                witness.append(Witness(fault.where, fault.file, fault.number))
            else:
                strange += 1
    if not evidence.points:
        broken.append("no capture was given")
    if broken:
        head = broken[0] if len(broken) == 1 else f"{len(broken)} faults; first: {broken[0]}"
        return Finding("captures-whole", (), Verdict.FAILED, head, tuple(witness[:12]), tuple(broken[:50]))
    files = sum(len(point.files) for point in evidence.points.values())
    return Finding(
        "captures-whole",
        (),
        Verdict.PASSED,
        f"{count(frames, 'frame')} in {count(files, 'file')}, none lost while capturing"
        + (f"; {count(strange, 'malformed frame')} of other nodes" if strange else ""),
    )


def _clean(evidence: Evidence) -> list[tuple[Point, int]]:
    """Points whose every file is free of offload, with the smallest MTU named for them."""
    return [
        (point, min(capture.mtu for capture in point.files))
        for point in evidence.points.values()
        if all(capture.offload_free for capture in point.files)
    ]


def checksums(evidence: Evidence) -> Finding:
    """Every TCP, UDP and ICMPv6 checksum is right where no offload is in play (RFC 9293 MUST-2, RFC 8200 §8.1)."""
    problems: list[Problem] = []
    counted: Counter[Checksum] = Counter()
    for point, _ in _clean(evidence):
        for frame in point.frames:
            counted[frame.checksum] += 1
            if frame.checksum is Checksum.BAD:
                sent = f"{text(frame.src)} → {text(frame.dst)}"
                problems.append((f"{describe(frame)} {sent} has a wrong checksum", frame))
    cut = counted[Checksum.CUT]
    return evidence.finding(
        "checksums",
        ("MUST-2", "MUST-3"),
        problems,
        f"{count(counted[Checksum.GOOD], 'checksum')} right on links without offload"
        + (f"; {count(cut, 'frame')} too short in the capture to check" if cut else ""),
        (),
        counted[Checksum.GOOD] > 0,
        "no capture of a link without offload holds a packet that can be checked",
    )


def within_mtu(evidence: Evidence) -> Finding:
    """No IPv6 packet is larger than the MTU where no offload is in play."""
    problems: list[Problem] = []
    largest: Frame | None = None
    for point, mtu in _clean(evidence):
        for frame in point.frames:
            if frame.length > mtu:
                problems.append((f"{describe(frame)} of {frame.length} bytes on a link with MTU {mtu}", frame))
            if largest is None or frame.length > largest.length:
                largest = frame
    size = largest.length if largest is not None else 0
    return evidence.finding(
        "within-mtu",
        ("ST-LINK-1", "ST-IP6-8"),
        problems,
        f"the largest IPv6 packet on links without offload has {size:,} bytes",
        (largest,),
        size > 0,
        "no capture of a link without offload holds an IPv6 packet",
    )


def discovery_hop_limit(evidence: Evidence) -> Finding:
    """Neighbor discovery of unified nodes leaves with hop limit 255, listener reports with 1 (RFC 4861, RFC 3810)."""
    problems: list[Problem] = []
    seen = 0
    for story in evidence.stories:
        for frame in story.point.frames:
            if frame.kind is Kind.TCP or not story.member.sent(frame):
                continue
            expected = 255 if frame.kind in DISCOVERY else 1 if frame.kind is Kind.LISTENER else None
            if expected is None:
                continue
            seen += 1
            if frame.hop_limit != expected:
                problems.append((f"{describe(frame)} with hop limit {frame.hop_limit}, not {expected}", frame))
    return evidence.finding(
        "hop-limits",
        ("ST-IP6-4", "ST-IP6-7"),
        problems,
        f"{count(seen, 'message')} of neighbor discovery and MLD with the right hop limit",
        (),
        seen > 0,
        "no unified node sent neighbor discovery or MLD in these captures",
    )
