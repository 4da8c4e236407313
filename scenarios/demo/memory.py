"""The same story without privilege: in-memory links, virtual time, a simulated router and simulated legacy hosts.

It shows what the unified nodes do; what needs another kernel, it says, is not shown.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from random import Random

from scenarios.engine.raw import dad_probe, knocks, solicitation
from scenarios.engine.router import AdvertisedPrefix, InterfaceConfig, Router, RouterConfig, RouterNode
from scenarios.engine.simulated import captured
from scenarios.witness.setup import CaptureFile, Setup, UnifiedNode
from tapstack.clock import run_virtual, wall_clock
from tapstack.link.memory import MemorySwitch
from tapstack.types import address_text
from unimux.aio import open_connection
from unimux.events import EventFile
from unimux.node import Node, NodeConfig
from unimux.poolstate import PoolConfig
from unimux.state import MemoryState

from .outcome import Outcome, Say, Watch
from .peer import SimulatedPeer
from .story import (
    OPTIONS,
    READY_TIMEOUT,
    RELEASE_TIMEOUT,
    SMALL_BYTES,
    SMALL_FILES,
    all_released,
    listener_changed,
    reserved_address,
)
from .talk import talk_at_l0
from .web import FileProtocol

PREFIXES = {"client": "2001:db8:1::/64", "server": "2001:db8:2::/64"}
LATENCY = 0.0005
NOT_SHOWN = {
    "The 100 MB arrived equal": "needs curl and a kernel web server",
    "curl through the SOCKS front end": "needs curl and a kernel",
    "Interoperation with a legacy kernel": "both ends are tapstack here",
}


class Story:
    """One run in memory; `tell` fills `outcome`."""

    def __init__(self, outcome: Outcome, say: Say, watch: Watch, random: Random) -> None:
        self.outcome = outcome
        self.say = say
        self.watch = watch
        self.random = random
        self.nodes: list[UnifiedNode] = []
        self._macs = iter(range(1, 256))
        self._epoch = time.time_ns()

    async def tell(self) -> None:
        """Everything, in order."""
        async with AsyncExitStack() as stack:
            self.clock = wall_clock(asyncio.get_running_loop(), self._epoch)
            lans = {name: MemorySwitch(latency=LATENCY) for name in PREFIXES}
            for name, lan in lans.items():
                stack.enter_context(self._captured(name, lan))
            router = RouterNode(Router(RouterConfig(), Random(self.random.random())))
            for name, lan in lans.items():
                config = InterfaceConfig(
                    name=name, prefixes=(AdvertisedPrefix(prefix=PREFIXES[name]),), interval=(3, 4)
                )
                router.connect(lan.connect(self._mac()), config)
            router.start()
            stack.callback(router.close)
            www, third = [await self._peer(stack, lans["server"]) for _ in range(2)]
            alice = await stack.enter_async_context(self._node("alice", lans["client"], "client"))
            bob = await stack.enter_async_context(self._node("bob", lans["server"], "server"))
            self.outcome.setup = Setup(nodes=tuple(self.nodes))
            await self._parallel(alice, www)
            await self._reserved(alice, lans["client"], third)
            ssa = await self._service(alice, www, third)
            self.say("4. Two unified nodes talk at L0; every segment carries other port numbers")
            await bob.ready(1, READY_TIMEOUT)
            await talk_at_l0(bob, alice, self.random, self.outcome, lambda text: self.say(f"   {text}"))
            self.say("   waiting for the last addresses to be released (TIME-WAIT option: short)")
            for name, node in (("alice", alice), ("bob", bob)):
                await all_released(name, node, self.outcome)
            strangers = (address_text(third.entry.address),)
            legacy = tuple(address_text(peer.entry.address) for peer in (www, third))
        self.nodes[1] = _with_stable(self.nodes[1], legacy)
        self.outcome.setup = Setup(
            nodes=tuple(self.nodes),
            strangers=strangers,
            second_fetch=(ssa,),
            connections=SMALL_FILES + 2,
        )
        self.outcome.not_shown.update(NOT_SHOWN)
        self.outcome.remarks.append("Told in memory and virtual time: router and legacy hosts are simulated.")

    # -- the network -----------------------------------------------------------------------------

    def _mac(self) -> bytes:
        return bytes([2, 0, 0, 0, 0, next(self._macs)])

    @contextmanager
    def _captured(self, name: str, lan: MemorySwitch) -> Iterator[None]:
        """Everything that enters the switch, in a file."""
        path = self.outcome.folder / "wire" / f"{name}.pcapng"
        with captured(lan, path, self.clock, "unimux demo, in memory"):
            yield
        self.outcome.captures.append(CaptureFile(path, name, offload_free=True))

    async def _peer(self, stack: AsyncExitStack, lan: MemorySwitch) -> SimulatedPeer:
        peer = SimulatedPeer(lan.connect(self._mac()), self.random.randbytes(32))
        await peer.start()
        stack.callback(peer.close)
        return peer

    @asynccontextmanager
    async def _node(self, name: str, lan: MemorySwitch, where: str) -> AsyncIterator[Node]:
        mac = self._mac()
        config = NodeConfig(pool=PoolConfig(low=8, high=24), socket=OPTIONS)
        state = MemoryState(Random(self.random.random()).randbytes)
        node = Node(lan.connect(mac), config, state=state, seed=self.random.randbytes(32))
        self.nodes.append(
            UnifiedNode(name, where, (mac.hex(":"),), (PREFIXES[where],), (PREFIXES[where].replace("/64", "1"),))
        )
        events = EventFile(self.outcome.events, node.events, node=name, clock=lambda: self.clock() / 1e9)
        with events, self.watch(name, node):
            async with node:
                yield node

    # -- chapters --------------------------------------------------------------------------------

    async def _parallel(self, alice: Node, www: SimulatedPeer) -> None:
        self.say(f"1. {SMALL_FILES} files at once from a simulated web server, each connection from an EA of its own")
        files = {f"small-{n}": self.random.randbytes(SMALL_BYTES) for n in range(SMALL_FILES)}
        www.serve(files)
        await alice.ready(SMALL_FILES, READY_TIMEOUT)

        async def fetch(name: str) -> bool:
            reader, writer = await open_connection(alice, address_text(www.entry.address), 80)
            writer.write(f"GET /{name} HTTP/1.0\r\n\r\n".encode())
            answer = await reader.read()
            writer.close()
            return hashlib.sha256(answer.partition(b"\r\n\r\n")[2]).digest() == hashlib.sha256(files[name]).digest()

        equal = await asyncio.gather(*map(fetch, files))
        self.outcome.fact(
            "The 20 small files arrived equal (simulated peer)",
            all(equal),
            f"{sum(equal)} of {SMALL_FILES} equal by SHA-256",
        )

    async def _reserved(self, alice: Node, lan: MemorySwitch, third: SimulatedPeer) -> None:
        self.say("2. A neighbour probes a reserved (UNCERTAIN) address: defended against DAD, silent to all else")
        await alice.ready(2, READY_TIMEOUT)
        target = reserved_address(alice)
        mac = self._mac()
        curious = lan.connect(mac)
        source = bytes.fromhex("20010db8000000010000000000000bad")
        node_mac = alice.link.properties.mac
        assert node_mac is not None
        probes = [dad_probe(mac, target, self.random.randbytes(6)), solicitation(mac, source, target)]
        for frame in [*probes, *knocks(mac, node_mac, source, target)]:
            curious.send([frame])
        answered = await third.ping(address_text(target), wait=1.0)
        curious.close()
        self.outcome.fact(
            "An UNCERTAIN address does not answer a ping", not answered, "pinged from the third host", "UM-ADDR-4"
        )

    async def _service(self, alice: Node, www: SimulatedPeer, third: SimulatedPeer) -> str:
        self.say("3. A file on an SSA at L1, for one client; a simulated legacy host fetches it, then tries again")
        body = self.random.randbytes(SMALL_BYTES)
        server = alice.listen(lambda: FileProtocol({"file": body}))
        states = [server.state.value]
        ssa = await server.issue(client=address_text(www.entry.address), timeout=READY_TIMEOUT)
        states.append(server.state.value)
        knocking = asyncio.create_task(self._knock(third, str(ssa)))
        await asyncio.sleep(0.2)
        first = await www.fetch(str(ssa), "file", 5)
        states.append(server.state.value)
        self.outcome.fact("The legacy client fetched the file (simulated peer)", first == body, f"{len(first):,} bytes")
        listener_changed(states, self.outcome)
        with contextlib.suppress(TimeoutError):
            await alice.until(lambda: ssa.address.packed not in alice.stack.host.addresses, RELEASE_TIMEOUT)
        second = await www.fetch(str(ssa), "file", 2)
        self.outcome.fact("A second fetch of the SSA did not connect", not second, f"{len(second)} bytes", "UM-LIS-6")
        await knocking
        server.close()
        return str(ssa)

    async def _knock(self, third: SimulatedPeer, ssa: str) -> None:
        """The third host tries before, during and after the session."""
        answers = []
        for _ in range(3):
            fetched, pinged = await asyncio.gather(third.fetch(ssa, "file", 0.6), third.ping(ssa, 0.6))
            answers.append(bool(fetched) or pinged)
        self.outcome.fact(
            "The third host got nothing", not any(answers), f"{len(answers)} fetches and pings", "UM-EA-1"
        )


def _with_stable(node: UnifiedNode, stable: tuple[str, ...]) -> UnifiedNode:
    """The node of a LAN on which hosts with ordinary addresses live, too."""
    return UnifiedNode(node.name, node.where, node.macs, node.prefixes, (*node.stable, *stable), node.dedicated)


def tell(outcome: Outcome, say: Say, watch: Watch, seed: int | None = None) -> None:
    """Tell the story in virtual time."""
    random = Random(os.urandom(16) if seed is None else seed)
    run_virtual(Story(outcome, say, watch, random).tell())
