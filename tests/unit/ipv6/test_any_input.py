"""A frame can be anything: nothing raises, loops, grows without bound, or leaves from an address outside its lifetime (stack.md).

The bench checks the invariants of the tables after each frame and timer, and the source of every frame that leaves.
"""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import (
    HBHOptUnknown,
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6MLQuery,
    ICMPv6MLQuery2,
    ICMPv6MLReport,
    ICMPv6ND_Redirect,
    ICMPv6NDOptRouteInfo,
    ICMPv6PacketTooBig,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    RouterAlert,
)
from scapy.packet import Raw

from tapstack.ipv6.addresses import AddressEntry, AddressError, AddressKind, AddressState
from tapstack.ipv6.config import HostConfig
from tapstack.types import address, address_text
from tapstack.udp.layer import Udp
from tests.unit.ipv6.bench import (
    OFF_LINK,
    PREFIX,
    ROUTER,
    STRANGER,
    Bench,
    User,
    advertisement,
    neighbor_advertisement,
    probe,
    solicitation,
    to_group,
    to_us,
)

SMALL = HostConfig(
    dad_initial_delay=0.0,
    neighbors=8,
    neighbors_incomplete=3,
    neighbor_queue=3,
    default_routers=3,
    prefixes=3,
    routes=3,
    rdnss=2,
    paths=5,
    path_mtus=3,
    reassemblies=3,
    reassemblies_per_source=2,
    fragments_per_packet=4,
    fragments_bytes=4000,
)
"""Tables so small that every bound is met."""

UNCERTAIN = PREFIX + "abcd:1234:5678"
TAKEN = PREFIX + "abcd:1234:9999"


class World(Bench):
    """A bench with an address in every state, UDP, and small tables."""

    def __init__(self, *, vnet: bool = False) -> None:
        super().__init__(SMALL, vnet=vnet)
        self.udp = Udp(self.host)
        self.host.upper[6] = lambda packet, now: None
        self.settle()
        self.own = self.stable
        """It may go, with what its router says."""
        self.flow = self.udp.open(self.own, self.now, local_port=5000)
        self.reserve(UNCERTAIN)
        self.ephemeral(TAKEN, STRANGER)
        self.serial = 0

    def bounded(self) -> None:
        """Every table is within its bound."""
        host = self.host
        assert len(host.neighbors) <= SMALL.neighbors
        assert len(host.routes.default_routers) <= SMALL.default_routers
        assert len(host.routes.more_specific) <= SMALL.routes
        assert len(host.prefixes) <= SMALL.prefixes
        assert len(host.rdnss) <= SMALL.rdnss
        assert len(host.routes.mtus) <= SMALL.path_mtus
        assert len(host.routes._redirects) <= SMALL.paths
        assert len(host.routes) <= SMALL.paths
        assert len(host.reassembler) <= SMALL.reassemblies
        assert host.reassembler.bytes_held <= SMALL.fragments_bytes
        assert len(self.timers) < 100


