"""RFC 9131, both ways (UM-ADDR-8): a Linux router that takes unsolicited advertisements, and one that does not."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from ipaddress import IPv6Address
from pathlib import Path
from random import Random

import dpkt
import pytest
from pyroute2 import IPRoute
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, IPv6
from scapy.layers.l2 import Ether

from compat.kernel import sysctl
from compat.kernel.topology import SERVER_ADDRESS
from scenarios.bench.overflows import FORCED, FULL, overflows
from tapstack.ipv6.addresses import AddressKind, AddressState
from tapstack.types import address, address_text, solicited_node
from tests.unit.unimux.lan import eventually
from unimux.aio import open_connection

from ..wire import capturing, questions
from ..wire import frames as wire_frames
from . import legacy
from .cells import WP
from .judge import segments, sessions
from .room import PROGRAMS, Room, room
from .talk import answer_to, ask, end, respond

pytestmark = pytest.mark.real(*PROGRAMS)
ALL_ROUTERS = "ff02::2"


@pytest.fixture(scope="module")
def net() -> Iterator[Room]:
    with room("alice") as made:
        yield made


def scapy_frames(capture: Path) -> list[tuple[int, Ether]]:
    """Number and scapy's reading of each frame."""
    with capture.open("rb") as file:
        return [(number, Ether(frame)) for number, (_, frame) in enumerate(dpkt.pcapng.Reader(file), 1)]


def known_to_the_router(net: Room) -> set[str]:
    """The addresses for which the router's neighbour cache has a link-layer address."""

    def read(route: IPRoute) -> set[str]:
        rows = route.get_neighbours(socket.AF_INET6)
        return {row.get_attr("NDA_DST") for row in rows if row.get_attr("NDA_LLADDR")}

    return net.top.router.netlink(read, "read the neighbours")


@pytest.mark.proves("UM-ADDR-8", "UM-NODE-1")
@pytest.mark.parametrize("accepts", [0, 1, 2])
def test_the_router_knows_or_asks(net: Room, accepts: int, artefacts: Path, rng: Random) -> None:
    capture = artefacts / "router.pcapng"
    alice = net.node("alice")
    request = rng.randbytes(2000)
    known: list[bool] = []

    async def main() -> str:
        async with capturing(net.top.router_client, capture), legacy.serve(net.legacy, WP, respond):
            await alice.ready(4, 15)
            streams = await open_connection(alice, SERVER_ADDRESS, WP)
            source = str(streams[1].get_extra_info("sockname")[0])
            assert await ask(streams, request) == answer_to(request)
            await end(streams)
            # An address that is taken and says nothing: only the promotion can have told the router.
            reserved = {
                address_text(e.address) for e in alice.stack.host.addresses if e.state is AddressState.UNCERTAIN
            }
            known.append(bool(reserved & known_to_the_router(net)))
            entry = await alice.take_address(AddressKind.EPHEMERAL, address(SERVER_ADDRESS), timeout=15)
            taken = address_text(entry.address)
            assert taken in reserved
            with suppress(TimeoutError):
                await eventually(lambda: taken in known_to_the_router(net), 20 if accepts else 0.4)
            known.append(taken in known_to_the_router(net))
            alice.stack.host.addresses.release(entry, alice.now(), "test")
        return source

    # The router notes a neighbour only where the table, which is the whole machine's, has room for it and keeps it.
    with (
        sysctl(net.top.router, "ipv6/conf/client/accept_untracked_na", accepts),
        overflows(columns=(FULL, FORCED)) as table,
    ):
        source = net.run(main())
        noted = table is None or not table.risen()
    told = "reserved: never known; promoted: known where the router takes part"
    assert known == [False, bool(accepts)] or (known == [False, False] and not noted), told
    frames = scapy_frames(capture)
    promotions = [
        n for n, f in frames if ICMPv6ND_NA in f and f[IPv6].dst == ALL_ROUTERS and f[ICMPv6ND_NA].tgt == source
    ]
    assert len(promotions) == 1
    advertisement = frames[promotions[0] - 1][1][ICMPv6ND_NA]
    assert (advertisement.O, advertisement.S) == (0, 0)
    session = next(s for s in sessions(segments(capture), by_ports=True) if s.client == source)
    assert session.request == request
    assert session.syn_ack is not None
    assert promotions[0] < session.syn.number, "the promotion comes before the first packet"
    group = solicited_node(IPv6Address(source).packed)
    asked = [
        f.number
        for f in questions(wire_frames(capture), source)
        if f.dst == group and f.number < session.syn_ack.number
    ]
    if accepts:
        assert asked == [] or not noted, "a router that took the promotion has nothing to ask"
    else:
        assert asked, "a router that takes no part must ask before it delivers"
        assert session.syn.number < asked[0]


@pytest.mark.proves("UM-ADDR-8")
def test_reserving_announces_nothing(net: Room, artefacts: Path, rng: Random) -> None:
    capture = artefacts / "router.pcapng"

    async def main() -> None:
        async with capturing(net.top.router_server, capture), AsyncExitStack() as stack:
            newcomer = await net.attach("newcomer", stack, rng)
            await newcomer.ready(4, 15)

    net.run(main())
    frames = [frame for _, frame in scapy_frames(capture)]
    probes = {f[ICMPv6ND_NS].tgt for f in frames if ICMPv6ND_NS in f and f[IPv6].src == "::"}
    reserved = {target for target in probes if not target.startswith("fe80:")}
    assert len(reserved) >= 4
    assert [f for f in frames if ICMPv6ND_NA in f and f[ICMPv6ND_NA].tgt in reserved] == []
