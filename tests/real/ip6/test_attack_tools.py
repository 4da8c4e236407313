"""The attack tools of thc-ipv6 on the host's link: tables stay bounded, neighbours are answered afterwards, the pool recovers.

The tools flood as fast as they can from the namespace of the kernel, whose pings stand for legitimate traffic.  What goes on
beside a scan of a given rate is measured by `unimux bench --id P-18`.
"""

from __future__ import annotations

import asyncio
import os
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from compat import kernel
from compat.programs.process import run_in, sleeps
from scenarios.witness.frames import UNSPECIFIED, Solicitation, text
from tapstack.events import LinkNotice
from tapstack.randomness import KeyedRandom
from tapstack.types import address
from tests.unit.unimux.lan import eventually
from unimux.pool import Pool, PoolChanged, PoolConfig
from unimux.source import AddressSource
from unimux.state import MemoryState

from ..wire import advertisements, captured, frames, made_by_a_tool
from .lan import KERNEL, MAC, Lan, echo, lan

FLOODS = ("atk6-flood_router26", "atk6-flood_solicitate6", "atk6-flood_advertise6")
pytestmark = pytest.mark.real("atk6-dos-new-ip6", "dumpcap", *FLOODS)

PINGS = 5
EVERY_FRAME = "0003"
"""ETH_P_ALL, as the kernel lists it; the socket that only sends has another protocol."""


@asynccontextmanager
async def attack(net: Lan, tool: str) -> AsyncIterator[Process]:
    async with run_in(net.legacy, [tool, net.port.name], grace=0.2) as process:
        yield process
        assert process.returncode is None, f"{tool} ended by itself"
    kernel.forget_neighbors(net.legacy)


def listens(tool: Process) -> bool:
    """Whether a tool hears every frame and rests between two looks at them; it says so on a terminal only."""
    folder = Path(f"/proc/{tool.pid}")
    try:
        rows = folder.joinpath("net", "packet").read_text().splitlines()[1:]
        own = {os.readlink(each) for each in folder.joinpath("fd").iterdir()}
    except OSError:
        return False
    # Columns: socket, references, type, protocol, interface, whether it is bound, memory, user, inode.
    found = [fields for fields in map(str.split, rows) if f"socket:[{fields[8]}]" in own]
    return sleeps(tool) and any(fields[3] == EVERY_FRAME and fields[5] == "1" for fields in found)


@pytest.fixture(scope="module")
def net() -> Iterator[Lan]:
    with lan() as made:
        yield made


@pytest.mark.proves("ST-IP6-4", "ST-IP6-5", by="api")  # the sizes of tables
@pytest.mark.parametrize("tool", FLOODS)
def test_a_flood_fills_no_table_beyond_its_bound_and_leaves_nothing_broken(
    net: Lan, tool: str, record_property: Callable[[str, object], None]
) -> None:
    host = net.host
    config = host.config

    def sizes() -> dict[str, tuple[int, int]]:
        return {
            "neighbours": (len(host.neighbors), config.neighbors),
            "routers": (len(host.routes.default_routers), config.default_routers),
            "prefixes": (len(host.prefixes), config.prefixes),
            "routes": (len(host.routes.more_specific), config.routes),
            "paths": (len(host.routes), config.paths + 64),
            "incomplete packets": (len(host.reassembler), config.reassemblies),
        }

    async def main() -> None:
        assert await echo(net, net.stable, b"before") == b"before"
        began = host.counters.frames_in
        answered = 0
        async with attack(net, tool):
            await net.until(lambda: host.counters.frames_in > began + 500, 20)
            for number in range(PINGS):
                answered += await echo(net, net.stable, b"%d" % number, timeout=1.0) is not None
                for name, (size, bound) in sizes().items():
                    assert size <= bound, (name, size)
        host.addresses.check()
        host.neighbors.check()
        flooded = host.counters.frames_in - began
        record_property(f"{tool}: frames, answered of {PINGS}, tables", (flooded, answered, sizes()))
        # How many pings get through beside a flood at full speed is for the machine to say: recorded, not asserted.
        async with asyncio.timeout(30):
            while await echo(net, net.stable, b"after", timeout=1.0) is None:
                pass
        neighbor = host.neighbors.get(address(KERNEL))
        assert neighbor is not None

    net.run(main())


@pytest.mark.proves("UM-ADDR-10", "UM-POOL-1", "UM-POOL-3")
def test_a_neighbour_that_claims_every_address_is_told_backed_off_from_and_outlived(artefacts: Path) -> None:
    with lan(dad_backoff=4.0, dad_transmits=1, stable_addresses=True) as net:
        said: list[str] = []
        net.driver.stack.events.subscribe(
            lambda event: said.append(event.cause) if isinstance(event, (PoolChanged, LinkNotice)) else None
        )

        async def main() -> None:
            async with attack(net, "atk6-dos-new-ip6") as tool:
                await eventually(lambda: listens(tool))
                pool = Pool(
                    net.host,
                    AddressSource(MemoryState()),
                    net.driver.stack.timers,
                    net.driver.stack.events,
                    KeyedRandom(bytes(32), "test"),
                    PoolConfig(low=4, high=4, concurrent=1, backoff=4.0),
                )
                pool.start(net.now)
                net.driver.kick()
                await net.until(lambda: any("claimed by another node" in cause for cause in said), 20)
                assert pool.ready == 0
                await asyncio.sleep(1.0)
                assert pool.status(net.now).held_back_for > 0
            await net.until(lambda: pool.ready == 4, 30)
            pool.check()

        with captured(net.port, artefacts / "peer.pcapng") as path:
            net.run(main())
    seen = frames(path)
    tested = [frame for frame in seen if frame.eth_src == MAC and isinstance(frame.message, Solicitation)]
    targets = [text(frame.message.target) for frame in tested if isinstance(frame.message, Solicitation)]
    assert len(set(targets)) == len(targets), "a duplicate is replaced by a fresh address"
    assert all(
        frame.src == UNSPECIFIED and frame.message.nonce for frame in tested if isinstance(frame.message, Solicitation)
    )
    claims = [bool(advertisements(seen, target)) for target in targets]
    assert claims == [True] * claims.count(True) + [False] * 4, "a claim of each address, until nobody claims any more"
    last, first = tested[claims.count(True) - 1], tested[claims.count(True)]
    assert claims.count(True) >= 3
    assert first.time - last.time >= 3.9, "no new address within the pause"
    made_by_a_tool(path, MAC)
