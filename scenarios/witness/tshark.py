"""The second oracle: tshark reads the same captures, and what it objects to must have an explanation.

One two-pass run per file yields, for every frame with ND, MLD, a checksum fault or an expert message, the fields
compared here.  Two rules come of it: `second-opinion` (no warning, error or malformed packet without an explanation)
and `dissectors-agree` (both dissectors saw the same addresses probed, announced, joined and left, and the same
checksums wrong).

Only the protocols of the stack are dissected: a port number of L0 is any number, and a payload dissector that claims
it by chance would call our bytes malformed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv6Address
from pathlib import Path
from typing import NamedTuple

from .capture import Point
from .evidence import Evidence
from .finding import MOST_DETAILS, Finding, Verdict, Witness, count
from .frames import Advertisement, Checksum, Frame, ListenerReport, Solicitation
from .places import Places, places
from .setup import CaptureFile, Explanation, packed

KEPT = frozenset(
    (
        *("frame", "eth", "ethertype", "ipv6", "ipv6.hopopts", "ipv6.fraghdr", "ipv6.dstopts", "ipv6.routing"),
        *("icmpv6", "tcp", "udp", "data", "raw"),
    )
)
_FIELDS = (
    "frame.number",
    "ipv6.src",
    "ipv6.dst",
    "_ws.expert.severity",
    "_ws.expert.message",
    "_ws.malformed",
    "icmpv6.nd.ns.target_address",
    "icmpv6.nd.na.target_address",
    "icmpv6.mldr.mar.multicast_address",
    "icmpv6.mldr.mar.record_type",
    "tcp.checksum.status",
    "udp.checksum.status",
    "icmpv6.checksum.status",
    "icmpv6.type",
)
_BETWEEN = "\x1f"
"""Stands between the values of one field; no message holds it, unlike a semicolon."""
_WARNING = 0x600000
_INFORMATIONAL = 128  # the first ICMPv6 type that is no error
_TIMEOUT = 600.0
_FLOW_CONTROL = re.compile(
    r"[Ww]indow (is|specified by the receiver is now) (completely )?full|ZeroWindow|TCP [Zz]ero ?[Ww]indow"
)
OTHER_ZERO = re.compile(r"TCP Checksum 0xffff instead of 0x0000")
"""Both are zero in ones' complement; Linux writes this one where it computes a checksum without the device's help."""
_CHECKSUM = re.compile(r"[Bb]ad checksum|Checksum.*incorrect|checksum is bad|Bad \[should be")
_ANALYSIS = re.compile(
    r"wasn't captured|not captured|[Oo]ut-[Oo]f-[Oo]rder|ACKed segment|[Rr]etransmission|Connection finish|D-SACK"
)
_OUT_OF_ORDER = re.compile(r"out-of-order", re.IGNORECASE)
_EXCHANGED = re.compile(r"Previous segment\(?s?\)? not captured|out-of-order", re.IGNORECASE)
_DUPLICATE = re.compile(r"D-SACK")
_NO_ECHO = re.compile(r"No response seen to ICMPv6 request")
_RESET = re.compile(r"Connection reset")


class TsharkError(Exception):
    """tshark is missing, or could not read the file."""


class Remark(NamedTuple):
    """What tshark says of one frame."""

    number: int
    src: bytes
    dst: bytes
    messages: tuple[str, ...]
    """expert messages of severity warning or error, and malformed packets"""
    targets: tuple[str, ...]
    groups: tuple[tuple[int, str], ...]
    bad_checksum: bool
    """of the packet itself, not of one that an ICMPv6 error quotes"""
    quotes: bool = False
    """a sound ICMPv6 error: what is said of transport headers is said of the packet that it quotes"""


@dataclass(slots=True)
class Opinion:
    """tshark's view of one file."""

    capture: CaptureFile
    remarks: list[Remark]
    version: str


def version() -> str:
    """The first line of `tshark --version`; raises `TsharkError` when there is none."""
    program = shutil.which("tshark")
    if program is None:
        raise TsharkError("tshark is not installed")
    return _version(program)