@cache
def corpus() -> tuple[bytes, ...]:
    """Valid frames of every kind that the host knows, as material to break."""
    us = address_text(World().own.address)
    head = to_us(STRANGER, us)
    alert = IPv6ExtHdrHopByHop(options=[RouterAlert()])
    quoted = IPv6(src=us, dst=OFF_LINK) / UDP(sport=5000, dport=53) / Raw(bytes(8))
    packets = [
        head / ICMPv6EchoRequest(data=b"ping"),
        head / UDP(sport=9, dport=5000) / Raw(b"data"),
        head / UDP(sport=9, dport=5001) / Raw(b"data"),
        head / TCP(sport=9, dport=80),
        head / IPv6ExtHdrDestOpt(options=[HBHOptUnknown(otype=0x9E)]) / ICMPv6EchoRequest(),
        head / IPv6ExtHdrRouting(type=0, segleft=1, addresses=[STRANGER]) / UDP(),
        head / IPv6ExtHdrFragment(id=1, m=1, nh=17) / Raw(bytes(64)),
        head / IPv6ExtHdrFragment(id=1, offset=8, m=0, nh=17) / Raw(bytes(64)),
        head / ICMPv6DestUnreach() / quoted,
        head / ICMPv6PacketTooBig(mtu=1300) / quoted,
        to_us(STRANGER, UNCERTAIN) / ICMPv6EchoRequest(),
        to_us(STRANGER, TAKEN) / ICMPv6EchoRequest(),
        probe(UNCERTAIN),
        probe(TAKEN),
        solicitation(us),
        solicitation(UNCERTAIN),
        neighbor_advertisement(STRANGER),
        neighbor_advertisement(UNCERTAIN),
        neighbor_advertisement(TAKEN),
        neighbor_advertisement(ROUTER, R=0),
        advertisement(ICMPv6NDOptRouteInfo(prefix="2001:db8:5::", plen=48, rtlifetime=60), mtu=1400, rdnss=(OFF_LINK,)),
        advertisement(valid=0, preferred=0, lifetime=0),
        to_us(ROUTER, us, hlim=255) / ICMPv6ND_Redirect(tgt="fe80::5", dst=OFF_LINK),
        to_group(ROUTER, "ff02::1", hlim=1) / alert / ICMPv6MLQuery2(mrd=100),
        to_group(ROUTER, "ff02::1", hlim=1) / alert / ICMPv6MLQuery(mrd=100),
        to_group(STRANGER, "ff02::1:ff34:5678", hlim=1) / alert / ICMPv6MLReport(mladdr="ff02::1:ff34:5678"),
    ]
    return tuple(bytes(packet) for packet in packets)


def repaired(frame: bytes) -> bytes:
    """The frame with a right ICMPv6 checksum, where one stands directly behind the fixed header: past that gate."""
    if len(frame) < 58 or frame[20] != 58:
        return frame
    body = bytearray(frame[54:])
    body[2:4] = b"\0\0"
    pseudo = frame[22:54] + len(body).to_bytes(4, "big") + b"\0\0\0\x3a"
    total = int.from_bytes(pseudo + bytes(body) + bytes(len(body) % 2), "big") % 65535
    body[2:4] = (65535 - total if total else 0).to_bytes(2, "big")
    return frame[:18] + len(body).to_bytes(2, "big") + frame[20:54] + bytes(body)


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """Anything from noise to a valid frame with a few bytes changed."""
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return draw(st.binary(max_size=200))
    frame = bytearray(draw(st.sampled_from(corpus())))
    if kind < 6:
        for _ in range(draw(st.integers(0, 4))):
            frame[draw(st.integers(12 if kind > 2 else 54, len(frame) - 1))] = draw(st.integers(0, 255))
    if kind == 6:
        del frame[draw(st.integers(0, len(frame))) :]
    if kind == 7:
        at = draw(st.integers(14, len(frame)))
        frame[at:at] = draw(st.binary(max_size=64))
    if kind == 8:
        other = draw(st.sampled_from(corpus()))
        frame = frame[: draw(st.integers(14, len(frame)))] + other[draw(st.integers(14, len(other))) :]
    return repaired(bytes(frame)) if draw(st.booleans()) else bytes(frame)


steps = st.one_of(
    frames().map(lambda frame: ("frame", frame)),
    st.sampled_from([0.0, 0.01, 0.5, 1.0, 5.0, 30.0, 61.0, 700.0, 8000.0]).map(lambda seconds: ("time", seconds)),
    st.sampled_from(["reserve", "take", "drop", "send", "link down", "link up", "query"]).map(
        lambda what: ("do", what)
    ),
)


