"""Captures of a TAP and a TUN as Wireshark's tools see them (ST-LINK-4)."""

from __future__ import annotations

import errno
import select
import socket
import subprocess
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import pytest
from scapy.layers.inet import TCP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from compat.kernel import Interface, in_namespace, namespace
from tapstack.link.capture import CaptureLink
from tapstack.link.pcapng import Direction
from tapstack.link.tun import open_tun

from .tap_support import KERNEL, OWN, WAIT, Far, next_frame, tap_in_namespace
from .wire import captured, packets

SYN = "··········S·"
"""The flags of a SYN as tshark writes them."""
T = TypeVar("T")
pytestmark = [pytest.mark.real("dumpcap", "tshark", "capinfos"), pytest.mark.proves("ST-LINK-4")]


def output(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def rows(file: Path, display: str, *fields: str) -> list[list[str]]:
    """The fields of the frames that pass the display filter, several values of one field joined by `|`."""
    validate = ("-o", "tcp.check_checksum:TRUE", "-E", "aggregator=|")
    names = [word for name in fields for word in ("-e", name)]
    lines = output("tshark", "-r", file, "-Y", display, *validate, "-T", "fields", *names).splitlines()
    return [line.split("\t") for line in lines]


def segments(path: Path) -> list[Packet]:
    """The TCP segments of a capture."""
    return [packet for packet in packets(path) if TCP in packet]


def without_repeats(syn: list[bool], told: Iterable[T]) -> list[T]:
    """What is told of segments, but not of SYNs after the first: the kernel repeats one that is answered late."""
    return [each for number, (is_syn, each) in enumerate(zip(syn, told, strict=True)) if not is_syn or number == 0]


@pytest.mark.parametrize("offload", [False, True])
def test_tshark_and_capinfos_read_a_capture_of_a_tap(offload: bool, artefacts: Path) -> None:
    file = artefacts / "capture-stack.pcapng"
    virtio = bytes(10) if offload else b""

    def syn(frame: bytes) -> Ether | None:
        packet = Ether(frame[len(virtio) :])
        return packet if TCP in packet else None

    with (
        tap_in_namespace("link-cap", offload=offload) as (tap, far),
        closing(CaptureLink(tap, file, name="link-cap", comment="a connection refused")) as link,
        captured(far.interface, artefacts / "peer.pcapng") as path,
        far.socket(socket.AF_INET6, socket.SOCK_STREAM) as client,
    ):
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.connect((OWN, 80))
        asked = next_frame(link, syn, fd=tap.fileno())
        link.remark("SYN to a closed port")
        link.remark("second remark")
        answer = Ether(dst=asked.src, src=asked.dst) / IPv6(src=OWN, dst=KERNEL)
        answer /= TCP(sport=80, dport=asked.sport, flags="RA", ack=asked.seq + 1)
        while link.receive() is not None:  # the kernel may speak of its groups meanwhile
            pass
        link.remark("refused")
        assert link.send([virtio, bytes(answer)])
        select.select([], [client], [], WAIT)
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED

    ours, peers = (
        without_repeats([p[TCP].flags == "S" for p in each], map(bytes, each)) for each in map(segments, (file, path))
    )
    assert ours == peers, "dumpcap saw other frames on the kernel's interface"
    information = output("capinfos", file)
    assert "nanoseconds (9)" in information
    assert "Capture comment:     a connection refused" in information
    assert "Name = link-cap" in information
    assert rows(file, "_ws.malformed", "frame.number") == []
    told = rows(file, "tcp", "frame.comment", "frame.packet_flags", "tcp.flags.str", "tcp.checksum.status")
    seen = without_repeats([flags == SYN for _, _, flags, _ in told], told)
    unfinished, wrong = ("offload: the checksum is left to the link", "0") if offload else ("", "1")
    assert [[comments, int(flags, 0) & 3, *rest] for comments, flags, *rest in seen] == [
        [
            "|".join(filter(None, ["SYN to a closed port", "second remark", unfinished])),
            Direction.INBOUND,
            SYN,
            wrong,
        ],
        ["refused", Direction.OUTBOUND, "·······A·R··", "1"],
    ]


@pytest.mark.proves("ST-LINK-2")
def test_tshark_reads_a_capture_of_a_tun(artefacts: Path) -> None:
    file = artefacts / "capture-stack.pcapng"
    with namespace("link") as space:
        with in_namespace(space):
            tun = open_tun("link-cap")
        far = Far(space, Interface(space, "link-cap"))
        with (
            closing(CaptureLink(tun, file, name="link-cap")) as link,
            far.has_address(),
            captured(far.interface, artefacts / "peer.pcapng") as path,
            far.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as ping,
        ):
            ping.sendto(bytes(ICMPv6EchoRequest(id=7, data=b"hello")), (OWN, 0))
            next_frame(link, lambda frame: frame if ICMPv6EchoRequest in IPv6(frame) else None, fd=tun.fileno())
            link.remark("over TUN")
    ours, peers = ([bytes(p) for p in packets(each) if ICMPv6EchoRequest in p] for each in (file, path))
    assert ours == peers, "dumpcap saw other packets on the kernel's interface"
    assert "Encapsulation = Raw IP" in output("capinfos", file)
    assert rows(file, "icmpv6.type == 128", "ipv6.dst", "frame.comment", "icmpv6.checksum.status") == [
        [OWN, "over TUN", "1"]
    ]
