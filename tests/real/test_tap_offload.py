"""Offload on a TAP: super-segments with unfinished checksums, accepted by the kernel's TCP and received from it."""

from __future__ import annotations

import random
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest
from scapy.layers.inet import TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from compat.kernel import set_sysctl
from tapstack.link.device import GSO_SIZE
from tapstack.link.tap import TapLink
from tests.plugins import taps

from .tap_support import KERNEL, OWN, WAIT, Far, next_frame, tap_in_namespace
from .wire import captured, packets

pytestmark = [pytest.mark.real("dumpcap"), pytest.mark.proves("ST-LINK-1")]

MSS = 1440
OWN_PORT, KERNEL_PORT = 40001, 8080
HEADERS = 14 + 40 + 20
NEEDS_CSUM, DATA_VALID, GSO_TCPV6, GSO_ECN = 1, 2, 4, 0x80
"""VIRTIO_NET_HDR_F_… and VIRTIO_NET_HDR_GSO_… of linux/virtio_net.h."""
VIRTIO = struct.Struct("=BBHHHH")
"""struct virtio_net_hdr: a TAP's fields are in the byte order of the machine."""


LENGTHS = (20_000, 40_000, GSO_SIZE - 60, GSO_SIZE - 60)
"""Payload of each super-segment."""


class Virtio(NamedTuple):
    """The header before each frame, as the kernel defines it."""

    flags: int = 0
    gso_type: int = 0
    header_length: int = 0
    gso_size: int = 0
    checksum_start: int = 0
    checksum_offset: int = 0


def pseudo_sum(length: int) -> int:
    """The ones' complement sum of the pseudo-header, not complemented: what an unfinished checksum field holds."""
    addresses = socket.inet_pton(socket.AF_INET6, OWN) + socket.inet_pton(socket.AF_INET6, KERNEL)
    total: int = sum(struct.unpack("!18H", addresses + struct.pack("!HH", length, socket.IPPROTO_TCP)))
    return (total & 0xFFFF) + (total >> 16)


def tcp_of(frame: bytes) -> tuple[Virtio, TCP] | None:
    packet = Ether(frame[VIRTIO.size :])
    return (Virtio(*VIRTIO.unpack_from(frame)), packet[TCP]) if TCP in packet else None


@dataclass
class HandMade:
    """The bare minimum of a TCP, over a TAP with offload: it never loses, reorders or retransmits."""

    link: TapLink
    far: Far
    seq: int = 1000
    ack: int = 0

    def segment(self, flags: str, payload: bytes = b"", options: list[tuple[str, object]] | None = None) -> bool:
        """Send one segment, as a super-segment if it is large, its checksum left to the link."""
        tcp = TCP(
            sport=OWN_PORT,
            dport=KERNEL_PORT,
            seq=self.seq,
            ack=self.ack,
            flags=flags,
            window=65535,
            options=options or [],
        )
        length = len(bytes(tcp)) + len(payload)
        tcp.chksum = pseudo_sum(length)
        mac = self.link.properties.mac
        assert mac is not None
        head = Ether(dst=self.far.interface.mac.hex(":"), src=mac.hex(":")) / IPv6(
            src=OWN, dst=KERNEL, plen=length, nh=6
        )
        large = len(payload) > MSS
        virtio = Virtio(
            flags=NEEDS_CSUM,
            gso_type=GSO_TCPV6 if large else 0,
            header_length=HEADERS,
            gso_size=MSS if large else 0,
            checksum_start=54,
            checksum_offset=16,
        )
        self.seq += len(payload) + ("S" in flags)
        taps.by_hand(bytes(head) + bytes(tcp) + payload)
        return self.link.send([VIRTIO.pack(*virtio), bytes(head), bytes(tcp), memoryview(payload)])

    def connect(self) -> None:
        """The three-way handshake; every checksum of it is unfinished, too."""
        self.segment("S", options=[("MSS", MSS), ("WScale", 7)])
        _, answer = next_frame(self.link, tcp_of)
        assert str(answer.flags) == "SA"
        self.ack = answer.seq + 1
        self.segment("A")

    def wait_acknowledged(self) -> None:
        """Until the kernel has acknowledged everything sent."""

        def acknowledged(frame: bytes) -> TCP | None:
            got = tcp_of(frame)
            return got[1] if got and got[1].ack == self.seq else None

        next_frame(self.link, acknowledged)


def receive_exactly(connection: socket.socket, length: int) -> bytes:
    pieces = []
    while length and (piece := connection.recv(length)):
        pieces.append(piece)
        length -= len(piece)
    return b"".join(pieces)


