"""Delivery by shared secret: the server's window, the client's search, and what each keeps on disk (UM-SSA-2, UM-GEN-5)."""

from __future__ import annotations

import asyncio
import os
from ipaddress import IPv6Network
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import ICMPv6ND_NS, IPv6
from scapy.layers.l2 import Ether

from tapstack.events import Event
from tapstack.ipv6.addresses import AddressKind, AddressState
from tests.unit.unimux.lan import PREFIX, Lan, handled, lan, virtual
from unimux.adoption import AddressRefused
from unimux.errors import SetupError
from unimux.journal import JournalPolicy, MemoryJournal
from unimux.node import Node
from unimux.ssa.counters import Counters, MemoryCounters
from unimux.ssa.secret import SecretWindow, SharedSecret, WindowMoved
from unimux.ssa.secretclient import OutOfStep, SecretClient
from unimux.ssa.secretfile import read_secret, write_secret
from unimux.state import StateError

NETWORK = IPv6Network(f"{PREFIX}/64")
SHARED = SharedSecret(b"a secret of 16 bytes and more", "echo", "alice")


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class Heard(asyncio.Protocol):
    def __init__(self) -> None:
        self.got: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        if not self.got.done():
            self.got.set_result(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.got.done():
            self.got.set_exception(exc or EOFError())


class Service:
    """A node with an echo service behind windows."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.server = node.listen(Echo)
        self.listener = self.server.listener
        self.windows: list[SecretWindow] = []
        self.causes: list[str] = []
        node.watch(self._note)

    def _note(self, event: Event) -> None:
        if isinstance(event, WindowMoved):
            self.causes.append(event.cause)

    def window(self, counters: Counters, shared: SharedSecret = SHARED, **options: Any) -> SecretWindow:
        made = SecretWindow(shared, self.listener, self.node.pool, self.node.events, counters, **options)
        made.start(self.node.now())
        self.node.driver.kick()
        self.windows.append(made)
        return made

    async def armed(self, window: SecretWindow, counters: list[int]) -> None:
        await self.node.until(lambda: window.armed == counters, 10)


async def service(net: Lan) -> Service:
    return Service(await net.node())


def client_of(
    node: Node, counters: Counters | None = None, shared: SharedSecret = SHARED, **options: Any
) -> SecretClient:
    return SecretClient(node, shared, NETWORK, counters or MemoryCounters(), **options)


def mac_of(node: Node) -> str:
    assert node.link.properties.mac is not None
    return node.link.properties.mac.hex(":")


async def talk(client: SecretClient, word: bytes = b"hello", **options: Any) -> None:
    """One session."""
    transport, protocol = await client.create_connection(Heard, **options)
    transport.write(word)
    assert await protocol.got == word
    transport.close()


@pytest.mark.proves("UM-GEN-5", "UM-SSA-2")
def test_the_next_k_are_armed_those_beyond_are_uncertain_and_no_message_is_needed() -> None:
    async def main() -> None:
        async with lan() as net:
            bob, alice = await service(net), await net.node()
            window = bob.window(MemoryCounters(), armed=3, reserved=2)
            await bob.armed(window, [0, 1, 2])
            await asyncio.sleep(5)
            assert window.reserved == [3, 4]
            table = bob.node.stack.host.addresses
            states = []
            for counter in range(6):
                entry = table.get(SHARED.address(NETWORK, counter).packed)
                states.append(None if entry is None else (entry.state, entry.kind))
            service_address = (AddressState.PREFERRED, AddressKind.SERVICE)
            reserved = (AddressState.UNCERTAIN, AddressKind.RESERVED)
            assert states == [service_address] * 3 + [reserved] * 2 + [None]
            client = client_of(alice)
            for n in range(10):
                await talk(client)
                assert client.counters.used == n
                assert client.attempts[-1] == (n, None)
            assert len(client.attempts) == 10, "every first try led to the server"
            syns, solicited = net.syns(), net.packets(ICMPv6ND_NS)
            server = {
                p[ICMPv6ND_NS].tgt for at, p in solicited if p[IPv6].src == "::" and p[Ether].src == mac_of(bob.node)
            }
            called = [p[IPv6].dst for _, p in syns]
            assert len(set(called)) == 10
            assert set(called) <= server, "the server had tested what the client made up by itself"
            spoken = [p for at, p in net.packets(IPv6) if at < syns[0][0] and (TCP in p or UDP in p)]
            assert spoken == [], "nobody told anybody"
            await bob.armed(window, [10, 11, 12])

    virtual(main())


@pytest.mark.proves("UM-GEN-5", by="api")
def test_a_client_that_times_out_tries_the_next_counter() -> None:
    async def main() -> None:
        async with lan() as net:
            bob, alice = await service(net), await net.node()
            window = bob.window(MemoryCounters(used=2))
            await bob.armed(window, [3, 4, 5, 6])
            client = client_of(alice)
            began = alice.now()
            await talk(client)
            assert [counter for counter, _ in client.attempts] == [0, 1, 2, 3]
            assert alice.now() - began < 3 * 2.0 + 1
            assert client.counters.used == 3

    virtual(main())


@pytest.mark.proves("UM-GEN-5", "UM-SSA-2", by="api")
@pytest.mark.parametrize("ahead", [5, 9, 20, 31])
def test_a_client_that_lost_its_counters_finds_the_server_again(ahead: int) -> None:
    async def main() -> None:
        async with lan() as net:
            bob, alice = await service(net), await net.node()
            window = bob.window(MemoryCounters(used=ahead - 1))
            await bob.armed(window, list(range(ahead, ahead + 4)))
            client = client_of(alice)
            await talk(client)
            assert ahead <= client.counters.used < ahead + 4
            tries = len(client.attempts)
            await talk(client)
            assert len(client.attempts) == tries + 1, "in step again: the next counter is the first try"

    virtual(main())


@pytest.mark.proves("UM-GEN-5", by="api")
def test_the_look_ahead_is_bounded() -> None:
    async def main() -> None:
        async with lan() as net:
            bob, alice = await service(net), await net.node()
            window = bob.window(MemoryCounters(used=999))
            await bob.armed(window, [1000, 1001, 1002, 1003])
            client = client_of(alice, search=3)
            began = alice.now()
            with pytest.raises(OutOfStep, match="None of 7 addresses of echo from counter 0 on"):
                await client.create_connection(Heard)
            assert [counter for counter, _ in client.attempts] == [0, 1, 2, 3, 5, 7, 9]
            assert alice.now() - began < 7 * 2.5
            assert client.counters.used == -1, "a server that is away costs no counter"
            with pytest.raises(OutOfStep):
                await client.create_connection(Heard, timeout=1.0)

    virtual(main())


@pytest.mark.proves("UM-GEN-5", by="api")
def test_a_counter_lost_to_dad_is_skipped_by_both_sides() -> None:
    async def main() -> None:
        async with lan() as net:
            thief = await net.node()
            for counter in (0, 2):
                thief.stack.host.addresses.add(SHARED.address(NETWORK, counter).packed, AddressKind.STABLE, thief.now())
            thief.driver.kick()
            await asyncio.sleep(3)
            bob, alice = await service(net), await net.node()
            window = bob.window(MemoryCounters(), armed=2, reserved=1)
            await bob.armed(window, [1, 3])
            assert sum("skipped" in cause for cause in bob.causes) == 2
            client = client_of(alice)
            await talk(client)
            assert [counter for counter, _ in client.attempts] == [0, 1]
            await talk(client)
            assert client.counters.used == 3

    virtual(main())


@pytest.mark.proves("UM-GEN-5", by="api")
def test_counters_of_which_none_is_to_be_had_do_not_stop_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = 0

    def refused(pool: object, address: bytes, *_: object, **__: object) -> None:
        nonlocal tried
        tried += 1
        assert tried < 100_000, "the others have no turn"
        raise AddressRefused(address, "it was used before")

    async def main() -> None:
        async with lan() as net:
            bob = await service(net)
            monkeypatch.setattr("unimux.ssa.secret.reserve", refused)
            told = handled()
            bob.window(MemoryCounters())
            await asyncio.sleep(5)
            assert not told
            assert tried > 1000

    virtual(main())


@pytest.mark.proves("UM-GEN-5", by="api")
def test_a_reserved_counter_is_defended() -> None:
    async def main() -> None:
        async with lan() as net:
            bob, thief = await service(net), await net.node()
            window = bob.window(MemoryCounters(), armed=1, reserved=1)
            await bob.armed(window, [0])
            await asyncio.sleep(5)
            assert window.reserved == [1]
            rude = thief.stack.host.addresses
            entry = rude.add(SHARED.address(NETWORK, 1).packed, AddressKind.STABLE, thief.now())
            thief.driver.kick()
            await asyncio.sleep(3)
            assert rude.get(entry.address) is None, "the reserved address was defended"
            assert window.reserved == [1]

    virtual(main())


@pytest.mark.proves("UM-GEN-5", "UM-SSA-2", by="api")
def test_two_clients_have_sequences_and_windows_of_their_own() -> None:
    async def main() -> None:
        async with lan() as net:
            bob, alice, carol = await service(net), await net.node(), await net.node()
            hers = SharedSecret(SHARED.secret, SHARED.service, "carol")
            windows = [bob.window(MemoryCounters()), bob.window(MemoryCounters(), hers)]
            for window in windows:
                await bob.armed(window, [0, 1, 2, 3])
            assert len(bob.server.armed) == 8
            first, second = client_of(alice), client_of(carol, shared=hers)
            for _ in range(3):
                await asyncio.gather(talk(first), talk(second))
            await talk(first)
            assert (first.counters.used, second.counters.used) == (3, 2)
            await bob.armed(windows[0], [4, 5, 6, 7])
            await bob.armed(windows[1], [3, 4, 5, 6])

    virtual(main())


@pytest.mark.proves("UM-GEN-5", "UM-NODE-3", by="api")
def test_parallel_connections_of_one_client_use_a_counter_each() -> None:
    async def main() -> None:
        async with lan() as net:
            bob, alice = await service(net), await net.node()
            window = bob.window(MemoryCounters())
            await bob.armed(window, [0, 1, 2, 3])
            client = client_of(alice)
            await asyncio.gather(*(talk(client, b"%d" % n) for n in range(4)))
            assert sorted(counter for counter, error in client.attempts if error is None) == [0, 1, 2, 3]
            await bob.armed(window, [4, 5, 6, 7])

    virtual(main())


@pytest.mark.proves("UM-LIS-5", "UM-GEN-5", by="api")
def test_counters_far_below_the_used_ones_are_withdrawn() -> None:
    async def main() -> None:
        async with lan() as net:
            bob, alice = await service(net), await net.node()
            window = bob.window(MemoryCounters(), armed=2)
            await bob.armed(window, [0, 1])
            client = client_of(alice, MemoryCounters(used=0))
            await talk(client)
            await bob.armed(window, [0, 2, 3])
            await talk(client)
            await bob.armed(window, [3, 4])
            assert SHARED.address(NETWORK, 0).packed not in bob.node.stack.host.addresses

    virtual(main())


def test_a_window_whose_claims_cannot_be_kept_closes_and_disturbs_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with lan() as net:
            bob = await service(net)
            told = handled()
            failures: list[str] = []
            claim = bob.node.source.state.claim

            def until_the_disk_is_full(address: bytes) -> None:
                if len(bob.node.source.state.claimed) == 3:
                    raise StateError("the state cannot be written: No space left on device")
                claim(address)

            monkeypatch.setattr(bob.node.source.state, "claim", until_the_disk_is_full)
            window = bob.window(MemoryCounters(), failed=lambda error: failures.append(str(error)))
            await asyncio.sleep(10)
            assert not told, "no timer of the stack fails"
            assert failures == ["the state cannot be written: No space left on device"] == [str(window.failure)]
            assert not bob.server.armed and not window.armed and not window.reserved

    virtual(main())


@pytest.mark.proves("UM-POOL-4", "UM-GEN-5", by="api")
def test_on_a_dedicated_prefix_nothing_is_reserved_on_the_link() -> None:
    async def main() -> None:
        async with lan() as net:
            node = await net.node(dedicated="2001:db8:d::")
            bob = Service(node)
            network = IPv6Network("2001:db8:d::/64")
            window = bob.window(MemoryCounters(), prefix=network, armed=2, reserved=2)
            await bob.armed(window, [0, 1])
            assert window.reserved == [2, 3]
            assert SHARED.address(network, 0).packed in node.stack.host.addresses
            assert SHARED.address(network, 2).packed not in node.stack.host.addresses

    virtual(main())


def test_only_the_named_client_is_answered() -> None:
    async def main() -> None:
        async with lan() as net:
            bob, alice = await service(net), await net.node()
            only = IPv6Network("2001:db8:99::/64")
            window = bob.window(MemoryCounters(), client=(only.network_address.packed, 64))
            await bob.armed(window, [0, 1, 2, 3])
            with pytest.raises(OutOfStep):
                await client_of(alice, search=0).create_connection(Heard)

    virtual(main())


# -- files -------------------------------------------------------------------------------------------------


def test_a_secret_file_is_private_long_enough_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    write_secret(path)
    assert len(read_secret(path)) == 44
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(SetupError, match="never overwritten"):
        write_secret(path)
    path.chmod(0o640)
    with pytest.raises(SetupError, match="chmod 600"):
        read_secret(path)
    path.chmod(0o600)
    path.write_text("short\n")
    with pytest.raises(SetupError, match="has 5 bytes"):
        read_secret(path)
    with pytest.raises(SetupError, match="keygen"):
        read_secret(tmp_path / "missing")
    assert os.listdir(tmp_path) == ["secret"]


@pytest.mark.proves("UM-GEN-3", by="api")
def test_a_journal_that_names_nobody_does_not_name_the_clients_of_a_secret() -> None:
    async def main() -> None:
        async with lan() as net:
            bob = await net.node()
            journal = MemoryJournal(bob.source, JournalPolicy(who=False))
            journal.watch(bob.events)
            echo = Service(bob)
            await echo.armed(echo.window(MemoryCounters(), armed=2), [0, 1])
            rows = list(journal.rows())
            assert rows and {row.front_end for row in rows if row.what == "assigned"} == {"secret"}
            assert not [row for row in rows if "alice" in repr(row)]

    virtual(main())
