"""Captures: what is written, read back by scapy; which remark lands on which frame; a disk that fills up."""

from __future__ import annotations

import asyncio
import errno
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest
from scapy.layers.inet import TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.utils import RawPcapNgReader

from tapstack.clock import run_virtual, wall_clock
from tapstack.events import Counters, DropReason, EventStream, LinkNotice
from tapstack.link.base import Link, LinkProperties
from tapstack.link.capture import REMARKS_MAX, CaptureLink
from tapstack.link.memory import MemoryWire
from tapstack.link.pcapng import COMMENT_MAX, Direction, PcapngWriter
from tapstack.types import Frame, address
from tapstack.wire import virtio
from tests.unit.unimux.lan import OPTIONS, PREFIX, lan
from unimux.aio import open_connection, start_server
from unimux.node import Node, NodeConfig
from unimux.poolstate import PoolConfig

EPOCH = 1_700_000_000_123_456_789
MACS = (b"\x02\0\0\0\0\1", b"\x02\0\0\0\0\2")


class Read:
    """One frame of a file, as scapy reads it."""

    def __init__(self, data: bytes, meta: Any) -> None:
        self.data = data
        self.nanoseconds = (meta.tshigh << 32) + meta.tslow
        self.resolution = meta.tsresol
        self.length = meta.wirelen
        self.comments = [text.decode() for text in meta.comments or []]
        self.direction = meta.direction
        self.interface = meta.ifname
        self.link_type = meta.linktype


def read(file: BinaryIO) -> list[Read]:
    file.seek(0)
    return [Read(data, meta) for data, meta in RawPcapNgReader(file)]


class Canned(Link):
    """A link that receives what it is given and keeps what is sent."""

    def __init__(self, properties: LinkProperties) -> None:
        self.waiting: list[bytes] = []
        self.sent: list[bytes] = []
        self.taking = True
        self.closed = False
        self._properties = properties

    @property
    def properties(self) -> LinkProperties:
        return self._properties

    def attach(self, loop: object, wake: object) -> None:
        raise NotImplementedError

    def watch(self, changed: Callable[[bool], None]) -> None:
        pass

    def receive(self) -> bytes | None:
        return self.waiting.pop(0) if self.waiting else None

    def send(self, frame: Frame) -> bool:
        self.sent.append(b"".join(frame))
        return self.taking

    def close(self) -> None:
        self.closed = True
        self.waiting.clear()


class Clock:
    def __init__(self) -> None:
        self.now = EPOCH

    def __call__(self) -> int:
        self.now += 1
        return self.now


@pytest.fixture
def below() -> Canned:
    return Canned(LinkProperties(mtu=1500, mac=MACS[0]))


@pytest.mark.proves("ST-LINK-4")
def test_both_directions_with_nanoseconds_and_virtual_time() -> None:
    async def main() -> list[Read]:
        loop = asyncio.get_running_loop()
        wire = MemoryWire(*MACS, latency=0.000000007)
        file = io.BytesIO()
        link = CaptureLink(wire.a, file, clock=wall_clock(loop, EPOCH), name="left")
        got: list[bytes] = []

        def wake() -> None:
            while (frame := link.receive()) is not None:
                got.append(bytes(frame))

        link.attach(loop, wake)
        assert link.send([b"out" * 10, b"!"])
        wire.b.send([b"in" * 10])
        await asyncio.sleep(1)
        assert got == [b"in" * 10]
        link.close()
        assert link.frames == 2
        return read(file)

    sent, received = run_virtual(main())
    assert (sent.data, sent.nanoseconds, sent.direction) == (b"out" * 10 + b"!", EPOCH, Direction.OUTBOUND)
    assert (received.data, received.nanoseconds, received.direction) == (b"in" * 10, EPOCH + 7, Direction.INBOUND)
    assert (sent.resolution, sent.interface, sent.link_type, sent.comments) == (10**9, b"left", 1, [])


@pytest.mark.proves("ST-LINK-4")
def test_remarks_land_on_the_frame_they_are_about(below: Canned) -> None:
    file = io.BytesIO()
    link = CaptureLink(below, file, clock=Clock())
    below.waiting = [b"first", b"second", b"third", b"fourth"]
    link.receive()
    link.remark("about the first")
    link.remark("and more")
    link.receive()
    link.receive()
    link.remark("about the third")
    link.send([b"reply"])
    link.remark("why the second reply")
    link.send([b"second reply"])
    link.remark("a timer that sent nothing")
    link.receive()
    link.remark("about the fourth")
    assert link.receive() is None
    link.remark("why the last")
    link.send([b"last"])
    link.close()
    assert [(frame.data.decode(), frame.comments) for frame in read(file)] == [
        ("first", ["about the first", "and more"]),
        ("second", []),
        ("third", ["about the third"]),
        ("reply", []),
        ("second reply", ["why the second reply"]),
        ("fourth", ["before: a timer that sent nothing", "about the fourth"]),
        ("last", ["why the last"]),
    ]
    assert [frame.nanoseconds for frame in read(file)] == [EPOCH + n for n in range(1, 8)]


