"""Captures as tshark reads them: a line per packet, and what it objects to.

tshark is the oracle: on a capture that the suite leaves it may find no checksum error, no malformed packet and no
`tcp.analysis` flag without an explanation.  What explains a remark can be read from the capture itself:

    made by the test    the frame is on the interface `by hand`: a test made it, or changed it on its way
    disturbed           the test lost, held back, changed or made segments between these two addresses, or the wire as a
                        whole was impaired (a label of the file says so)
    a cause             the frames before it show why the segment had to be sent as it was: see `causes`
    ports change        the session is one at L0 or behind a NAPT: tshark follows ports, which do not identify it, and among the
                        segments of the session as a whole, which its sequence numbers tell, nothing is unusual; what is
                        needs a cause there
    flow control        a window that is full or closed is no fault
    a reset             tshark warns of every RST
    offload             a label says that the link leaves checksums to the hardware (see `labels`)
    a quotation         what is wrong with a packet is said again of the ICMPv6 error that quotes it
    silence             an echo request that a one-time address must not answer

Two things it does not object to and ought to: bytes beyond the window of their receiver, which only the test's hand excuses;
and, where ports change, what is wrong with the session as a whole although its ports show nothing.

Of these only the first, offload and a quotation excuse a wrong checksum, and only the first and the last a malformed packet.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from scenarios.witness.pcapng import CaptureError, file_comments
from scenarios.witness.tshark import OTHER_ZERO, TsharkError, quiet_profile

from .causes import Kind, asks_for_life, beyond_windows, cause, in_session
from .labels import (
    BROKEN,
    BY_HAND,
    CHANGED,
    DISTURBED,
    ELSEWHERE,
    LATE,
    LEFT_OUT,
    LOST,
    OFFLOAD,
    REAL_TIME,
    REPEATED,
    said,
)
from .segments import RST, SYN, Segment, unacknowledged
from .sessions import Session, Sessions

_UNKNOWN = "-1"
"""tshark's scale of a window where it has not seen the SYN."""
_NOTE, _WARNING = 0x400000, 0x600000
_TIMEOUT = 120.0
_COLUMNS = ("_ws.col.Source", "_ws.col.Destination", "_ws.col.Protocol", "_ws.col.Info")
_FIELDS = (
    "frame.number",
    "frame.time_relative",
    "frame.interface_name",
    "frame.comment",
    "frame.len",
    "ipv6.src",
    "ipv6.dst",
    "tcp.srcport",
    "tcp.dstport",
    "tcp.flags",
    "tcp.seq_raw",
    "tcp.ack_raw",
    "tcp.ack",
    "tcp.len",
    "tcp.window_size",
    "tcp.window_size_value",
    "tcp.options.wscale.shift",
    "tcp.window_size_scalefactor",
    "tcp.options.sack_le",
    "tcp.options.sack_re",
    "tcp.options.timestamp.tsval",
    "tcp.options.timestamp.tsecr",
    "tcp.analysis.flags",
    "_ws.expert.severity",
    "_ws.expert.message",
    "_ws.malformed",
    "tcp.checksum.status",
    "udp.checksum.status",
    "icmpv6.checksum.status",
    "icmpv6.type",
    "icmpv6.nd.na.target_address",
)
_MEDDLED = frozenset((LOST, LATE, CHANGED, REPEATED))
_FLOW_CONTROL = re.compile(
    r"[Ww]indow (is|specified by the receiver is now) (completely )?full|ZeroWindow|[Zz]ero ?[Ww]indow"
)
_RESET = re.compile(r"Connection reset")
_ON_OTHER_PORTS = {
    Kind.AGAIN: "Retransmission on other ports",
    Kind.GAP: "Previous segment(s) not captured on any ports",
    Kind.UNSEEN: "ACKed segment that wasn't captured on any ports",
}
"""What this module says where tshark, which follows ports, sees nothing."""
_NO_ECHO = re.compile(r"No response seen to ICMPv6 request")
_FACTS = re.compile(
    r"^Connection (establish|finish)|connection closing$|[Kk]eep-?[Aa]live|Window update|port numbers reused"
    r"|^A new tcp session is started with the same ports"
)
"""Expert remarks that object to nothing; among the notes that come with `tcp.analysis` they would be counted too."""
_KEEP_ALIVE = re.compile(r"^TCP [Kk]eep-?[Aa]live segment")
_LAST_BYTE = "Retransmission of the last byte"
"""What this module says where tshark sees a keep-alive: those of today carry none (RFC 9293 SHLD-12)."""
_GRAVE = re.compile(r"[Cc]hecksum|[Mm]alformed")
_CHECKSUM = re.compile(r"[Cc]hecksum")


