"""A shared secret whose server's link and prefixes come and go: no counter is lost that another node has not claimed (UM-GEN-5).

What was tested for duplicates, and who answered where, is read from the frames.
"""

from __future__ import annotations

import asyncio
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path

import pytest
from scapy.layers.inet import TCP
from scapy.layers.inet6 import ICMPv6ND_NS, IPv6
from scapy.layers.l2 import Ether

from tapstack.ipv6.addresses import AddressState
from tapstack.link.memory import MemoryLink
from tests.unit.ipv6.bench import neighbor_advertisement
from tests.unit.unimux.lan import Lan, lan, virtual
from tests.unit.unimux.router import OTHER_PREFIX, TWO_HOURS, Router
from tests.unit.unimux.test_secret import NETWORK, SHARED, Service, client_of, mac_of, talk
from unimux.node import Node
from unimux.ssa.counters import CounterFile, MemoryCounters
from unimux.ssa.secret import SecretWindow
from unimux.ssa.secretclient import SecretClient

OTHER = IPv6Network(f"{OTHER_PREFIX}/64")


async def stage(net: Lan) -> tuple[Service, Node, Router]:
    """A service and a client's node, with addresses in the prefix of a router."""
    bob, alice = await net.node(advertised=True), await net.node(advertised=True)
    await asyncio.sleep(5)
    router = Router(net)
    await asyncio.gather(bob.ready(4, 60), alice.ready(4, 60))
    return Service(bob), alice, router


def probed(net: Lan, node: Node, since: float = 0.0) -> dict[str, int]:
    """How often a node tested each address for duplicates from then on."""
    counts: dict[str, int] = {}
    for when, packet in net.packets(ICMPv6ND_NS):
        if when >= since and packet[Ether].src == mac_of(node) and packet[IPv6].src == "::":
            counts[packet[ICMPv6ND_NS].tgt] = counts.get(packet[ICMPv6ND_NS].tgt, 0) + 1
    return counts


def counters_of(addresses: dict[str, int], network: IPv6Network = NETWORK) -> list[int]:
    """The first 64 counters whose addresses these are."""
    return [n for n in range(64) if str(SHARED.address(network, n)) in addresses]


async def filled(service: Service, window: SecretWindow, armed: list[int], reserved: list[int]) -> None:
    """Wait until the window stands so, and DAD has passed."""
    await service.armed(window, armed)
    await asyncio.sleep(5)
    assert (window.armed, window.reserved) == (armed, reserved)


@pytest.mark.proves("UM-GEN-5", "UM-ADDR-10")
@pytest.mark.parametrize("away", [0.1, 20.0])
def test_a_link_that_flaps_costs_no_counter(away: float) -> None:
    async def main() -> None:
        async with lan() as net:
            bob, alice = Service(await net.node()), await net.node()
            window = bob.window(MemoryCounters())
            await filled(bob, window, [0, 1, 2, 3], [4, 5, 6, 7])
            assert isinstance(bob.node.link, MemoryLink)
            for _ in range(12):
                bob.node.link.plug(False)
                await asyncio.sleep(away)
                bob.node.link.plug(True)
                await asyncio.sleep(10)
            assert (window.armed, window.reserved) == ([0, 1, 2, 3], [4, 5, 6, 7])
            assert counters_of(probed(net, bob.node)) == list(range(8)), (
                "the same ones were tested again, and no others"
            )
            assert probed(net, bob.node)[str(SHARED.address(NETWORK, 7))] == 13
            client = client_of(alice)
            for counter in range(9):
                await talk(client)
                assert client.attempts[-1] == (counter, None)
            assert len(client.attempts) == 9, "every first try led to the server"
            assert not [cause for cause in bob.causes if "skipped" in cause]

    virtual(main())


@pytest.mark.proves("UM-GEN-5", "UM-ADDR-11")
def test_a_prefix_that_is_deprecated_and_preferred_again_costs_no_counter() -> None:
    async def main() -> None:
        async with lan() as net:
            bob, alice, router = await stage(net)
            window = bob.window(MemoryCounters())
            await filled(bob, window, [0, 1, 2, 3], [4, 5, 6, 7])
            client = client_of(alice)
            await talk(client)
            for _ in range(12):
                router.deprecate()
                await asyncio.sleep(30)
                assert (window.armed, window.reserved) == ([], [])
                router.prefer()
                await filled(bob, window, [1, 2, 3, 4], [5, 6, 7, 8])
            assert counters_of(probed(net, bob.node)) == list(range(9))
            for counter in range(1, 10):
                await talk(client)
                assert client.attempts[-1] == (counter, None)
            assert len(client.attempts) == 10

    virtual(main())


@pytest.mark.proves("UM-GEN-5", "UM-ADDR-11")
def test_in_another_prefix_the_window_begins_where_the_sessions_ended_and_no_identifier_serves_twice() -> None:
    async def main() -> None:
        async with lan() as net:
            bob, alice, router = await stage(net)
            window = bob.window(MemoryCounters())
            await filled(bob, window, [0, 1, 2, 3], [4, 5, 6, 7])
            counters = MemoryCounters()
            here, there = client_of(alice, counters), SecretClient(alice, SHARED, OTHER, counters)
            await talk(here)
            for n in range(6):
                router.prefer(OTHER_PREFIX)
                router.deprecate()
                first = 2 * n + 1
                await asyncio.sleep(10)
                await filled(bob, window, list(range(first, first + 4)), list(range(first + 4, first + 8)))
                await talk(there)
                assert there.attempts == [(2 * m + 1, None) for m in range(n + 1)]
                router.prefer()
                router.deprecate(OTHER_PREFIX)
                first += 1
                await asyncio.sleep(10)
                assert window.armed == list(range(first, first + 4))
                gone = SHARED.address(NETWORK, first - 1).packed
                assert gone not in bob.node.stack.host.addresses, "its counter has served in the other prefix"
                await talk(here)
                assert here.attempts == [(2 * m, None) for m in range(n + 2)]
            answers = {p[IPv6].src for _, p in net.packets(TCP) if p[TCP].flags == "SA"}
            identifiers = {IPv6Address(each).packed[8:] for each in answers}
            assert len(identifiers) == len(answers) == 13

    virtual(main())