def test_the_kernel_takes_super_segments_with_unfinished_checksums(rng: random.Random, artefacts: Path) -> None:
    with (
        tap_in_namespace("link-gso", offload=True) as (link, far),
        captured(far.interface, artefacts / "peer.pcapng") as path,
    ):
        assert link.properties.gso_size == GSO_SIZE
        with far.socket(socket.AF_INET6, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            listener.bind((KERNEL, KERNEL_PORT))
            listener.listen()
            peer = HandMade(link, far)
            peer.connect()
            connection, _ = listener.accept()
            connection.settimeout(WAIT)
            with connection:
                # The largest needs a window opened beyond the handshake's 64 KiB, so smaller ones go first.
                for payload_length in LENGTHS:
                    data = rng.randbytes(payload_length)
                    assert peer.segment("PA", data)
                    assert receive_exactly(connection, payload_length) == data
                    peer.wait_acknowledged()
    seen = [packet[TCP] for packet in packets(path) if TCP in packet]
    large = [tcp for tcp in seen if tcp.sport == OWN_PORT and tcp.payload]
    assert [len(tcp.payload) for tcp in large] == list(LENGTHS), "each crossed in one piece"
    assert [tcp.chksum for tcp in large] == [pseudo_sum(20 + length) for length in LENGTHS], "and unfinished"
    assert max(seen, key=lambda tcp: tcp.ack if tcp.sport == KERNEL_PORT else 0).ack == large[-1].seq + LENGTHS[-1]


def test_a_bad_offset_is_refused_and_counted(artefacts: Path) -> None:
    refused, taken = (bytes(12) + b"\x88\xb5" + bytes([fill]) * 86 for fill in (1, 2))
    with (
        tap_in_namespace("link-bad", offload=True) as (link, far),
        captured(far.interface, artefacts / "peer.pcapng") as path,
    ):
        wrong = Virtio(flags=NEEDS_CSUM, checksum_start=5000, checksum_offset=16)
        assert not link.send([VIRTIO.pack(*wrong), refused])
        assert link.counters.as_dict()["drop.device-refused"] == 1
        assert link.send([VIRTIO.pack(*Virtio()), taps.by_hand(taken)])
    assert [frame for frame in map(bytes, packets(path)) if frame in (refused, taken)] == [taken]


def data_of(frame: bytes) -> tuple[Virtio, TCP] | None:
    got = tcp_of(frame)
    return got if got and got[1].payload else None


def test_the_kernel_hands_out_super_segments(rng: random.Random, artefacts: Path) -> None:
    with (
        tap_in_namespace("link-gro", offload=True) as (link, far),
        captured(far.interface, artefacts / "peer.pcapng") as path,
        far.socket(socket.AF_INET6, socket.SOCK_STREAM) as listener,
    ):
        # This peer is slow, and for slow peers the kernel prefers small super-segments, if it is left to choose.
        set_sysctl(far.space, "ipv4/tcp_min_tso_segs", 40)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
        listener.bind((KERNEL, KERNEL_PORT))
        listener.listen()
        peer = HandMade(link, far)
        peer.connect()
        connection, _ = listener.accept()
        with connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            connection.setblocking(False)
            data = rng.randbytes(800_000)
            sent, got, largest = connection.send(data), bytearray(), 0
            first = peer.ack
            while len(got) < sent:
                header, segment = next_frame(link, data_of)
                payload = bytes(segment.payload)
                assert header.flags & (NEEDS_CSUM | DATA_VALID)
                if len(payload) > MSS:
                    assert (header.gso_type & ~GSO_ECN, header.gso_size) == (GSO_TCPV6, MSS)
                largest = max(largest, len(payload))
                begin = (segment.seq - first) % 2**32
                assert begin <= len(got)  # nothing is lost; on a busy machine something may be sent twice
                got[begin : begin + len(payload)] = payload
                peer.ack = (first + len(got)) % 2**32
                peer.segment("A")
            assert got == data[:sent]
            assert largest >= 10 * MSS
    said = [packet[TCP] for packet in packets(path) if TCP in packet and packet[TCP].sport == KERNEL_PORT]
    on_wire = bytearray(sent)
    for segment in (segment for segment in said if segment.payload):
        begin = (segment.seq - first) % 2**32
        on_wire[begin : begin + len(segment.payload)] = bytes(segment.payload)
    assert on_wire == data[:sent]
    assert max(len(segment.payload) for segment in said) == largest