def act(world: World, what: str) -> None:
    """Something that the floors above do."""
    host = world.host
    if what == "reserve":
        world.serial += 1
        usable = [prefix for prefix in host.prefixes if prefix.preferred and prefix.autonomous]
        if usable:
            host.reserve(usable[0].prefix[:8] + world.serial.to_bytes(8, "big"), usable[0], world.now)
    elif what == "take":
        for entry in host.addresses:
            if entry.state is AddressState.UNCERTAIN:
                host.addresses.take(entry, AddressKind.EPHEMERAL, world.now, "test")
                host.addresses.acquire(entry, User(STRANGER))
                break
    elif what == "drop":
        for entry in host.addresses:
            if entry.kind is AddressKind.EPHEMERAL and entry.users:
                host.addresses.drop(entry, next(iter(entry.users)), world.now, "test")
                break
    elif what == "send" and world.own.address in host.addresses:
        host.send(world.own.address, address(OFF_LINK), 17, [bytes(3000)], world.now)
    elif what == "link down":
        host.link_down(world.now)
    elif what == "link up":
        host.link_up(world.now)


@settings(max_examples=150)
@given(st.booleans(), st.lists(steps, min_size=5, max_size=60))
def test_any_sequence_of_frames_calls_and_time(vnet: bool, sequence: list[tuple[str, object]]) -> None:
    world = World(vnet=vnet)
    for kind, value in sequence:
        before = len(world.out)
        if kind == "frame":
            assert isinstance(value, bytes)
            world.feed(value)
            # One frame draws a bounded number of frames: an answer, a defence, what waited for a neighbour, fragments.
            assert len(world.out) - before <= 12
        elif kind == "time":
            assert isinstance(value, float)
            world.run(value)
        else:
            assert isinstance(value, str)
            act(world, value)
        world.check()
        world.bounded()


@settings(max_examples=300)
@given(st.binary(max_size=128), st.booleans())
def test_any_bytes(data: bytes, vnet: bool) -> None:
    world = bench_of(vnet)
    world.host.input(data, world.now)
    world.host.input(bytes.fromhex("020000000001020000000066") + b"\x86\xdd" + data, world.now)
    world.host.input(memoryview(bytearray(data)), world.now)


@cache
def bench_of(vnet: bool) -> World:
    return World(vnet=vnet)


@settings(max_examples=200)
@given(st.integers(0, 255), st.binary(max_size=96), st.sampled_from(["ours", "uncertain", "all nodes", "solicited"]))
def test_any_next_header_and_content_behind_a_good_header(next_header: int, data: bytes, dst: str) -> None:
    world = bench_of(False)
    targets = {
        "ours": to_us(STRANGER, address_text(world.own.address), hlim=255),
        "uncertain": to_us(STRANGER, UNCERTAIN, hlim=255),
        "all nodes": to_group(STRANGER, "ff02::1", hlim=255),
        "solicited": to_group(STRANGER, "ff02::1:ff34:5678", hlim=255),
    }
    head = targets[dst]
    head[IPv6].nh = next_header
    frame = repaired(bytes(head / Raw(data)))
    before = len(world.out)
    world.host.input(frame, world.now)
    if dst == "uncertain":
        assert len(world.out) == before


@pytest.mark.parametrize("frame", corpus())
def test_every_single_byte_of_a_valid_frame_changed(frame: bytes) -> None:
    world = bench_of(False)
    for at in range(12, len(frame)):
        for value in (0, 1, 0x7F, 0x80, 0xFF, frame[at] ^ 1):
            changed = bytearray(frame)
            changed[at] = value
            world.host.input(bytes(changed), world.now)
            world.host.input(repaired(bytes(changed)), world.now)
    world.check()
    world.bounded()


def test_the_oracle_sees_what_it_should() -> None:
    """The control: a host that sent from a reserved address would fail every test of this file."""
    world = World()
    entry = world.host.addresses.get(address(UNCERTAIN))
    assert isinstance(entry, AddressEntry)
    with pytest.raises(AssertionError, match="outside its lifetime"):
        world.host.send(entry.address, address(OFF_LINK), 17, [bytes(8)], world.now)
    with pytest.raises(AddressError):
        world.host.addresses.acquire(entry, User(None))