@cache
def _version(program: str) -> str:
    done = _run([program, "--version"], dict(os.environ))
    return done.stdout.split("\n", 1)[0].split(" (Git")[0].strip() or "tshark of unknown version"


def consult(capture: CaptureFile) -> Opinion:
    """Let tshark read one capture.  Raises `TsharkError`."""
    program = shutil.which("tshark")
    if program is None:
        raise TsharkError("tshark is not installed")
    with tempfile.TemporaryDirectory(prefix="witness-") as scratch:
        environment = quiet_profile(Path(scratch), program)
        command = [
            program,
            "-2",
            "-n",
            "-Q",
            "-r",
            str(capture.path),
            "-T",
            "fields",
            "-E",
            "separator=/t",
            "-E",
            f"aggregator={_BETWEEN}",
        ]
        for check in ("tcp", "udp"):
            command += ["-o", f"{check}.check_checksum:TRUE"]
        command += [
            "-Y",
            "_ws.expert || _ws.malformed || icmpv6 || tcp.checksum.status != 1 || udp.checksum.status != 1",
        ]
        for name in _FIELDS:
            command += ["-e", name]
        done = _run(command, environment)
    if done.returncode:  # what it said until then is not its opinion of the whole
        reason = done.stderr.strip().splitlines()
        raise TsharkError(f"tshark could not read {capture.path.name}: {reason[-1] if reason else 'no reason given'}")
    return Opinion(capture, [_remark(line) for line in done.stdout.splitlines()], version())


def _run(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT, check=False, env=environment
        )
    except subprocess.TimeoutExpired:
        raise TsharkError(f"tshark did not finish within {_TIMEOUT:.0f} s") from None


@cache
def _protocols(program: str) -> tuple[str, ...]:
    """The filter names of everything that this tshark can dissect."""
    listed = _run([program, "-G", "protocols"], dict(os.environ)).stdout
    return tuple(line.split("\t")[2] for line in listed.splitlines() if line.count("\t") >= 2)


def quiet_profile(scratch: Path, program: str) -> dict[str, str]:
    """An empty configuration in which only the stack's protocols are dissected, whoever runs this."""
    environment = {
        **os.environ,
        "WIRESHARK_CONFIG_DIR": str(scratch),
        "HOME": str(scratch),
        "XDG_CONFIG_HOME": str(scratch),
    }
    unwanted = [name for name in _protocols(program) if name not in KEPT and not name.startswith(("_ws", "frame"))]
    (scratch / "disabled_protos").write_text("".join(f"{name}\n" for name in unwanted))
    return environment


def _remark(line: str) -> Remark:
    fields = line.split("\t") + [""] * len(_FIELDS)
    number, src, dst, severities, messages, malformed, solicited, advertised, groups, types, *rest = fields
    tcp, udp, icmp, kind = (text.split(_BETWEEN)[0] for text in rest[:4])
    quotes = icmp == "1" and bool(kind) and int(kind) < _INFORMATIONAL
    grave = []
    for severity, message in zip(severities.split(_BETWEEN), messages.split(_BETWEEN), strict=False):
        if severity and int(severity, 0) >= _WARNING:
            grave.append(message)
    if malformed and not grave:
        grave.append("Malformed packet")
    return Remark(
        int(number),
        _first(src),
        _first(dst),
        tuple(grave),
        () if quotes else tuple(t for t in (solicited, advertised) if t),
        ()
        if quotes
        else tuple(
            (int(t, 0), g) for t, g in zip(types.split(_BETWEEN), groups.split(_BETWEEN), strict=False) if t and g
        ),
        (icmp or tcp or udp) == "0" and not any(map(OTHER_ZERO.search, grave)),
        quotes,
    )


def _first(addresses: str) -> bytes:
    try:
        return IPv6Address(addresses.split(_BETWEEN)[0]).packed
    except ValueError:
        return b""


# -- the two rules -------------------------------------------------------------------------------------


