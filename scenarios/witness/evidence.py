"""All that the rules look at, worked out once per run: frames, lifetimes, connections, and signs of life."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from .capture import Point, load, merged
from .finding import MOST_DETAILS, Finding, Verdict, witnesses
from .flows import Connection, track
from .frames import ACK, RST, SYN, UNSPECIFIED, Advertisement, Echo, Frame, Kind, Solicitation
from .lifetimes import Lifetime, Phase, Tracer, close_dedicated
from .setup import CaptureFile, Membership, Setup, UnifiedNode, packed


class Answered(NamedTuple):
    """A permitted probe and its answer: the sign of life beside which silence counts."""

    kind: str
    probe: Frame
    answer: Frame


@dataclass(slots=True, eq=False)
class NodeStory:
    """One unified node as its own link saw it."""

    node: UnifiedNode
    point: Point
    member: Membership
    lifetimes: dict[bytes, Lifetime]
    connections: list[Connection]
    alive: list[Answered]

    def nearest_sign_of_life(self, frame: Frame) -> Answered | None:
        """The answered permitted probe closest in time to `frame`."""
        return min(self.alive, key=lambda answered: abs(answered.answer.time - frame.time), default=None)


@dataclass(slots=True, eq=False)
class Evidence:
    """The whole run."""

    setup: Setup
    captures: tuple[CaptureFile, ...]
    points: dict[str, Point]
    stories: list[NodeStory]
    connections: list[Connection] = field(default_factory=list)
    """each connection once, as seen on the link of its opener if that is unified, else of its accepter"""
    strangers: frozenset[bytes] = frozenset()
    handshakes: list[Frame] = field(default_factory=list)
    """TCP segments with SYN or RST of all points, by time"""

    def lifetime(self, address: bytes) -> Lifetime | None:
        """The lifetime of an address, whichever node it belongs to."""
        for story in self.stories:
            if address in story.lifetimes:
                return story.lifetimes[address]
        return None

    @property
    def lifetimes(self) -> list[Lifetime]:
        """All lifetimes in order of birth."""
        lives = [life for story in self.stories for life in story.lifetimes.values()]
        return sorted(lives, key=lambda life: life.born.offset if life.born else 0)

    @property
    def span(self) -> tuple[float, float]:
        """Unix times of the first and the last frame of all captures."""
        ends = [(p.frames[0].time, p.frames[-1].time) for p in self.points.values() if p.frames]
        return (min(first for first, _ in ends), max(last for _, last in ends)) if ends else (0.0, 0.0)

    def finding(
        self,
        rule: str,
        requirements: tuple[str, ...],
        problems: Iterable[tuple[str, Frame | None]],
        passed: str,
        frames: Iterable[Frame | None] = (),
        shown: bool = True,
        missing: str = "",
    ) -> Finding:
        """FAILED with the problems if there are any; else PASSED, or NOT_SHOWN with what is missing."""
        found = list(problems)
        if found:
            head = found[0][0] if len(found) == 1 else f"{len(found)} breaches; first: {found[0][0]}"
            details = tuple(sentence for sentence, _ in found[:MOST_DETAILS])
            return Finding(rule, requirements, Verdict.FAILED, head, witnesses(f for _, f in found), details)
        if not shown:
            return Finding(rule, requirements, Verdict.NOT_SHOWN, missing, witnesses(frames))
        return Finding(rule, requirements, Verdict.PASSED, passed, witnesses(frames))


def gather(captures: Iterable[CaptureFile], setup: Setup) -> Evidence:
    """Read the captures and work out what the rules need.  Raises `ValueError` on a setup that contradicts itself."""
    files = tuple(captures)
    points = load(files)
    for node in setup.nodes:
        if node.where not in points:
            raise ValueError(f"node {node.name} is on {node.where!r}, where no capture was taken")
    stories = [_story(node, points[node.where], setup) for node in setup.nodes]
    evidence = Evidence(setup, files, points, stories, strangers=packed(setup.strangers))
    evidence.handshakes = [f for f in merged(points) if f.kind is Kind.TCP and f.flags & (SYN | RST)]
    evidence.connections = list(_each_once(stories))
    for number, connection in enumerate(evidence.connections, 1):
        connection.number = number
    return evidence


def _story(node: UnifiedNode, point: Point, setup: Setup) -> NodeStory:
    tracer = Tracer(node, setup)
    lifetimes = tracer.trace(point)

    def wanted(src: bytes, dst: bytes) -> bool:
        return src in lifetimes or dst in lifetimes

    connections = track(point.frames, wanted).connections
    for connection in connections:
        if connection.closed is not None:
            for address in connection.pair:
                if address in lifetimes:
                    close_dedicated(lifetimes[address], connection.closed.time, setup.time_wait)
    alive = list(_signs_of_life(point, tracer, setup.answer_within))
    return NodeStory(node, point, tracer.member, lifetimes, connections, alive)


def _each_once(stories: list[NodeStory]) -> Iterator[Connection]:
    owner = {address: story for story in stories for address in story.lifetimes}
    for story in stories:
        for connection in story.connections:
            opener = owner.get(connection.client.address)
            if (opener or owner.get(connection.server.address)) is story:
                yield connection


def _signs_of_life(point: Point, tracer: Tracer, within: float) -> Iterator[Answered]:
    """Permitted probes and their answers: resolution of a live address, a SYN to one, an echo request to the node."""
    asked: dict[tuple[object, ...], Frame] = {}
    for frame in point.frames:
        kind = frame.kind
        if kind is Kind.TCP and not frame.flags & SYN:
            continue
        if not tracer.member.sent(frame):
            probe = _probe_key(frame)
            if probe is not None:
                asked.setdefault(probe, frame)
            continue
        answer = _answer_key(frame)
        if answer is not None:
            question = asked.pop(answer, None)
            if question is not None and frame.time - question.time <= within and _permitted(frame, tracer):
                yield Answered(str(answer[0]), question, frame)


def _probe_key(frame: Frame) -> tuple[object, ...] | None:
    message = frame.message
    if isinstance(message, Solicitation) and frame.src != UNSPECIFIED:
        return "resolution", message.target, frame.src
    if isinstance(message, Echo) and frame.kind is Kind.ECHO_REQUEST:
        return "echo", frame.dst, frame.src, message
    if frame.kind is Kind.TCP and frame.flags & (SYN | ACK) == SYN:
        return "TCP", frame.dst, frame.src, (frame.seq + 1) % (1 << 32)
    return None


def _answer_key(frame: Frame) -> tuple[object, ...] | None:
    message = frame.message
    if isinstance(message, Advertisement) and message.solicited:
        return "resolution", message.target, frame.dst
    if isinstance(message, Echo) and frame.kind is Kind.ECHO_REPLY:
        return "echo", frame.src, frame.dst, message
    if frame.kind is Kind.TCP and frame.flags & (SYN | ACK) == SYN | ACK:
        return "TCP", frame.src, frame.dst, frame.ack
    return None


def _permitted(answer: Frame, tracer: Tracer) -> bool:
    message = answer.message
    about = message.target if isinstance(message, Advertisement) else answer.src
    life = tracer.lifetimes.get(about)
    return life is None or life.phase(answer) is Phase.PREFERRED
