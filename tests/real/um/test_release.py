"""After release (UM-REL-3, UM-ADDR-9, UM-LIS-6): on a routed prefix a prober's capture of a released address is that of one that
never existed; on a shared link the node itself says nothing, and the router's own answer is its own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path
from random import Random

import dpkt
import pytest
from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import (
    HBHOptUnknown,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NS,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from compat.kernel import Interface, in_namespace
from compat.kernel.topology import CLIENT_ADDRESS, SERVER_ADDRESS, THIRD_ADDRESS
from tapstack.ipv6.addresses import AddressKind, Trigger
from tapstack.tcp.options import PortMode
from tapstack.types import address, address_text, solicited_node
from tests.plugins import taps
from tests.unit.unimux.lan import eventually
from unimux.aio import open_connection, start_server
from unimux.node import Node

from ..wire import capturing
from . import legacy
from .cells import WP
from .room import BOUND, PROGRAMS, Room, room
from .talk import answer_to, ask, end, respond

pytestmark = pytest.mark.real(*PROGRAMS)


@pytest.fixture(scope="module")
def net() -> Iterator[Room]:
    with room("alice", "dora") as made:
        yield made


def probes(source: str, target: str, random: Random) -> list[IPv6]:
    """Everything that a curious host sends: each kind of packet that some stack somewhere answers."""
    head = IPv6(src=source, dst=target)
    ports = {"sport": random.randrange(30_000, 60_000), "dport": WP}
    numbers = {"seq": random.getrandbits(32), "ack": random.getrandbits(32)}
    made = [head / TCP(**ports, **numbers, flags=flags) for flags in ("S", "A", "SA", "FA", "R", "RA", "FPU", "")]
    made += [
        head / UDP(**ports) / b"hello",
        head / ICMPv6EchoRequest(id=7, data=b"hello"),
        head / IPv6ExtHdrDestOpt(options=[HBHOptUnknown(otype=0xC2, optdata=b"?")]) / UDP(**ports),
        head / IPv6ExtHdrRouting(type=0, segleft=1, addresses=[source]) / UDP(**ports),
        head / IPv6ExtHdrFragment(offset=0, m=1, id=random.getrandbits(32)) / Raw(b"x" * 63),
        IPv6(src=source, dst=target, nh=253) / Raw(b"unknown next header"),
        head / TCP(**ports, **numbers, flags="S", chksum=0xBEEF),
    ]
    return made


class Prober:
    """A host of the LAN that sends what it likes through its router."""

    def __init__(self, interface: Interface, router: bytes) -> None:
        self._mac, self._router = interface.mac, router
        with in_namespace(interface.namespace):
            self._raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._raw.bind((interface.name, 0))

    def send(self, packets: list[IPv6]) -> None:
        for packet in packets:
            self._raw.send(taps.by_hand(bytes(Ether(src=self._mac, dst=self._router) / packet)))

    def send_frames(self, frames: list[Ether]) -> None:
        for frame in frames:
            self._raw.send(taps.by_hand(bytes(frame)))

    def close(self) -> None:
        self._raw.close()


async def arrived(node: Node, frames: int) -> None:
    """Wait until a node has received so many frames since its start: the probes are among them."""
    await eventually(lambda: node.stack.counters.frames_in >= frames, 20)


def normalized(capture: Path, target: str) -> list[bytes]:
    """The frames of a capture that are about the target, with its address blotted out, and what depends on it."""
    with capture.open("rb") as file:
        frames = [bytes(frame) for _, frame in dpkt.pcapng.Reader(file)]
    return [blotted(frame, target) for frame in frames if address(target) in frame]


CHECKSUMS = ((TCP, 16), (UDP, 6), (ICMPv6EchoRequest, 2))
"""The upper layers of the probes, and where in each of them the checksum stands."""


def blotted(frame: bytes, target: str) -> bytes:
    """A frame without an address and without the checksum over it.

    The checksum goes by its place: its value may stand anywhere else in a frame by chance, once in a few dozen captures.
    """
    bare = bytearray(frame.replace(address(target), bytes(16)))
    packet = Ether(frame)
    for layer, offset in CHECKSUMS:
        if layer in packet:
            at = len(frame) - len(packet[layer].original) + offset
            bare[at : at + 2] = bytes(2)
    return bytes(bare)


def test_control_a_checksum_that_stands_elsewhere_in_the_frame_stays_there() -> None:
    """The MAC address of the router has the checksum's value: only the checksum is blotted out."""
    target = "2001:db8:d1::1"
    packet = IPv6(src=THIRD_ADDRESS, dst=target) / TCP(sport=5, dport=6, flags="S")
    checksum = bytes(packet)[40 + 16 : 40 + 18]
    frame = bytes(Ether(dst=(b"\x02\0\0" + checksum + b"\1").hex(":"), src="02:00:00:00:00:03") / packet)
    bare = blotted(frame, target)
    assert bare[:14] == frame[:14]
    assert bare[14 + 40 + 16 : 14 + 40 + 18] == b"\0\0"
    assert [n for n, (one, other) in enumerate(zip(frame, bare, strict=True)) if one != other] == sorted(
        n for n in range(len(frame)) if (38 <= n < 54 or 70 <= n < 72) and frame[n]
    )