@dataclass(frozen=True, slots=True)
class Remark:
    """What tshark objects to in a packet; `reason` explains it, empty where nothing does."""

    text: str
    reason: str


@dataclass(slots=True)
class Packet:
    """One line of a packet list."""

    number: int
    time: str
    """seconds since the first packet"""
    sender: str
    """the interface it was captured on: the stack's name, or `by hand`"""
    source: str
    destination: str
    protocol: str
    info: str
    comments: tuple[str, ...]
    remarks: list[Remark] = field(default_factory=list)

    @property
    def broken(self) -> bool:
        """Whether the assertion that failed looked at this packet."""
        return bool(said(BROKEN, self.comments))


@dataclass(frozen=True, slots=True)
class Listing:
    """One capture as tshark reads it.  `error` says why it could not."""

    path: Path
    packets: list[Packet]
    comments: tuple[str, ...] = ()
    """of the file as a whole"""
    error: str = ""

    @property
    def unexplained(self) -> list[tuple[int, str]]:
        """(frame number, message) of what nothing explains."""
        return [(p.number, remark.text) for p in self.packets for remark in p.remarks if not remark.reason]

    @property
    def left_out(self) -> list[str]:
        """What of the test's traffic the file does not hold."""
        return said(LEFT_OUT, self.comments)

    @property
    def explained(self) -> int:
        """How many remarks have an explanation."""
        return sum(bool(remark.reason) for packet in self.packets for remark in packet.remarks)


