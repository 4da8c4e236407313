"""Captures as tshark reads them: a line per packet, and what it objects to.

tshark is the oracle: on a capture that the suite leaves it may find no checksum error, no malformed packet and no
`tcp.analysis` flag without an explanation.  What explains a remark can be read from the capture itself:

    made by the test    the frame is on the interface `by hand`: a test made it, or changed it on its way
    disturbed           the test lost, held back, changed or made segments between these two addresses, or the wire as a
                        whole was impaired (the comment of the file says so)
    ports change        the session is one at L0 or behind a NAPT: tshark follows ports, which do not identify it
    flow control        a window that is full or closed is no fault
    a reset             tshark warns of every RST
    a SYN               is repeated until it is answered, and two cross in a simultaneous open
    real time           on a loaded machine a timer or a batch may come late: a capture of dumpcap may hold a segment twice
    offload             segments larger than the link's frames show that it leaves checksums to the hardware
    a quotation         what is wrong with a packet is said again of the ICMPv6 error that quotes it
    silence             an echo request that a one-time address must not answer

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

from scenarios.witness.pcapng import CaptureError, PcapngFile
from scenarios.witness.tshark import TsharkError, quiet_profile

BY_HAND = "by hand"
DISTURBED = "disturbed"
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
    "tcp.flags.syn",
    "tcp.analysis.flags",
    "_ws.expert.severity",
    "_ws.expert.message",
    "_ws.malformed",
    "tcp.checksum.status",
    "udp.checksum.status",
    "icmpv6.checksum.status",
    "icmpv6.type",
)
_MEDDLED = re.compile(r"lost on the way|held back|arrives changed|repeated on the way")
_FLOW_CONTROL = re.compile(
    r"[Ww]indow (is|specified by the receiver is now) (completely )?full|ZeroWindow|[Zz]ero ?[Ww]indow"
)
_RESET = re.compile(r"Connection reset")
_NO_ECHO = re.compile(r"No response seen to ICMPv6 request")
_FACTS = re.compile(
    r"^Connection (establish|finish)|connection closing$|[Kk]eep-?[Aa]live|Window update|port numbers reused"
)
"""Expert remarks that object to nothing; among the notes that come with `tcp.analysis` they would be counted too."""
_GRAVE = re.compile(r"[Cc]hecksum|[Mm]alformed")
_CHECKSUM = re.compile(r"[Cc]hecksum")
_TWICE = re.compile(r"retransmission|Duplicate ACK|D-SACK|out-of-order")
_RETRANSMISSION = re.compile(r"retransmission")
_IN_VIRTUAL_TIME = "::"
"""Stands in the comment of a capture that a harness wrote down, as part of the test's name; dumpcap writes none."""
_LARGEST_FRAME = 9_018  # of a jumbo link; what is longer no wire carries


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


@dataclass(frozen=True, slots=True)
class Listing:
    """One capture as tshark reads it.  `error` says why it could not."""

    path: Path
    packets: list[Packet]
    comment: str = ""
    error: str = ""

    @property
    def unexplained(self) -> list[tuple[int, str]]:
        """(frame number, message) of what nothing explains."""
        return [(p.number, remark.text) for p in self.packets for remark in p.remarks if not remark.reason]

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
            comment = file_comment(path)
            lines = self._ask(path)
            rows = [_Row(line) for line in lines if line]
        except (CaptureError, TsharkError, OSError, ValueError) as error:
            return Listing(path, [], error=str(error) or type(error).__name__)
        return Listing(path, _judge(rows, comment), comment)

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
        if done.returncode and not done.stdout:
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
            comments=tuple(text for text in named["frame.comment"].split("\x1f") if text),
        )
        source, destination = named["ipv6.src"].split("\x1f")[0], named["ipv6.dst"].split("\x1f")[0]
        self.pair = frozenset((source, destination))
        self.length = int(named["frame.len"])
        kind = named["icmpv6.type"].split("\x1f")[0]
        self.quotes = bool(kind) and int(kind) < 128 and named["icmpv6.checksum.status"].split("\x1f")[0] == "1"
        self.is_tcp = not self.quotes and bool(named["tcp.srcport"])
        self.ports = frozenset((f"{source}/{named['tcp.srcport']}", f"{destination}/{named['tcp.dstport']}"))
        self.syn = named["tcp.flags.syn"] in ("1", "True")
        self.messages = _messages(named)


