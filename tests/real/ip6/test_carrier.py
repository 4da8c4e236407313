"""A TAP that is set down and up again, as the kernel tells it (ST-LINK-1, ST-IP6-6)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat import kernel
from scenarios.witness.frames import Kind, Solicitation
from tapstack.events import LinkNotice
from tapstack.ipv6.addresses import AddressKind
from tapstack.link.tap import open_tap
from tapstack.types import address, address_text

from ..wire import advertisements, after, captured, echoes, frames, probes
from .lan import KERNEL, PREFIX, Lan, echo, lan

pytestmark = pytest.mark.real("dumpcap")

RESERVED, USED = PREFIX + "abcd:1:2:3", PREFIX + "abcd:4:5:6"


@pytest.fixture
def net() -> Iterator[Lan]:
    with lan() as made:
        yield made


@pytest.mark.proves("ST-LINK-1", "ST-IP6-6", "UM-ADDR-10")
def test_the_host_hears_of_it_and_begins_anew(net: Lan, artefacts: Path) -> None:
    port = kernel.Interface(net.middle, "tap-ip6")
    told: list[str] = []
    net.driver.stack.events.subscribe(lambda event: told.append(event.cause) if isinstance(event, LinkNotice) else None)

    async def main() -> None:
        assert await echo(net, net.stable, b"before") == b"before"
        reserved = await net.reserved(RESERVED)
        used = await net.reserved(USED)
        net.host.addresses.take(used, AddressKind.STABLE, net.now, "test")
        port.down()
        await net.until(lambda: told == ["the carrier is gone"])
        assert not list(net.host.neighbors)
        port.up()
        await net.until(lambda: told == ["the carrier is gone", "the carrier is back"])
        assert (reserved.state, used.state) == ("INVALID", "PREFERRED")
        await net.until(lambda: net.host.dad.pending == 0)
        for text in (net.stable, USED):
            assert await echo(net, text, b"after") == b"after"
        assert KERNEL in {address_text(neighbor.address) for neighbor in net.host.neighbors}

    with captured(net.port, artefacts / "peer.pcapng") as path:
        net.run(main())
    seen = frames(path)
    before, later = (f for f in echoes(seen, Kind.ECHO_REPLY, src=net.stable))
    # What was in use is tested again, under another nonce, before it speaks; what was only reserved is not seen again.
    once, again = probes(seen, USED)
    assert before.order < again.order < next(f.order for f in seen if f.src == address(USED))
    nonces = [f.message.nonce for f in (once, again) if isinstance(f.message, Solicitation)]
    assert len(nonces) == len(set(nonces)) == 2
    (retested,) = probes(seen, net.stable)
    assert before.order < retested.order < later.order
    assert len(probes(seen, RESERVED)) == 1
    assert not [f for f in after(seen, before) if f.src == address(RESERVED)] + advertisements(seen, RESERVED)


@pytest.mark.proves("ST-LINK-1", "UM-ADDR-10", by="api")
def test_news_that_found_no_room_is_asked_for() -> None:
    """More changes than the netlink socket's buffer holds: the kernel drops the newest, and tells no more until the next."""
    with kernel.namespace("carrier") as where:
        with kernel.in_namespace(where):
            link = open_tap("flaps", mac=bytes([2, 0, 0, 0, 0, 9]))
        port = kernel.Interface(where, "flaps")
        link._carrier._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        told: list[bool] = []

        async def main() -> None:
            news = asyncio.Event()

            def changed(up: bool) -> None:
                told.append(up)
                news.set()

            link.attach(asyncio.get_running_loop(), lambda: None)
            link.watch(changed)
            for change, expected in ((port.down, [False]), (port.up, [False, True]), (port.down, [False, True, False])):
                for mtu in range(1400, 1420):  # which says that the carrier is as it was, and fills the buffer
                    port.set_mtu(mtu)
                change()
                async with asyncio.timeout(10):
                    while told != expected:
                        news.clear()
                        await news.wait()
            link.close()

        asyncio.run(main())
