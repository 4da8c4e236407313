"""Reading captures: what dumpcap writes, what a killed dumpcap leaves, and what nobody should ever write."""

from __future__ import annotations

import struct
from pathlib import Path

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scenarios.witness import CaptureError, CaptureFile, load, read_file
from scenarios.witness.frames import Checksum, Decoder, Frame, Kind, ListenerReport, Quote, Solicitation, text
from scenarios.witness.pcapng import Interface, PcapngFile, RawFrame

from .story import EA, good
from .wire import EPOCH, NODE_LL, SSA_LIKE, block, packet_block, pcapng_head, statistics_block, tcp, udp, unreachable


def one(data: bytes, length: int | None = None, link_type: int = 1) -> tuple[Frame, Decoder]:
    """One frame decoded."""
    decoder = Decoder("here", "one.pcapng", [Interface(link_type)])
    raw = RawFrame(1, 5_000_000_001, 0, memoryview(data), len(data) if length is None else length)
    return decoder.decode(raw), decoder


def read(path: Path) -> tuple[list[Frame], PcapngFile]:
    source, _, stream = read_file(CaptureFile(path, "here"))
    return list(stream), source


def test_the_fast_decoder_agrees_with_dpkt(tmp_path: Path) -> None:
    """Every TCP field read by fixed offsets is what dpkt's own dissector reads."""
    lan, _ = good()
    path = lan.save(tmp_path / "lan.pcapng")
    frames, _ = read(path)
    with path.open("rb") as file:
        packets = [dpkt.ethernet.Ethernet(data) for _, data in dpkt.pcapng.Reader(file)]
    assert len(packets) == len(frames) == len(lan.frames)
    segments = 0
    for frame, ethernet in zip(frames, packets, strict=True):
        ip = ethernet.data
        assert (frame.src, frame.dst, frame.hop_limit) == (ip.src, ip.dst, ip.hlim)
        if isinstance(ip.data, dpkt.tcp.TCP):
            segments += 1
            assert frame.kind is Kind.TCP
            segment = ip.data
            theirs = (segment.sport, segment.dport, segment.flags, segment.seq, segment.ack, len(segment.data))
            assert (frame.sport, frame.dport, frame.flags, frame.seq, frame.ack, frame.payload) == theirs
    assert segments > 30


def test_times_are_nanoseconds_and_numbers_count_from_one(tmp_path: Path) -> None:
    lan, _ = good()
    frames, _ = read(lan.save(tmp_path / "lan.pcapng"))
    assert [frame.number for frame in frames] == list(range(1, len(frames) + 1))
    assert frames[0].offset == round(lan.frames[0].time * 1e6) * 1000


def test_microsecond_captures_are_read_too(tmp_path: Path) -> None:
    path = tmp_path / "micro.pcapng"
    ticks = 1_700_000_000_123_456
    data = bytes(tcp(EA, SSA_LIKE, "S", 1))
    body = struct.pack("<IIIII", 0, ticks >> 32, ticks & 0xFFFFFFFF, len(data), len(data)) + data
    path.write_bytes(pcapng_head(resolution=6) + block(6, body))
    frames, _ = read(path)
    assert frames[0].offset == ticks * 1000


def test_files_of_one_point_are_merged_by_time(tmp_path: Path) -> None:
    lan, _ = good()
    first, second = tmp_path / "a.pcapng", tmp_path / "b.pcapng"
    first.write_bytes(pcapng_head() + b"".join(packet_block(s.time, bytes(s.packet)) for s in lan.frames[::2]))
    second.write_bytes(pcapng_head() + b"".join(packet_block(s.time, bytes(s.packet)) for s in lan.frames[1::2]))
    point = load([CaptureFile(first, "lan"), CaptureFile(second, "lan")])["lan"]
    assert [frame.offset // 1000 for frame in point.frames] == [round(sent.time * 1e6) for sent in lan.frames]
    assert [frame.order for frame in point.frames] == list(range(len(lan.frames)))
    assert {frame.file for frame in point.frames[:2]} == {"a.pcapng", "b.pcapng"}


def test_a_file_cut_in_the_middle_gives_what_is_whole(tmp_path: Path) -> None:
    lan, _ = good()
    path = lan.save(tmp_path / "lan.pcapng")
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    frames, source = read(path)
    assert len(frames) == len(lan.frames) - 1
    assert "ends inside a block" in source.faults[0].reason


def test_frames_that_dumpcap_lost_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "lossy.pcapng"
    path.write_bytes(pcapng_head() + packet_block(EPOCH, bytes(tcp(EA, SSA_LIKE, "S", 1))) + statistics_block(7))
    _, source = read(path)
    assert source.dropped == 7


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\xd4\xc3\xb2\xa1" + bytes(20)], ids=["empty", "text", "classic pcap"]
)
def test_what_is_no_pcapng_is_a_capture_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)
    with pytest.raises(CaptureError, match="not a pcapng file"):
        read(path)


def test_a_missing_file_is_a_capture_error(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="No such file"):
        read(tmp_path / "nowhere.pcapng")


