"""The /64 is scanned from on-link and from off-link; what the nodes do for each other goes on (RFC 6583).

In virtual time nothing is slow, so what is shown is that no table gives up what is used for what a scan writes into it.
What a scan costs is measured by `unimux bench --id P-18`.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from random import Random

import pytest

from scenarios.bench import scanner
from tapstack.events import DropReason
from tapstack.types import address
from tests.unit.unimux.lan import PREFIX, echo_server, lan, virtual
from unimux.aio import open_connection

SECONDS = 20
RATE = 500


@pytest.mark.proves("ST-IP6-4", "UM-POOL-1", by="api")
@pytest.mark.parametrize("kind", ["on-link", "off-link"])
def test_connections_go_on_and_new_ones_are_made(
    kind: str, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    monkeypatch.setattr(os, "urandom", Random(5).randbytes)

    async def main() -> None:
        async with lan() as net:
            alice, bob = await net.node(), await net.node()
            await alice.ready(4)
            await bob.ready(4)
            host = alice.stack.host
            mac, link_local = alice.link.properties.mac, host.link_local
            assert mac is not None
            assert link_local is not None
            frames = (
                scanner.on_link(mac, link_local, address(PREFIX)[:8])
                if kind == "on-link"
                else scanner.off_link(mac, address(PREFIX)[:8])
            )
            attacker = net.switch.connect(scanner.OUR_MAC)

            async def scan() -> None:
                while True:
                    for _ in range(RATE // 100):
                        attacker.send([next(frames)])
                    await asyncio.sleep(0.01)

            server = echo_server(bob)
            kept = await open_connection(alice, (await server.issue()).address, None)
            loop = asyncio.get_running_loop()
            scanning = asyncio.create_task(scan())
            slowest = 0.0
            for _ in range(SECONDS * 2):
                began = loop.time()
                kept[1].write(b"ping")
                assert await kept[0].readexactly(4) == b"ping"
                slowest = max(slowest, loop.time() - began)
                reader, writer = await open_connection(alice, (await server.issue()).address, None, timeout=10)
                writer.write(b"once")
                assert await reader.readexactly(4) == b"once"
                writer.close()
                await asyncio.sleep(0.5)
            scanning.cancel()
            kept[1].close()
            assert slowest < 0.01, "no exchange waited for a resolution or a retransmission"
            assert len(host.neighbors) <= host.config.neighbors
            seen = sum(alice.stack.counters.drops.values())
            assert alice.stack.counters.drops[DropReason.IP_NOT_OURS] > RATE * SECONDS / 4
            record_property(f"{kind}: drops, neighbours, slowest exchange in s", (seen, len(host.neighbors), slowest))
            alice.stack.check()
            alice.pool.check()

    virtual(main())


def test_the_scanner_sends_what_it_says() -> None:
    """Read by tools that share no code with it: right checksums, random targets."""
    from scapy.layers.inet import TCP, UDP
    from scapy.layers.inet6 import ICMPv6EchoRequest, ICMPv6ND_NS, IPv6
    from scapy.layers.l2 import Ether

    node = socket.inet_pton(socket.AF_INET6, "fe80::1")
    for frames, layers in (
        (scanner.on_link(bytes(6), node, address(PREFIX)[:8]), (ICMPv6ND_NS, ICMPv6ND_NS, ICMPv6EchoRequest)),
        (scanner.off_link(bytes(6), address(PREFIX)[:8]), (TCP, ICMPv6EchoRequest, UDP)),
    ):
        for layer in layers:
            packet = Ether(next(frames))
            assert layer in packet
            again = packet[IPv6].copy()
            again[layer].delfieldval("chksum" if layer in (TCP, UDP) else "cksum")
            assert bytes(again) == bytes(packet[IPv6])