@pytest.mark.proves("UM-GEN-5", "UM-ADDR-6")
def test_a_counter_that_another_node_claims_is_skipped_and_stays_so_when_the_link_flaps() -> None:
    async def main() -> None:
        async with lan() as net:
            bob = Service(await net.node())
            window = bob.window(MemoryCounters())
            await filled(bob, window, [0, 1, 2, 3], [4, 5, 6, 7])
            lost = str(SHARED.address(NETWORK, 5))
            stranger = net.switch.connect(bytes.fromhex("020000000066"))
            stranger.send([bytes(neighbor_advertisement(lost, src="fe80::66"))])
            await asyncio.sleep(10)
            assert window.reserved == [4, 6, 7, 8]
            since = bob.node.now()
            assert isinstance(bob.node.link, MemoryLink)
            for _ in range(3):
                bob.node.link.plug(False)
                bob.node.link.plug(True)
                await asyncio.sleep(10)
            assert window.reserved == [4, 6, 7, 8]
            assert lost not in probed(net, bob.node, since)
            skipped = [cause for cause in bob.causes if "skipped" in cause]
            assert skipped == ["counter 5 skipped: another node has its address"]

    virtual(main())


@pytest.mark.proves("UM-ADDR-9", "UM-GEN-5")
def test_an_address_that_was_in_use_until_its_prefix_expired_never_comes_again(tmp_path: Path) -> None:
    """Neither when the prefix is advertised anew nor after a restart; those that were only reserved do."""

    async def main() -> None:
        async with lan() as net:
            bob, alice, router = await stage(net)
            path = tmp_path / "record.json"
            window = bob.window(CounterFile(path))
            await filled(bob, window, [0, 1, 2, 3], [4, 5, 6, 7])
            router.deprecate()
            first = SHARED.address(NETWORK, 0).packed
            table = bob.node.stack.host.addresses
            await asyncio.sleep(10)
            entry = table.get(first)
            assert entry is not None and entry.state is AddressState.DEPRECATED
            await bob.node.until(lambda: first not in table, TWO_HOURS + 60)
            since = bob.node.now()
            router.prefer()
            await filled(bob, window, [4, 5, 6, 7], [8, 9, 10, 11])
            window.close(bob.node.now())
            await asyncio.sleep(5)
            again = bob.window(CounterFile(path))
            await filled(bob, again, [4, 5, 6, 7], [8, 9, 10, 11])
            assert counters_of(probed(net, bob.node, since)) == list(range(4, 12))
            client = client_of(alice)
            await talk(client)
            assert [counter for counter, _ in client.attempts] == [0, 1, 2, 3, 5], (
                "what was used up so is searched over"
            )
            again.close(bob.node.now())
            with CounterFile(path) as record:
                assert record.ended == {}, "what the sessions have passed is not remembered"

    virtual(main())


@pytest.mark.proves("UM-ADDR-9", "UM-GEN-5", "UM-GEN-6")
def test_where_claims_were_lost_the_window_passes_over_all_that_it_had_reserved() -> None:
    """Its own record says how far it was; the client's search covers that."""

    async def main() -> None:
        async with lan() as net:
            bob, alice = Service(await net.node()), await net.node()
            counters = MemoryCounters(used=4, reserved=16)  # of another key epoch
            window = bob.window(counters)
            await filled(bob, window, [16, 17, 18, 19], [20, 21, 22, 23])
            assert counters_of(probed(net, bob.node)) == list(range(16, 24))
            client = client_of(alice, MemoryCounters(used=4))
            await talk(client)
            assert 16 <= client.counters.used < 20

    virtual(main())


@pytest.mark.proves("UM-GEN-5", by="api")
def test_a_node_that_stops_ends_no_appointment() -> None:
    async def main() -> None:
        counters = MemoryCounters()
        async with lan() as net:
            bob = Service(await net.node())
            await filled(bob, bob.window(counters), [0, 1, 2, 3], [4, 5, 6, 7])
        assert (counters.used, counters.ended) == (-1, {})

    virtual(main())


@pytest.mark.proves("UM-GEN-5", "UM-POOL-1")
def test_a_window_whose_listener_is_closed_uses_up_no_more_counters(tmp_path: Path) -> None:
    """Its record is free, and whoever serves next goes on where the sessions ended."""
    record = tmp_path / "record.json"

    async def main() -> None:
        async with lan() as net:
            bob, alice = Service(await net.node()), await net.node()
            window = bob.window(CounterFile(record))
            await filled(bob, window, [0, 1, 2, 3], [4, 5, 6, 7])
            bob.server.close()
            closed = asyncio.get_running_loop().time()
            await asyncio.sleep(60)
            assert probed(net, bob.node, closed) == {}
            assert (window.armed, window.reserved) == ([], [])
            again = Service(bob.node)
            await filled(again, again.window(CounterFile(record)), [0, 1, 2, 3], [4, 5, 6, 7])
            await talk(client_of(alice))

    virtual(main())