async def use_up(node: Node, net: Room) -> str:
    """An SSA that has served its session and was released."""
    server = start_server(node, respond, mode=PortMode.L1)
    ssa = str(await server.issue())
    streams = await legacy.connect(net.legacy, ssa, WP)
    assert await ask(streams, b"something") == answer_to(b"something")
    await end(streams)
    server.close()
    await node.until(lambda: address(ssa) not in node.stack.host.addresses, 10)
    return ssa


@pytest.mark.proves("UM-REL-3", "UM-ADDR-9", "UM-POOL-4")
def test_on_a_routed_prefix_released_and_never_existed_look_the_same(net: Room, artefacts: Path, rng: Random) -> None:
    dora = net.node("dora")
    seed = rng.getrandbits(64)
    alive: list[bytes] = []

    async def main() -> tuple[str, str]:
        prober = Prober(net.top.third_link, net.top.router_server.mac)
        released = await use_up(dora, net)
        never = address_text(address(released)[:8] + rng.randbytes(8))
        assert address(never) not in dora.stack.host.addresses
        for name, target in (("released", released), ("never", never)):
            async with capturing(net.top.third_link, artefacts / f"{name}.pcapng"):
                seen = dora.stack.counters.frames_in
                sent = probes(THIRD_ADDRESS, target, Random(seed))
                prober.send(sent)
                await arrived(dora, seen + len(sent))
                await asyncio.sleep(0.2)
                # Life: the same prober is answered where it may be.
                server = start_server(dora, respond, mode=PortMode.L1)
                ssa = await server.issue(client=THIRD_ADDRESS)
                streams = await legacy.connect(net.top.third, str(ssa), WP)
                alive.append(await ask(streams, b"life"))
                await end(streams)
                server.close()
        prober.close()
        return released, never

    released, never = net.run(main())
    assert alive == [answer_to(b"life")] * 2
    one, other = (normalized(artefacts / f"{n}.pcapng", t) for n, t in (("released", released), ("never", never)))
    assert len(one) == len(probes(THIRD_ADDRESS, never, Random(seed))), "something came back"
    assert one == other, "the captures differ"


