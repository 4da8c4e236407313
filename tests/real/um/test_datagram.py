"""UDP against the Linux kernel: names from an unmodified name server, errors of the kernel, many flows (UM-DAS-6, UM-PORT-9)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack
from functools import partial
from ipaddress import IPv6Address
from pathlib import Path
from random import Random
from typing import Any

import dpkt
import pytest

from compat.kernel.topology import SERVER_ADDRESS
from compat.programs.dnsmasq import name_server
from compat.programs.radvd import Advertisement, router_advertiser
from tests.unit.unimux.lan import in_use
from unimux.aio import open_connection
from unimux.errors import NameNotResolved

from ..datagrams import TABLE_PATIENCE
from ..wire import capturing
from . import legacy
from .cells import WP
from .judge import frames, sound
from .room import PROGRAMS, Room, room
from .talk import answer_to, ask, end, respond

pytestmark = pytest.mark.real(*PROGRAMS, "dnsmasq")
NAMES = {"files.example": [SERVER_ADDRESS], "two.example": [SERVER_ADDRESS, "2001:db8:2::81"]}


@pytest.fixture(scope="module")
def net() -> Iterator[Room]:
    with room("alice", "dora") as made:
        yield made


def datagrams(capture: Path) -> list[tuple[str, int, str, int, bytes]]:
    """Source, port, destination, port and data of each UDP datagram."""
    return [
        (str(IPv6Address(p.src)), p.data.sport, str(IPv6Address(p.dst)), p.data.dport, bytes(p.data.data))
        for _, _, p in frames(capture)
        if isinstance(p.data, dpkt.udp.UDP)
    ]


@pytest.mark.proves("UM-DAS-6", "UM-NODE-1", "RFC8504-7/1", "RFC8504-8.3")
def test_names_are_asked_of_the_server_that_the_router_announces(net: Room, artefacts: Path, rng: Random) -> None:
    """Each question leaves from an address and port of its own, and the connection from yet another one."""
    capture = artefacts / "server.pcapng"

    async def main() -> dict[str, Any]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(name_server(net.legacy, NAMES))
            announcement = Advertisement(net.top.router_server, "2001:db8:2::/64", rdnss=[SERVER_ADDRESS])
            bob = await net.attach("newcomer", stack, rng)
            await stack.enter_async_context(router_advertiser_again(net, announcement))
            await bob.until(lambda: bool(bob.stack.host.rdnss), 15)
            await bob.ready(6, 15)
            await stack.enter_async_context(capturing(net.top.server_bridge, capture))
            await stack.enter_async_context(legacy.serve(net.legacy, WP, respond))
            assert await bob.resolve("files.example", timeout=5) == [IPv6Address(SERVER_ADDRESS).packed]
            assert len(await bob.resolve("TWO.example.", timeout=5)) == 2
            with pytest.raises(NameNotResolved, match="no such name"):
                await bob.resolve("missing.example", timeout=5)
            streams = await open_connection(bob, "files.example", WP)
            assert await ask(streams, b"by name") == answer_to(b"by name")
            source = streams[1].get_extra_info("sockname")[0]
            await end(streams)
            await bob.until(lambda: not in_use(bob), 90)
            return {"source": source}

    result = net.run(main())
    sound(capture)
    questions = [
        (src, sport) for src, sport, dst, dport, _ in datagrams(capture) if dport == 53 and dst == SERVER_ADDRESS
    ]
    assert len(questions) >= 4
    assert len({src for src, _ in questions}) == len(questions), "an address served two questions"
    assert result["source"] not in {src for src, _ in questions}
    answered = [
        (dst, dport) for src, sport, dst, dport, _ in datagrams(capture) if sport == 53 and src == SERVER_ADDRESS
    ]
    assert sorted(answered) == sorted(questions)


def router_advertiser_again(net: Room, announcement: Advertisement) -> Any:
    """A second advertiser on the router's server link, which also announces a name server."""
    return router_advertiser(net.top.router, announcement)


@pytest.mark.proves("UM-DAS-6", "UM-NODE-3")
def test_a_hundred_flows_to_one_kernel_socket(net: Room, artefacts: Path, rng: Random) -> None:
    capture = artefacts / "server.pcapng"
    dora = net.node("dora")
    said = [rng.randbytes(rng.randrange(1, 1200)) for _ in range(100)]

    async def main() -> None:
        async with capturing(net.top.server_bridge, capture), legacy.answering(net.legacy, 7777, answer_to):
            remote = IPv6Address(SERVER_ADDRESS).packed
            exchange = partial(dora.datagrams.exchange, remote, timeout=TABLE_PATIENCE, port=7777)
            await exchange(b"first")
            assert await asyncio.gather(*map(exchange, said)) == [answer_to(data) for data in said]
        assert in_use(dora) == []

    net.run(main())
    sound(capture)
    seen = [(src, data) for src, _, _, dport, data in datagrams(capture) if dport == 7777]
    assert sorted(data for _, data in seen) == sorted([*said, b"first"])
    assert len({src for src, _ in seen}) == 101


@pytest.mark.proves("UM-PORT-9", "UM-DAS-6")
def test_the_kernels_port_unreachable_ends_one_exchange_and_no_other(net: Room, artefacts: Path) -> None:
    capture = artefacts / "server.pcapng"
    dora = net.node("dora")

    async def main() -> None:
        remote = IPv6Address(SERVER_ADDRESS).packed
        silent = legacy.kernel_socket(net.legacy, socket.SOCK_DGRAM)
        silent.bind(("::", 7778))
        async with capturing(net.top.server_bridge, capture):
            waiting = asyncio.ensure_future(dora.datagrams.exchange(remote, b"?", 1.5, port=7778))
            with pytest.raises(ConnectionRefusedError):
                await dora.datagrams.exchange(remote, b"?", 20.0, port=7779)
            with pytest.raises(TimeoutError):
                await waiting
        silent.close()
        assert in_use(dora) == []

    net.run(main())
    ports = [p.data.data for _, _, p in frames(capture) if isinstance(p.data, dpkt.icmp6.ICMP6) and p.data.type == 1]
    assert len(ports) == 1, "the kernel said once that nobody listens"
