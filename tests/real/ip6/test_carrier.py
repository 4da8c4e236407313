"""A TAP that is set down and up again, as the kernel tells it (ST-LINK-1, ST-IP6-6)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from compat import kernel
from tapstack.events import LinkNotice
from tapstack.ipv6.addresses import AddressKind
from tapstack.types import address_text

from .lan import KERNEL, PREFIX, Lan, lan
from .test_kernel_neighbour import echo

pytestmark = pytest.mark.real()


@pytest.fixture
def net() -> Iterator[Lan]:
    with lan() as made:
        yield made


@pytest.mark.proves("ST-LINK-1", "ST-IP6-6", "UM-ADDR-10")
def test_the_host_hears_of_it_and_begins_anew(net: Lan) -> None:
    port = kernel.Interface(net.middle, "tap-ip6")
    told: list[str] = []
    net.driver.stack.events.subscribe(lambda event: told.append(event.cause) if isinstance(event, LinkNotice) else None)

    async def main() -> None:
        assert await echo(net, net.stable, b"before") == b"before"
        reserved = await net.reserved(PREFIX + "abcd:1:2:3")
        used = await net.reserved(PREFIX + "abcd:4:5:6")
        net.host.addresses.take(used, AddressKind.STABLE, net.now, "test")
        port.down()
        await net.until(lambda: told == ["the carrier is gone"])
        assert not list(net.host.neighbors)
        port.up()
        await net.until(lambda: told == ["the carrier is gone", "the carrier is back"])
        assert (reserved.state, used.state) == ("INVALID", "PREFERRED")
        await net.until(lambda: net.host.dad.pending == 0)
        for text in (net.stable, PREFIX + "abcd:4:5:6"):
            assert await echo(net, text, b"after") == b"after"
        assert KERNEL in {address_text(neighbor.address) for neighbor in net.host.neighbors}

    net.run(main())