def _messages(named: dict[str, str]) -> list[str]:
    """Expert messages of severity warning or error, `tcp.analysis` from notes on, malformed packets, wrong checksums."""
    severities, texts = named["_ws.expert.severity"].split("\x1f"), named["_ws.expert.message"].split("\x1f")
    least = _NOTE if named["tcp.analysis.flags"] else _WARNING
    grave = [t for s, t in zip(severities, texts, strict=False) if s and int(s, 0) >= least and not _FACTS.search(t)]
    if named["_ws.malformed"] and not grave:
        grave.append("Malformed packet")
    statuses = (named[f"{name}.checksum.status"].split("\x1f")[0] for name in ("tcp", "udp", "icmpv6"))
    if any(status == "0" for status in statuses) and not any(_GRAVE.search(text) for text in grave):
        grave.append("Wrong checksum")
    return grave


def _judge(rows: Iterable[_Row], comment: str) -> list[Packet]:
    rows = list(rows)
    meddled = {
        row.pair
        for row in rows
        if row.is_tcp and (row.packet.sender == BY_HAND or any(map(_MEDDLED.search, row.packet.comments)))
    }
    opened = {row.ports for row in rows if row.syn}
    opened_pairs = {row.pair for row in rows if row.syn}
    changing = {row.pair for row in rows if row.is_tcp and row.ports not in opened and row.pair in opened_pairs}
    everywhere, virtual = DISTURBED in comment, _IN_VIRTUAL_TIME in comment
    offload = any(row.is_tcp and row.length > _LARGEST_FRAME for row in rows)
    for row in rows:
        for message in row.messages:
            reason = _explain(row, message, everywhere or row.pair in meddled, row.pair in changing)
            if not reason and offload and row.is_tcp and _CHECKSUM.search(message):
                reason = "checksum left to the offload of this link"
            if not reason and not virtual and row.is_tcp and _TWICE.search(message):
                reason = "real time: something came late"
            row.packet.remarks.append(Remark(message, reason))
    return [row.packet for row in rows]


def _explain(row: _Row, message: str, disturbed: bool, changing: bool) -> str:
    if row.packet.sender == BY_HAND:
        return "made by the test"
    if row.quotes:
        return "said of the packet that this error quotes"
    if _GRAVE.search(message):
        return ""
    if _FLOW_CONTROL.search(message):
        return "flow control at work"
    if _RESET.search(message):
        return "a reset is no fault"
    if _NO_ECHO.search(message):
        return "an echo request that is not to be answered"
    if row.is_tcp and row.syn and _RETRANSMISSION.search(message):
        return "a SYN that nobody answered, or that crosses the peer's"
    if row.is_tcp and disturbed:
        return "the test disturbs these segments"
    if row.is_tcp and changing:
        return "tshark follows ports, which change here"
    return ""


def file_comment(path: Path) -> str:
    """The comment of a capture file as a whole (option 1 of its section header)."""
    with path.open("rb") as file:
        head = file.read(4096)
    if head[:4] != b"\x0a\x0d\x0d\x0a":
        raise CaptureError(f"{path.name} is not a pcapng file")
    order = "little" if head[8:12] == b"\x4d\x3c\x2b\x1a" else "big"
    end, at = int.from_bytes(head[4:8], order) - 4, 24  # type: ignore[arg-type]
    while at + 4 <= min(end, len(head)):
        code, length = int.from_bytes(head[at : at + 2], order), int.from_bytes(head[at + 2 : at + 4], order)  # type: ignore[arg-type]
        if code == 0:
            break
        if code == 1:
            return head[at + 4 : at + 4 + length].decode(errors="replace")
        at += 4 + (length + 3 & ~3)
    return ""


def frame_count(path: Path) -> int:
    """Packets in a capture, counted without tshark."""
    return sum(1 for _ in PcapngFile(path).frames())