class Reader:
    """Lets tshark read captures, two at a time, dissecting the stack's own protocols only."""

    def __init__(self) -> None:
        """Raises `TsharkError` where there is no tshark."""
        program = shutil.which("tshark", path=os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin")))
        if program is None:
            raise TsharkError("tshark is not installed")
        self._program = program
        self._scratch = tempfile.TemporaryDirectory(prefix="conformance-")
        self._environment = quiet_profile(Path(self._scratch.name), program)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._scratch.cleanup()

    def read_all(self, paths: Sequence[Path]) -> Iterator[Listing]:
        """Each capture, in order."""
        with ThreadPoolExecutor(max_workers=2, thread_name_prefix="tshark") as pool:
            yield from pool.map(self.read, paths)

    def read(self, path: Path) -> Listing:
        """One capture."""
        try:
            comments = file_comments(path)
            lines = self._ask(path)
            rows = [_Row(line) for line in lines if line]
        except (CaptureError, TsharkError, OSError, ValueError) as error:
            return Listing(path, [], error=str(error) or type(error).__name__)
        return Listing(path, _judge(rows, comments), comments)

    def _ask(self, path: Path) -> list[str]:
        command = [self._program, "-n", "-r", str(path), "-T", "fields", "-E", "separator=/t", "-E", "aggregator=\x1f"]
        command += ["-o", "tcp.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE"]
        command += [part for name in (*_FIELDS, *_COLUMNS) for part in ("-e", name)]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                env=self._environment,
                timeout=_TIMEOUT,
                check=False,
                text=True,
                errors="replace",
            )
        except subprocess.TimeoutExpired:
            raise TsharkError(f"tshark did not finish {path.name} within {_TIMEOUT:.0f} s") from None
        if done.returncode:  # what it said until then is not the whole
            raise TsharkError(f"tshark could not read {path.name}: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
        return done.stdout.split("\n")


class _Row:
    """One line of tshark's answer."""

    def __init__(self, line: str) -> None:
        fields = line.split("\t")
        if len(fields) != len(_FIELDS) + len(_COLUMNS):
            raise ValueError(f"tshark answered {len(fields)} fields")
        named = dict(zip((*_FIELDS, *_COLUMNS), fields, strict=True))
        self.packet = Packet(
            number=int(named["frame.number"]),
            time=f"{float(named['frame.time_relative'] or 0):.6f}",
            sender=named["frame.interface_name"],
            source=named["_ws.col.Source"],
            destination=named["_ws.col.Destination"],
            protocol=named["_ws.col.Protocol"],
            info=named["_ws.col.Info"].replace("\\302\\240", " "),
            comments=tuple(line for text in named["frame.comment"].split("\x1f") for line in text.split("\\n") if line),
        )
        source, destination = named["ipv6.src"].split("\x1f")[0], named["ipv6.dst"].split("\x1f")[0]
        self.way = (source, destination)
        self.pair = frozenset(self.way)
        self.length = int(named["frame.len"])
        kind = named["icmpv6.type"].split("\x1f")[0]
        self.quotes = bool(kind) and int(kind) < 128 and named["icmpv6.checksum.status"].split("\x1f")[0] == "1"
        sender, receiver = f"{source}/{named['tcp.srcport']}", f"{destination}/{named['tcp.dstport']}"
        self.ports = frozenset((sender, receiver))
        self.is_tcp = not self.quotes and bool(named["tcp.srcport"])
        self.segment = _segment(named, sender, LOST in self.packet.comments) if self.is_tcp else None
        self.syn = self.segment is not None and bool(self.segment.flags & SYN)
        self.quoted, self.quoted_ports = _quoted(named) if self.quotes else ((), frozenset())
        self.told = "" if self.quotes else named["icmpv6.nd.na.target_address"]
        self.destination = destination
        self.messages = _messages(named)


def _segment(named: dict[str, str], sender: str, lost: bool) -> Segment | None:
    """The segment of a line; None where its header could not be read."""
    try:
        ack = int(named["tcp.ack_raw"] or 0)
        shift = ack - int(named["tcp.ack"] or 0)  # tshark counts the edges of SACK blocks from the first number on
        edges = (
            [(int(text) + shift) % 2**32 for text in named[f"tcp.options.sack_{end}"].split("\x1f") if text]
            for end in ("le", "re")
        )
        return Segment(
            time=float(named["frame.time_relative"]),
            sender=sender,
            seq=int(named["tcp.seq_raw"]),
            ack=ack,
            length=int(named["tcp.len"]),
            flags=int(named["tcp.flags"], 0),
            sacks=tuple(zip(*edges, strict=False)),
            lost=lost,
            window=None if named["tcp.window_size_scalefactor"] == _UNKNOWN else int(named["tcp.window_size"]),
            field=int(named["tcp.window_size_value"] or 0),
            shift=int(scale) if (scale := named["tcp.options.wscale.shift"].split("\x1f")[0]) else None,
            clock=int(clock) if (clock := named["tcp.options.timestamp.tsval"].split("\x1f")[0]) else None,
            echo=int(echo) if (echo := named["tcp.options.timestamp.tsecr"].split("\x1f")[0]) else None,
        )
    except ValueError:
        return None


def _quoted(named: dict[str, str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """Source and destination of the segment that an ICMPv6 error quotes, the second of each in the line, and its ports."""
    ports = named["tcp.srcport"].split("\x1f")[0], named["tcp.dstport"].split("\x1f")[0]
    way = tuple(text for name in ("ipv6.src", "ipv6.dst") for text in named[name].split("\x1f")[1:2])
    if not all(ports):
        return (), frozenset()
    return way, frozenset(f"{address}/{port}" for address, port in zip(way, ports, strict=True))


def _messages(named: dict[str, str]) -> list[str]:
    """Expert messages of severity warning or error, `tcp.analysis` from notes on, malformed packets, wrong checksums."""
    severities, texts = named["_ws.expert.severity"].split("\x1f"), named["_ws.expert.message"].split("\x1f")
    least = _NOTE if named["tcp.analysis.flags"] else _WARNING
    grave = [t for s, t in zip(severities, texts, strict=False) if s and int(s, 0) >= least and not _FACTS.search(t)]
    if named["tcp.len"].split("\x1f")[0] not in ("", "0") and any(_KEEP_ALIVE.search(text) for text in texts):
        grave.append(_LAST_BYTE)
    if named["_ws.malformed"] and not grave:
        grave.append("Malformed packet")
    statuses = (named[f"{name}.checksum.status"].split("\x1f")[0] for name in ("tcp", "udp", "icmpv6"))
    if any(status == "0" for status in statuses) and not any(_GRAVE.search(text) for text in grave):
        grave.append("Wrong checksum")
    return grave


def _judge(rows: Iterable[_Row], comments: Sequence[str]) -> list[Packet]:
    rows = list(rows)
    file = _File(rows, comments)
    for row in rows:
        row.packet.remarks += [Remark(message, file.explain(row, message)) for message in row.messages]
        row.packet.remarks += file.beyond_window(row) + file.on_other_ports(row)
    return [row.packet for row in rows]


class _File:
    """What one capture as a whole says about its packets."""

    def __init__(self, rows: Sequence[_Row], comments: Sequence[str]) -> None:
        self._disturbed_throughout = bool(said(DISTURBED, comments))
        self._offload = bool(said(OFFLOAD, comments))
        self._processors = bool(said(REAL_TIME, comments))
        elsewhere = [frozenset(pair.split(" and ")) for pair in said(ELSEWHERE, comments)]
        self._elsewhere = frozenset(elsewhere)
        # From which packet on the test has its hands in the segments between two addresses.
        self._meddled = dict.fromkeys(elsewhere, 0)
        for row in rows:
            if row.is_tcp and (row.packet.sender == BY_HAND or not _MEDDLED.isdisjoint(row.packet.comments)):
                self._meddled.setdefault(row.pair, row.packet.number)
        self._told = [(row.packet.number, row.told, float(row.packet.time)) for row in rows if row.told]
        self._errors = [row for row in rows if row.quoted]
        self._whole = not (self._processors or self._disturbed_throughout or said(LEFT_OUT, comments))
        self._talks: dict[frozenset[str], list[Segment]] = {}
        self._at: dict[int, int] = {}
        pairs: dict[frozenset[str], frozenset[str]] = {}
        for row in rows:
            if row.segment is not None:
                talk = self._talks.setdefault(row.ports, [])
                self._at[row.packet.number] = len(talk)
                talk.append(row.segment)
                pairs[row.ports] = row.pair
        self._strays: dict[frozenset[str], list[Segment]] = {}
        for ports, talk in self._talks.items():
            self._strays.setdefault(pairs[ports], []).extend(unacknowledged(talk))
        self._changing = _changing(rows)
        self._sessions = {pair: _sessions_of(rows, pair) for pair in self._changing}
        self._beyond = {ports: beyond_windows(talk) for ports, talk in self._talks.items()}

    def explain(self, row: _Row, message: str) -> str:
        """Why a remark is no fault; empty where nothing explains it."""
        if row.packet.sender == BY_HAND:
            return "made by the test"
        if row.quotes:
            return "said of the packet that this error quotes"
        if OTHER_ZERO.search(message):
            return "zero in its other form, as kernels write it"
        if _GRAVE.search(message):
            left = row.is_tcp and _CHECKSUM.search(message)
            labelled = self._offload or said(OFFLOAD, row.packet.comments)
            return "checksum left to the offload of this link" if left and labelled else ""
        if _FLOW_CONTROL.search(message):
            return "flow control at work"
        if _RESET.search(message):
            return "a reset is no fault"
        if _NO_ECHO.search(message):
            return "an echo request that is not to be answered"
        if row.segment is None:
            return ""
        if why := self._cause(row, message):
            return why
        disturbed = self._disturbed_throughout or row.packet.number >= self._meddled.get(
            row.pair, row.packet.number + 1
        )
        return "the test disturbs these segments" if disturbed else ""

    def beyond_window(self, row: _Row) -> list[Remark]:
        """What tshark does not object to, and is a fault: bytes beyond all windows that their receiver had offered.

        That segments are lost, held back or repeated makes this no better: each offer was captured before it could arrive.
        """
        if row.segment is None:
            return []
        if joined := self._joined(row):
            session, at = joined
            beyond = session.beyond[at]
        else:
            beyond = self._beyond[row.ports][self._at[row.packet.number]]
        if not beyond:
            return []
        reason = ""
        if row.packet.sender == BY_HAND:
            reason = "made by the test"
        elif row.pair in self._elsewhere:
            reason = "the test offers windows elsewhere"
        return [Remark(f"{beyond} bytes beyond the window of the receiver", reason)]

    def on_other_ports(self, row: _Row) -> list[Remark]:
        """What tshark cannot see since it happened on other ports of the same session: bytes again, gaps, wrong answers."""
        joined = self._joined(row)
        if joined is None or row.segment is None or row.segment.flags & RST or any(map(Kind.of, row.messages)):
            return []
        talk, at = joined[0].talk, joined[1]
        shown = in_session(talk, at, Kind.AGAIN)
        if shown is None or asks_for_life(talk, at):
            return []
        return [Remark(_ON_OTHER_PORTS[shown], self.explain(row, _ON_OTHER_PORTS[shown]))]

    def _joined(self, row: _Row) -> tuple[Session, int] | None:
        """The session of a row, and its place there, if ports have changed between its addresses by then."""
        if row.packet.number < self._changing.get(row.pair, row.packet.number + 1):
            return None
        return self._sessions[row.pair].place(row.packet.number)

    def _cause(self, row: _Row, message: str) -> str:
        """Why a segment was right: as part of its session where ports change, else of what its ports have carried."""
        kind = Kind.of(message)
        if kind is None:
            return ""
        about = [error for error in self._errors if error.packet.number < row.packet.number and error.quoted == row.way]
        if joined := self._joined(row):
            talk, at = joined[0].talk, joined[1]
            strays: Sequence[Segment] = self._sessions[row.pair].strays
            shown = in_session(talk, at, kind)
            if shown is None:
                return "tshark follows ports, which change here"
            kind = shown
        else:
            talk, at = self._talks[row.ports], self._at[row.packet.number]
            about = [error for error in about if error.quoted_ports == row.ports]
            strays = self._strays.get(row.pair, ())
        told = [when for number, who, when in self._told if number < row.packet.number and who == row.destination]
        return cause(
            talk,
            at,
            kind,
            errors=[float(error.packet.time) for error in about],
            whole=self._whole,
            processors=self._processors,
            strays=strays,
            others=self._others(row.segment.sender, row.ports) if row.segment and self._processors else (),
            resolved=told[-1] if told else None,
        )

    def _others(self, sender: str, ports: frozenset[str]) -> list[list[Segment]]:
        """The connections of the sender's address, but that on these ports."""
        address = sender.rpartition("/")[0]
        return [
            talk
            for other, talk in self._talks.items()
            if other != ports and any(end.rpartition("/")[0] == address for end in other)
        ]


def _changing(rows: Iterable[_Row]) -> dict[frozenset[str], int]:
    """The pairs of addresses whose ports change, and the packet from which on they do.

    A node sends on ports that no SYN has named, and the same addresses have a session.  What a test makes changes no ports.
    """
    found: dict[frozenset[str], int] = {}
    opened: set[frozenset[str]] = set()
    pairs: set[frozenset[str]] = set()
    for row in rows:
        if row.syn:
            opened.add(row.ports)
            pairs.add(row.pair)
        elif row.is_tcp and row.pair in pairs and row.ports not in opened and row.packet.sender != BY_HAND:
            found.setdefault(row.pair, row.packet.number)
    return found


def _sessions_of(rows: Iterable[_Row], pair: frozenset[str]) -> Sessions:
    return Sessions((row.packet.number, row.ports, row.segment) for row in rows if row.segment and row.pair == pair)
