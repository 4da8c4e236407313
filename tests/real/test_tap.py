"""TAP and TUN against the kernel: frames both ways, life and death of the device, and clear refusals."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path
from random import Random

import pytest
import pytun
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import Ether

from compat.kernel import Interface, in_namespace, namespace
from tapstack.link.carrier import CarrierWatch
from tapstack.link.counters import LinkDrop
from tapstack.link.errors import LinkLost, LinkUnavailable, Unavailable
from tapstack.link.tap import open_queues, open_tap
from tapstack.link.tun import open_tun
from tests.plugins import taps

from .tap_support import KERNEL, OWN, Far, next_frame, tap_in_namespace
from .wire import captured, packets

pytestmark = pytest.mark.real()


def interfaces(far: Far) -> list[str]:
    return far.space.run(lambda: [name for _, name in socket.if_nameindex()], "list the interfaces")


def echo_request(frame: bytes) -> Ether | None:
    packet = Ether(frame)
    return packet if ICMPv6EchoRequest in packet else None


@pytest.mark.real("dumpcap")
@pytest.mark.proves("ST-LINK-1")
@pytest.mark.parametrize("offload", [False, True])
def test_a_ping_of_the_kernel_arrives_and_our_answer_gets_back(offload: bool, artefacts: Path) -> None:
    with (
        tap_in_namespace("link-ping", offload=offload) as (link, far),
        captured(far.interface, artefacts / "peer.pcapng") as path,
    ):
        ping = far.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        virtio = bytes(10) if offload else b""
        with ping:
            ping.sendto(bytes(ICMPv6EchoRequest(id=77, seq=1, data=b"hello")), (OWN, 0))
            request = next_frame(link, lambda frame: echo_request(frame[len(virtio) :]))
            assert (request.dst, request.src) == (link.properties.mac.hex(":"), far.interface.mac.hex(":"))  # type: ignore[union-attr]
            assert (request[IPv6].src, request[IPv6].dst) == (KERNEL, OWN)
            answer = Ether(dst=request.src, src=request.dst) / IPv6(src=OWN, dst=KERNEL)
            answer /= ICMPv6EchoReply(id=77, seq=1, data=request[ICMPv6EchoRequest].data)
            whole = bytes(answer)
            assert link.send([virtio, whole[:14], memoryview(whole)[14:60], whole[60:]])
            while True:
                got = ping.recv(2000)
                if got[0] == 129:  # the raw socket sees the kernel's neighbour discovery, too
                    break
            assert got[4:] == b"\x00\x4d\x00\x01hello"
    echoes = [bytes(p) for p in packets(path) if ICMPv6EchoRequest in p or ICMPv6EchoReply in p]
    assert echoes == [bytes(request), whole], "what crossed the interface is what was received and sent, byte for byte"


def test_a_sent_frame_is_seen_by_a_packet_socket_byte_for_byte() -> None:
    with tap_in_namespace("link-see") as (link, far), far.packet_socket() as seen:
        assert link.properties.mac is not None
        frame = far.interface.mac + link.properties.mac + b"\x88\xb5" + bytes(range(256)) * 5
        assert link.send([frame])
        assert link.counters.sent == 1
        assert link.counters.sent_bytes == len(frame)
        while (got := seen.recv(4000))[12:14] != b"\x88\xb5":
            pass
        assert got == frame


def test_more_pieces_than_one_writev_takes() -> None:
    with tap_in_namespace("link-many") as (link, far), far.packet_socket() as seen:
        frame = bytes(6) + b"\x02\0\0\0\0\1" + b"\x88\xb5" + os.urandom(1486)
        assert link.send([frame[i : i + 1] for i in range(len(frame))])
        while (got := seen.recv(4000))[12:14] != b"\x88\xb5":
            pass
        assert got == frame


def test_the_loop_wakes_the_owner_until_close() -> None:
    async def main() -> None:
        with tap_in_namespace("link-loop") as (link, far):
            arrived = asyncio.Event()
            frames: list[bytes] = []

            def wake() -> None:
                while (frame := link.receive()) is not None:
                    if echo_request(frame):
                        frames.append(frame)
                        arrived.set()

            link.attach(asyncio.get_running_loop(), wake)
            with far.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as ping:
                ping.sendto(bytes(ICMPv6EchoRequest(id=1)), (OWN, 0))
                async with asyncio.timeout(5):
                    await arrived.wait()
            first = frames[0]
            link.close()
            assert link.receive() is None
            assert not link.send([first])
            assert link.counters.drops == {LinkDrop.CLOSED: 1}

    asyncio.run(main())


def test_close_leaves_no_device() -> None:
    with tap_in_namespace("link-close") as (link, far):
        assert "link-close" in interfaces(far)
        link.close()
        link.close()
        assert "link-close" not in interfaces(far)


def test_a_killed_process_leaves_no_device() -> None:
    program = (
        "import sys; from random import Random; from tapstack.link.tap import open_tap;"
        "link = open_tap('link-kill', mac=Random(1)); print('ready', flush=True); sys.stdin.read()"
    )
    with namespace("link") as space:
        with in_namespace(space):
            child = subprocess.Popen(
                [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        with child:
            far = Far(space, Interface(space, "link-kill"))
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            assert "link-kill" in interfaces(far)
            child.kill()
            child.wait(10)
            assert "link-kill" not in interfaces(far)


def test_a_deleted_device_is_an_error_and_the_loop_does_not_spin() -> None:
    async def main() -> None:
        with tap_in_namespace("link-gone") as (link, far):
            errors: list[LinkLost] = []
            over = asyncio.Event()

            def wake() -> None:
                try:
                    while link.receive() is not None:
                        pass
                except LinkLost as error:
                    errors.append(error)
                    over.set()

            link.attach(asyncio.get_running_loop(), wake)
            far.space.netlink(
                lambda route: route.link("del", index=socket.if_nametoindex("link-gone")), "delete the device"
            )
            async with asyncio.timeout(5):
                await over.wait()
            for _ in range(20):
                await asyncio.sleep(0)
            assert len(errors) == 1
            assert "link-gone" in str(errors[0])
            with pytest.raises(LinkLost):
                link.send([bytes(60)])
            with pytest.raises(LinkLost):
                link.receive()

    asyncio.run(main())


def test_an_interface_that_is_down_drops_and_counts() -> None:
    with tap_in_namespace("link-down") as (link, far):
        far.interface.down()
        assert not link.send([bytes(60)])
        assert link.counters.drops == {LinkDrop.DEVICE_DOWN: 1}
        far.interface.up()
        assert link.send([bytes(60)])
        assert not link.send([b"short"])
        assert link.counters.drops[LinkDrop.DEVICE_REFUSED] == 1


def test_settings_reach_the_kernel() -> None:
    with namespace("link") as space:
        with in_namespace(space):
            link = open_tap("link-set", mac=b"\x02\0\0\0\0\1", mtu=9000, kernel_mac=b"\x02\0\0\0\0\2")
            unnamed = open_tap(mac=Random(1))
        try:
            interface = Interface(space, "link-set")
            assert (interface.mtu, interface.mac) == (9000, b"\x02\0\0\0\0\2")
            assert link.send([bytes(9014)])  # it is up
            assert (link.properties.mtu, link.properties.mac) == (9000, b"\x02\0\0\0\0\1")
            assert unnamed.name.startswith("tap")
        finally:
            link.close()
            unnamed.close()


@pytest.mark.real("dumpcap")
@pytest.mark.proves("ST-LINK-2")
@pytest.mark.parametrize("offload", [False, True])
def test_tun_carries_bare_packets_both_ways(offload: bool, artefacts: Path) -> None:
    virtio = bytes(10) if offload else b""
    with namespace("link") as space:
        with in_namespace(space):
            link = open_tun("link-tun", offload=offload)
        try:
            assert link.properties.mac is None
            far = Far(space, Interface(space, "link-tun"))
            with (
                far.has_address(),
                captured(far.interface, artefacts / "peer.pcapng") as path,
                far.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as ping,
            ):
                ping.sendto(bytes(ICMPv6EchoRequest(id=5, data=b"tun")), (OWN, 0))

                def request(frame: bytes) -> IPv6 | None:
                    packet = IPv6(frame[len(virtio) :])
                    return packet if ICMPv6EchoRequest in packet else None

                asked = next_frame(link, request)
                assert asked.dst == OWN
                answer = bytes(IPv6(src=OWN, dst=KERNEL) / ICMPv6EchoReply(id=5, data=b"tun"))
                assert link.send([virtio, answer])
                while (got := ping.recv(2000))[0] != 129:
                    pass
                assert got[-3:] == b"tun"
        finally:
            link.close()
    seen = packets(path)
    assert not [packet for packet in seen if Ether in packet]
    assert [bytes(p) for p in seen if ICMPv6EchoRequest in p or ICMPv6EchoReply in p] == [bytes(asked), answer]


def test_a_taken_name_is_refused_in_one_sentence() -> None:
    with tap_in_namespace("link-name") as (link, far), in_namespace(far.space):
        for name in ("link-name", "lo"):
            with pytest.raises(LinkUnavailable, match=f"'{name}' exists already") as caught:
                open_tap(name, mac=Random(1))
            assert caught.value.reason is Unavailable.NAME_TAKEN
        with pytest.raises(LinkUnavailable, match="'link-name' exists already"):
            open_tun("link-name")
        assert link.send([bytes(60)])  # the first owner is not disturbed


def test_a_device_whose_carrier_cannot_be_watched_is_not_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(name: str) -> CarrierWatch:
        raise OSError(errno.EMFILE, "Too many open files")

    with namespace("link") as space, in_namespace(space):
        with monkeypatch.context() as broken:
            broken.setattr("tapstack.link.device.CarrierWatch", refused)
            for opening in (open_tap, partial(open_queues, count=2, byte=15)):
                with pytest.raises(LinkUnavailable, match="no file descriptor left") as caught:
                    opening("link-none", mac=Random(1))
                assert caught.value.reason is Unavailable.REFUSED
                assert "link-none" not in [name for _, name in socket.if_nameindex()]
        open_tap("link-none", mac=Random(1)).close()


def test_an_idle_device_of_somebody_else_is_not_taken_over() -> None:
    with namespace("link") as space, in_namespace(space):
        persistent = pytun.TunTapDevice(name="link-old", flags=pytun.IFF_TAP | pytun.IFF_NO_PI)
        persistent.persist(True)
        persistent.close()
        with pytest.raises(LinkUnavailable, match="exists already"):
            open_tap("link-old", mac=Random(1))


def test_without_privilege_it_says_so() -> None:
    os.seteuid(65534)
    try:
        with pytest.raises(LinkUnavailable, match="needs privilege") as caught:
            open_tap("link-priv", mac=Random(1))
    finally:
        os.seteuid(0)
    assert caught.value.reason is Unavailable.NO_PRIVILEGE


@pytest.mark.real("unshare", "mount")
def test_without_dev_net_tun_it_says_so() -> None:
    program = (
        "from tapstack.link.tun import open_tun; from tapstack.link.errors import LinkUnavailable\n"
        "try: open_tun('link-none')\n"
        "except LinkUnavailable as error: print(error.reason, error)"
    )
    hide = 'mount -t tmpfs none /dev/net && exec "$0" -c "$1"'
    ran = subprocess.run(
        ["unshare", "--mount", "sh", "-c", hide, sys.executable, program],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert ran.stdout.startswith("no-tun-device There is no /dev/net/tun:")
    assert ran.stderr == ""


@pytest.mark.parametrize("name", ["sixteen-letters-", "a b", "a/b", "a:b", ".", "..", "tap%d", "ä" * 8])
def test_a_name_no_device_can_have_is_refused(name: str) -> None:
    with pytest.raises(LinkUnavailable, match="cannot be the name") as caught:
        open_tap(name, mac=Random(1))
    assert caught.value.reason is Unavailable.BAD_NAME


def test_wrong_arguments_are_errors_before_anything_is_opened() -> None:
    for mtu in (1279, 65522):
        with pytest.raises(ValueError, match="MTU"):
            open_tap("link-bad", mac=Random(1), mtu=mtu)
    for mac in (b"\x03\0\0\0\0\1", bytes(6), bytes(5)):
        with pytest.raises(ValueError, match="unicast"):
            open_tap("link-bad", mac=mac)
        with pytest.raises(ValueError, match="unicast"):
            open_tap("link-bad", mac=Random(1), kernel_mac=mac)


@pytest.mark.real("dumpcap")
@pytest.mark.proves("ST-LINK-1")
def test_queues_of_one_tap_get_what_is_for_their_sub_prefix(artefacts: Path) -> None:
    mac = bytes.fromhex("020000000007")
    with namespace("link-queues") as space:
        with in_namespace(space):
            links = open_queues("tapq", 3, mac=mac, byte=7)
        try:
            assert {link.name for link in links} == {"tapq"}
            with in_namespace(space):
                kernel = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
                kernel.bind(("tapq", 0))
            sent = [
                bytes(Ether(dst=mac.hex(":")) / IPv6(dst=f"2001:db8:b1:{number:x}::1", nh=59) / (b"queue %d" % number))
                for number in (2, 0, 1, 1, 4)
            ]
            with kernel, captured(Interface(space, "tapq"), artefacts / "peer.pcapng") as path:
                for frame in sent:
                    kernel.send(taps.by_hand(frame))
            got = [[frame[-7:] for frame in iter(link.receive, None) if frame[-7:-2] == b"queue"] for link in links]
        finally:
            for link in links:
                link.close()
    assert [frame for frame in map(bytes, packets(path)) if frame in sent] == sent
    assert got == [[b"queue 0"], [b"queue 1", b"queue 1", b"queue 4"], [b"queue 2"]]