@given(st.binary(max_size=400))
def test_no_block_raises(tmp_path_factory: pytest.TempPathFactory, tail: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.pcapng"
    path.write_bytes(pcapng_head() + tail)
    read(path)


@given(st.binary(max_size=200))
def test_no_frame_raises(data: bytes) -> None:
    one(data)
    one(b"\x33\x33" + bytes(10) + b"\x86\xdd\x60" + data)


@given(st.data())
def test_no_bent_frame_raises(data: st.DataObject) -> None:
    lan, _ = GOOD
    packet = bytearray(bytes(data.draw(st.sampled_from(lan.frames)).packet))
    for _ in range(data.draw(st.integers(1, 4))):
        packet[data.draw(st.integers(12, len(packet) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(packet)))
    one(bytes(packet))
    one(bytes(packet[:cut]), len(packet))
    one(bytes(packet[:cut]))


GOOD = good()


def test_malformed_frames_are_faults_with_their_sender() -> None:
    broken = bytes(tcp(EA, SSA_LIKE, "S", 1))[:60]
    _, decoder = one(broken)
    assert "IPv6 payload length 20" in decoder.faults[0].reason
    assert decoder.faults[0].sender.hex() == "02000000000a"
    bad_offset = bytearray(bytes(tcp(EA, SSA_LIKE, "S", 1)))
    bad_offset[66] = 0x10
    assert "TCP data offset 4" in one(bytes(bad_offset))[1].faults[0].reason
    # A fragment header before hop-by-hop options, which dpkt does not expect.
    chain = bytes.fromhex("0000000000000001") + bytes.fromhex("3b00010400000000")
    head = bytes.fromhex("60000000") + struct.pack(">HBB", len(chain), 44, 64) + bytes(32)
    assert "malformed" in one(broken[:14] + head + chain)[1].faults[0].reason


def test_a_cut_frame_is_no_fault_and_its_checksum_is_open() -> None:
    whole = bytes(tcp(EA, SSA_LIKE, "A", 1, 1, b"x" * 1000))
    frame, decoder = one(whole[:90], len(whole))
    assert not decoder.faults
    assert frame.cut
    assert (frame.payload, frame.checksum) == (1000, Checksum.CUT)


@pytest.mark.parametrize("size", [0, 1, 999, 1000])
def test_checksums_of_even_and_odd_lengths(size: int) -> None:
    whole = bytearray(bytes(tcp(EA, SSA_LIKE, "A", 1, 1, b"x" * size)))
    assert one(bytes(whole))[0].checksum is Checksum.GOOD
    whole[-1] ^= 1
    assert one(bytes(whole))[0].checksum is Checksum.BAD


def test_udp_without_a_checksum_is_wrong() -> None:
    packet = bytearray(bytes(udp(EA, SSA_LIKE)))
    assert one(bytes(packet))[0].checksum is Checksum.GOOD
    packet[60:62] = b"\0\0"
    assert one(bytes(packet))[0].checksum is Checksum.BAD


def test_links_without_ethernet() -> None:
    packet = bytes(tcp(EA, SSA_LIKE, "S", 1))[14:]
    frame, _ = one(packet, link_type=101)
    assert (frame.kind, text(frame.src), frame.eth_src) == (Kind.TCP, EA, b"")
    _, decoder = one(packet, link_type=113)
    assert "link type 113" in decoder.faults[0].reason


def test_messages_of_discovery_and_errors() -> None:
    lan, _ = good()
    probe, _ = one(bytes(lan.packet("probe:ea")))
    assert isinstance(probe.message, Solicitation)
    assert (text(probe.message.target), probe.message.nonce) == (EA, b"nonce!")
    report, _ = one(bytes(lan.packet("leave:ea")))
    assert isinstance(report.message, ListenerReport)
    assert [(record.type, text(record.group)) for record in report.message.records] == [(3, "ff02::1:ff01:e1")]
    quoted = tcp(SSA_LIKE, EA, "S", 77, ports=(5, 6))["IPv6"]
    error, _ = one(bytes(unreachable(NODE_LL, SSA_LIKE, quoted)))
    assert isinstance(error.message, Quote)
    assert (text(error.message.dst), error.message.sport, error.message.seq) == (EA, 5, 77)


def test_older_listener_messages_mean_the_same() -> None:
    """An MLDv1 done is a leave."""
    from scapy.layers.inet6 import ICMPv6MLDone, IPv6, IPv6ExtHdrHopByHop, RouterAlert
    from scapy.layers.l2 import Ether

    done = (
        Ether(src="02:00:00:00:00:0a", dst="33:33:00:00:00:02")
        / IPv6(src=NODE_LL, dst="ff02::2", hlim=1)
        / IPv6ExtHdrHopByHop(options=[RouterAlert()])
        / ICMPv6MLDone(mladdr="ff02::1:ff01:e1")
    )
    frame, _ = one(bytes(done))
    assert isinstance(frame.message, ListenerReport)
    assert (frame.message.version, frame.message.records[0].type) == (1, 3)