@pytest.mark.proves("UM-REL-3", "UM-EA-1", "UM-LIS-6", "UM-LIS-4")
def test_a_live_address_is_as_silent_to_a_third_host_as_one_that_never_existed(
    net: Room, artefacts: Path, rng: Random
) -> None:
    """The EA of a live session, an armed SSA for somebody else, and nothing at all: a stranger cannot tell them apart."""
    dora = net.node("dora")
    seed = rng.getrandbits(64)

    async def main() -> dict[str, str]:
        prober = Prober(net.top.third_link, net.top.router_server.mac)
        server = start_server(dora, respond, mode=PortMode.L1)
        armed = str(await server.issue(client=SERVER_ADDRESS))
        async with legacy.serve(net.legacy, WP, respond):
            streams = await open_connection(dora, SERVER_ADDRESS, WP)
            live = str(streams[1].get_extra_info("sockname")[0])
            targets = {"live": live, "armed": armed, "never": address_text(address(armed)[:8] + rng.randbytes(8))}
            targets["ordinary"] = BOUND
            dora.stack.host.addresses.add(
                address(BOUND), AddressKind.STABLE, dora.now(), trigger=Trigger.ADD_WITHOUT_DAD, per_address_nd=False
            )
            for name, target in targets.items():
                async with capturing(net.top.third_link, artefacts / f"{name}.pcapng"):
                    seen = dora.stack.counters.frames_in
                    sent = probes(THIRD_ADDRESS, target, Random(seed))
                    prober.send(sent)
                    await arrived(dora, seen + len(sent))
                    await asyncio.sleep(0.2)
            assert await ask(streams, b"still alive") == answer_to(b"still alive")
            await end(streams)
        served = await legacy.connect(net.legacy, armed, WP)
        assert await ask(served, b"armed for me") == answer_to(b"armed for me")
        await end(served)
        server.close()
        prober.close()
        return targets

    targets = net.run(main())
    captures = {name: normalized(artefacts / f"{name}.pcapng", target) for name, target in targets.items()}
    assert captures["live"] == captures["never"]
    assert captures["armed"] == captures["never"]
    assert len(captures["ordinary"]) > len(captures["never"]) + 5, (
        "the control: an ordinary address answers most probes"
    )
    assert len(captures["never"]) == len(probes(THIRD_ADDRESS, SERVER_ADDRESS, Random(seed)))


@pytest.mark.proves("UM-ADDR-9", "UM-REL-3")
def test_on_a_shared_link_the_node_says_nothing_about_a_released_address(
    net: Room, artefacts: Path, rng: Random
) -> None:
    """Neighbours probe a released address by every means: DAD, resolution, reachability, packets; only the router speaks."""
    alice = net.node("alice")
    capture = artefacts / "link.pcapng"
    mac = alice.link.properties.mac
    assert mac is not None

    async def main() -> str:
        await alice.ready(2, 15)
        released = await use_up(alice, net)
        prober = Prober(net.top.client_bridge, mac)
        own = net.top.client_bridge.mac
        group = solicited_node(address(released))
        group_text, group_mac = address_text(group), (b"\x33\x33" + group[12:]).hex(":")
        solicit = ICMPv6ND_NS(tgt=released)
        frames = [
            Ether(src=own, dst=group_mac) / IPv6(src="::", dst=group_text, hlim=255) / solicit,
            Ether(src=own, dst=group_mac)
            / IPv6(src=CLIENT_ADDRESS, dst=group_text, hlim=255)
            / solicit
            / ICMPv6NDOptSrcLLAddr(lladdr=own),
            Ether(src=own, dst=mac) / IPv6(src=CLIENT_ADDRESS, dst=released, hlim=255) / solicit,
            *(Ether(src=own, dst=mac) / packet for packet in probes(CLIENT_ADDRESS, released, rng)),
        ]
        link_local = alice.stack.host.link_local
        assert link_local is not None
        permitted = (
            Ether(src=own, dst=mac) / IPv6(src=CLIENT_ADDRESS, dst=address_text(link_local)) / ICMPv6EchoRequest(id=9)
        )
        async with capturing(net.peers["alice"].interface, capture):
            seen = alice.stack.counters.frames_in
            prober.send_frames([*frames, permitted])
            await arrived(alice, seen + len(frames) + 1)
            await asyncio.sleep(0.3)
        prober.close()
        return released

    released = net.run(main())
    packed = address(released)
    with capture.open("rb") as file:
        frames = [bytes(frame) for _, frame in dpkt.pcapng.Reader(file)]
    heard = [f for f in frames if packed in f and f[6:12] != mac]
    said = [f for f in frames if packed in f and f[6:12] == mac]
    assert len(heard) >= 18, "the probes are seen arriving at the node's own link"
    assert said == [], f"the node said {Ether(said[0]).summary()}"
    answers = [Ether(f) for f in frames if f[6:12] == mac]
    assert [a for a in answers if ICMPv6EchoReply in a], "a permitted probe was answered in the same capture"
