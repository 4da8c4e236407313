"""Captures by dumpcap: nothing before the start, everything until the stop, nothing of our own."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import dpkt
import pytest

from compat.kernel import Interface, Namespace, in_namespace, namespace, tap, veth
from compat.kernel.topology import CLIENT_ADDRESS, SERVER_ADDRESS, Topology, demo_topology
from compat.programs import ProgramFailed, curl, dumpcap, run_in, web_server

from .datagrams import send_blocking

pytestmark = pytest.mark.real("dumpcap")


@pytest.fixture(scope="module")
def net() -> Iterator[Topology]:
    with demo_topology() as made:
        yield made


def frames(path: Path) -> list[bytes]:
    with path.open("rb") as file:
        return [frame for _, frame in dpkt.pcapng.Reader(file)]


def payloads(path: Path) -> list[bytes]:
    """The UDP payloads to port 9, in order."""
    found = []
    for frame in frames(path):
        packet = dpkt.ethernet.Ethernet(frame).data
        if isinstance(packet, dpkt.ip6.IP6) and isinstance(packet.data, dpkt.udp.UDP) and packet.data.dport == 9:
            found.append(bytes(packet.data.data))
    return found


def sender(where: Namespace) -> socket.socket:
    with in_namespace(where):
        made = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    made.connect((SERVER_ADDRESS, 9))
    return made


@pytest.mark.parametrize("attempt", range(3))
def test_the_first_and_the_last_frame_are_in_the_file(net: Topology, tmp_path: Path, attempt: int) -> None:
    path = tmp_path / "folder" / "capture.pcapng"
    sent = [b"first", *(b"%d" % number for number in range(200 * attempt)), b"last"]

    async def run() -> int:
        with sender(net.third) as out:
            send_blocking(out, b"before")
            async with dumpcap(net.third_link, path) as capture:
                for each in sent:
                    send_blocking(out, each)
                await capture.stop()
                send_blocking(out, b"after")
            assert capture.dropped == 0
            return capture.received

    received = asyncio.run(run())
    assert payloads(path) == sent
    assert received == len(frames(path)) >= len(sent)


def test_both_ends_of_a_cable_agree_and_show_no_mark(net: Topology, tmp_path: Path) -> None:
    near, far = tmp_path / "near.pcapng", tmp_path / "far.pcapng"

    async def run() -> None:
        async with dumpcap(net.router_server, far), dumpcap(net.server_uplink, near):
            with sender(net.client) as out:
                for number in range(50):
                    send_blocking(out, b"%d" % number)

    asyncio.run(run())
    assert payloads(near) == payloads(far) == [b"%d" % number for number in range(50)]
    for path in (near, far):
        assert all(dpkt.ethernet.Ethernet(frame).type == dpkt.ethernet.ETH_TYPE_IP6 for frame in frames(path))
        assert b"barrier" not in path.read_bytes()


def test_a_frame_that_speaks_of_a_barrier_is_kept(net: Topology, tmp_path: Path) -> None:
    said = b"unimux capture barrier 12345678"

    async def run() -> None:
        async with dumpcap(net.third_link, tmp_path / "a.pcapng"):
            with sender(net.third) as out:
                send_blocking(out, said)

    asyncio.run(run())
    assert payloads(tmp_path / "a.pcapng") == [said]


def test_filter_and_snaplen(net: Topology, tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"

    async def run() -> int:
        async with dumpcap(net.third_link, path, capture_filter="udp dst port 9", snaplen=128, buffer_mib=2) as capture:
            with sender(net.third) as out:
                send_blocking(out, b"x" * 1000)
        return capture.received

    assert asyncio.run(run()) == 1
    (frame,) = frames(path)
    assert len(frame) == 128
    with pytest.raises(ValueError, match="at least 128 bytes"):
        asyncio.run(dumpcap(net.third_link, path, snaplen=60).__aenter__())


def test_a_filter_that_makes_no_sense_is_an_error_with_dumpcaps_words(net: Topology, tmp_path: Path) -> None:
    async def run() -> None:
        async with dumpcap(net.third_link, tmp_path / "a.pcapng", capture_filter="such nonsense"):
            pass

    with pytest.raises(ProgramFailed, match=r"dumpcap ended with status 1: .*such nonsense"):
        asyncio.run(run())


@pytest.mark.real("dumpcap", "nginx", "curl")
def test_offloads_off_shows_frames_as_on_a_wire(net: Topology, tmp_path: Path) -> None:
    """Without offload no frame is longer than the MTU allows and every checksum is complete; with it, neither holds."""
    (tmp_path / "file").write_bytes(bytes(500_000))

    async def run(path: Path) -> None:
        async with web_server(net.server, tmp_path) as server, dumpcap(net.client_uplink, path) as capture:
            assert (await curl(net.client, server.url(SERVER_ADDRESS, "file"))).ok
        assert capture.dropped == 0

    def longest(path: Path) -> int:
        return max(map(len, frames(path)))

    def broken_checksums(path: Path) -> int:
        return sum(not checksum_holds(frame) for frame in frames(path))

    net.set_offloads(False)
    asyncio.run(run(tmp_path / "off.pcapng"))
    net.set_offloads(True)
    asyncio.run(run(tmp_path / "on.pcapng"))
    assert (longest(tmp_path / "off.pcapng"), broken_checksums(tmp_path / "off.pcapng")) == (1514, 0)
    assert longest(tmp_path / "on.pcapng") > 10_000
    assert broken_checksums(tmp_path / "on.pcapng") > 0


def checksum_holds(frame: bytes) -> bool:
    """TCP checksum over the pseudo-header (RFC 8200 §8.1), true for frames without TCP."""
    packet = dpkt.ethernet.Ethernet(frame).data
    if not isinstance(packet, dpkt.ip6.IP6) or packet.nxt != dpkt.ip.IP_PROTO_TCP:
        return True
    segment = frame[54 : 54 + packet.plen]
    pseudo = packet.src + packet.dst + len(segment).to_bytes(4, "big") + bytes([0, 0, 0, 6])
    return bool(dpkt.in_cksum(pseudo + segment) == 0)


def test_capture_of_a_tun(tmp_path: Path) -> None:
    """A link without Ethernet is marked by an IPv6 packet."""

    async def run(space: Namespace) -> int:
        from tapstack.link.tun import open_tun

        with in_namespace(space):
            link = open_tun("tun0")
            out = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        try:
            with out:
                async with dumpcap(Interface(space, "tun0"), tmp_path / "a.pcapng") as capture:
                    scope = Interface(space, "tun0").index
                    send_blocking(out, b"last", ("ff02::1", 9, 0, scope))
        finally:
            link.close()
        return capture.received

    with namespace("test") as space:
        received = asyncio.run(run(space))
    seen = frames(tmp_path / "a.pcapng")
    assert received == len(seen) >= 1
    assert [frame[-4:] for frame in seen if frame[6] == dpkt.ip.IP_PROTO_UDP] == [b"last"]
    assert not [frame for frame in seen if frame[6] == dpkt.ip.IP_PROTO_NONE]


def test_stopping_on_a_link_that_is_down_loses_nothing(net: Topology, tmp_path: Path) -> None:
    async def run(space: Namespace) -> None:
        with in_namespace(space):
            raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        with raw, veth(space, "a", space, "b") as (a, b):
            async with dumpcap(a, tmp_path / "a.pcapng"):
                raw.bind(("b", 0))
                raw.send(a.mac + b.mac + b"\x88\xb6" + b"last".ljust(46))
                a.down()

    with namespace("test") as space:
        asyncio.run(run(space))
    assert [frame[14:18] for frame in frames(tmp_path / "a.pcapng") if frame[12:14] == b"\x88\xb6"] == [b"last"]


def test_a_capture_whose_link_vanished_says_so(tmp_path: Path) -> None:
    async def run(space: Namespace) -> None:
        with tap(space, "tap0", mac=bytes([2, 0, 0, 0, 0, 9])) as link:
            async with dumpcap(Interface(space, "tap0"), tmp_path / "a.pcapng"):
                link.close()

    with namespace("test") as space, pytest.raises(ProgramFailed, match="dumpcap ended before its capture of tap0"):
        asyncio.run(run(space))


def fill_up(path: Path) -> None:
    with suppress(OSError), path.open("wb", buffering=0) as rest:
        while rest.write(bytes(4096)):
            pass


@pytest.mark.real("dumpcap", "mount")
def test_a_full_disk_is_told_as_that(net: Topology, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], check=True)

    async def fill() -> None:
        async with dumpcap(net.server_uplink, disk / "full.pcapng") as capture:
            fill_up(disk / "rest")
            with pytest.raises(ProgramFailed, match=r"is not whole: the disk of .*/disk is full"):
                await capture.stop()

    try:
        asyncio.run(fill())
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.mark.real("dumpcap", "tshark")
def test_tshark_reads_the_file_without_complaint(net: Topology, tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"

    async def run() -> bytes:
        async with dumpcap(net.client_bridge, path):
            with sender(net.client) as out:
                send_blocking(out, b"one")
        argv = [
            "tshark",
            "-r",
            str(path),
            "-Y",
            "udp.port == 9 && !icmpv6 || _ws.malformed",
            "-T",
            "fields",
            "-e",
            "ipv6.src",
        ]
        async with run_in(net.client, argv, stdout=asyncio.subprocess.PIPE) as process:
            stdout, _ = await process.communicate()
            assert process.returncode == 0
            return stdout

    assert asyncio.run(run()).decode().split() == [CLIENT_ADDRESS]