def second_opinion(evidence: Evidence, opinions: list[Opinion]) -> Finding:
    """Everything tshark objects to (severity warning and up, malformed) has an explanation; the rest is listed."""
    unexplained: list[str] = []
    witness: list[Witness] = []
    explained: Counter[str] = Counter()
    if not any(point.frames for point in evidence.points.values()):
        return Finding("second-opinion", (), Verdict.NOT_SHOWN, "the captures hold no frame")
    excuses = _Excuses(evidence)
    for opinion in opinions:
        for remark in opinion.remarks:
            for message in remark.messages:
                reason = excuses.explain(opinion.capture, remark, message)
                if reason is not None:
                    explained[reason] += 1
                    continue
                where = Witness(opinion.capture.where, opinion.capture.path.name, remark.number)
                unexplained.append(f"{where}: {message}")
                witness.append(where)
    reasons = tuple(f"{number} × {reason}" for reason, number in explained.most_common())
    if unexplained:
        kinds = Counter(line.split(": ", 1)[1] for line in unexplained).most_common(3)
        summary = ", ".join(f"{number} × {message}" for message, number in kinds)
        details = tuple(unexplained[:MOST_DETAILS]) + reasons
        sentence = f"{count(len(unexplained), 'remark')} of tshark without an explanation: {summary}"
        return Finding("second-opinion", (), Verdict.FAILED, sentence, tuple(witness[:12]), details)
    total = sum(explained.values())
    sentence = f"{opinions[0].version}: no expert warning or error in {count(len(opinions), 'file')}"
    if total:
        sentence += f" beyond {count(total, 'explained one')} ({'; '.join(reasons)})"
    return Finding("second-opinion", (), Verdict.PASSED, sentence, (), reasons)


class _Excuses:
    """What of a run may explain remarks of tshark."""

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence
        connections = evidence.connections
        self._aborted = packed(evidence.setup.aborted)
        self._ports_change = {frozenset(c.pair) for c in connections if c.changes}
        # Pairs whose capture shows bytes or a FIN sent again: what a D-SACK then reports is a fact.
        self._sent_twice = {frozenset(c.pair) for c in connections if c.client.repeated or c.server.repeated}
        self._one_time = {address for story in evidence.stories for address in story.lifetimes}
        self._pairs = {frozenset(c.pair) for c in connections}
        self._places: dict[str, Places] = {}

    def explain(self, capture: CaptureFile, remark: Remark, message: str) -> str | None:
        """Why a remark is no fault; None when nothing explains it."""
        for explanation in self._evidence.setup.explanations:
            if _fits(explanation, capture, message):
                return explanation.reason
        pair = frozenset((remark.src, remark.dst))
        if remark.quotes:
            return "said of the packet that an ICMPv6 error quotes"
        if OTHER_ZERO.search(message):
            return "zero in its other form, as kernels write it"
        if _CHECKSUM.search(message) and not capture.offload_free:
            return "checksum left to the offload of this link"
        if _FLOW_CONTROL.search(message):
            return "flow control at work"
        frame = capture.path.name, remark.number
        if _ANALYSIS.search(message) and pair in self._ports_change and frame not in self._places_of(capture).odd:
            return "tshark follows ports, which change here in mid-stream"
        if _OUT_OF_ORDER.search(message) and frame in self._places_of(capture).repeats:
            return "sent again, as the capture shows; tshark takes it for late since newer data went out just before"
        real_time = self._evidence.setup.real_time
        if _EXCHANGED.search(message) and real_time and frame in self._places_of(capture).exchanged:
            return "a kernel's order: what two CPUs send at once may be exchanged"
        if _DUPLICATE.search(message) and pair in self._sent_twice:
            return "a report of bytes that the capture shows twice (RFC 2883)"
        if _NO_ECHO.search(message) and self._evidence.lifetime(remark.dst) is not None:
            return "an echo request that a one-time address must not answer"
        if _RESET.search(message) and frame in self._places_of(capture).forgotten:
            return "a reset from a peer that had closed, which no longer knew a connection that was over"
        if _RESET.search(message) and pair & self._aborted:
            return "a connection broken on purpose"
        return None

    def _places_of(self, capture: CaptureFile) -> Places:
        found = self._places.get(capture.where)
        if found is None:
            frames = self._evidence.points[capture.where].frames
            found = self._places[capture.where] = places(frames, self._pairs, self._by_node)
        return found

    def _by_node(self, frame: Frame) -> bool:
        return frame.src in self._one_time or any(
            story.node.where == frame.where and story.member.sent(frame) for story in self._evidence.stories
        )