@pytest.mark.proves("ST-LINK-4")
def test_what_is_remarked_of_a_frame_that_was_handled_is_about_the_next(below: Canned) -> None:
    """What an application does after it heard the news, however long after, does not come of the frame that brought them."""
    file = io.BytesIO()
    link = CaptureLink(below, file, clock=Clock())
    below.waiting = [b"in" + bytes(60)]
    assert link.receive() is not None
    link.remark("heard")
    link.handled()
    link.remark("said")
    assert link.send([b"out" + bytes(60)])
    link.handled()
    link.close()
    assert [each.comments for each in read(file)] == [["heard"], ["said"]]


@pytest.mark.proves("ST-LINK-4")
def test_flush_completes_the_file_for_a_reader(below: Canned, tmp_path: Path) -> None:
    link = CaptureLink(below, tmp_path / "x.pcapng", clock=Clock())
    below.waiting = [b"held"]
    link.receive()
    link.remark("said")
    link.flush()
    with (tmp_path / "x.pcapng").open("rb") as file:
        assert [(frame.data, frame.comments) for frame in read(file)] == [(b"held", ["said"])]
    link.close()
    link.close()


@pytest.mark.proves("ST-LINK-4")
def test_events_and_drops_become_comments(below: Canned) -> None:
    file = io.BytesIO()
    link = CaptureLink(below, file, clock=Clock())
    events, counters = EventStream(), Counters()
    link.annotate(events, counters)
    below.waiting = [b"router", b"bad", b"good"]
    link.receive()
    events.emit(LinkNotice(time=1.0, subject="fe80::1", cause="new router"))
    link.receive()
    counters.drop(DropReason.CHECKSUM)
    link.receive()
    link.send([b"out"])
    counters.drop(DropReason.LINK_SEND_FAILED)
    below.waiting = [b"innocent"]
    link.receive()
    link.close()
    events.emit(LinkNotice(time=2.0, subject="late", cause="nobody listens"))
    assert [(frame.data.decode(), frame.comments) for frame in read(file)] == [
        ("router", ["fe80::1: new router"]),
        ("bad", ["dropped: checksum"]),
        ("good", []),
        ("out", []),
        ("innocent", []),
    ]


@pytest.mark.proves("ST-LINK-4")
def test_a_frame_the_link_refused_says_so(below: Canned) -> None:
    file = io.BytesIO()
    link = CaptureLink(below, file, clock=Clock())
    below.taking = False
    assert not link.send([b"x"])
    link.close()
    assert read(file)[0].comments == ["not taken by the link"]


@pytest.mark.proves("ST-LINK-4")
def test_virtio_headers_are_taken_off_and_explained() -> None:
    below = Canned(LinkProperties(mtu=1500, mac=MACS[0], vnet_header=True))
    file = io.BytesIO()
    link = CaptureLink(below, file, clock=Clock())
    link.send([virtio.PLAIN, b"plain"])
    link.send([virtio.VirtioHeader(flags=virtio.NEEDS_CSUM).pack(), b"partial"])
    large = virtio.VirtioHeader(virtio.NEEDS_CSUM, virtio.GSO_TCPV6 | virtio.GSO_ECN, 74, 1440, 54, 16)
    below.waiting = [large.pack() + bytes(74 + 3 * 1440 + 1)]
    assert cast(bytes, link.receive())[:10] == large.pack()
    link.close()
    frames = read(file)
    assert [frame.data for frame in frames] == [b"plain", b"partial", bytes(74 + 3 * 1440 + 1)]
    assert [frame.comments for frame in frames] == [
        [],
        ["offload: the checksum is left to the link"],
        ["offload: the checksum is left to the link", "offload: super-segment, 4 × 1440 bytes of payload at most"],
    ]


@pytest.mark.proves("ST-LINK-4")
def test_a_link_without_ethernet_is_captured_as_bare_ip() -> None:
    file = io.BytesIO()
    link = CaptureLink(Canned(LinkProperties(mtu=1500, mac=None)), file)
    link.send([b"\x60" + bytes(39)])
    link.close()
    assert read(file)[0].link_type == 101