def _fits(explanation: Explanation, capture: CaptureFile, message: str) -> bool:
    return explanation.where in (None, capture.where) and re.search(explanation.pattern, message) is not None


def dissectors_agree(evidence: Evidence, opinions: list[Opinion]) -> Finding:
    """Both dissectors read the same ND targets, MLD records and wrong checksums out of every frame."""
    differences: list[str] = []
    witness: list[Witness] = []
    compared = 0
    for opinion in opinions:
        ours = _ours(evidence.points[opinion.capture.where], opinion.capture)
        theirs = {r.number: _theirs(r) for r in opinion.remarks if r.targets or r.groups or r.bad_checksum}
        compared += len(ours.keys() | theirs.keys())
        for number in sorted(ours.keys() | theirs.keys()):
            if ours.get(number) != theirs.get(number):
                where = Witness(opinion.capture.where, opinion.capture.path.name, number)
                differences.append(f"{where}: here {ours.get(number)}, tshark {theirs.get(number)}")
                witness.append(where)
    if differences:
        sentence = f"the dissectors disagree on {count(len(differences), 'frame')}; first: {differences[0]}"
        return Finding(
            "dissectors-agree", (), Verdict.FAILED, sentence, tuple(witness[:12]), tuple(differences[:MOST_DETAILS])
        )
    sentence = f"dpkt and tshark read the same out of {count(compared, 'frame')} of ND, MLD or with a wrong checksum"
    if not compared:
        return Finding("dissectors-agree", (), Verdict.NOT_SHOWN, "no frame of ND or MLD to compare")
    return Finding("dissectors-agree", (), Verdict.PASSED, sentence)


def _ours(point: Point, capture: CaptureFile) -> dict[int, tuple[object, ...]]:
    return {
        frame.number: read
        for frame in point.frames
        if frame.file == capture.path.name and not frame.cut and (read := _our_reading(frame)) is not None
    }


def _our_reading(frame: Frame) -> tuple[object, ...] | None:
    message, bad = frame.message, frame.checksum is Checksum.BAD
    if isinstance(message, (Solicitation, Advertisement)):
        return str(IPv6Address(message.target)), (), bad
    if isinstance(message, ListenerReport) and message.version == 2:
        return "", tuple((record.type, str(IPv6Address(record.group))) for record in message.records), bad
    return ("", (), True) if bad else None


def _theirs(remark: Remark) -> tuple[object, ...]:
    target = str(IPv6Address(remark.targets[0])) if remark.targets else ""
    groups = tuple((kind, str(IPv6Address(group))) for kind, group in remark.groups)
    return target, groups, remark.bad_checksum


class Inquiry:
    """tshark at work on every capture in the background, while the rules read the same files themselves."""

    def __init__(self, captures: Iterable[CaptureFile]) -> None:
        self._pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="tshark")
        self._running = [self._pool.submit(consult, capture) for capture in captures]

    def __enter__(self) -> Inquiry:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def findings(self, evidence: Evidence) -> list[Finding]:
        """Both rules; without tshark, or where it cannot read a file, both are `not shown`."""
        rules = ("second-opinion", "dissectors-agree")
        try:
            opinions = [running.result() for running in self._running]
        except TsharkError as error:
            return [Finding(rule, (), Verdict.NOT_SHOWN, str(error)) for rule in rules]
        if not opinions:
            return [Finding(rule, (), Verdict.NOT_SHOWN, "no capture") for rule in rules]
        return [second_opinion(evidence, opinions), dissectors_agree(evidence, opinions)]