@pytest.mark.proves("ST-LINK-4")
def test_comments_are_bounded_in_number_and_length(below: Canned) -> None:
    file = io.BytesIO()
    link = CaptureLink(below, file)
    for number in range(REMARKS_MAX + 5):
        link.remark("ä" * COMMENT_MAX + str(number))
    link.send([b"x"])
    link.close()
    comments = read(file)[0].comments
    assert len(comments) == REMARKS_MAX + 1
    assert comments[0] == "ä" * (COMMENT_MAX // 2)
    assert comments[-1] == "and 5 remarks more"


@pytest.mark.proves("ST-LINK-4")
def test_long_frames_are_cut_and_say_how_long_they_were() -> None:
    file = io.BytesIO()
    writer = PcapngWriter(file, snaplen=100)
    writer.add_interface("one")
    two = writer.add_interface("two", description="the second")
    writer.write(two, EPOCH, bytes(1000))
    (frame,) = read(file)
    assert (len(frame.data), frame.length, frame.interface) == (100, 1000, b"two")
    with pytest.raises(ValueError, match="interface 2"):
        writer.write(2, EPOCH, b"x")


@pytest.mark.proves("ST-LINK-4", by="api")
def test_a_full_disk_ends_the_capture_and_not_the_traffic(below: Canned) -> None:
    class Full(io.BytesIO):
        room = 200

        def write(self, data: Any) -> int:
            if self.tell() + len(data) > self.room:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    link = CaptureLink(below, Full(), clock=Clock())
    below.waiting = [b"x" * 100]
    assert link.send([b"y" * 100])
    assert link.error is not None
    assert isinstance(link.error, OSError) and link.error.errno == errno.ENOSPC
    assert link.receive() == b"x" * 100
    assert link.send([b"z"])
    assert below.sent == [b"y" * 100, b"z"]
    link.close()


@pytest.mark.proves("ST-LINK-4", by="api")
def test_a_file_that_cannot_be_made_is_an_oserror(below: Canned, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        CaptureLink(below, tmp_path / "missing" / "x.pcapng")


@pytest.mark.proves("ST-LINK-4", by="api")
def test_a_file_that_somebody_has_closed_ends_the_capture_and_not_the_traffic(below: Canned) -> None:
    file = io.BytesIO()
    link = CaptureLink(below, file, clock=Clock())
    file.close()
    assert link.send([b"y" * 100])
    assert isinstance(link.error, ValueError)
    link.close()
    assert below.closed


@pytest.mark.proves("ST-LINK-4")
def test_a_node_that_closes_in_the_middle_of_acknowledgements_explains_each_frame_by_itself() -> None:
    """The acknowledgement of a FIN tells of its state, and an abort is told with the reset that it sends."""
    file = io.BytesIO()

    async def main() -> None:
        async with lan(latency=0.005) as net:
            server = await net.node()
            loop = asyncio.get_running_loop()
            wire = net.switch.connect(b"\x02\0\0\0\0\x77")
            link = CaptureLink(wire, file, clock=wall_clock(loop, EPOCH))
            async with Node(link, NodeConfig(socket=OPTIONS, pool=PoolConfig(low=4, high=8)), seed=bytes(32)) as node:
                link.annotate(node.stack.events, node.stack.counters)
                node.stack.host.prefix_list.add_static(address(PREFIX), 64, autonomous=True, now=node.now())
                node.pool.start(node.now())
                node.driver.kick()
                service = start_server(server, lambda reader, writer: None, options=OPTIONS)
                ssa = await service.issue(sessions=2)
                _, writer = await open_connection(node, ssa.address, None)
                writer.write(bytes(60_000))
                writer.close()
                await asyncio.sleep(2)
                _, writer = await open_connection(node, ssa.address, None)
                writer.transport.abort()
                await asyncio.sleep(2)

    run_virtual(main())
    told = [(each, text) for each in read(file) for text in each.comments]
    [finished] = [each for each, text in told if "FIN-WAIT-1 → FIN-WAIT-2" in text]
    [aborted] = [each for each, text in told if "ESTABLISHED → CLOSED" in text]
    assert finished.direction == Direction.INBOUND and Ether(finished.data)[IPv6][TCP].flags == "A"
    assert aborted.direction == Direction.OUTBOUND and "R" in Ether(aborted.data)[IPv6][TCP].flags
    assert not [text for _, text in told if text.startswith("before: connection")]


@pytest.mark.parametrize("when", [-1, 1 << 64])
def test_a_time_that_the_format_cannot_hold_ends_the_capture_and_not_the_traffic(below: Canned, when: int) -> None:
    link = CaptureLink(below, io.BytesIO(), clock=lambda: when)
    below.waiting = [b"first", b"second"]
    assert [link.receive(), link.receive()] == [b"first", b"second"]
    assert isinstance(link.error, ValueError)
    link.close()
